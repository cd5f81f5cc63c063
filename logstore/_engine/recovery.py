"""Recovery of a store that no process has open: folding its log into its table.

Rules: called by a process that is alone with the store.  Nothing is changed before it is certain
that the log belongs to the table and that no synced frame of it is damaged.  A log that is not
needed, but may have the last copy of some data, is kept under another name.  A fold makes the table
one of the present format version, in its one transaction; a log of an older version is replaced
behind that, so each moment shows the old store with its log, or the new table.
"""

from __future__ import annotations

import os

from logstore._engine import clock, durability, files, frames
from logstore._engine.compaction import fold_into
from logstore._engine.counters import Counters
from logstore._engine.log import FIRST_OFFSET, Log, frames_of, new_log_id, read_whole
from logstore._engine.options import Options, arena_bytes
from logstore._engine.overlay import Overlay
from logstore._engine.records import Meta
from logstore._engine.table import Table
from logstore.errors import CorruptLogError, StaleTableError


class LeavingError(Exception):
    """Another process is just closing the store: try again."""


def recover_alone(
    path: str, table: Table, options: Options, counters: Counters, *, accept_log_loss: bool
) -> tuple[Log, int, int]:
    """Fold the log into the table; return an empty log, its epoch, and the newest time."""
    meta = table.meta
    overlay = Overlay(meta.epoch)
    log_path = path + "-log"
    without_log = _set_log_aside(path, meta, accept_log_loss=accept_log_loss)
    needs_log = not without_log and is_log_needed(path, meta)
    if not needs_log:
        log = Log.create(log_path, meta.uuid, new_log_id(), arena_bytes(options), like=path)
    else:
        # A vacuum, or a replacement of the log, may have died after its rename.
        durability.sync_directory(os.path.dirname(path))
        log = Log.open(log_path, meta.uuid)
    try:
        if not log.try_lock():
            raise LeavingError  # a closing process still holds the writer lock
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
        if log.version != frames.FORMAT_VERSION:
            log.close()
            log = Log.create(log_path, meta.uuid, new_log_id(), arena_bytes(options), like=path)
            log.unlock()
    except BaseException:
        log.close()
        raise
    return log, epoch, last_time_us


def is_log_needed(path: str, meta: Meta) -> bool:
    """Return whether the table needs the log beside it.

    Raises StaleTableError if the log has frames of a later epoch: the table is an older copy.
    """
    if os.path.lexists(path + "-log"):
        refuse_older(path, meta)
    return not meta.clean


def refuse_older(path: str, meta: Meta) -> None:
    """Raise StaleTableError for a table that is older than the log beside it."""
    newest = _newest_epoch(path, meta)
    if newest > meta.epoch - meta.clean:
        raise StaleTableError(
            f"{path}: a table of epoch {meta.epoch}, but {path}-log has writes of epoch "
            f"{newest}: this is an older copy of the table; put back the table that belongs to "
            f"the log, or open with accept_log_loss=True to go on without the log, which is "
            f"then kept under another name"
        )


def _newest_epoch(path: str, meta: Meta) -> int:
    data = read_whole(path + "-log")[FIRST_OFFSET:]
    with frames_of(path + "-log"):
        return frames.newest_epoch(data, FIRST_OFFSET, frames.checksum_seed(meta.uuid))


def _set_log_aside(path: str, meta: Meta, *, accept_log_loss: bool) -> bool:
    """Keep a log that the table does not need, but that may have the last copy of some data.

    Returns whether to go on without a log.
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
    """Scan the log of a store that was not closed into an overlay.

    Raises CorruptLogError if frames that had been synced are damaged; the tail of an interrupted
    append is dropped.
    """
    data = log.read_all()
    seed = frames.checksum_seed(meta.uuid)
    with frames_of(log.path):
        found, end = frames.scan(data, FIRST_OFFSET, seed, meta.epoch)
        proof = frames.damage_below_sync(data, end - FIRST_OFFSET, FIRST_OFFSET, seed, meta.epoch)
    if proof is not None:
        raise CorruptLogError(
            f"{log.path}: damaged at offset {end}: expected a whole frame of epoch {meta.epoch}, "
            f"found none, but the frame at offset {proof.offset} says that everything below "
            f"{proof.synced_through} had been synced; the file is kept as it is; "
            f"check(salvage=True) recovers every whole frame"
        )
    overlay.apply(frames.records_of(found), end)
    counters.recovered_frames += len(found)
    if any(data[end - FIRST_OFFSET : end - FIRST_OFFSET + frames.FRAME.size]):
        counters.torn_tails += frames.decode_epoch(data, end - FIRST_OFFSET) == meta.epoch
