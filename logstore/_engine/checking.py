"""Verifying a store.

Rules: a check changes nothing.  In an open store it verifies a private copy of the table, so that
it keeps no pages from being used again, and no reader waits for it.  Every record has its index
keys and every index key its record: each key is looked up, then the counts are compared.
"""

from __future__ import annotations

import time
from functools import partial

from logstore._engine import files, frames, records, shelter
from logstore._engine.clock import runs_again
from logstore._engine.copying import copy_table, is_taken, make_copy, open_copy, take
from logstore._engine.engine import Engine
from logstore._engine.frames import DELETED, EXPIRED, PROGRESS, QUEUE, RESULT, SCHEDULE
from logstore._engine.log import FIRST_OFFSET, frames_of, log_path
from logstore._engine.messages import SETTINGS_TIME, decode_stored
from logstore._engine.overlay import Overlay
from logstore._engine.queuefold import index_keys
from logstore._engine.reading import BaseEngine
from logstore._engine.records import TIME, Mark
from logstore._engine.schedules import decode_schedule
from logstore._engine.systemerrors import raise_write_error
from logstore._engine.table import (
    DATABASES,
    DB_DEAD,
    DB_EXPIRIES,
    DB_GONE,
    DB_IDS,
    DB_MESSAGES,
    DB_PROGRESS,
    DB_QUEUES,
    DB_RESULTS,
    DB_RUNNING,
    DB_SCHEDULES,
    LISTING_KEYS,
    QUEUE_DATABASES,
    Table,
    TableCounts,
    Txn,
)
from logstore.errors import CorruptionError, CorruptRecordError, LogstoreError, StoreBusyError
from logstore.types import CheckReport

PROBLEMS_MAX = 1000
_RETRY_S = 0.01
_SIZES_TRIES = 5


def check(engine: BaseEngine) -> CheckReport:
    """Verify the log's frames and the table's records and indexes.

    For an open store that needs disk space for a copy of the table.  Raises DiskFullError,
    WriteError, and StoreBusyError if compactions overtook the copy three times.
    """
    problems: list[str] = []
    log_frames = 0
    try:
        engine.view()
        log_frames = _check_log(engine, problems)
    except CorruptionError as exc:
        problems.append(str(exc))
    counts = (0, 0, 0)
    try:
        if isinstance(engine, Engine):
            counts = _check_copy(engine, problems)
        else:  # at rest
            counts = engine.from_table(lambda table: _check_whole(table, problems))
    except CorruptionError as exc:
        problems.append(str(exc))
    results, progress, gone = counts
    return CheckReport(
        engine.path, results, progress, gone, log_frames, tuple(problems[:PROBLEMS_MAX])
    )


def _check_log(engine: BaseEngine, problems: list[str]) -> int:
    while True:
        state = engine.log_state()
        ends = {state.epoch: state.committed}
        if state.sealed_end:
            ends[state.epoch - 1] = state.sealed_end
        read = {epoch: engine.read_log(epoch, end) for epoch, end in ends.items()}
        after = engine.log_state()
        if (after.epoch, after.sealed_end) == (state.epoch, state.sealed_end):
            break
    whole = 0
    for epoch, data in read.items():
        where = log_path(engine.path, epoch, engine.table.meta.version)
        with frames_of(where):
            found, end = frames.scan(data, FIRST_OFFSET, engine.seed, epoch)
        if end < ends[epoch]:
            problems.append(
                f"{where}: expected a whole frame of epoch {epoch} at "
                f"offset {end}, found none, although everything up to {ends[epoch]} was published"
            )
        whole += len(frames.records_of(found))
    return whole


class _TakenError(LogstoreError):
    """Another process is copying the table for a check."""


