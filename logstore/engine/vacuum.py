"""Vacuum and backup: copying the table without its free pages, beside running writers.

Rules: the copy is made from a read snapshot, with compactions put off and no lock held; what the
log has gathered meanwhile is folded into the copy in rounds, the last one, of what is left, under
the writer lock.  The file is renamed over the table only when it is complete and on the disk, and
published before the lock is given back.  Until then the old file is the table.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import lmdb

from logstore.engine import files, identity, osdep
from logstore.engine.compaction import fold_into
from logstore.engine.copying import copy_closed
from logstore.engine.engine import Engine
from logstore.engine.failures import raise_write_error
from logstore.engine.header import INCARNATION, LOG_FAILED, TABLE_INODE, VACUUM, WRITING
from logstore.engine.overlay import Overlay
from logstore.engine.table import Table
from logstore.errors import LogstoreError, OpenError, StoreBusyError

ATTEMPTS = 3
ROUNDS_MAX = 8
LAST_ROUND_KEYS = 100  # how many changed keys may be left for the round under the lock
AUTO_FILE_BYTES = 16 << 20


class VacuumReport(NamedTuple):
    """What a vacuum has given back."""

    bytes_before: int
    bytes_after: int


def is_due(engine: Engine) -> bool:
    """Whether more than half of a file over 16 MiB is free."""
    counts = engine.table.counts()
    return counts.file_bytes > AUTO_FILE_BYTES and counts.free_bytes * 2 > counts.file_bytes


def vacuum(engine: Engine) -> VacuumReport:
    """Rewrite the table without its free pages.

    Writers wait only for the last short round.  Raises StoreBusyError if another process is at a
    vacuum or compactions that could not wait kept coming, WriteError if the disk is full; the
    store is then as it was.
    """
    before = os.stat(engine.path).st_size
    for _ in range(ATTEMPTS):
        try:
            with engine.copy_lock:
                done = _attempt(engine)
        except StoreBusyError:
            raise
        except (OSError, lmdb.Error, OpenError) as exc:
            raise_write_error(engine.path, exc)
        if done:
            engine.counters.vacuums += 1
            return VacuumReport(before, os.stat(engine.path).st_size)
    raise StoreBusyError(
        f"{engine.path}: the vacuum was overtaken by compactions {ATTEMPTS} times; try again "
        f"when there are fewer large results"
    )


def _attempt(engine: Engine) -> bool:
    temporary = engine.path + "-vacuum"
    fd = engine.exclusively(lambda: _begin(engine, temporary))
    copy: Table | None = None
    done = False
    try:
        engine.table.copy_to(fd)
        osdep.sync_file(fd)
        copy = Table(temporary, lock=False)
        folded = _fold_rounds(engine, copy)
        done = engine.exclusively(lambda: _finish(engine, copy, fd, folded))
        return done
    finally:
        if copy is not None:
            copy.close()
        if not done:
            _give_up(engine, temporary)
        files.close(fd)


def _begin(engine: Engine, temporary: str) -> int:
    """Put compactions off; the file for the copy, locked for as long as it is being made."""
    words = engine.header.words
    if words[VACUUM] and not engine.vacuum_is_dead():
        raise StoreBusyError(f"{engine.path}: another vacuum is running")
    engine.fold()  # so that the copy begins with an empty log
    osdep.remove(temporary)
    fd = files.open_file(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, like=engine.table.fd)
    osdep.try_lock(fd)
    words[VACUUM] = 1
    return fd


def _give_up(engine: Engine, temporary: str) -> None:
    """Let compactions go on; if even that fails, others find out by the lock on the copy."""

    def give_up() -> None:
        engine.header.words[VACUUM] = 0
        osdep.remove(temporary)

    try:
        engine.exclusively(give_up, recover=False)
    except LogstoreError:
        pass


def _fold_rounds(engine: Engine, copy: Table) -> int:
    """Fold what has been published into the copy until little is left; how many changes."""
    folded = 0
    for _ in range(ROUNDS_MAX):
        view = engine.view()
        count = len(view.changed)
        if view.epoch != copy.meta.epoch or count - folded <= LAST_ROUND_KEYS:
            break
        _fold_changes(copy, view, folded, count, copy.meta.epoch, copy.meta.incarnation)
        folded = count
    return folded


def _fold_changes(
    copy: Table, view: Overlay, start: int, end: int, epoch: int, incarnation: int
) -> None:
    keys = dict(view.changed[start:end])
    results = {key: view.results[key] for key in keys if key in view.results}
    progress = {key: view.progress[key] for key in keys if key in view.progress}
    fold_into(
        copy,
        [(results, progress)],
        None,
        now_us=0,
        last_time_us=0,
        epoch=epoch,
        incarnation=incarnation,
    )


def _finish(engine: Engine, copy: Table, fd: int, folded: int) -> bool:
    """The last round and the exchange, under the writer lock; False if a fold came first."""
    words = engine.header.words
    path = engine.path
    view = engine.view()
    if view.epoch != copy.meta.epoch:
        return False
    identity.verify(engine)
    if words[LOG_FAILED]:
        return False
    epoch, incarnation = view.epoch + 1, engine.incarnation + 1
    words[WRITING] = 1
    _fold_changes(copy, view, folded, len(view.changed), epoch, incarnation)
    copy.close()
    osdep.try_lock(fd, shared=True)  # this process is present in the new file before it is there
    os.rename(path + "-vacuum", path)
    osdep.sync_directory(os.path.dirname(path))
    # The lock file there is of the old table, which others still have open.
    table = Table(path, new_lock=True)
    engine.replace_table(table)
    words[INCARNATION] = engine.incarnation = incarnation
    words[TABLE_INODE] = table.inode
    words[VACUUM] = 0
    engine.begin_epoch(epoch)
    return True


def backup(engine: Engine, destination: str) -> None:
    """Copy the store, as of a moment during the call, to a new file, durably.

    The copy is a closed store of its own.  Raises FileExistsError if something is there already,
    WriteError or DiskFullError if it cannot be written.
    """
    if os.path.lexists(destination):
        raise FileExistsError(f"{destination}: already there; a backup never overwrites")
    engine.compact()
    try:
        with engine.copy_lock:
            copy_closed(engine.table, destination)
    except FileExistsError:
        raise
    except (OSError, lmdb.Error, OpenError) as exc:
        raise_write_error(destination, exc)
