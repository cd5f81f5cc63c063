"""One engine per store file and process, and what becomes of it across a fork.

Rules: LMDB must not be opened twice in a process, so a second ``open`` of a file shares the
engine of the first, counted.  The fork hooks hold every engine still while the process forks; in
the child the inherited handles are dropped and each store opens anew on its first use.  Stores
that are still open when the interpreter ends are closed.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable

from logstore.engine.engine import Engine
from logstore.engine.maintenance import Maintenance
from logstore.engine.notify import Notifier
from logstore.engine.opening import close_engine
from logstore.engine.reading import Reading
from logstore.errors import StoreBusyError


class Shared:
    """An engine with its threads and the number of handles on it."""

    def __init__(self, key: str, engine: Reading) -> None:
        self.key = key
        self.engine = engine
        self.handles = 1
        live = engine if isinstance(engine, Engine) else None
        self.notifier = Notifier(engine, live.header if live else None)
        self._maintenance = Maintenance(live) if live else None

    def close(self) -> None:
        """End the threads and close the engine.  Raises WriteError."""
        try:
            if self._maintenance is not None:
                self._maintenance.stop()
            self.notifier.stop()
        finally:
            _close(self.engine)


_FROZEN = "\0r"  # behind the path in the key of an engine that only reads files at rest

_lock = threading.RLock()
_open: dict[str, Shared] = {}


def acquire(path: str, open_engine: Callable[[], Engine]) -> Shared:
    """The engine of the file at a real path, opened if this process has not yet."""
    with _lock:
        if path + _FROZEN in _open:
            raise StoreBusyError(
                f"{path}: this process has the store open with mode='r' as it was at rest; close "
                f"that handle before opening it for writing"
            )
        return _acquire(path, open_engine)


def acquire_frozen(path: str, open_engine: Callable[[], Reading]) -> Shared:
    """The engine that reads the file at a real path while nobody writes it."""
    with _lock:
        return _acquire(path + _FROZEN, open_engine)


def _acquire(key: str, open_engine: Callable[[], Reading]) -> Shared:
    shared = _open.get(key)
    if shared is not None:
        shared.handles += 1
        return shared
    engine = open_engine()
    try:
        shared = _open[key] = Shared(key, engine)
    except BaseException:  # no thread can be started, no memory is left
        _close(engine)
        raise
    return shared


def _close(engine: Reading) -> None:
    if isinstance(engine, Engine):
        close_engine(engine)
    else:
        engine.release()


def release(shared: Shared) -> None:
    """Give one handle back; the last one closes the engine.  Raises WriteError."""
    with _lock:
        if shared.engine.forked:
            return
        shared.handles -= 1
        if shared.handles:
            shared.notifier.tell_all_to_look()  # the waiters of this handle find it closed
            return
        if _open.get(shared.key) is shared:
            del _open[shared.key]
        try:
            shared.close()
        finally:
            shared.notifier.tell_all_to_look()


def _close_all() -> None:
    for shared in list(_open.values()):
        shared.handles = 1
        try:
            release(shared)
        except Exception:
            # The interpreter ends: what was acked is in the log and is recovered on opening.
            continue


def _before_fork() -> None:
    _lock.acquire()
    for shared in _open.values():
        shared.engine.before_fork()


def _after_fork_in_parent() -> None:
    for shared in _open.values():
        shared.engine.after_fork_in_parent()
    _lock.release()


def _after_fork_in_child() -> None:
    global _lock
    for shared in _open.values():
        shared.engine.after_fork_in_child()
    _open.clear()
    _lock = threading.RLock()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
