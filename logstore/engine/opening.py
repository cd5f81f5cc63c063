"""Opening and closing: which process is alone with a store, which joins, which tidies up.

Rules: a store that is open holds two shared locks, on its ``-shm`` file and on the table itself.
A process that gets both exclusively is alone: only then is the header rebuilt, the log scanned,
the side files removed.  So a removed side file lets no process believe that it is alone.  A lock
counts only if the file it is on is still the one at its path.  The header is void from the moment
a process alone begins until it has ended well, so a death in between leaves it void.
Everything here runs sheltered from signal handlers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import lmdb

from logstore.engine import clock, files, frames, identity, osdep, shelter
from logstore.engine.compaction import fold_into
from logstore.engine.counters import Counters
from logstore.engine.engine import Engine
from logstore.engine.failures import raise_open_error, raise_write_error
from logstore.engine.header import (
    INCARNATION,
    LAST_TIME,
    LOG_ID,
    REPLACED,
    SYNCED,
    TABLE_INODE,
    TABLE_TXN,
    WRITING,
    SharedHeader,
)
from logstore.engine.lmdbfile import inspect_file, make_lock_file
from logstore.engine.log import FIRST_OFFSET, Log, new_log_id, read_whole
from logstore.engine.options import Options, arena_bytes
from logstore.engine.overlay import Overlay
from logstore.engine.places import check_directory
from logstore.engine.records import Meta
from logstore.engine.table import HeldAloneError, Table
from logstore.errors import (
    CorruptLogError,
    CorruptTableError,
    MissingLogError,
    NetworkFilesystemError,
    OpenError,
    StaleTableError,
    StoreBusyError,
    StoreReplacedError,
)

T = TypeVar("T")

_RETRY_S = 0.001
_LEAVING_S = 1.0


def open_engine(
    path: str, options: Options, *, create: bool, force: bool, accept_log_loss: bool
) -> Engine:
    """Open a store for this process, alone or beside others.

    Raises an :class:`OpenError`, CorruptLogError or CorruptTableError; the files are then as they
    were, but for side files that hold nothing.
    """
    check_place(path, force=force, create=create)
    deadline = time.monotonic() + options.write_timeout_s
    while True:
        fd = _open_presence(path)
        try:
            engine = _try_open(path, fd, options, accept_log_loss=accept_log_loss)
        except BaseException as exc:
            _close_presence(fd)
            raise_open_error(path, exc)
        if engine is not None:
            return engine
        _close_presence(fd)
        if time.monotonic() > deadline:
            raise StoreBusyError(
                f"{path}: for more than {options.write_timeout_s} s another process has been "
                f"opening or closing the store, or has kept it open although one of its files was "
                f"removed or replaced; look for one that is stopped"
            )
        shelter.check()
        time.sleep(_RETRY_S)


def check_place(path: str, *, force: bool, create: bool) -> None:
    """Refuse a path at which no store can be, before anything is touched."""
    check_directory(path, create=create)
    if os.path.lexists(path):
        inspect_file(path)
    elif not create:
        raise OpenError(f"{path}: no such store")
    kind = osdep.filesystem_type(os.path.dirname(path))
    if kind in osdep.NETWORK_FILESYSTEMS and not force:
        raise NetworkFilesystemError(
            f"{path}: on a network file system ({kind}), where locks and shared memory do not "
            f"hold; use a local disk, or force=True if only one process ever opens the store"
        )


def _open_presence(path: str) -> int:
    try:
        return files.open_file(path + "-shm", os.O_RDWR | os.O_CREAT, like=path)
    except OSError as exc:
        raise_open_error(path + "-shm", exc)


def _try_open(path: str, fd: int, options: Options, *, accept_log_loss: bool) -> Engine | None:
    """One attempt; None if the files changed meanwhile and it must be made again."""
    if osdep.try_lock(fd):
        if not _is_at(fd, path + "-shm"):
            return None
        try:
            return _open_alone(path, fd, options, accept_log_loss=accept_log_loss)
        except BaseException:
            _remove_header(path)
            raise
    elif osdep.try_lock(fd, shared=True) and _is_at(fd, path + "-shm"):
        return _join(path, fd, options)
    return None


def _open_table_alone(path: str) -> int | None:
    """The table's file, exclusively locked; None if a process has it open.

    It is created if there is none.  The caller has the other half of the presence lock.
    """
    if not os.path.lexists(path):
        _create(path)
    fd = files.open_file(path, os.O_RDONLY)
    try:
        if osdep.try_lock(fd) and _is_at(fd, path):
            return fd
    except BaseException:
        files.close(fd)
        raise
    files.close(fd)
    return None


@contextmanager
def hold_alone(path: str) -> Iterator[None]:
    """Keep every other process out of a store that is at rest.  Raises StoreBusyError.

    Leaves no file that was not there before.
    """
    had_header = os.path.lexists(path + "-shm")
    fd = _open_presence(path)
    table_fd: int | None = None
    try:
        if osdep.try_lock(fd) and _is_at(fd, path + "-shm"):
            table_fd = _open_table_alone(path)
        if table_fd is None:
            raise StoreBusyError(f"{path}: the store is in use; close it everywhere first")
        osdep.remove(path + "-lock")
        try:
            yield
        finally:
            osdep.remove(path + "-lock")
            if not had_header or not os.path.lexists(path + "-log"):
                osdep.remove(path + "-shm")
    finally:
        if table_fd is not None:
            files.close(table_fd)
        files.close(fd)


def _is_at(fd: int, path: str) -> bool:
    return files.identity(fd) == files.identity(path)


# -- alone -------------------------------------------------------------------------------------


def _open_alone(path: str, fd: int, options: Options, *, accept_log_loss: bool) -> Engine | None:
    table_fd = _open_table_alone(path)
    if table_fd is None:
        _remove_header(path)  # processes have the store open whose own header was removed
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
            _remove_leftovers(path)
            counters = Counters()
            table = Table(path, new_lock=True, fd=table_fd)
        except BaseException:
            files.close(table_fd)
            raise
        log: Log | None = None
        try:
            log, epoch, last_time_us = _recover_alone(
                path, table, options, counters, accept_log_loss=accept_log_loss
            )
            words = header.words
            words[INCARNATION] = table.meta.incarnation
            words[TABLE_TXN] = table.last_transaction()
            words[TABLE_INODE] = table.inode
            words[LOG_ID] = log.log_id
            words[SYNCED] = FIRST_OFFSET
            words[LAST_TIME] = last_time_us
            header.publish(epoch, FIRST_OFFSET)
            header.end_rebuild(table.meta.uuid)
            # A conversion gives the lock up for a moment: another process may have been alone.
            if (
                osdep.try_lock(table_fd, shared=True)
                and osdep.try_lock(fd, shared=True)
                and _is_at(table_fd, path)
                and _is_at(fd, path + "-shm")
                and header.is_live()
                and header.nonce == nonce
            ):
                return Engine(path, options, header, fd, log, table, counters)
        except BaseException:
            table.close()
            if log is not None:
                log.close()
            raise
        table.close()
        log.close()
    except _TryAgainError:
        pass
    except BaseException:
        header.unmap()
        osdep.remove(path + "-lock")
        raise
    header.unmap()
    return None


def _remove_header(path: str) -> None:
    """Remove a header that no process uses, unless a log shows that there was a crash."""
    if not os.path.lexists(path + "-log"):
        osdep.remove(path + "-shm")


class _TryAgainError(Exception):
    """Another process is just leaving: begin again."""


def _remove_leftovers(path: str) -> None:
    """Remove what processes that died may have left; only for a process that is alone."""
    for suffix in ("-lock", "-new", "-new-lock", "-vacuum", "-vacuum-lock", "-check", "-log-new"):
        osdep.remove(path + suffix)


def _create(path: str) -> None:
    """A new, empty table; refused where the log of a lost one lies."""
    log_path = path + "-log"
    if os.path.lexists(log_path):
        header = frames.decode_log_header(read_whole(log_path)[: frames.HEADER_BYTES])
        raise CorruptTableError(
            f"{path}: the table is missing but its log is there"
            f"{f' (store {header.uuid.hex()})' if header else ''}; put the table back, or remove "
            f"{log_path} to begin a new store"
        )
    Table.create(path, os.urandom(16))
    osdep.sync_directory(os.path.dirname(path))


def _recover_alone(
    path: str, table: Table, options: Options, counters: Counters, *, accept_log_loss: bool
) -> tuple[Log, int, int]:
    """Bring table and log into step: an empty log, its new epoch and the newest time."""
    meta = table.meta
    overlay = Overlay(meta.epoch)
    log_path = path + "-log"
    without_log = _set_log_aside(path, meta, accept_log_loss=accept_log_loss)
    needs_log = not without_log and log_counts(path, meta)
    if not needs_log:
        log = _new_log(path, meta.uuid, options)
    else:
        # A vacuum may have died after its rename, a log's replacement after its own.
        osdep.sync_directory(os.path.dirname(path))
        log = Log.open(log_path, meta.uuid)
    try:
        if not log.try_lock():
            raise _TryAgainError  # a process on its way out still holds the writer lock
        log.unlock()
        if needs_log:
            recover_frames(log, meta, overlay, counters)
        epoch = meta.epoch + 1
        last_time_us = fold_into(
            table,
            [(overlay.results, overlay.progress)],
            options.retention,
            now_us=clock.now_us(),
            last_time_us=max(table.newest_time_us(), overlay.last_time_us()),
            epoch=epoch,
            incarnation=meta.incarnation,
        )
    except BaseException:
        log.close()
        raise
    return log, epoch, last_time_us


def _new_log(path: str, uuid: bytes, options: Options) -> Log:
    log = Log.create(path + "-log", uuid, new_log_id(), arena_bytes(options), like=path)
    log.unlock()
    return log


def log_counts(path: str, meta: Meta) -> bool:
    """Whether the table needs the log beside it.

    Raises StaleTableError if the log has frames of a later epoch: the table is an older copy.
    """
    if os.path.lexists(path + "-log"):
        newest = _newest_epoch(path, meta)
        if newest > meta.epoch - meta.clean:
            raise StaleTableError(
                f"{path}: a table of epoch {meta.epoch}, but {path}-log has writes of epoch "
                f"{newest}: this is an older copy of the table; put the one back that belongs to "
                f"the log, or open with accept_log_loss=True to go on without the log, which is "
                f"kept under another name then"
            )
    return not meta.clean


def _newest_epoch(path: str, meta: Meta) -> int:
    data = read_whole(path + "-log")[FIRST_OFFSET:]
    return frames.newest_epoch(data, FIRST_OFFSET, frames.checksum_seed(meta.uuid))


def _set_log_aside(path: str, meta: Meta, *, accept_log_loss: bool) -> bool:
    """Keep a log that the table does not need, but that may be the last copy of something.

    Returns whether the table is to go on without a log.
    """
    log_path = path + "-log"
    if not os.path.lexists(log_path):
        return meta.clean or accept_log_loss
    header = frames.decode_log_header(read_whole(log_path)[: frames.HEADER_BYTES])
    is_others = meta.clean and header is not None and header.uuid != meta.uuid
    is_newer = accept_log_loss and _newest_epoch(path, meta) > meta.epoch - meta.clean
    if is_others or is_newer:
        files.keep_aside(log_path, "replaced")
    return is_others or is_newer


def recover_frames(log: Log, meta: Meta, overlay: Overlay, counters: Counters) -> None:
    """Scan a dead store's log into an overlay.

    Raises CorruptLogError if frames that had been synced are damaged; the tail of an
    interrupted append is dropped.
    """
    data = log.read_all()
    seed = frames.checksum_seed(meta.uuid)
    found, end = frames.scan(data, FIRST_OFFSET, seed, meta.epoch)
    proof = frames.damage_below_sync(data, end - FIRST_OFFSET, FIRST_OFFSET, seed, meta.epoch)
    if proof is not None:
        raise CorruptLogError(
            f"{log.path}: damaged at offset {end}: expected a whole frame of epoch {meta.epoch}, "
            f"found none, but the frame at offset {proof.offset} says that everything below "
            f"{proof.synced_through} had been synced; the file is kept as it is; "
            f"check(salvage=True) recovers every whole frame"
        )
    overlay.apply([(frame.key, frame.entry) for frame in found], end)
    counters.recovered_frames += len(found)
    if any(data[end - FIRST_OFFSET : end - FIRST_OFFSET + frames.FRAME.size]):
        counters.torn_tails += frames.decode_epoch(data, end - FIRST_OFFSET) == meta.epoch


# -- beside others -----------------------------------------------------------------------------


def _join(path: str, fd: int, options: Options) -> Engine | None:
    """Open the store beside others, without waiting for any of them; None to try again.

    The table is opened for reading: the first write opens it again, under the writer lock.
    """
    if os.fstat(fd).st_size == 0:
        return None
    header = SharedHeader(fd)
    log: Log | None = None
    table: Table | None = None
    try:
        words = header.words
        if header.is_live() and not words[REPLACED]:
            log = _if_there(lambda: Log.open(path + "-log", header.uuid))
            if log is not None and log.log_id == words[LOG_ID] and os.path.lexists(path):
                table = _open_published(path, header)
                if table is not None:
                    return Engine(path, options, header, fd, log, table, Counters())
                _publish_vacuumed(path, header, log)
    except BaseException:
        _close_all(header, log, table)
        raise
    _close_all(header, log, table)
    return None


def _open_published(path: str, header: SharedHeader) -> Table | None:
    """The table at the path, for reading; None if it is not the one that the header names.

    Without its lock file it is not opened either: another one would not be that of the others.
    """
    words = header.words
    incarnation = words[INCARNATION]
    if _inode(path) != words[TABLE_INODE] or not os.path.lexists(path + "-lock"):
        return None
    table = _if_there(lambda: Table(path, readonly=True))
    if table is None:
        return None
    found = (table.inode, table.meta.incarnation, table.meta.uuid)
    published = (words[TABLE_INODE], words[INCARNATION], header.uuid)
    # A lock file that was made meanwhile belongs to a later incarnation.
    if found == published and incarnation == words[INCARNATION]:
        return table
    table.close()
    return None


def _inode(path: str) -> int:
    found = files.identity(path)
    return 0 if found is None else found[1]


def _publish_vacuumed(path: str, header: SharedHeader, log: Log) -> None:
    """Publish the table that a vacuum has renamed before it died, unless a process is at work.

    The table is looked at without the lock file, which may be gone, or the old table's, and would
    lead to an older snapshot.
    """
    words = header.words
    if not words[WRITING] or not log.try_lock():
        return
    try:
        fd = _if_there(lambda: files.open_file(path, os.O_RDONLY))
        if fd is None:
            return
        try:
            table = Table(path, readonly=True, lock=False, fd=fd)
        except BaseException:
            files.close(fd)
            raise
        try:
            expected = (header.uuid, words[INCARNATION] + 1)
            found = (table.meta.uuid, table.meta.incarnation)
            if words[WRITING] and words[LOG_ID] == log.log_id and found == expected:
                osdep.sync_directory(os.path.dirname(path))
                make_lock_file(path)
                words[TABLE_TXN] = table.last_transaction()
                words[TABLE_INODE] = table.inode
                words[INCARNATION] = table.meta.incarnation
        finally:
            table.close()
    finally:
        log.unlock()


def _if_there(open_it: Callable[[], T]) -> T | None:
    """What is opened, None if the file is just being replaced or taken away."""
    try:
        return open_it()
    except (MissingLogError, FileNotFoundError, HeldAloneError):
        return None


def _close_all(header: SharedHeader, log: Log | None, table: Table | None) -> None:
    if table is not None:
        table.close()
    if log is not None:
        log.close()
    header.unmap()


# -- closing -----------------------------------------------------------------------------------


def close_engine(engine: Engine) -> None:
    """Close a store for this process; the last process out leaves one file.

    Raises WriteError if the last compaction failed: the side files then stay, and nothing is
    lost.  Raises StoreReplacedError if what was acked is not in the file at the path; if it could
    not be put in safety, the store stays open.
    """
    path = engine.path

    def leave() -> bool:
        identity.verify(engine)
        # Conversion may drop our shared lock if others hold theirs; we are leaving anyway.
        alone = (
            osdep.try_lock(engine.presence_fd)
            and _is_at(engine.presence_fd, path + "-shm")
            and _lock_table(engine.table.fd)
        )
        if alone:
            engine.fold(clean=True)
        else:
            engine.flush()
        engine.stop()
        if alone:
            engine.header.begin_rebuild()
        return alone

    try:
        alone = engine.exclusively(leave)
    except StoreReplacedError as exc:
        _close_replaced(engine, exc)
        return
    except BaseException as exc:
        engine.stop()
        _release(engine)
        if not isinstance(exc, OSError | lmdb.Error | OpenError):
            raise
        raise_write_error(path, exc)
    try:
        engine.release()
        if alone:
            osdep.remove(path + "-log")
            _remove_leftovers(path)
            osdep.remove(path + "-shm")
    except OSError:
        pass  # the table is complete and marked so: whoever opens it next tidies up
    finally:
        _close_presence(engine.presence_fd)


def _lock_table(fd: int) -> bool:
    """Take the other half of the presence lock, which a process on its way out may still hold."""
    deadline = time.monotonic() + _LEAVING_S
    while not osdep.try_lock(fd):
        if time.monotonic() > deadline:
            return False
        time.sleep(_RETRY_S)
    return True


def _release(engine: Engine) -> None:
    try:
        engine.release()
    finally:
        _close_presence(engine.presence_fd)


def _close_presence(fd: int) -> None:
    osdep.unlock(fd)  # the header's mapping has a descriptor of its own, and may still be there
    files.close(fd)


def _close_replaced(engine: Engine, error: StoreReplacedError) -> None:
    replaced = engine.header.words[REPLACED]
    if not replaced:
        raise error  # it could not be put in safety: this process has the last copy
    engine.stop()
    _release(engine)
    if replaced == identity.ELSEWHERE:
        raise error
