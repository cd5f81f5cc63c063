"""The background thread of an open store: bounded loss of progress, and tidying up when idle.

Rules: one daemon thread per engine.  Every ``sync_interval_s`` it puts on the disk what no commit
has flushed, also for processes that have died meanwhile.  When nothing has been published for a
second it compacts, so that a store at rest is one small file and an empty log, and takes away what
has expired, in steps as short as a compaction.  It vacuums a file that is more than half free.  It
stays out of the way of writers that get on, keeps no lock while it waits, and an error of its own
never ends it: the next commit meets the same error.
"""

from __future__ import annotations

import threading
import time

from logstore.engine import osdep, vacuum
from logstore.engine.commit import Flush
from logstore.engine.engine import Engine
from logstore.engine.failures import start_thread
from logstore.engine.frames import OFFSET_MAX
from logstore.engine.header import LOG_FAILED, STATE, SYNCED, VACUUM, WRITING
from logstore.engine.log import FIRST_OFFSET

IDLE_S = 1.0
STILL_S = 0.1  # a write that is not done in that time may be a dead process's
PAUSE_IDLE, PAUSE_BUSY = 1, 20  # between two steps of tidying up, in lengths of a step
CHECK_S = 5.0  # how often it is looked whether records have expired or a vacuum is due


class Maintenance:
    """The thread and its end."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stop = threading.Event()
        self._processors = osdep.unbound()
        self._thread = threading.Thread(target=self._run, name="logstore-maintenance", daemon=True)
        start_thread(engine.path, self._thread)

    def stop(self) -> None:
        """End the thread and wait for it, unless it is the caller."""
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        osdep.run_on(self._processors)
        engine = self._engine
        words = engine.header.words
        last_state, since = words[STATE], time.monotonic()
        checked, epoch = since, last_state >> 32
        pause_s = 0.0  # before more is taken away, if there is more
        while not self._stop.is_set():
            try:
                if self._stop.wait(pause_s or min(engine.options.sync_interval_s, IDLE_S)):
                    break
                engine.close_retired()
                now = time.monotonic()
                state = words[STATE]
                committed = state & OFFSET_MAX
                if state != last_state:
                    last_state, since = state, now
                if words[LOG_FAILED] or (words[WRITING] and now - since >= STILL_S):
                    with engine.exclusive():
                        pass  # a peer died or failed amid a write: taking the lock recovers
                    continue
                idle = now - since >= IDLE_S
                if committed > FIRST_OFFSET and idle and not words[VACUUM]:
                    engine.compact()
                    epoch = words[STATE] >> 32
                    continue
                looks = pause_s > 0 or now - checked >= CHECK_S
                pause_s = 0.0
                if looks:
                    checked = now
                    # Else there have been compactions, which take away as much, perhaps by another
                    # process that does the same: one is enough.
                    if state >> 32 == epoch:
                        pause_s = self._take_away(PAUSE_IDLE if idle else PAUSE_BUSY)
                        last_state = words[STATE] if idle else last_state
                    epoch = words[STATE] >> 32
                if words[SYNCED] < words[STATE] & OFFSET_MAX:
                    engine.committer.run([Flush()])
                elif looks and not pause_s and vacuum.is_due(engine):
                    vacuum.vacuum(engine)
            except Exception as exc:
                # Whoever writes next meets it as well; the thread goes on for the others.
                engine.counters.last_compaction_error = str(exc)

    def _take_away(self, pause: float) -> float:
        """Take away a part of what has expired or is over a limit.

        Returns how long to leave the lock to others before the next part, as a multiple of what
        this one has taken; 0 if nothing is left.
        """
        engine = self._engine
        if engine.header.words[VACUUM] or not engine.expiry_due():
            return 0.0
        started = time.monotonic()
        engine.compact()
        return min(pause * (time.monotonic() - started), CHECK_S)
