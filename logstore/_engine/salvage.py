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
from logstore._engine.log import (
    FIRST_OFFSET,
    check_header,
    frames_of,
    log_path,
    log_paths,
    read_whole,
)
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
    kept_logs: tuple[str, ...] = ()


def salvage_open(engine: Engine) -> Salvaged:
    """Fold the whole frames of an open store's logs if one is damaged, and begin new logs.

    What this process has in memory of the logs counts as whole.  Raises WriteError.
    """

    def salvage() -> Salvaged:
        state, known = engine.log_state(), engine.overlay
        saved, overlay = Salvaged(), None
        damaged = []
        for epoch, end in ((state.epoch - 1, state.sealed_end), (state.epoch, state.committed)):
            if not end:
                continue
            overlay = Overlay(epoch, overlay)
            if known.sealed is not None and known.sealed.epoch == epoch:
                overlay.apply(known.sealed.changed, known.sealed.applied)
            elif known.epoch == epoch:
                overlay.apply(known.changed, known.applied)
            data = engine.read_log(epoch, end)
            where = log_path(engine.path, epoch)
            with frames_of(where):
                if frames.scan(data, FIRST_OFFSET, engine.seed, epoch)[1] < end:
                    damaged.append(where)
            saved = _take_in(saved, overlay, data, engine.seed, end, where)
        assert overlay is not None
        if not damaged:
            return Salvaged()
        saved = _keep(saved, damaged)
        engine.adopt_salvaged(overlay)
        return saved

    return engine.exclusively(salvage, recover=False)


def salvage_at_rest(path: str) -> Salvaged:
    """Fold the whole frames of the logs beside a table that no process has open, if there are any.

    Raises an :class:`~logstore.errors.OpenError`, CorruptTableError, CorruptLogError or WriteError.
    """
    try:
        with hold_alone(path):
            verify_pages(path)
            table = Table(path)
            try:
                if table.meta.clean or not any(map(os.path.lexists, log_paths(path))):
                    return Salvaged()
                return _salvage_beside(path, table)
            finally:
                table.close()
    except (OSError, lmdb.Error) as exc:
        if isinstance(exc, LogstoreError):
            raise
        raise_write_error(path, exc)


def _salvage_beside(path: str, table: Table) -> Salvaged:
    meta = table.meta
    logs: dict[str, tuple[int, bytes]] = {}
    for epoch in (meta.epoch, meta.epoch + 1):
        where = log_path(path, epoch, meta.version)
        if os.path.lexists(where) and where not in logs:
            data = read_whole(where)
            header = frames.decode_log_header(data[:FIRST_OFFSET])
            if header is not None:  # a damaged header: the frames themselves identify their store
                check_header(where, header, meta.uuid)
            logs[where] = epoch, data[FIRST_OFFSET:]
    refuse_older(path, meta)  # what is newer in the logs is of no use to the table
    saved, overlay = Salvaged(), None
    for where, (epoch, data) in logs.items():
        overlay = Overlay(epoch, overlay)
        end = FIRST_OFFSET + len(data)
        saved = _take_in(saved, overlay, data, table.seed, end, where)
    saved = _keep(saved, [where for where, (_, data) in logs.items() if any(data)])
    fold_into(
        table,
        [] if overlay is None else overlay.newer_than(meta.epoch),
        now_us=clock.now_us(),
        epoch=meta.epoch + 2,
        incarnation=meta.incarnation,
        clean=True,
    )
    for where in logs:
        os.unlink(where)
    durability.sync_directory(os.path.dirname(path))
    return saved


def _take_in(
    saved: Salvaged, overlay: Overlay, data: bytes, seed: int, end: int, where: str
) -> Salvaged:
    """Complete an overlay with the whole frames of a log up to ``end``, and count them."""
    lost, position = 0, overlay.applied
    start = position - FIRST_OFFSET
    with frames_of(where):
        found = list(frames.find_chains(data, start, FIRST_OFFSET, seed, overlay.epoch))
    for frame in found:
        lost += frame.offset - position
        position = frame.end
    taken = frames.records_of(found)
    overlay.apply(taken, end)
    return saved._replace(
        salvaged_frames=saved.salvaged_frames + len(taken), lost_bytes=saved.lost_bytes + lost
    )


def _keep(saved: Salvaged, logs: list[str]) -> Salvaged:
    """Keep logs under other names, once nothing in any of them is refused."""
    return saved._replace(kept_logs=tuple(files.keep_aside(where, "damaged") for where in logs))
