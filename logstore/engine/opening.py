"""Opening and closing: who is alone with a store, who joins, who tidies up.

Rules: a store that is open holds a shared lock on its ``-shm`` file.  Whoever gets that lock
exclusively is alone: only then is the header rebuilt, the log scanned, the side files removed.
A lock counts only if the file it is on is still the one at its path.  The header is void from the
moment a process alone begins until it has ended well, so a death in between leaves it void.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import lmdb

from logstore.engine import frames, osdep
from logstore.engine.compaction import fold_into
from logstore.engine.counters import Counters
from logstore.engine.engine import Engine
from logstore.engine.failures import raise_write_error
from logstore.engine.header import (
    INCARNATION,
    LAST_TIME,
    LOG_ID,
    SYNCED,
    TABLE_INODE,
    WRITING,
    SharedHeader,
)
from logstore.engine.lmdbfile import inspect_file
from logstore.engine.log import FIRST_OFFSET, Log, new_log_id
from logstore.engine.options import Options, arena_bytes
from logstore.engine.overlay import Overlay
from logstore.engine.records import Meta
from logstore.engine.table import Table
from logstore.errors import (
    CorruptLogError,
    CorruptTableError,
    LogstoreError,
    MissingLogError,
    NetworkFilesystemError,
    NotAStoreError,
    OpenError,
    StoreBusyError,
    StorePermissionError,
)

MODE = 0o600
_RETRY_S = 0.001


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
            os.close(fd)
            if isinstance(exc, LogstoreError) or not isinstance(exc, OSError | lmdb.Error):
                raise
            raise_write_error(path, exc)
        if engine is not None:
            return engine
        os.close(fd)
        if time.monotonic() > deadline:
            raise StoreBusyError(
                f"{path}: another process has been opening or closing the store for more than "
                f"{options.write_timeout_s} s; look for one that is stopped"
            )
        time.sleep(_RETRY_S)


def check_place(path: str, *, force: bool, create: bool) -> None:
    """Refuse a path at which no store can be, before anything is touched."""
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        raise OpenError(f"{directory}: no such directory; create it first")
    if os.path.lexists(path):
        inspect_file(path)
    elif not create:
        raise OpenError(f"{path}: no such store")
    kind = osdep.filesystem_type(directory)
    if kind in osdep.NETWORK_FILESYSTEMS and not force:
        raise NetworkFilesystemError(
            f"{path}: on a network file system ({kind}), where locks and shared memory do not "
            f"hold; use a local disk, or force=True if only one process ever opens the store"
        )


def _open_presence(path: str) -> int:
    try:
        return os.open(path + "-shm", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
    except OSError as exc:
        raise StorePermissionError(
            f"{path}-shm: cannot be opened for writing ({exc.strerror}); the store needs to "
            f"create files beside {os.path.basename(path)!r}; use mode='r' to read only"
        ) from exc


def _try_open(path: str, fd: int, options: Options, *, accept_log_loss: bool) -> Engine | None:
    """One attempt; None if the files changed underfoot and it must be made again."""
    if osdep.try_lock(fd):
        if not _is_at(fd, path + "-shm"):
            return None
        return _open_alone(path, fd, options, accept_log_loss=accept_log_loss)
    if osdep.try_lock(fd, shared=True) and _is_at(fd, path + "-shm"):
        return _join(path, fd, options)
    return None


@contextmanager
def hold_alone(path: str) -> Iterator[None]:
    """Keep every other process out of a store that is at rest.  Raises StoreBusyError.

    Leaves no file that was not there before.
    """
    had_header = os.path.lexists(path + "-shm")
    fd = _open_presence(path)
    try:
        if not osdep.try_lock(fd) or not _is_at(fd, path + "-shm"):
            raise StoreBusyError(f"{path}: the store is in use; close it everywhere first")
        osdep.remove(path + "-lock")
        try:
            yield
        finally:
            osdep.remove(path + "-lock")
            if not had_header or not os.path.lexists(path + "-log"):
                osdep.remove(path + "-shm")
    finally:
        os.close(fd)


def _is_at(fd: int, path: str) -> bool:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    mine = os.fstat(fd)
    return (mine.st_ino, mine.st_dev) == (found.st_ino, found.st_dev)


# -- alone -------------------------------------------------------------------------------------


def _open_alone(path: str, fd: int, options: Options, *, accept_log_loss: bool) -> Engine | None:
    header = SharedHeader(fd)
    try:
        header.begin_rebuild()
        nonce = header.nonce
        _remove_leftovers(path)
        if not os.path.lexists(path):
            _create(path)
        counters = Counters()
        table = Table(path, new_lock=True)
        log: Log | None = None
        try:
            log, epoch, last_time_us = _recover_alone(
                path, table, options, counters, accept_log_loss=accept_log_loss
            )
            words = header.words
            words[INCARNATION] = table.meta.incarnation
            words[TABLE_INODE] = table.inode
            words[LOG_ID] = log.log_id
            words[SYNCED] = FIRST_OFFSET
            words[LAST_TIME] = last_time_us
            header.publish(epoch, FIRST_OFFSET)
            header.end_rebuild(table.meta.uuid)
            # A conversion gives the lock up for a moment: somebody else may have been alone.
            if (
                osdep.try_lock(fd, shared=True)
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
        header.close()
        osdep.remove(path + "-lock")
        if not os.path.lexists(path + "-log"):
            osdep.remove(path + "-shm")
        raise
    header.close()
    return None


class _TryAgainError(Exception):
    """Somebody is just leaving: begin again."""


def _remove_leftovers(path: str) -> None:
    """What processes that died may have left; only for whoever is alone."""
    for suffix in ("-lock", "-new", "-new-lock", "-vacuum", "-vacuum-lock", "-check", "-log-new"):
        osdep.remove(path + suffix)


def _create(path: str) -> None:
    """A new, empty table; refused where the log of a lost one lies."""
    log_path = path + "-log"
    if os.path.lexists(log_path):
        with open(log_path, "rb") as file:
            header = frames.decode_log_header(file.read(frames.HEADER_BYTES))
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
    if meta.clean or (accept_log_loss and not os.path.lexists(log_path)):
        log = _new_log(path, meta.uuid, options)
    else:
        # A vacuum may have died after its rename, a log's replacement after its own.
        osdep.sync_directory(os.path.dirname(path))
        log = Log.open(log_path, meta.uuid)
    try:
        if not log.try_lock():
            raise _TryAgainError  # a process on its way out still holds the writer lock
        log.unlock()
        if not meta.clean:
            recover_frames(log, meta, overlay, counters)
        epoch = meta.epoch + 1
        last_time_us = fold_into(
            table,
            [(overlay.results, overlay.progress)],
            options.retention,
            now_us=time.time_ns() // 1000,
            last_time_us=max(table.newest_time_us(), overlay.last_time_us()),
            epoch=epoch,
            incarnation=meta.incarnation,
        )
    except BaseException:
        log.close()
        raise
    return log, epoch, last_time_us


def _new_log(path: str, uuid: bytes, options: Options) -> Log:
    log = Log.create(path + "-log", uuid, new_log_id(), arena_bytes(options))
    log.unlock()
    return log


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
    if os.fstat(fd).st_size == 0:
        return None
    header = SharedHeader(fd)
    log: Log | None = None
    try:
        if header.is_live():
            try:
                log = Log.open(path + "-log", header.uuid)
            except MissingLogError:
                pass  # the last process out is just taking it away
        table = None if log is None else _join_table(path, header, log, options)
        if log is not None and table is not None:
            return Engine(path, options, header, fd, log, table, Counters())
    except BaseException:
        if log is not None:
            log.close()
        header.close()
        raise
    if log is not None:
        log.close()
    header.close()
    return None


def _join_table(path: str, header: SharedHeader, log: Log, options: Options) -> Table | None:
    """Open the table under the writer lock, so that no vacuum is replacing it meanwhile."""
    words = header.words
    deadline = time.monotonic() + options.write_timeout_s
    while not log.try_lock():
        if time.monotonic() > deadline:
            raise StoreBusyError(
                f"{path}: another process has held the writer lock for more than "
                f"{options.write_timeout_s} s; look for one that is stopped"
            )
        time.sleep(_RETRY_S)
    try:
        if words[LOG_ID] != log.log_id or not header.is_live():
            return None
        replaced = os.stat(path).st_ino != words[TABLE_INODE]
        # A vacuum died after its rename: the lock file may still be the old table's.
        taken_over = replaced and bool(words[WRITING])
        if taken_over:
            osdep.sync_directory(os.path.dirname(path))
        table = Table(path, new_lock=taken_over)
        if table.meta.uuid != header.uuid or (replaced and not taken_over):
            table.close()
            raise NotAStoreError(
                f"{path}: replaced by another file while in use; put the right one back"
            )
        if replaced:
            words[INCARNATION] = table.meta.incarnation
            words[TABLE_INODE] = table.inode
        return table
    finally:
        log.unlock()


# -- closing -----------------------------------------------------------------------------------


def close_engine(engine: Engine) -> None:
    """Close a store for this process; the last process out leaves one file.

    Raises WriteError if the last compaction failed: the side files then stay, and nothing is
    lost.
    """
    path, fd = engine.path, engine.presence_fd
    alone = False
    try:
        with engine.exclusive():
            # Conversion may drop our shared lock if others hold theirs; we are leaving anyway.
            alone = osdep.try_lock(fd) and _is_at(fd, path + "-shm")
            if alone:
                engine.fold(clean=True)
                engine.header.begin_rebuild()
            else:
                engine.flush()
            engine.stop()
    except BaseException as exc:
        engine.stop()
        engine.release()
        if not isinstance(exc, OSError | lmdb.Error | OpenError):
            raise
        raise_write_error(path, exc)
    try:
        engine.release(keep_presence=True)
        if alone:
            osdep.remove(path + "-log")
            _remove_leftovers(path)
            osdep.remove(path + "-shm")
    except OSError:
        pass  # the table is complete and marked so: whoever opens it next tidies up
    finally:
        os.close(fd)
