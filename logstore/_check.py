"""Checking a store by its path, even if its log is too damaged to open it.

Rules: nothing is changed without ``salvage``.  A salvage first verifies the table's pages and the
log's header.  Before it changes anything else, the damaged log is on disk under another name.
"""

from __future__ import annotations

import os

import lmdb

from logstore import store
from logstore._arguments import FilePath, store_path
from logstore._engine import checking, clock, durability, files, frames
from logstore._engine.compaction import fold_into
from logstore._engine.failures import raise_write_error
from logstore._engine.frozen import is_in_use
from logstore._engine.lmdbfile import verify_pages
from logstore._engine.log import FIRST_OFFSET, check_header
from logstore._engine.opening import check_place
from logstore._engine.overlay import Overlay
from logstore._engine.presence import hold_alone
from logstore._engine.recovery import refuse_older
from logstore._engine.shelter import sheltered
from logstore._engine.table import Table
from logstore.errors import CorruptionError, LogstoreError, StaleTableError
from logstore.types import CheckReport


def check(path: FilePath, *, salvage: bool = False) -> CheckReport:
    """Verify the store at ``path``; if it is in use, verify a private copy.

    If no process has the store open, nothing is written.  Every page of the table is verified
    before LMDB opens it, so damage cannot crash the process.  Damage is reported, not raised.

    ``salvage`` is for a store that is not in use and whose log is damaged.  It compacts every
    intact frame of the log into the table, keeps the log as ``...-log.damaged-...``, and reports
    how much was lost.  The store can then be opened again.  If the table is damaged too
    or is older than the log, or if the log belongs to another store, nothing is changed and the report says why.

    Raises an :class:`~logstore.errors.OpenError` if there is no store, or if it cannot be used or
    has another format version.  A salvage also raises it if the store is in use, and
    :class:`~logstore.errors.WriteError` if writing failed; it can then be tried again.
    """
    real_path = store_path(path)
    return sheltered(lambda: _check(real_path, salvage))


def _check(real_path: str, salvage: bool) -> CheckReport:
    saved: checking.Salvaged | None = None
    try:
        check_place(real_path, force=True, create=False)
        if salvage:
            saved = _salvage(real_path)
        if not is_in_use(real_path):
            verify_pages(real_path)
        with store.open(real_path, mode="r") as opened:
            report = opened.check()
    except (CorruptionError, StaleTableError) as exc:
        report = CheckReport(real_path, problems=(str(exc),))
    return report if saved is None else report._replace(**saved._asdict())


def _salvage(path: str) -> checking.Salvaged | None:
    """Compact the intact frames of the log; return None if there is no log to salvage."""
    try:
        with hold_alone(path):
            verify_pages(path)
            table = Table(path, lock=False)
            try:
                if table.meta.clean or not os.path.lexists(path + "-log"):
                    return None
                return _fold_whole_frames(path, table)
            finally:
                table.close()
    except (OSError, lmdb.Error) as exc:
        if isinstance(exc, LogstoreError):
            raise
        raise_write_error(path, exc)


def _fold_whole_frames(path: str, table: Table) -> checking.Salvaged:
    log_path, epoch = path + "-log", table.meta.epoch
    with open(log_path, "rb") as file:
        header = frames.decode_log_header(file.read(FIRST_OFFSET))
        data = file.read()
    if header is not None:  # a damaged header: the frames themselves identify their store
        check_header(log_path, header, table.meta.uuid)
    refuse_older(path, table.meta)  # what is newer in the log is of no use to it
    found, lost = checking.whole_frames(data, 0, table.seed, epoch)
    overlay = Overlay(epoch)
    overlay.apply([(frame.key, frame.entry) for frame in found], FIRST_OFFSET)
    kept = files.keep_aside(log_path, "damaged")
    fold_into(
        table,
        [(overlay.results, overlay.progress)],
        None,
        now_us=clock.now_us(),
        last_time_us=0,
        epoch=epoch + 1,
        incarnation=table.meta.incarnation,
        clean=True,
    )
    os.unlink(log_path)
    durability.sync_directory(os.path.dirname(path))
    return checking.Salvaged(len(found), lost, kept)
