"""Vacuum and backup: copying the table without its free pages, beside running writers.

Rules: the copy is made with compactions put off and no lock held; then the log is folded into the
copy.  A backup folds the log as of its start, and changes nothing in the store.  A vacuum folds in
rounds, the last one under all locks.  Its file is renamed over the table only when it is
complete and on the disk, and published before the lock is released.  Until then the old file is the
table.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import NamedTuple

import lmdb

from logstore._engine import durability, files, identity, locks
from logstore._engine.closedcopy import write_closed
from logstore._engine.compaction import fold_into
from logstore._engine.copying import copy_table, is_taken, make_copy, open_copy, take
from logstore._engine.engine import Engine
from logstore._engine.overlay import Overlay, Queued
from logstore._engine.pages import OvertakenError
from logstore._engine.readers import OldReadersError
from logstore._engine.systemerrors import raise_write_error
from logstore._engine.table import Table
from logstore.errors import OpenError, StoreBusyError
from logstore.types import VacuumReport

ROUNDS_MAX = 8
LAST_ROUND_KEYS = 100  # how many changes may remain for the round under the lock
SYNC_BYTES = 32 << 20  # how much of a copy is synced at once: other syncs wait for it
AUTO_FILE_BYTES = 16 << 20


def is_due(engine: Engine) -> bool:
    """Return whether more than half of a file over 16 MiB is free, and no copy is made."""
    counts = engine.table.counts()
    return (
        counts.file_bytes > AUTO_FILE_BYTES
        and counts.free_bytes * 2 > counts.file_bytes
        and not engine.copy_lock.locked()
    )


def vacuum(engine: Engine) -> VacuumReport:
    """Rewrite the table without its free pages.

    Writers wait only for the last short round.  Raises StoreBusyError if another process runs a
    vacuum or compactions overtook the copy three times, WriteError if the disk is full; the store
    is then as it was.
    """
    before = os.stat(engine.path).st_size
    try:
        make_copy(engine, "vacuum", lambda: _attempt(engine))
    except StoreBusyError:
        raise
    except (OSError, lmdb.Error, OpenError) as exc:
        if engine.closed:
            raise engine.closed_error() from exc
        raise_write_error(engine.path, exc)
    engine.counters.vacuums += 1
    return VacuumReport(before, os.stat(engine.path).st_size)


def _attempt(engine: Engine) -> None:
    """Copy and exchange the table.  Raises OvertakenError if it must be tried again."""
    temporary = engine.path + "-vacuum"
    fd = engine.exclusively(lambda: _begin(engine, temporary))
    try:
        _copy_and_exchange(engine, temporary, fd)
    finally:
        engine.deferral.let_go_on("vacuum")
        if files.is_at(fd, temporary):  # not if it is the table, or if another vacuum removed it
            files.remove(temporary)
        files.close(fd)


def _begin(engine: Engine, temporary: str) -> int:
    """Return the descriptor of the file for the copy; all locks held."""
    if is_taken(engine, "vacuum", temporary):
        raise StoreBusyError(f"{engine.path}: another vacuum is running")
    if (
        engine.header.sealed or not engine.deferral.is_held()
    ):  # otherwise another copy would be overtaken
        with suppress(OldReadersError):
            engine.fold()  # so that the copy begins with empty logs
    engine.hold_compactions("vacuum")
    return take(engine, temporary)


def _copy_and_exchange(engine: Engine, temporary: str, fd: int) -> None:
    epoch = engine.log_state().epoch
    synced = 0

    def pulse(written: int) -> None:
        nonlocal synced
        _check(engine, epoch)
        if written - synced >= SYNC_BYTES:
            synced = written
            durability.sync_data(fd)

    copy_table(engine, "vacuum", fd, pulse)
    durability.sync_file(fd)
    _check(engine, epoch)
    engine.hold_compactions("vacuum")
    copy = open_copy(fd, temporary)
    try:
        folded = _fold_rounds(engine, copy)
        engine.exclusively(lambda: _finish(engine, copy, fd, folded))
    finally:
        copy.close()


def _check(engine: Engine, epoch: int) -> None:
    """Raise OvertakenError after a compaction, or StoreClosedError."""
    if engine.closed:
        raise engine.closed_error()
    if engine.log_state().epoch != epoch:
        raise OvertakenError(f"{engine.path}: compacted during a vacuum")


class Folded(NamedTuple):
    """How much of an overlay a copy has."""

    changed: int = 0
    queued: int = 0

    @classmethod
    def of(cls, view: Overlay) -> Folded:
        """Return how much there is."""
        return cls(len(view.changed), 0 if view.queued is None else len(view.queued.order))


def _fold_rounds(engine: Engine, copy: Table) -> Folded:
    """Fold published changes into the copy until few are left; return how many."""
    folded = Folded()
    for _ in range(ROUNDS_MAX):
        view = engine.view()
        there = Folded.of(view)
        if view.epoch != copy.meta.epoch or sum(there) - sum(folded) <= LAST_ROUND_KEYS:
            break
        _fold_changes(copy, view, folded, copy.meta.epoch, copy.meta.incarnation)
        folded = there
        engine.hold_compactions("vacuum")
    return folded


def _fold_changes(copy: Table, view: Overlay, folded: Folded, epoch: int, incarnation: int) -> None:
    """Fold what a view has beyond what is folded; more of it may be folded again later."""
    keys = dict(view.changed[folded.changed :])
    results = {key: view.results[key] for key in keys if key in view.results}
    progress = {key: view.progress[key] for key in keys if key in view.progress}
    queued = Queued()
    if view.queued is not None:
        queued.apply(view.queued.order[folded.queued :])
    parts = [queued] if queued.order else []
    fold_into(copy, [(results, progress)], queued=parts, epoch=epoch, incarnation=incarnation)


def _finish(engine: Engine, copy: Table, fd: int, folded: Folded) -> None:
    """Do the last round and the exchange; all locks held."""
    header = engine.header
    path = engine.path
    view = engine.view()
    identity.verify(engine)
    if (
        view.epoch != copy.meta.epoch
        or not files.is_at(fd, path + "-vacuum")
        or header.sealed
        or header.log_failed  # a fold has to replace the logs
    ):
        raise OvertakenError(f"{engine.path}: compacted during a vacuum")
    epoch, incarnation = view.epoch + 1, engine.incarnation + 1
    header.writing = 1
    _fold_changes(copy, view, folded, epoch, incarnation)
    copy.close()
    locks.try_lock(fd, shared=True)  # this process has the presence lock of the new file first
    os.rename(path + "-vacuum", path)
    durability.sync_directory(os.path.dirname(path))
    table = Table(path, readers=header.readers)
    with engine.view_lock:  # otherwise a reader would open the file as well
        engine.replace_table(table)
        engine.incarnation = incarnation
        identity.publish_table(engine.header, table)
    engine.begin_epoch(epoch)


def backup(engine: Engine, destination: str) -> None:
    """Copy the store, as of a moment during the call, to a new file, durably.

    The copy is a closed store.  Raises FileExistsError if there is a file already, WriteError or
    DiskFullError if it cannot be written, StoreBusyError if compactions overtook the copy three
    times.
    """
    if os.path.lexists(destination):
        raise FileExistsError(f"{destination}: already there; a backup never overwrites")
    try:
        make_copy(engine, "backup", lambda: _copy_closed(engine, destination))
    except (FileExistsError, StoreBusyError):
        raise
    except (OSError, lmdb.Error, OpenError) as exc:
        raise_write_error(destination, exc, "there is no backup, and the store is as it was")


def _copy_closed(engine: Engine, destination: str) -> None:
    log = engine.view().frozen()

    def fill(fd: int) -> None:
        try:
            copy_table(engine, "backup", fd)
        finally:
            engine.deferral.let_go_on("backup")

    write_closed(destination, engine.table.fd, fill, log)
