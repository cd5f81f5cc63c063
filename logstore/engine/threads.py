"""Starting the threads of the package.

Rules: whatever moment a signal handler chooses to raise an exception in the thread that asks for
another one, the new thread runs or does not, and no lock stays behind.  ``Thread.start`` cannot
promise that: it waits for an Event, which is Python code under a lock, and the new thread would
wait for that lock for ever.  So it is called where no signal handler runs, in a thread that is
begun by one call of C.  Who needs to know whether a thread runs has it hold a lock while it does.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable

from logstore.engine import osdep


def start(run: Callable[[], object], name: str) -> None:
    """Run a function in a daemon thread, on the processors that the caller was given.

    Raises what starting a thread raises; after another exception it may run or not.
    """
    processors = osdep.unbound()
    failed: list[BaseException] = []
    begun = threading.Lock()
    begun.acquire()

    def serve() -> None:
        osdep.run_on(processors)
        run()

    def begin() -> None:
        try:
            threading.Thread(target=serve, name=name, daemon=True).start()
        except BaseException as exc:
            failed.append(exc)
        finally:
            begun.release()

    _thread.start_new_thread(begin, ())
    begun.acquire()
    if failed:
        raise failed[0]


class Signal:
    """An Event for one waiter, which its wait resets.

    Made of a lock of C's, because a signal handler that raises amid ``Event.wait`` or ``Event.set``
    may leave the Event's lock held, and whoever sets it next would wait for ever.
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
