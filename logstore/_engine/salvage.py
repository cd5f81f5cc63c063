"""Salvage: compacting the whole frames of a damaged log into the table.

Rules: before anything else is changed, the damaged log is on the disk under another name.  Whole
frames are folded in the order of their times, wherever they begin and in whichever of the two files
their log is; the bytes between them are lost, and counted.  A store at rest is touched only if no
page of its table is damaged, and if table and log belong together.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import lmdb

from logstore._engine import durability, files, frames
from logstore._engine.compaction import fold_into
from logstore._engine.engine import Engine
from logstore._engine.frames import Entry
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
                overlay.apply(known.sealed.entries(), known.sealed.applied)
            elif known.epoch == epoch:
                overlay.apply(known.entries(), known.applied)
            data = engine.read_log(epoch, end)
            where = log_path(engine.path, epoch)
            with frames_of(where):
                if frames.scan(data, FIRST_OFFSET, engine.seed, epoch)[1] < end:
                    damaged.append(where)
            records, lost = _find(data, overlay.applied, engine.seed, epoch, where)
            overlay.apply(records, end)
            saved = saved._replace(
                salvaged_frames=saved.salvaged_frames + len(records),
                lost_bytes=saved.lost_bytes + lost,
            )
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
    epochs = meta.epoch, meta.epoch + 1
    logs: dict[str, tuple[int, bytes]] = {}
    for epoch in epochs:
        where = log_path(path, epoch, meta.version)
        if os.path.lexists(where) and where not in logs:
            data = read_whole(where)
            header = frames.decode_log_header(data[:FIRST_OFFSET])
            if header is not None:  # a damaged header: the frames themselves identify their store
                check_header(where, header, meta.uuid)
            logs[where] = epoch, data[FIRST_OFFSET:]
    newest = refuse_older(path, meta)  # what is newer in the logs is of no use to the table
    found: dict[int, list[tuple[bytes, Entry]]] = {epoch: [] for epoch in epochs}
    lost_bytes = 0
    for where, (by_name, data) in logs.items():
        # It may be in the place of the other one.
        epoch = newest[where] if newest[where] in epochs and meta.version > 1 else by_name
        records, lost = _find(data, FIRST_OFFSET, table.seed, epoch, where)
        found[epoch] += records
        lost_bytes += lost
    overlay: Overlay | None = None
    for epoch, records in found.items():
        overlay = Overlay(epoch, overlay)
        # Two copies of one log have the same records.
        in_order = sorted(dict.fromkeys(records), key=lambda record: record[1].time_us)
        overlay.apply(in_order, FIRST_OFFSET)
    assert overlay is not None
    count = sum(len(part.entries()) for part in overlay.parts())
    saved = Salvaged(count, lost_bytes)
    saved = _keep(saved, [where for where, (_, data) in logs.items() if any(data)])
    fold_into(
        table,
        overlay.newer_than(meta.epoch),
        queued=overlay.queued_since(meta.epoch),
        epoch=meta.epoch + 2,
        incarnation=meta.incarnation,
        clean=True,
    )
    for where in logs:
        os.unlink(where)
    durability.sync_directory(os.path.dirname(path))
    return saved


def _find(
    data: bytes, start: int, seed: int, epoch: int, where: str
) -> tuple[list[tuple[bytes, Entry]], int]:
    """Return the records in all whole frames of a log from an offset on, and the bytes between."""
    lost, position = 0, start
    with frames_of(where):
        found = list(frames.find_chains(data, start - FIRST_OFFSET, FIRST_OFFSET, seed, epoch))
    for frame in found:
        lost += frame.offset - position
        position = frame.end
    return frames.records_of(found), lost


def _keep(saved: Salvaged, logs: list[str]) -> Salvaged:
    """Keep logs under other names, once nothing in any of them is refused."""
    return saved._replace(kept_logs=tuple(files.keep_aside(where, "damaged") for where in logs))
