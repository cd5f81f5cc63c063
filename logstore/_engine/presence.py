"""Which process is alone with a store: the presence locks.

Rules: a process that has a store open holds two shared locks, on its ``-shm`` file and on the
table.  A process that gets both exclusively is alone: only then is the header rebuilt, the log
scanned, the side files removed.  Two, so that after the removal of one file no process wrongly
takes itself for alone.  A lock counts only if its file is still the one at the path.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from logstore._engine import durability, files, frames, locks
from logstore._engine.log import log_paths, read_whole
from logstore._engine.systemerrors import raise_open_error
from logstore._engine.table import Table
from logstore.errors import CorruptTableError, StoreBusyError

_RETRY_S = 0.001
_LEAVING_S = 1.0


def open_presence(path: str) -> int:
    """Open the ``-shm`` file, which is made if there is none."""
    try:
        return files.open_file(path + "-shm", os.O_RDWR | os.O_CREAT, like=path)
    except OSError as exc:
        raise_open_error(path + "-shm", exc)


def open_table_alone(path: str) -> int | None:
    """Open the table's file, exclusively locked; return None if a process has it open.

    It is created if there is none.  The caller has the other presence lock.
    """
    if not os.path.lexists(path):
        _create(path)
    fd = files.open_file(path, os.O_RDONLY)
    try:
        if locks.try_lock(fd) and files.is_at(fd, path):
            return fd
    except BaseException:
        files.close(fd)
        raise
    files.close(fd)
    return None


def _create(path: str) -> None:
    """Create an empty table, unless there is a log, whose table is missing then."""
    logs = [log_path for log_path in log_paths(path) if os.path.lexists(log_path)]
    if logs:
        header = frames.decode_log_header(read_whole(logs[0])[: frames.HEADER_BYTES])
        raise CorruptTableError(
            f"{path}: the table is missing but its log is there"
            f"{f' (store {header.uuid.hex()})' if header else ''}; put the table back, or remove "
            f"{' and '.join(logs)} to begin a new store"
        )
    Table.create(path, os.urandom(16))
    durability.sync_directory(os.path.dirname(path))


@contextmanager
def hold_alone(path: str) -> Iterator[None]:
    """Keep all other processes out of a store that is at rest.  Raises StoreBusyError.

    Leaves no new file.
    """
    had_header = os.path.lexists(path + "-shm")
    fd = open_presence(path)
    table_fd: int | None = None
    try:
        if locks.try_lock(fd) and files.is_at(fd, path + "-shm"):
            table_fd = open_table_alone(path)
        if table_fd is None:
            raise StoreBusyError(f"{path}: the store is in use; close it everywhere first")
        try:
            yield
        finally:
            if not had_header:
                files.remove(path + "-shm")
            remove_header(path)
    finally:
        if table_fd is not None:
            files.close(table_fd)
        files.close(fd)


def wait_for_table(fd: int) -> bool:
    """Lock the table exclusively, for which a closing process is waited for, up to a second."""
    deadline = time.monotonic() + _LEAVING_S
    while not locks.try_lock(fd):
        if time.monotonic() > deadline:
            return False
        time.sleep(_RETRY_S)
    return True


def remove_header(path: str) -> None:
    """Remove a header that no process uses, unless a log shows that there was a crash."""
    if not any(map(os.path.lexists, log_paths(path))):
        files.remove(path + "-shm")


def remove_leftovers(path: str) -> None:
    """Remove the files that dead processes may have left; only for a process that is alone.

    Earlier versions used LMDB's lock files.
    """
    for suffix in ("-lock", "-new", "-new-lock", "-vacuum", "-vacuum-lock", "-check"):
        files.remove(path + suffix)
    for log_path in log_paths(path):
        files.remove(log_path + "-new")


def close_presence(fd: int) -> None:
    """Release the presence lock on the ``-shm`` file, and close it."""
    locks.unlock(fd)  # a child that is just being forked may have the descriptor
    files.close(fd)
