"""What a process sees of the log: what is published, and what is appended behind that.

Rules: everything here is changed under ``lock``, the view lock, for microseconds, and the overlay
is read without it.  Only the frames that this process appends are added without it, under the
writer lock.  Readers see the overlay only; writes with a condition see also what is
unpublished.  A signal handler may interrupt a writer between any two steps: what is missing in
memory then is read from the log again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from logstore._engine import frames
from logstore._engine.append import append
from logstore._engine.frames import OFFSET_MAX, Entry
from logstore._engine.header import SharedHeader, split
from logstore._engine.log import FIRST_OFFSET, Log, frames_of
from logstore._engine.overlay import Overlay, Unpublished
from logstore.errors import CorruptLogError


class LogView:
    """One process's side of the log."""

    def __init__(self, log: Log, header: SharedHeader, seed: int) -> None:
        self.log = log
        self.lock = threading.RLock()
        self.overlay = Overlay(header.epoch)
        self.unpublished = Unpublished()
        self.left: list[Log] = []  # replaced; the thread of a writer may still use them
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
            overlay = Overlay(epoch)
            self.unpublished.clear()
        self.unpublished.move_to(overlay, committed)
        if committed > overlay.applied:
            found = self._read(epoch, overlay.applied, committed)
            if found is None:
                return False
            overlay.apply(frames.records_of(found), committed)
        self.overlay = overlay
        return True

    def look_ahead(self) -> None:
        """Take in what is published and what is appended; writer lock held too."""
        header = self._header
        if not self.catch_up(header.state):
            raise AssertionError("the epoch moved under the writer lock")
        epoch, appended = split(header.appended)
        start = self.unpublished.end(self.overlay)
        if epoch == self.overlay.epoch and appended > start:
            for frame in self._read(epoch, start, appended) or ():
                self.unpublished.add(frames.records_of([frame]), frame.offset, frame.end)

    def _read(self, epoch: int, start: int, end: int) -> list[frames.Frame] | None:
        data = self.log.read(start, end)
        with frames_of(self.log.path):
            found, whole_to = frames.scan(data, start, self._seed, epoch)
        if self._header.epoch != epoch:
            return None
        if whole_to != end:
            raise CorruptLogError(
                f"{self.log.path}: expected a whole frame of epoch {epoch} at offset {whole_to}, "
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
        appended = append(self.log, self._header, self._seed, entries, sync=sync)
        if entries:
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
        """Publish that the log starts over; writer and flush lock held."""
        with self.lock:
            self._header.begin_epoch(epoch, FIRST_OFFSET)
            self.unpublished.clear()
            self.overlay = Overlay(epoch)

    # -- the file -------------------------------------------------------------------------------

    def reopen(self) -> Log:
        """Take over the log that another process has put in the place of a failed one.

        The old one stays open: a reader calls this while a writer may try to lock that.
        """
        new = Log.open(self.log.path, self.log.uuid)
        self.left.append(self.log)
        self.log = new
        return new

    def close_left(self) -> None:
        """Close the logs that were replaced; called by the thread that may write."""
        while self.left:
            self.left.pop().close()

    def replace(self, new: Log) -> None:
        """Put a new log in the place of the old one; writer and flush lock held."""
        with self.lock:
            old, self.log = self.log, new
            self._header.log_id = new.log_id
        old.close()
