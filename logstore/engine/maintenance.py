"""The background thread of an open store: bounded loss of progress, and tidying up when idle.

Rules: one daemon thread per engine.  Every ``sync_interval_s`` it puts on the disk what no commit
has flushed, also for processes that have died meanwhile.  When nothing has been published for a
second it compacts, so that a store at rest is one small file and an empty log.  It vacuums a file
that is more than half free.  It stays out of the way of writers that get on, keeps no lock while
it waits, and an error of its own never ends it: the next commit meets the same error.
"""

from __future__ import annotations

import threading
import time

from logstore.engine import osdep, vacuum
from logstore.engine.commit import Flush
from logstore.engine.engine import Engine
from logstore.engine.frames import OFFSET_MAX
from logstore.engine.header import LOG_FAILED, STATE, SYNCED, WRITING
from logstore.engine.log import FIRST_OFFSET

IDLE_S = 1.0
STILL_S = 0.1  # a write that is not done in that time may be a dead process's
CHECK_S = 5.0  # how often it is looked whether records have expired or a vacuum is due


class Maintenance:
    """The thread and its end."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stop = threading.Event()
        self._processors = osdep.unbound()
        self._thread = threading.Thread(target=self._run, name="logstore-maintenance", daemon=True)
        self._thread.start()

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
        checked = since
        while not self._stop.is_set():
            try:
                if self._stop.wait(min(engine.options.sync_interval_s, IDLE_S)):
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
                if committed > FIRST_OFFSET and idle and not engine.copy_defers(0):
                    engine.compact()
                elif words[SYNCED] < committed:
                    engine.committer.run([Flush()])
                elif now - checked >= CHECK_S:
                    checked = now
                    if engine.expiry_due():
                        engine.compact()
                    if vacuum.is_due(engine):
                        vacuum.vacuum(engine)
            except Exception as exc:
                # Whoever writes next meets it as well; the thread goes on for the others.
                engine.counters.last_compaction_error = str(exc)