def _check_copy(engine: Engine, problems: list[str]) -> tuple[int, int, int]:
    deadline = time.monotonic() + engine.options.write_timeout_s
    while True:
        try:
            return make_copy(engine, "check", lambda: _copy_and_check(engine, problems))
        except _TakenError:
            if time.monotonic() > deadline:
                raise StoreBusyError(
                    f"{engine.path}: other processes have been copying it for checks for more than "
                    f"{engine.options.write_timeout_s} s"
                ) from None
            shelter.check()
            time.sleep(_RETRY_S)
        except OSError as exc:
            raise_write_error(engine.path, exc)


def _copy_and_check(engine: Engine, problems: list[str]) -> tuple[int, int, int]:
    temporary = engine.path + "-check"
    if is_taken(engine, "check", temporary):
        raise _TakenError
    try:
        fd = take(engine, temporary)
    except FileExistsError:
        raise _TakenError from None  # another process was faster by a moment
    try:
        copy_table(engine, "check", fd)
        copy = open_copy(fd, temporary, readonly=True)
    finally:
        engine.deferral.let_go_on("check")
        if files.is_at(fd, temporary):
            files.remove(temporary)
        files.close(fd)
    copy.path = engine.path  # for messages
    try:
        return _check_whole(copy, problems)
    finally:
        copy.close()


def _check_whole(table: Table, problems: list[str]) -> tuple[int, int, int]:
    return table.read(lambda txn: _check_table(table, txn, problems))


def _check_table(table: Table, txn: Txn, problems: list[str]) -> tuple[int, int, int]:
    """Follow every mark to its records and every record to its expiry, and compare counts."""
    expected = dict.fromkeys(DATABASES, 0)
    data_bytes = 0
    with txn.cursor(db=table.db[DB_IDS]) as cursor:
        for raw_key, raw_mark in cursor.iternext():
            key = bytes(raw_key)
            expected[DB_IDS] += 1
            try:
                mark = records.decode_mark(table.seed, key, bytes(raw_mark), table.path)
            except CorruptRecordError as exc:
                problems.append(str(exc))
                continue
            for name, time_us in zip((DB_RESULTS, DB_GONE, DB_PROGRESS), mark, strict=True):
                if time_us:
                    expected[name] += 1
                    data_bytes += _check_record(table, txn, key, name, time_us, expected, problems)
            expected[DB_RUNNING] += _check_running(table, txn, key, mark, problems)
    if DB_MESSAGES in table.db:
        _check_queues(table, txn, expected, problems)
    if not problems:
        for name in expected:
            found = txn.stat(table.db[name])["entries"]
            if found != expected[name]:
                problems.append(
                    f"{table.path}: {name.decode()} has {found} entries, expected {expected[name]}"
                )
        meta = table.read_meta_in(txn)
        if data_bytes != meta.data_bytes:
            problems.append(
                f"{table.path}: {data_bytes} bytes of data, but the header says {meta.data_bytes}"
            )
    return expected[DB_RESULTS], expected[DB_PROGRESS], expected[DB_GONE]


def _check_queues(table: Table, txn: Txn, expected: dict[bytes, int], problems: list[str]) -> None:
    """Follow every message to its keys in the indexes."""
    expected |= dict.fromkeys(QUEUE_DATABASES, 0)
    for name in (DB_MESSAGES, DB_DEAD):
        with txn.cursor(db=table.db[name]) as cursor:
            for raw_time, raw in cursor.iternext():
                expected[name] += 1
                sequence = TIME.unpack(bytes(raw_time))[0]
                try:
                    message = decode_stored(table.seed, sequence, raw, table.path)
                except CorruptRecordError as exc:
                    problems.append(str(exc))
                    continue
                if bool(message.reason) != (name == DB_DEAD):
                    problems.append(f"{table.path}: the message {sequence} is in {name.decode()}")
                for index, key in index_keys(message):
                    expected[index] += 1
                    if txn.get(key, db=table.db[index]) is None:
                        problems.append(
                            f"{table.path}: the message {sequence} of {message.key!r} is missing "
                            f"from {index.decode()}"
                        )
    for name, kind in ((DB_QUEUES, QUEUE), (DB_SCHEDULES, SCHEDULE)):
        with txn.cursor(db=table.db[name]) as cursor:
            for key, raw in cursor.iternext():
                expected[name] += 1
                try:
                    record = records.decode_record(table.seed, SETTINGS_TIME, raw, table.path)
                    is_whole = kind == QUEUE or decode_schedule(record.key, record.entry)
                except CorruptRecordError as exc:
                    problems.append(str(exc))
                    continue
                if record.key != bytes(key) or record.entry.kind != kind or not is_whole:
                    problems.append(
                        f"{table.path}: {bytes(key)!r} in {name.decode()} has the record of "
                        f"{record.key!r}, of kind {record.entry.kind}"
                    )


