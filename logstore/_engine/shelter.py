"""Work that no signal handler can interrupt.

CPython runs a signal's Python handler in the main thread, between two instructions: at the entry
of a function, after a call has returned, at a jump backwards.  No code in Python can be prepared
for an exception at each of these places: a context manager written in Python is entered and left by
calls too, and a descriptor that has just been opened is not in a variable yet.  So there are two
rules for the main thread:

- Short and frequent work (a write, a read) holds locks by ``with`` on a lock of C, or releases
  them in a ``finally`` whose first instruction is one call of C: no handler can run before it.
- All other work (opening, closing, compacting, replacing files) goes through :func:`sheltered`.
  It runs in another thread, where no handler runs, while the main thread waits for its end.  An
  exception that a handler raises during the wait is raised after it.

Waits within sheltered work call :func:`check`, so that an exception of a handler ends them early.
"""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import lmdb

from logstore.errors import LogstoreError

T = TypeVar("T")

START_S = 5.0  # how long a thread may take to begin
SLICE_S = 0.05  # how often a wait within sheltered work checks for an interrupt


class InterruptedWaitError(BaseException):
    """The caller of sheltered work was interrupted; raised only within that work."""


class _Job:
    """One call of :func:`sheltered`."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self.claim = threading.RLock()  # of the thread once it runs, or of an interrupted caller
        self.done = _thread.allocate_lock()
        self.done.acquire()
        self.ended = False
        self.interrupted = False
        self.value: Any = None
        self.error: BaseException | None = None

    def start(self) -> None:
        """Run in a Thread of the threading module; called where no handler interrupts."""
        try:
            threading.Thread(target=self.run, name="logstore-sheltered", daemon=True).start()
        except BaseException:  # no other thread can be started
            self.run()

    def run(self) -> None:
        """Do the work, unless the caller was interrupted before it began."""
        if not self.claim.acquire(blocking=False):
            return  # the caller was interrupted before anything had begun
        try:
            _current.job = self
            self.value = self._work()
        except BaseException as exc:
            self.error = exc
        self.ended = True
        self.done.release()


class _Current(threading.local):
    job: _Job | None = None


_current = _Current()


def is_exposed() -> bool:
    """Return whether the calling thread is the one in which signal handlers run."""
    return threading.main_thread().ident == _thread.get_ident()


def sheltered(work: Callable[[], T], discard: Callable[[T], object] | None = None) -> T:
    """Do ``work`` where no signal handler interrupts it, and return its value or raise its error.

    If a handler raises, that exception is raised once the work has ended; the value of the work is
    passed to ``discard``.  In any thread but the main one this is a plain call.
    """
    if not is_exposed():
        return work()
    job = _Job(work)
    interrupt: BaseException | None = None
    started = False
    while not job.ended:
        try:
            if interrupt is not None and job.claim.acquire(blocking=False):
                break  # nothing has begun, and nothing will
            if not started:
                started = True
                _thread.start_new_thread(job.start, ())
            if not job.done.acquire(timeout=START_S) and job.claim.acquire(blocking=False):
                return work()  # the thread died before it could begin, without memory
        except BaseException as exc:
            interrupt = exc
            job.interrupted = True
    if interrupt is None:
        try:
            if job.error is not None:
                raise job.error
            return job.value  # type: ignore[no-any-return]
        finally:
            job.error = None  # otherwise a cycle would keep all objects of its frames
    if not job.ended and _is_of_start(interrupt):
        return work()  # no thread can be started, without memory or at exit
    if discard is not None and job.ended and job.error is None:
        value = job.value
        sheltered(lambda: discard(value))
    try:
        raise interrupt
    finally:
        job.error = interrupt = None  # as above


def _is_of_start(exc: BaseException) -> bool:
    """Return whether an exception is from starting a thread, not from a handler."""
    trace = exc.__traceback__
    return isinstance(exc, RuntimeError) and trace is not None and trace.tb_next is None


def check() -> None:
    """Raise InterruptedWaitError if this is sheltered work whose caller was interrupted."""
    job = _current.job
    if job is not None and job.interrupted:
        raise InterruptedWaitError


def acquire(lock: Any, timeout_s: float) -> bool:
    """Take a lock as its ``acquire`` does, but give up a wait when the caller is interrupted."""
    if lock.acquire(False):  # by far the most frequent case, and faster than with a time-out
        return True
    if _current.job is None:
        return bool(lock.acquire(timeout=timeout_s))
    deadline = time.monotonic() + timeout_s
    while True:
        check()
        left = deadline - time.monotonic()
        if lock.acquire(timeout=max(0.0, min(left, SLICE_S))):
            return True
        if left <= SLICE_S:
            return False


def is_interrupt(exc: BaseException) -> bool:
    """Return whether an exception may come from a signal handler and not from our own code.

    Handlers may raise any exception, often TimeoutError.  Errors of the operating system differ
    from it by their ``errno``.
    """
    if isinstance(exc, LogstoreError | lmdb.Error | MemoryError):
        return False
    if isinstance(exc, OSError):
        return exc.errno is None
    return not isinstance(exc, Exception) or is_exposed()
