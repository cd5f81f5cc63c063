"""One engine per store file and process, shared by its handles, and replaced after a fork.

Rules: LMDB must not open a file twice in a process, so a second ``open`` shares the engine of the
first, with a count of handles.  Each file has its own lock for opening and closing, so that stores
do not block each other.  A handle is released once: if a release is interrupted, either nothing has
happened or the handle is marked as released.  In a forked child the inherited handles are dropped,
and each store opens again on its first use.  Stores that are still open when the interpreter ends
are closed.  Callers shelter these calls from signal handlers.
"""

from __future__ import annotations

import _thread
import atexit
import os
import threading
from collections.abc import Callable

from logstore._engine import shelter
from logstore._engine.closing import close_engine
from logstore._engine.engine import Engine
from logstore._engine.guardian import Guardian
from logstore._engine.maintenance import Maintenance
from logstore._engine.notify import Notifier
from logstore._engine.reading import BaseEngine
from logstore._engine.taking import Taker
from logstore.errors import StoreBusyError


class Shared:
    """An engine with its threads and the number of handles on it."""

    def __init__(self, key: str, engine: BaseEngine) -> None:
        self.key = key
        self.engine = engine
        self.handles = 1
        live = engine if isinstance(engine, Engine) else None
        self.notifier = Notifier(engine, live.header if live else None)
        self._maintenance = Maintenance(live) if live else None
        self.taker = Taker(live) if live else None
        self._guardian: Guardian | None = None
        self._guarding = threading.Lock()

    def guard(self, taker: Taker) -> None:
        """Begin to look for dead workers, if that has not begun."""
        with self._guarding:
            if self._guardian is None:
                self._guardian = Guardian(self.engine.path, taker)

    def close(self) -> None:
        """End the threads and close the engine.  Raises WriteError or StoreReplacedError."""
        try:
            if self._maintenance is not None:
                self._maintenance.stop()
            self.notifier.stop()
            if self._guardian is not None:
                self._guardian.stop()
            if self.taker is not None:
                self.taker.close()
        finally:
            _close(self.engine)


class Lease:
    """One handle's part of an engine that other handles of the process may share."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self.engine = shared.engine
        self.notifier = shared.notifier
        self.taker = shared.taker
        self.released = False

    def guard(self) -> None:
        """Begin to look for dead workers."""
        if self.taker is not None:
            self._shared.guard(self.taker)

    def release(self) -> None:
        """Release the handle; the last one closes the engine.  A second call does nothing.

        Raises WriteError after the release, StoreReplacedError before or after it (see
        ``released``), and StoreBusyError as :func:`acquire` does, or an interrupt of the wait for
        the slot, before it.
        """
        shared = self._shared
        if shared.engine.forked:
            self.released = True  # the parent closes the engine
            return
        slot = _enter(shared.key, shared.engine.options.write_timeout_s)
        try:
            if self.released:
                return
            if self.taker is not None:
                self.taker.leave(self)
            if shared.handles > 1:
                self.released = True
                shared.handles -= 1
                return
            try:
                shared.close()
            finally:
                if shared.engine.closed:  # otherwise the handle is still needed
                    self.released = True
                    shared.handles = 0
                    slot.shared = None
        finally:
            slot.lock.release()
            _forget(shared.key, slot)
            shared.notifier.notify_all()  # waiters find that their handle is closed

    def abandon(self) -> None:
        """Release it soon, in a thread; for a finalizer, which may run within any call."""
        if not (self.released or self.engine.closed):
            _thread.start_new_thread(self._start_releasing, ())

    def _start_releasing(self) -> None:
        # A Thread of the threading module, started outside of any call of that module.
        threading.Thread(target=self.release, name="logstore-release", daemon=True).start()


class _Slot:
    """The slot of one file, whose lock is held while the file is being opened or closed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0  # threads that hold the lock or wait for it
        self.shared: Shared | None = None


_FROZEN = "\0r"  # after the path in the key of an engine that only reads files at rest

_lock = threading.Lock()  # of the dictionary; not held while a file is opened or closed
_slots: dict[str, _Slot] = {}


def acquire(path: str, open_engine: Callable[[], Engine], timeout_s: float) -> Lease:
    """Return a lease of the engine of the file at a real path, which is opened if needed.

    Raises StoreBusyError if another thread has been opening or closing it for ``timeout_s``.
    """
    frozen = _slots.get(path + _FROZEN)
    if frozen is not None and frozen.shared is not None:
        raise StoreBusyError(
            f"{path}: this process has the store open with mode='r' as it was at rest; close "
            f"that handle before opening it for writing"
        )
    return _acquire(path, open_engine, timeout_s)


def acquire_frozen(path: str, open_engine: Callable[[], BaseEngine], timeout_s: float) -> Lease:
    """Return a lease of the engine that reads a file while no process writes it."""
    return _acquire(path + _FROZEN, open_engine, timeout_s)


def _acquire(key: str, open_engine: Callable[[], BaseEngine], timeout_s: float) -> Lease:
    slot = _enter(key, timeout_s)
    try:
        shared = slot.shared
        if shared is not None:
            lease = Lease(shared)
            shared.handles += 1
            return lease
        engine = open_engine()
        try:
            shared = Shared(key, engine)
        except BaseException:  # such as no thread, or no memory
            _close(engine)
            raise
        try:
            lease = Lease(shared)
        except BaseException:
            shared.close()
            raise
        slot.shared = shared
        return lease
    finally:
        slot.lock.release()  # a call of C, which needs no memory
        _forget(key, slot)


def _enter(key: str, timeout_s: float) -> _Slot:
    _lock.acquire()  # leaving a ``with`` needs memory for the arguments of ``__exit__``
    try:
        slot = _slots.setdefault(key, _Slot())
        slot.users += 1
    finally:
        _lock.release()
    try:
        if shelter.acquire(slot.lock, timeout_s):
            return slot
    except BaseException:
        _forget(key, slot)
        raise
    _forget(key, slot)
    raise StoreBusyError(
        f"{key.removesuffix(_FROZEN)}: another thread has been opening or closing the store for "
        f"more than {timeout_s} s"
    )


def _forget(key: str, slot: _Slot) -> None:
    _lock.acquire()
    try:
        slot.users -= 1
        if not slot.users and slot.shared is None and _slots.get(key) is slot:
            del _slots[key]
    finally:
        _lock.release()


def _close(engine: BaseEngine) -> None:
    if isinstance(engine, Engine):
        close_engine(engine)
    else:
        engine.release()


def _close_all() -> None:
    for slot in list(_slots.values()):
        shared = slot.shared
        if shared is not None:
            shared.handles = 1
            try:
                Lease(shared).release()
            except Exception:
                # The interpreter ends: the log has what was acknowledged; opening recovers it.
                continue


def _after_fork_in_child() -> None:
    _lock.release()
    for slot in _slots.values():
        if slot.shared is not None:
            slot.shared.engine.after_fork_in_child()
    _slots.clear()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_lock.acquire,
        after_in_parent=_lock.release,
        after_in_child=_after_fork_in_child,
    )