def _check_running(table: Table, txn: Txn, key: bytes, mark: Mark, problems: list[str]) -> bool:
    """Return whether the progress of a task has to be in the index of running tasks."""
    if not mark.progress_us:
        return False
    if mark.result_us:
        result = table.head_in(txn, DB_RESULTS, mark.result_us)
        if result is None or not runs_again(result, mark.progress_us):
            return False
    if txn.get(TIME.pack(mark.progress_us), db=table.db[DB_RUNNING]) is None:
        problems.append(f"{table.path}: {key!r} is missing from the running tasks")
    return True


_KINDS_IN = {DB_RESULTS: (RESULT,), DB_PROGRESS: (PROGRESS,), DB_GONE: (DELETED, EXPIRED)}


def _check_record(
    table: Table,
    txn: Txn,
    key: bytes,
    name: bytes,
    time_us: int,
    expected: dict[bytes, int],
    problems: list[str],
) -> int:
    """Check one record; return its bytes of data."""
    try:
        record = table.record_in(txn, name, time_us, key)
    except CorruptRecordError as exc:
        problems.append(str(exc))
        return 0
    entry = record.entry
    if entry.kind not in _KINDS_IN[name]:
        problems.append(f"{table.path}: the record of {key!r} is of kind {entry.kind}")
    if entry.expires_us and name != DB_GONE:
        expected[DB_EXPIRIES] += 1
        expiry = records.EXPIRY.pack(entry.expires_us, entry.kind, time_us)
        if txn.get(expiry, db=table.db[DB_EXPIRIES]) is None:
            problems.append(f"{table.path}: the expiry of {key!r} is missing from its index")
    return 0 if name == DB_GONE else len(key) + record.size


def sizes(engine: BaseEngine) -> tuple[TableCounts, int, int]:
    """Return the sizes of the table, and how many results and progress records there are.

    A fold between two reads of the table would be counted twice or not at all, so the reads are
    repeated then, a few times.
    """
    for _ in range(_SIZES_TRIES):
        view = engine.view()
        epoch = engine.from_table(Table.read_meta).epoch
        counts = engine.from_table(Table.counts)
        results, progress = _difference(engine, view)
        if engine.from_table(Table.read_meta).epoch == epoch:
            break
    return counts, counts.results + results, counts.progress + progress


def _difference(engine: BaseEngine, view: Overlay) -> tuple[int, int]:
    """Return how many results and progress records the log adds to the table's, or removes."""
    in_log: dict[bytes, bool] = {}
    running: dict[bytes, bool] = {}
    for in_results, in_progress in view.newer_than(0):
        in_log |= {key: entry.kind == RESULT for key, entry in list(in_results.items())}
        running |= {key: entry is not None for key, entry in list(in_progress.items())}
    keys = list(in_log.keys() | running.keys())
    results = progress = 0
    for at in range(0, len(keys), LISTING_KEYS):
        part = keys[at : at + LISTING_KEYS]
        for key, mark in zip(part, engine.from_table(partial(Table.marks, keys=part)), strict=True):
            if key in in_log:
                results += in_log[key] - bool(mark.result_us)
            if key in running:
                progress += running[key] - bool(mark.progress_us)
    return results, progress
