"""The background thread of an open store: it syncs progress, compacts, purges and vacuums.

Rules: one daemon thread per engine.  It folds a log as soon as that is sealed, and then removes
what has expired or is over the limits, by writes in the log (retention.py); where it cannot keep
up, writers help (groups.py).  Every ``sync_interval_s`` it syncs what no commit has synced, also
what processes have written that died.  Once a second it checks whether the files at the paths are
still those of the store.  When nothing has been published for a second it compacts, so that an idle
store is one small file and an empty log, and purges expired records, in steps as short as a
compaction.  It vacuums a file that is more than half free.  It waits for a lock only briefly, and
holds none while it waits.  An error does not end the thread: the next commit raises the same one.
It ends when the store is closed, or its files were replaced.
"""

from __future__ import annotations

import threading
import time

from logstore._engine import affinity, identity, locks, sealing, vacuum
from logstore._engine.engine import Engine
from logstore._engine.groups import remove_due
from logstore._engine.header import split
from logstore._engine.log import FIRST_OFFSET
from logstore._engine.systemerrors import start_thread
from logstore._engine.threads import Signal

IDLE_S = 1.0
STILL_S = 0.1  # a write that takes longer may be a dead process's
LOCK_S = 1.0  # how long it waits for a lock, which bounds how long closing waits for the thread
FILES_S = 1.0  # how often the identity of the files is checked
PAUSE, PAUSE_RETIRING = 1, 4  # between two steps of purging, in lengths of a step
TICK_S = 0.0005  # the shortest wait, and how much too early a tick may be
CHECK_S = 5.0  # how often to check for expired records and a vacuum that is due


class Maintenance:
    """The thread and its end."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ended = False
        self._wake = Signal()  # an Event needs memory to be set, or keeps its lock
        engine.on_sealed = self._wake.set
        self._processors = affinity.unbound()
        self._thread = threading.Thread(target=self._run, name="logstore-maintenance", daemon=True)
        start_thread(engine.path, self._thread)

    def stop(self) -> None:
        """End the thread and wait for it, unless it is the caller."""
        self._ended = True
        self._wake.set()
        if threading.get_ident() != self._thread.ident:
            self._thread.join()

    def _wait(self, timeout_s: float) -> bool:
        """Wait, and return whether the thread is to end."""
        self._wake.wait(timeout_s)
        return self._ended

    def _run(self) -> None:
        affinity.run_on(self._processors)
        engine = self._engine
        header = engine.header
        self._last_state, self._since = header.state, time.monotonic()
        self._checked = self._looked = self._since
        self._epoch = split(self._last_state)[0]
        self._pause_s = 0.0  # before the next step of purging, 0 if nothing is left
        self._resume_at = 0.0  # when it ends
        self._synced_at = self._since
        self._retires = False  # whether results may be due, beside writers
        while True:
            try:
                if self._wait(self._next_tick_s()):
                    break
                if header.replaced:
                    identity.let_go(engine)
                    break
                self._tick(engine, time.monotonic())
            except Exception as exc:
                self._pause_s = 0.0
                # The next writer gets it as well; the thread goes on with the other tasks.
                engine.counters.last_compaction_error = str(exc)

    def _next_tick_s(self) -> float:
        """Return how long to wait: a pause of purging puts off nothing else."""
        usual_s = min(self._engine.options.sync_interval_s, IDLE_S)
        if not self._pause_s:
            return usual_s
        due_at = min(self._resume_at, self._next_sync_at())
        return min(usual_s, max(due_at - time.monotonic(), TICK_S))

    def _next_sync_at(self) -> float:
        return self._synced_at + self._engine.options.sync_interval_s

    def _tick(self, engine: Engine, now: float) -> None:
        """Do the most urgent task that is due."""
        engine.close_retired()
        header = engine.header
        if (
            header.sealed
            and not locks.is_byte_locked(engine.presence_fd, locks.FOLD)
            and sealing.fold_sealed(engine, now + self._lock_s())
        ):
            self._retires = True
        if engine.overlay.sealed is not None:
            engine.view()  # frees the memory of a sealed log that is in the table
        state = header.state
        if state != self._last_state:
            self._last_state, self._since = state, now
        if now - self._looked >= FILES_S:
            self._looked = now
            if identity.is_suspect(engine):
                engine.exclusively(engine.verify_files, timeout_s=self._lock_s())
        if header.log_failed or (header.writing and now - self._since >= STILL_S):
            # A process died or failed in a write: taking the lock recovers.
            engine.exclusively(lambda: None, timeout_s=self._lock_s())
            return
        idle = now - self._since >= IDLE_S
        if split(state)[1] > FIRST_OFFSET and idle and not engine.deferral.applies():
            engine.compact(timeout_s=self._lock_s())
            self._epoch = header.epoch
            return
        self._tidy_up(engine, now, idle)

    def _tidy_up(self, engine: Engine, now: float, idle: bool) -> None:
        """Purge, flush and publish what no writer has, or vacuum."""
        header = engine.header
        pauses = self._pause_s > 0
        looks = pauses or now - self._checked >= CHECK_S
        if not pauses or now >= self._resume_at - TICK_S:
            self._pause_s = self._take_away(now, idle, looks)
            self._resume_at = time.monotonic() + self._pause_s
        if not pauses or self._next_sync_at() <= time.monotonic() + TICK_S:
            self._synced_at = time.monotonic()
            if header.synced < split(header.appended)[1] or header.state != header.appended:
                engine.sync(timeout_s=self._lock_s())
                return
        if looks and not self._pause_s and vacuum.is_due(engine):
            vacuum.vacuum(engine)

    def _take_away(self, now: float, idle: bool, looks: bool) -> float:
        """Remove a part of what is due; return how long to pause, 0 if nothing is left."""
        engine, header = self._engine, self._engine.header
        pause_s = 0.0
        if looks:
            self._checked = now
            # In another epoch there have been compactions; the process that made them purges.
            if header.epoch == self._epoch and idle:
                pause_s = self._purge()
                self._last_state = header.state
            elif header.epoch == self._epoch and not self._retires:
                engine.removing_from = -1
                self._retires = True
            self._epoch = header.epoch
        if self._retires and not engine.deferral.applies():
            pause_s = self._retire()
        return pause_s

    def _retire(self) -> float:
        """Remove a part of what has expired or is over a limit, by writes beside the others.

        Returns how long to pause before the next part; 0 if nothing is left.
        """
        started = time.monotonic()
        self._retires = False  # an error ends it, until the next look
        self._retires = remove_due(self._engine, self._lock_s())
        if not self._retires:
            return 0.0
        return min(PAUSE_RETIRING * (time.monotonic() - started), CHECK_S)

    def _purge(self) -> float:
        """Remove a part of what has expired or is over a limit, holding all locks of writers.

        Returns how long to leave the lock to others before the next step, as a multiple of the
        duration of this one; 0 if nothing is left.
        """
        engine = self._engine
        if engine.deferral.applies() or not engine.expiry_due():
            return 0.0
        started = time.monotonic()
        engine.compact(timeout_s=self._lock_s())
        return min(PAUSE * (time.monotonic() - started), CHECK_S)

    def _lock_s(self) -> float:
        return min(LOCK_S, self._engine.options.write_timeout_s)
