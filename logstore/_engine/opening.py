"""Opening a store: alone, with a recovery, or beside others.

Rules: a process alone makes the header void first and valid last, so if it dies in between, the
header stays void.  A failed opening leaves the files as they were.  Everything here runs sheltered
from signal handlers.
"""

from __future__ import annotations

import os
import time

from logstore._engine import files, identity, locks, shelter, system
from logstore._engine.counters import Counters
from logstore._engine.engine import Engine
from logstore._engine.groups import commit_group
from logstore._engine.header import SharedHeader
from logstore._engine.joining import join
from logstore._engine.lmdbfile import inspect_file
from logstore._engine.log import FIRST_OFFSET, Log
from logstore._engine.options import Options
from logstore._engine.places import check_directory
from logstore._engine.presence import (
    close_presence,
    open_presence,
    open_table_alone,
    remove_header,
    remove_leftovers,
)
from logstore._engine.recovery import LeavingError, recover_alone
from logstore._engine.systemerrors import raise_open_error
from logstore._engine.table import Table
from logstore.errors import NetworkFilesystemError, OpenError, StoreBusyError

_RETRY_S = 0.001


def open_engine(
    path: str, options: Options, *, create: bool, force: bool, accept_log_loss: bool
) -> Engine:
    """Open a store for this process, alone or beside others.

    Raises an :class:`OpenError`, CorruptLogError or CorruptTableError; the files are then as they
    were, except for empty side files.
    """
    check_place(path, force=force, create=create)
    deadline = time.monotonic() + options.write_timeout_s
    while True:
        fd = open_presence(path)
        try:
            engine = _try_open(path, fd, options, accept_log_loss=accept_log_loss)
        except BaseException as exc:
            close_presence(fd)
            raise_open_error(path, exc)
        if engine is not None:
            return engine
        close_presence(fd)
        if time.monotonic() > deadline:
            raise StoreBusyError(
                f"{path}: for more than {options.write_timeout_s} s another process has been "
                f"opening or closing the store, or has kept it open although one of its files was "
                f"removed or replaced; look for one that is stopped"
            )
        shelter.check()
        time.sleep(_RETRY_S)


def check_place(path: str, *, force: bool, create: bool) -> None:
    """Refuse a path at which no store can be, before anything is changed."""
    check_directory(path, create=create)
    if os.path.lexists(path):
        inspect_file(path)
    elif not create:
        raise OpenError(f"{path}: no such store")
    kind = system.filesystem_type(os.path.dirname(path))
    if kind in system.NETWORK_FILESYSTEMS and not force:
        raise NetworkFilesystemError(
            f"{path}: on a network file system ({kind}), where locks and shared memory do not "
            f"work; use a local disk, or force=True if only one process ever opens the store"
        )


def _try_open(path: str, fd: int, options: Options, *, accept_log_loss: bool) -> Engine | None:
    """Make one attempt; return None if the files changed and the caller has to try again."""
    if locks.try_lock(fd):
        if not files.is_at(fd, path + "-shm"):
            return None
        try:
            return _open_alone(path, fd, options, accept_log_loss=accept_log_loss)
        except BaseException:
            remove_header(path)
            raise
    elif locks.try_lock(fd, shared=True) and files.is_at(fd, path + "-shm"):
        return join(path, fd, options)
    return None


def _open_alone(path: str, fd: int, options: Options, *, accept_log_loss: bool) -> Engine | None:
    table_fd = open_table_alone(path)
    if table_fd is None:
        remove_header(path)  # processes whose header was removed have the store open
        return None
    try:
        header = SharedHeader(fd)
    except BaseException:
        files.close(table_fd)
        raise
    try:
        try:
            header.begin_rebuild()
            nonce = header.nonce
            remove_leftovers(path)
            counters = Counters()
            table = Table(path, readers=header.readers, fd=table_fd)
        except BaseException:
            files.close(table_fd)
            raise
        log: Log | None = None
        try:
            log, epoch, last_time_us = recover_alone(
                path, table, options, counters, accept_log_loss=accept_log_loss
            )
            identity.publish_table(header, table)
            header.log_id = header.next_log = log.log_id
            header.last_time_us = last_time_us
            header.begin_epoch(epoch, FIRST_OFFSET)
            header.end_rebuild(table.meta.uuid)
            # A conversion releases the lock for a moment: another process may have been alone.
            if (
                locks.try_lock(table_fd, shared=True)
                and locks.try_lock(fd, shared=True)
                and files.is_at(table_fd, path)
                and files.is_at(fd, path + "-shm")
                and header.is_live()
                and header.nonce == nonce
            ):
                return Engine(path, options, header, fd, log, table, counters, commit_group)
        except BaseException:
            table.close()
            if log is not None:
                log.close()
            raise
        table.close()
        log.close()
    except LeavingError:
        pass
    except BaseException:
        header.close()
        raise
    header.close()
    return None
