"""Salvage: compacting the whole frames of a damaged log into the table.

Rules: before anything else is changed, the damaged log is on the disk under another name.  Whole
frames are folded in the order of the log, wherever they begin; the bytes between them are lost, and
counted.  A store at rest is touched only if no page of its table is damaged, and if table and log
belong together.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import lmdb

from logstore._engine import clock, durability, files, frames
from logstore._engine.compaction import fold_into
from logstore._engine.engine import Engine
from logstore._engine.lmdbfile import verify_pages
from logstore._engine.log import FIRST_OFFSET, check_header, frames_of
from logstore._engine.overlay import Overlay
from logstore._engine.presence import hold_alone
from logstore._engine.recovery import refuse_older
from logstore._engine.systemerrors import raise_write_error
from logstore._engine.table import Table
from logstore.errors import LogstoreError


class Salvaged(NamedTuple):
    """What a salvage has done, as fields of a :class:`~logstore.types.CheckReport`."""

    salvaged_frames: int = 0
    lost_bytes: int = 0
    kept_log: str | None = None


def salvage_open(engine: Engine) -> Salvaged:
    """Fold the whole frames of an open store's log if it is damaged, and begin a new log.

    What this process has in memory of the log counts as whole.  Raises WriteError.
    """

    def salvage() -> Salvaged:
        epoch, committed, _ = engine.log_state()
        overlay = Overlay(epoch)
        if engine.overlay.epoch == epoch:
            overlay.apply(engine.overlay.changed, engine.overlay.applied)
        data = engine.read_log()
        with frames_of(engine.log.path):
            if frames.scan(data, FIRST_OFFSET, engine.seed, epoch)[1] >= committed:
                return Salvaged()
        saved = _take_in(overlay, data, engine.seed, committed, engine.log.path)
        engine.adopt_salvaged(overlay)
        return saved

    return engine.exclusively(salvage, recover=False)


def salvage_at_rest(path: str) -> Salvaged:
    """Fold the whole frames of the log beside a table that no process has open, if there is one.

    Raises an :class:`~logstore.errors.OpenError`, CorruptTableError, CorruptLogError or WriteError.
    """
    try:
        with hold_alone(path):
            verify_pages(path)
            table = Table(path)
            try:
                if table.meta.clean or not os.path.lexists(path + "-log"):
                    return Salvaged()
                return _salvage_beside(path, table)
            finally:
                table.close()
    except (OSError, lmdb.Error) as exc:
        if isinstance(exc, LogstoreError):
            raise
        raise_write_error(path, exc)


def _salvage_beside(path: str, table: Table) -> Salvaged:
    log_path, epoch = path + "-log", table.meta.epoch
    with open(log_path, "rb") as file:
        header = frames.decode_log_header(file.read(FIRST_OFFSET))
        data = file.read()
    if header is not None:  # a damaged header: the frames themselves identify their store
        check_header(log_path, header, table.meta.uuid)
    refuse_older(path, table.meta)  # what is newer in the log is of no use to it
    overlay = Overlay(epoch)
    saved = _take_in(overlay, data, table.seed, FIRST_OFFSET + len(data), log_path)
    fold_into(
        table,
        [(overlay.results, overlay.progress)],
        now_us=clock.now_us(),
        epoch=epoch + 1,
        incarnation=table.meta.incarnation,
        clean=True,
    )
    os.unlink(log_path)
    durability.sync_directory(os.path.dirname(path))
    return saved


def _take_in(overlay: Overlay, data: bytes, seed: int, end: int, log_path: str) -> Salvaged:
    """Complete an overlay with the whole frames of a log up to ``end``, and keep the log."""
    lost, position = 0, overlay.applied
    start = position - FIRST_OFFSET
    with frames_of(log_path):
        found = list(frames.find_chains(data, start, FIRST_OFFSET, seed, overlay.epoch))
    for frame in found:
        lost += frame.offset - position
        position = frame.end
    overlay.apply(frames.records_of(found), end)
    return Salvaged(len(found), lost, files.keep_aside(log_path, "damaged"))
