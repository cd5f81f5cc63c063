"""Verifying a store, and saving what a damaged log still holds.

Rules: a check only reads.  Every record has its index keys and every index key its record: that is
shown by looking up the former and comparing the counts.  Salvage keeps the damaged log under
another name; it folds every whole frame in the order of the log and says what lay between them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import lmdb

from logstore.engine import frames, records
from logstore.engine.engine import Engine
from logstore.engine.frames import DELETED, PROGRESS, RESULT
from logstore.engine.header import STATE
from logstore.engine.log import FIRST_OFFSET
from logstore.engine.overlay import Overlay
from logstore.engine.records import GONE, RESULTS, RUNNING
from logstore.engine.table import Table
from logstore.errors import CorruptionError, CorruptRecordError
from logstore.types import CheckReport

PROBLEMS_MAX = 1000


def check(engine: Engine) -> CheckReport:
    """Verify the log's frames and the table's records and indexes."""
    problems: list[str] = []
    log_frames = 0
    try:
        engine.view()
        log_frames = _check_log(engine, problems)
    except CorruptionError as exc:
        problems.append(str(exc))
    counts = (0, 0, 0)
    try:
        counts = engine.from_table(
            lambda table: table.snapshot(lambda txn: _check_table(table, txn, problems))
        )
    except CorruptionError as exc:
        problems.append(str(exc))
    results, progress, gone = counts
    return CheckReport(
        engine.path, results, progress, gone, log_frames, tuple(problems[:PROBLEMS_MAX])
    )


def _check_log(engine: Engine, problems: list[str]) -> int:
    while True:
        epoch = engine.log_state()[0] >> 32
        committed = engine.log_end()
        data = engine.read_log()
        if engine.log_state()[0] >> 32 == epoch:
            break
    found, end = frames.scan(data, FIRST_OFFSET, engine.seed, epoch)
    if end < committed:
        problems.append(
            f"{engine.path}-log: expected a whole frame of epoch {epoch} at offset {end}, found "
            f"none, although everything up to {committed} was published"
        )
    return len(found)


def _check_table(
    table: Table, txn: lmdb.Transaction[bytes], problems: list[str]
) -> tuple[int, int, int]:
    meta = table.read_meta_in(txn)
    indexed_by_time = indexed_by_expiry = data_bytes = 0
    counts = []

    def expect(database: lmdb._Database, index_key: bytes, key: bytes, name: str) -> None:
        if txn.get(index_key, db=database) is None:
            problems.append(f"{table.path}: record of {key!r} is missing from the index {name}")

    for database, index_class, kinds in (
        (table.results, RESULTS, (RESULT,)),
        (table.progress, RUNNING, (PROGRESS,)),
        (table.gone, GONE, (DELETED, frames.EXPIRED)),
    ):
        count = 0
        for key, raw in _items(txn, database):
            count += 1
            try:
                entry = records.decode_record(table.seed, key, raw, table.path)
            except CorruptRecordError as exc:
                problems.append(str(exc))
                continue
            if entry.kind not in kinds:
                problems.append(f"{table.path}: record of {key!r} is of kind {entry.kind}")
            if index_class != GONE:
                data_bytes += len(key) + len(entry.payload)
            if index_class != RUNNING or txn.get(key, db=table.results) is None:
                indexed_by_time += 1
                time_key = records.time_key(index_class, entry.time_us, key)
                expect(table.by_time, time_key, key, "by time")
            if entry.expires_us:
                indexed_by_expiry += 1
                expiry_key = records.expiry_key(entry.expires_us, index_class, key)
                expect(table.by_expiry, expiry_key, key, "by expiry")
        counts.append(count)
    if not problems:
        for name, database, expected in (
            ("by time", table.by_time, indexed_by_time),
            ("by expiry", table.by_expiry, indexed_by_expiry),
        ):
            found = txn.stat(database)["entries"]
            if found != expected:
                problems.append(
                    f"{table.path}: the index {name} has {found} entries, expected {expected}"
                )
        if data_bytes != meta.data_bytes:
            problems.append(
                f"{table.path}: {data_bytes} bytes of data, but the header says {meta.data_bytes}"
            )
    return counts[0], counts[1], counts[2]


def _items(txn: lmdb.Transaction[bytes], database: lmdb._Database) -> Iterator[tuple[bytes, bytes]]:
    with txn.cursor(db=database) as cursor:
        yield from cursor.iternext()


def overlay_difference(engine: Engine, view: Overlay) -> tuple[int, int]:
    """How many results and progress records the log adds to the table's, or takes from them."""
    results = progress = 0
    if view.changed:

        def count(table: Table) -> tuple[int, int]:
            return table.snapshot(lambda txn: _difference(table, txn, view))

        results, progress = engine.from_table(count)
    return results, progress


def _difference(table: Table, txn: lmdb.Transaction[bytes], view: Overlay) -> tuple[int, int]:
    results = progress = 0
    for key, entry in list(view.results.items()):
        in_table = txn.get(key, db=table.results) is not None
        results += (entry.kind == RESULT) - in_table
    for key, newest in list(view.progress.items()):
        in_table = txn.get(key, db=table.progress) is not None
        progress += (newest is not None) - in_table
    return results, progress


# -- salvage ---------------------------------------------------------------------------------


def salvage_live(engine: Engine) -> CheckReport:
    """Fold every whole frame of an open store's log, and go on with a new log.

    What this process has in memory of the log counts as whole.  Raises WriteError.
    """
    with engine.locked_without_recovery():
        view = engine.loaded_view()
        epoch = engine.header.words[STATE] >> 32
        if view.epoch != epoch:
            view = Overlay(epoch)
        data = engine.log.read(FIRST_OFFSET, engine.log_end())
        found, lost = whole_frames(data, view.applied - FIRST_OFFSET, engine.seed, epoch)
        if not lost:
            return check(engine)
        view.apply(((frame.key, frame.entry) for frame in found), engine.log_end())
        kept = keep_aside(engine.log.path)
        engine.adopt_salvaged(view)
    report = check(engine)
    return with_salvage(report, len(found), lost, kept)


def whole_frames(data: bytes, start: int, seed: int, epoch: int) -> tuple[list[frames.Frame], int]:
    """All whole frames behind index ``start``, and how many bytes between them are lost."""
    found = list(frames.find_frames(data, start, FIRST_OFFSET, seed, epoch))
    lost, position = 0, FIRST_OFFSET + start
    for frame in found:
        lost += frame.offset - position
        position = frame.end
    return found, lost


def keep_aside(log_path: str) -> str:
    """Give the damaged log a second name under which it stays; that name."""
    kept = f"{log_path}.damaged-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}"
    os.link(log_path, kept)
    return kept


def with_salvage(report: CheckReport, salvaged: int, lost: int, kept: str) -> CheckReport:
    """A report with what a salvage has done."""
    return CheckReport(
        report.path,
        report.results,
        report.progress,
        report.gone,
        report.log_frames,
        report.problems,
        salvaged,
        lost,
        kept,
    )
