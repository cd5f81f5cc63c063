"""Opening a store beside other processes, without waiting for any of them.

Rules: the header is trusted only if the log and the table at the paths are the published ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from logstore._engine import durability, files, identity
from logstore._engine.counters import Counters
from logstore._engine.engine import Engine
from logstore._engine.frames import FORMAT_VERSION
from logstore._engine.groups import commit_group
from logstore._engine.header import SharedHeader
from logstore._engine.log import Log
from logstore._engine.options import Options
from logstore._engine.table import HeldAloneError, Table
from logstore.errors import FormatVersionError, MissingLogError

T = TypeVar("T")


def join(path: str, fd: int, options: Options) -> Engine | None:
    """Open the store beside others; return None if the caller has to try again."""
    if os.fstat(fd).st_size == 0:
        return None
    header = SharedHeader(fd)
    log: Log | None = None
    table: Table | None = None
    try:
        if header.is_live() and not header.replaced:
            log = _if_there(lambda: Log.open(path + "-log", header.uuid))
            if log is not None and log.log_id == header.log_id and os.path.lexists(path):
                table = _open_published(path, header)
                if table is not None:
                    return Engine(path, options, header, fd, log, table, Counters(), commit_group)
                _publish_vacuumed(path, header, log)
    except BaseException:
        _close_all(header, log, table)
        raise
    _close_all(header, log, table)
    return None


def _open_published(path: str, header: SharedHeader) -> Table | None:
    """Open the table; return None if it is not the published one."""
    if _inode(path) != header.table_inode:
        return None
    table = _if_there(lambda: identity.open_published(path, header))
    if table is not None and table.meta.version != FORMAT_VERSION:
        table.close()
        raise FormatVersionError(
            f"{path}: format {table.meta.version}, in use by a process of an older version of "
            f"logstore; close the store in all processes, and this version upgrades it"
        )
    return table


def _inode(path: str) -> int:
    found = files.identity(path)
    return 0 if found is None else found[1]


def _publish_vacuumed(path: str, header: SharedHeader, log: Log) -> None:
    """Publish the table of a vacuum that died after its rename, unless a process is writing."""
    if not header.writing or not log.try_lock():
        return
    try:
        fd = _if_there(lambda: files.open_file(path, os.O_RDONLY))
        if fd is None:
            return
        try:
            table = Table(path, readonly=True, fd=fd)
        except BaseException:
            files.close(fd)
            raise
        try:
            expected = (header.uuid, header.incarnation + 1)
            found = (table.meta.uuid, table.meta.incarnation)
            if header.writing and header.log_id == log.log_id and found == expected:
                durability.sync_directory(os.path.dirname(path))
                identity.publish_table(header, table)
        finally:
            table.close()
    finally:
        log.unlock()


def _if_there(open_it: Callable[[], T]) -> T | None:
    """Return what is opened, None if the file is just being replaced or removed."""
    try:
        return open_it()
    except (MissingLogError, FileNotFoundError, HeldAloneError):
        return None


def _close_all(header: SharedHeader, log: Log | None, table: Table | None) -> None:
    if table is not None:
        table.close()
    if log is not None:
        log.close()
    header.close()
