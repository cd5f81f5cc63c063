"""CPU affinity: which processors a thread may run on.

Python's threads share one lock, so a second processor gains them nothing, and waking one takes
longer than a short job.  Reads from the table through a thread that is bound to its caller's
processor are 2.3 times as fast, one at a time (16,400 against 6,900 a second), and 1.1 to 1.6 times
with 8 and 64 at a time; writes through one lose 20 %, so only readers are bound.  Measured on an
idle machine with two processors, three interleaved rounds.

Rules: nothing happens where the system does not report or set affinity.  A thread inherits the
affinity of the thread that starts it.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable

try:
    _sched_getcpu: Callable[[], int] | None = ctypes.CDLL(None).sched_getcpu
except (AttributeError, OSError):  # not a system with glibc or musl
    _sched_getcpu = None


class Companion:
    """Bind a thread to the processor of the thread that gives it work and waits for it."""

    def __init__(self) -> None:
        self._processor = -1
        self._usable = _sched_getcpu is not None and hasattr(os, "sched_setaffinity")

    def bind(self, thread: threading.Thread) -> None:
        """Let ``thread`` run on the processor of the caller."""
        if not self._usable:
            return
        assert _sched_getcpu is not None
        processor = _sched_getcpu()
        if processor < 0:  # the system call is refused
            self._usable = False
        elif processor != self._processor and thread.native_id is not None:
            self._processor = processor
            try:
                if thread.native_id not in _before:
                    _before[thread.native_id] = os.sched_getaffinity(thread.native_id)
                os.sched_setaffinity(thread.native_id, {processor})
            except OSError:  # not allowed, or the thread has ended
                self._usable = False
                run_on(_before.get(thread.native_id), thread.native_id)


# The affinity of each thread before a companion bound it, by thread id.
_before: dict[int, set[int]] = {}


def unbound() -> set[int] | None:
    """Return the calling thread's affinity before a companion bound it; None if none did."""
    return _before.get(threading.get_native_id())


def run_on(processors: set[int] | None, thread_id: int = 0) -> None:
    """Set the affinity of a thread, of the calling one for 0; None changes nothing.

    A new thread calls this with what :func:`unbound` returned in the thread that started it,
    because threads inherit CPU affinity.
    """
    if processors is not None:
        try:
            os.sched_setaffinity(thread_id, processors)
        except OSError:
            pass
