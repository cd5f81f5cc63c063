"""Checking a store by its path, also one whose log is too damaged for it to be opened.

Rules: nothing is changed unless ``salvage`` is asked for; then the table's pages are verified and
the log's header is looked at first, and the damaged log is on the disk under another name before
anything else is done.
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
    """Verify the store at ``path``: beside live processes, in a private copy, or at rest.

    At rest nothing is written, and every page of the table is verified before LMDB is let near it,
    so no damage can crash the process.  Damage is in the report, not raised.

    With ``salvage``, for a store that nobody has open and whose log is damaged: every whole frame
    of the log is folded into the table, the log is kept as ``...-log.damaged-...``, and the report
    says how much was lost; the store can then be opened again.  Of a store whose table is damaged
    too, or older than the log, or whose log is another store's, nothing is touched, and the report
    says why.

    Raises an :class:`~logstore.errors.OpenError` if there is no store, or one that may not be used
    or is of another format version.  A salvage raises one if the store is in use, too, and
    :class:`~logstore.errors.WriteError` if it could not be written; it can then be tried again.
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
    """Fold what is whole; None if there is no log that counts."""
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
    if header is not None:  # else it is damaged, and its frames say whose they are
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
