"""Closing a store for this process; the last process leaves one file.

Rules: under the writer lock, the process asks for both presence locks exclusively.  If it gets
both, it folds the logs, marks the table as clean and removes the side files.  Otherwise it flushes,
and gives its presence locks back before the writer lock.
What was acknowledged is on the disk before a lock is released.
"""

from __future__ import annotations

from logstore._engine import files, identity, locks
from logstore._engine.engine import Engine
from logstore._engine.log import log_paths
from logstore._engine.presence import close_presence, remove_leftovers, wait_for_table
from logstore._engine.systemerrors import raise_write_error
from logstore.errors import StoreReplacedError


def close_engine(engine: Engine) -> None:
    """Close a store for this process; the last process leaves one file.

    Raises WriteError if the last compaction failed: the side files then stay, and nothing is
    lost.  Raises StoreReplacedError if acknowledged data is not in the file at the path; if it
    could not be rescued, the store stays open.
    """
    path = engine.path

    def leave() -> bool:
        identity.verify(engine)
        # A failed conversion may lose the shared lock, which is not needed any more.
        alone = (
            locks.try_lock(engine.presence_fd)
            and files.is_at(engine.presence_fd, path + "-shm")
            and wait_for_table(engine.table.fd)
        )
        if alone:
            engine.fold(clean=True, wait_s=engine.options.write_timeout_s)
        else:
            engine.flush()
        engine.stop()
        if alone:
            engine.header.begin_rebuild()
        else:
            _make_way(engine)
        return alone

    try:
        alone = engine.exclusively(leave)
    except StoreReplacedError as exc:
        _close_replaced(engine, exc)
        return
    except BaseException as exc:
        engine.stop()
        _release(engine)
        raise_write_error(path, exc)
    try:
        engine.release()
        if alone:
            for log_path in log_paths(path):
                files.remove(log_path)
            remove_leftovers(path)
            files.remove(path + "-shm")
    except OSError:
        pass  # the table is complete and clean: the next process that opens it removes the rest
    finally:
        close_presence(engine.presence_fd)


def _make_way(engine: Engine) -> None:
    """Give the presence locks back before the writer lock, so that the next to close is alone."""
    engine.table.leave()  # waits for readers
    locks.unlock(engine.table.fd)
    locks.unlock(engine.presence_fd)


def _release(engine: Engine) -> None:
    try:
        engine.release()
    finally:
        close_presence(engine.presence_fd)


def _close_replaced(engine: Engine, error: StoreReplacedError) -> None:
    replaced = engine.header.replaced
    if not replaced:
        raise error  # it could not be rescued: this process has the last copy
    engine.stop()
    _release(engine)
    if replaced == identity.ELSEWHERE:
        raise error
