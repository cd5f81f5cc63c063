"""The package's own threads, and a signal for the threads that wait for them.

Rules: a thread is started under shelter, because ``Thread.start`` waits for an Event, and a signal
handler that raises during that would leave the Event's lock held, for which the new thread waits.
A thread holds a lock of C while it runs, if other threads need to know whether it does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from logstore._engine import affinity
from logstore._engine.shelter import sheltered
from logstore._engine.systemerrors import start_thread


def start(run: Callable[[], object], name: str, where: str) -> None:
    """Run a function in a daemon thread, with the caller's affinity before it was bound.

    Raises ResourceLimitError, which begins with ``where``, if no thread can be started.
    """
    processors = affinity.unbound()

    def serve() -> None:
        affinity.run_on(processors)
        run()

    def begin() -> None:
        start_thread(where, threading.Thread(target=serve, name=name, daemon=True))

    sheltered(begin)


class Signal:
    """An Event for one waiter, which a wait resets.

    It is a lock of C, because a signal handler that raises in ``Event.wait`` or ``Event.set`` may
    leave the Event's lock held, and the next call of ``set`` would wait forever.
    """

    __slots__ = ("_unset",)

    def __init__(self) -> None:
        self._unset = threading.Lock()
        self._unset.acquire()

    def set(self) -> None:
        """End the wait, or the next one."""
        try:
            self._unset.release()
        except RuntimeError:
            pass  # it is set already

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until it is set, at most ``timeout_s`` seconds."""
        if timeout_s is None:
            self._unset.acquire()
        else:
            self._unset.acquire(timeout=min(max(timeout_s, 0.0), threading.TIMEOUT_MAX))
