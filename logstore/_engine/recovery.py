"""Recovery of a store that no process has open: folding its logs into its table.

Rules: called by a process that is alone with the store.  Nothing is changed before it is certain
that the logs belong to the table and that no synced frame of them is damaged.  A log that is not
needed, but may have the last copy of some data, is kept under another name.

A table of epoch T lacks the frames of T, in the log of T.  If that was sealed, it lacks those of
T + 1 too, in the other log, whose first frame says where the sealed log ends.  Nothing of T + 2
exists: that is the new epoch, so that no frame that is left in a log ever counts again.

A log in the place of the other one is refused, whatever is in it, and so are two that are not of
one pair: what belongs there may be lost.

A fold makes the table one of the present format version, in its one transaction.  A store of
version 1 has one log: the other is made before that, and the old one replaced behind it, so each
moment shows the old store with its log, or the new one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from logstore._engine import clock, durability, files, frames
from logstore._engine.compaction import fold_into
from logstore._engine.counters import Counters
from logstore._engine.frames import FORMAT_VERSION, START
from logstore._engine.log import FIRST_OFFSET, Log, Logs, frames_of, log_path, log_paths, read_whole
from logstore._engine.options import Options, arena_bytes
from logstore._engine.overlay import Overlay
from logstore._engine.records import Meta
from logstore._engine.table import Table
from logstore.errors import CorruptLogError, StaleTableError


class LeavingError(Exception):
    """Another process is just closing the store: try again."""


def recover_alone(
    path: str, table: Table, options: Options, counters: Counters, *, accept_log_loss: bool
) -> tuple[Logs, int, int]:
    """Fold the logs into the table; return new logs, their epoch, and the newest time."""
    meta = table.meta
    accepted = _set_logs_aside(path, meta) if accept_log_loss else False
    if meta.clean:
        _set_others_aside(path, meta)
    overlay = Overlay(meta.epoch)
    logs: Logs | None = None
    epoch = meta.epoch + 2
    if not accepted and are_logs_needed(path, meta):
        # A vacuum, or a replacement of the logs, may have died after its rename.
        durability.sync_directory(os.path.dirname(path))
        overlay = recover_frames(path, meta, counters, accept_log_loss=accept_log_loss)
        if meta.version < FORMAT_VERSION:
            Logs.create_odd(path, meta.uuid, arena_bytes(options))
    else:  # there have to be logs before the table says that it needs them
        logs = Logs.create(path, meta.uuid, arena_bytes(options))
        epoch = meta.epoch + 1
    try:
        last_time_us = fold_into(
            table,
            overlay.newer_than(meta.epoch),
            options.retention,
            queued=overlay.queued_since(meta.epoch),
            now_us=clock.now_us(),
            last_time_us=max(table.newest_time_us(), overlay.last_time_us()),
            epoch=epoch,
            incarnation=meta.incarnation,
        )
        if logs is None:
            logs = Logs.create(path, meta.uuid, arena_bytes(options))
    except BaseException:
        if logs is not None:
            logs.close()
        raise
    return logs, epoch, last_time_us


def are_logs_needed(path: str, meta: Meta) -> bool:
    """Return whether the table needs the logs beside it.

    Raises StaleTableError if they have frames of a later epoch: the table is an older copy.  Raises
    CorruptLogError if the table needs them, and they are not the two that belong beside it.
    """
    logs = [_look_at(each, meta) for each in _there(path)]
    _refuse_newer(path, logs, meta)
    if not meta.clean:
        _refuse_misplaced(path, logs)
        _refuse_mixed(logs, meta)
    return not meta.clean


def refuse_older(path: str, meta: Meta) -> dict[str, int]:
    """Raise StaleTableError for a table that is older than the logs beside it.

    Return the newest epoch of each log, 0 where there is no whole frame.
    """
    logs = [_look_at(each, meta) for each in _there(path)]
    _refuse_newer(path, logs, meta)
    return {log.path: log.newest for log in logs}


class _Seen(NamedTuple):
    """What a log says of itself."""

    path: str
    header: frames.LogHeader | None  # None: opening the log refuses it
    newest: int  # the epoch of its newest whole frame, 0 if it has none
    may_follow: bool  # on a sealed log: it begins with START, or with no whole frame


def _look_at(where: str, meta: Meta) -> _Seen:
    whole = read_whole(where)
    header = frames.decode_log_header(whole[: frames.HEADER_BYTES])
    if header is not None and (header.uuid != meta.uuid or header.version > FORMAT_VERSION):
        header = None
    data = whole[FIRST_OFFSET:]
    seed = frames.checksum_seed(meta.uuid)
    with frames_of(where):
        newest = frames.newest_epoch(data, FIRST_OFFSET, seed)
        first = frames.decode_frame(data, 0, FIRST_OFFSET, seed, newest)
    return _Seen(where, header, newest, first is None or first.entry.kind == START)


def _is_newer(log: _Seen, meta: Meta) -> bool:
    """Return whether a log is too new for the table.

    The table may lack one epoch that is not its own: the one behind a sealed log.
    """
    if log.newest == meta.epoch + 1 and not meta.clean:
        return not log.may_follow
    return log.newest > meta.epoch - meta.clean


def _refuse_newer(path: str, logs: Sequence[_Seen], meta: Meta) -> None:
    for log in logs:
        if _is_newer(log, meta):
            raise StaleTableError(
                f"{path}: a table of epoch {meta.epoch}, but {log.path} has writes of epoch "
                f"{log.newest}: this is an older copy of the table; put back the table that "
                f"belongs to the log, or open with accept_log_loss=True to go on without the log, "
                f"which is then kept under another name"
            )


def _refuse_misplaced(path: str, logs: Sequence[_Seen]) -> None:
    """Raise CorruptLogError for a log in the place of the other one."""
    has = {log.path: f"has {_writes(log)}" for log in logs}
    for log in logs:
        if not log.newest or log.header is None:
            continue
        right = log_path(path, log.newest, log.header.version)
        if right != log.path:
            raise CorruptLogError(
                f"{log.path}: {has[log.path]}, which belong in {right}, and that "
                f"{has.get(right, 'is missing')}: the two files were exchanged, or one was copied "
                f"over the other; give each log its own name again, or, if one is lost, "
                f"check(salvage=True) recovers every whole frame"
            )


def _refuse_mixed(logs: Sequence[_Seen], meta: Meta) -> None:
    """Raise CorruptLogError for logs of which one is an older copy.

    Logs are replaced in pairs, once the table has all that is in them, and that of the even epochs
    first.  Where a crash has kept the other one from being replaced, the new one is empty.
    """
    if len(logs) < 2 or logs[0].header is None or logs[1].header is None:
        return
    (even, odd), (first, second) = logs, (logs[0].header, logs[1].header)
    is_pair = first.version != second.version or first.log_id == second.log_id
    if not is_pair and (even.newest or odd.newest >= meta.epoch):
        raise CorruptLogError(
            f"{even.path}, which has {_writes(even)}, and {odd.path}, which has {_writes(odd)}, "
            f"are not of one pair: one of them is an older copy; put the right one in its place, "
            f"or, if that is lost, check(salvage=True) recovers every whole frame"
        )


def _writes(log: _Seen) -> str:
    return f"writes of epoch {log.newest}" if log.newest else "no writes"


def _there(path: str) -> Iterator[str]:
    return filter(os.path.lexists, log_paths(path))


def _set_logs_aside(path: str, meta: Meta) -> bool:
    """Keep the logs if one is too new for the table; return whether so, or there are none."""
    there = [_look_at(each, meta) for each in _there(path)]
    is_newer = any(_is_newer(log, meta) for log in there)
    if is_newer:
        for log in there:
            files.keep_aside(log.path, "replaced")
    return is_newer or not there


def _set_others_aside(path: str, meta: Meta) -> None:
    """Keep the logs of another store beside a table that was closed."""
    for each in _there(path):
        header = frames.decode_log_header(read_whole(each)[: frames.HEADER_BYTES])
        if header is not None and header.uuid != meta.uuid:
            files.keep_aside(each, "replaced")


def recover_frames(
    path: str, meta: Meta, counters: Counters, *, accept_log_loss: bool = False
) -> Overlay:
    """Scan the logs of a store that was not closed into an overlay; nothing is changed.

    Raises CorruptLogError if frames that had been synced are damaged; the tail of an interrupted
    append is dropped.  Raises MissingLogError, unless ``accept_log_loss``, as :meth:`Log.open`.
    """
    own, other = (log_path(path, meta.epoch + n, meta.version) for n in range(2))
    ours = _read(own, meta, accept_log_loss)
    overlay = Overlay(meta.epoch)
    _recover(overlay, own, ours, meta, counters)
    if other == own:
        return overlay
    next_ones = _read(other, meta, accept_log_loss)
    seed = frames.checksum_seed(meta.uuid)
    with frames_of(other):
        first = frames.decode_frame(next_ones, 0, FIRST_OFFSET, seed, meta.epoch + 1)
    sealed_end = None if first is None else frames.sealed_end(first)
    is_lost = accept_log_loss and not os.path.lexists(own)
    if sealed_end is not None and sealed_end != overlay.applied and not is_lost:
        raise CorruptLogError(
            f"{own}: damaged at offset {overlay.applied}: expected a whole frame of epoch "
            f"{meta.epoch}, found none, but {other} says that there are frames up to "
            f"{sealed_end}; the file is kept as it is; check(salvage=True) recovers every whole "
            f"frame"
        )
    behind = Overlay(meta.epoch + 1, overlay)
    _recover(behind, other, next_ones, meta, counters)
    return behind if sealed_end is not None else overlay


def _read(path: str, meta: Meta, accept_log_loss: bool) -> bytes:
    if accept_log_loss and not os.path.lexists(path):
        return b""
    log = Log.open(path, meta.uuid, writable=False)
    try:
        return log.read_all()
    finally:
        log.close()


def _recover(overlay: Overlay, path: str, data: bytes, meta: Meta, counters: Counters) -> None:
    """Put the frames of a log into an overlay.  Raises CorruptLogError."""
    epoch = overlay.epoch
    seed = frames.checksum_seed(meta.uuid)
    with frames_of(path):
        found, end = frames.scan(data, FIRST_OFFSET, seed, epoch)
        proof = frames.damage_below_sync(data, end - FIRST_OFFSET, FIRST_OFFSET, seed, epoch)
    if proof is not None:
        raise CorruptLogError(
            f"{path}: damaged at offset {end}: expected a whole frame of epoch {epoch}, "
            f"found none, but the frame at offset {proof.offset} says that everything below "
            f"{proof.synced_through} had been synced; the file is kept as it is; "
            f"check(salvage=True) recovers every whole frame"
        )
    entries = frames.records_of(found)
    overlay.apply(entries, end)
    counters.recovered_frames += len(entries)
    if any(data[end - FIRST_OFFSET : end - FIRST_OFFSET + frames.FRAME.size]):
        counters.torn_tails += frames.decode_epoch(data, end - FIRST_OFFSET) == epoch
