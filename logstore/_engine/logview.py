"""What a process sees of the logs: what is published, and what is appended behind that.

Rules: everything here is changed under ``lock``, the view lock, for microseconds, and the overlay
is read without it.  Only the frames that this process appends are added without it, under the
writer lock.  Readers see the overlay only; writes with a condition see also what is
unpublished.  A signal handler may interrupt a writer between any two steps: what is missing in
memory then is read from the log again.

There are two logs, one of the even epochs and one of the odd.  The log of the epoch before is
sealed: what it has is complete, on the disk, and no longer changes.  It is read until ``sealed`` in
the header says that the table has it; only then a later epoch may overwrite it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from logstore._engine import frames
from logstore._engine.append import append, begin_after
from logstore._engine.frames import MORE, OFFSET_MAX, Entry
from logstore._engine.header import SharedHeader, split
from logstore._engine.log import FIRST_OFFSET, Log, Logs, frames_of
from logstore._engine.overlay import Overlay, Unpublished
from logstore.errors import CorruptLogError


class LogView:
    """One process's side of the logs."""

    def __init__(self, logs: Logs, header: SharedHeader, seed: int) -> None:
        self.logs = logs
        self.lock = threading.RLock()
        self.overlay = Overlay(0)  # of no epoch
        self.unpublished = Unpublished()
        self.left: list[Log] = []  # replaced; another thread may still use them
        self._header = header
        self._seed = seed

    def under_lock(self, work: Callable[[], object]) -> None:
        """Run ``work`` holding the view lock, which is given back without need of memory.

        A ``with`` needs some for the arguments of ``__exit__``.  The caller does not hold it.
        """
        lock = self.lock
        try:
            lock.acquire()
            work()
        finally:
            try:
                lock.release()  # the first call, so that no signal handler comes before it
            except RuntimeError:
                pass  # not held: a signal handler came before

    # -- in step with the header, view lock held ----------------------------------------------

    def catch_up(self, state: int) -> bool:
        """Bring the overlay to ``state``; False if the epoch moved meanwhile.

        Raises CorruptLogError.
        """
        epoch, committed = split(state)
        overlay = self.overlay
        if overlay.epoch != epoch:
            next_overlay = self._begin(epoch)
            if next_overlay is None:
                return False
            overlay = next_overlay
            self.unpublished.clear()
        self.unpublished.move_to(overlay, committed)
        if committed > overlay.applied:
            header = self._header
            found = self._read(epoch, overlay.applied, committed, lambda: header.epoch == epoch)
            if found is None:
                return False
            overlay.apply(frames.records_of(found), committed)
        sealed = overlay.sealed
        if sealed is not None and sealed.state != self._header.sealed:
            overlay.sealed = None  # the table has that
        self.overlay = overlay
        return True

    def _begin(self, epoch: int) -> Overlay | None:
        """Return an overlay for an epoch, before its first frame; None if the epoch has moved."""
        header = self._header
        sealed = header.sealed
        before, end = split(sealed)
        if before != epoch - 1:
            if not sealed or before == epoch:
                return Overlay(epoch)
            if header.epoch != epoch:
                return None
            raise CorruptLogError(
                f"{self.logs.path}-shm: a sealed log of epoch {before} beside epoch {epoch}; close "
                f"the store in all processes and open it again"
            )
        known = self.overlay
        if known.epoch != before:
            known = Overlay(before)
        else:
            self.unpublished.move_to(known, end)
        if known.applied < end:
            found = self._read(before, known.applied, end, lambda: header.sealed == sealed)
            if found is None:
                return None
            known.apply(frames.records_of(found), end)
        known.sealed = None  # the table has that
        return Overlay(epoch, known)

    def look_ahead(self) -> None:
        """Take in what is published and what is appended; writer lock held too."""
        header = self._header
        while not self.catch_up(header.state):
            pass  # the sealed log has just been folded: that happens once under the writer lock
        epoch, appended = split(header.appended)
        start = self.unpublished.end(self.overlay)
        if epoch == self.overlay.epoch and appended > start:
            for frame in self._read(epoch, start, appended) or ():
                self.unpublished.add(frames.records_of([frame]), frame.offset, frame.end)

    def _read(
        self, epoch: int, start: int, end: int, is_valid: Callable[[], bool] = lambda: True
    ) -> list[frames.Frame] | None:
        """Read the frames between two offsets; None if the log was used again meanwhile."""
        log = self.logs.of(epoch)
        data = log.read(start, end)
        with frames_of(log.path):
            found, whole_to = frames.scan(data, start, self._seed, epoch)
        if not is_valid():
            return None
        if whole_to != end:
            raise CorruptLogError(
                f"{log.path}: expected a whole frame of epoch {epoch} at offset {whole_to}, "
                f"found none, although everything up to {end} was written; "
                f"check(salvage=True) recovers the frames after it"
            )
        return found

    # -- writing --------------------------------------------------------------------------------

    def append(self, entries: list[tuple[bytes, Entry]], *, sync: bool) -> int:
        """Write the frames of some entries behind what is appended; return its value then.

        The writer lock is held, and nothing is to be taken in.  With ``sync`` they are not to be
        published before a flush.  Raises OSError; nothing is appended then.
        """
        before = self._header.appended
        appended = append(self.logs, self._header, self._seed, entries, sync=sync)
        if entries:
            if len(entries) > 1 and any(entry[1] & MORE for _, entry in entries):
                entries = [(key, e._replace(flags=e.flags & ~MORE)) for key, e in entries]
            self.unpublished.add(entries, before & OFFSET_MAX, appended & OFFSET_MAX)
        return appended

    def publish(self, state: int) -> None:
        """Show all readers what is appended up to a state; flush lock held."""
        self.under_lock(lambda: self._publish(state))

    def _publish(self, state: int) -> None:
        self._header.state = state
        if self.overlay.epoch == state >> 32:
            self.unpublished.move_to(self.overlay, state & OFFSET_MAX)

    def begin_epoch(self, epoch: int) -> None:
        """Publish that the log starts over and the table has everything; all locks held."""
        with self.lock:
            self._header.sealed = 0
            self._header.begin_epoch(epoch, FIRST_OFFSET, FIRST_OFFSET)
            self.unpublished.clear()
            self.overlay = Overlay(epoch)

    def seal(self) -> None:
        """Begin the next epoch in the other log; writer and flush lock held, sheltered.

        Everything is published and on the disk, the overlay is complete, and the table has the
        epoch before this one.  Raises OSError, such as ENOSPC, with nothing changed.
        """
        header, sealed = self._header, self.overlay
        epoch = sealed.epoch + 1
        start = begin_after(self.logs, header, self._seed, sealed.state)
        with self.lock:
            header.sealed = sealed.state
            header.begin_epoch(epoch, FIRST_OFFSET, start)
            self.unpublished.clear()
            sealed.sealed = None
            self.overlay = Overlay(epoch, sealed)
            self.overlay.apply([], start)
        header.writing = 0

    # -- the files ------------------------------------------------------------------------------

    def reopen(self) -> None:
        """Take over the logs that another process has put in the place of failed ones.

        The old ones stay open: a writer may still use them.
        """
        old = self.logs
        self.logs = Logs.open(old.path, old.uuid)
        self.left.extend(old.both)

    def replace(self, new: Logs) -> None:
        """Put new logs in the place of the old ones; all locks held."""
        with self.lock:
            old, self.logs = self.logs, new
            self._header.log_id = new.log_id
        old.close()

    def close(self) -> None:
        """Close all logs."""
        self.logs.close()
        self.close_left()

    def close_left(self) -> None:
        """Close the logs that were replaced; called by the thread that may write."""
        while self.left:
            self.left.pop().close()
