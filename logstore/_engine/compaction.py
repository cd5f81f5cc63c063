"""Compaction: folding the newest record per task into the table, in one transaction.

When one is due is decided elsewhere: sealing.py (the log is long), groups.py (a large record),
maintenance.py (an idle store), closing.py (the last close).

Rules: called under the fold lock, or by a vacuum on a copy that no other process has open.  Marks
and indexes change in the same transaction as the records, and so does the epoch: either the old
table and the old epoch's frames are complete, or the new table is.  Folding the same entries twice
changes nothing.  Damage in records that are replaced does not stop a compaction.  Readers of a
snapshot older than the table's newest do, until they end: see readers.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import lmdb

from logstore._engine import records
from logstore._engine.clock import runs_again
from logstore._engine.frames import EXPIRED, FORMAT_VERSION, HAD_RESULT, PROGRESS, RESULT, Entry
from logstore._engine.options import Retention
from logstore._engine.overlay import Batch, Queued
from logstore._engine.queuefold import QueueFold
from logstore._engine.readers import WAIT_S
from logstore._engine.records import EXPIRY, QUEUES, RECORD, TIME, Mark
from logstore._engine.systemerrors import blame_space
from logstore._engine.table import (
    DB_EXPIRIES,
    DB_GONE,
    DB_IDS,
    DB_PROGRESS,
    DB_RESULTS,
    DB_RUNNING,
    Table,
    Txn,
)
from logstore.errors import CorruptRecordError

GONE_KEPT_US = 24 * 3600 * 1_000_000
GONE_COUNT_MAX = 100_000
# How many expired, evicted and forgotten records a compaction removes: at least so many of each,
# twice as many as it folds, and more until so much time has passed.
PURGE_MIN = 200
PURGE_S = 0.02
STEP = 128  # how many records are folded at once, before others may go on

T = TypeVar("T")


class Fold:
    """One compaction's transaction on one table."""

    def __init__(
        self, table: Table, txn: Txn, last_time_us: int, give_way: Callable[[], None] | None = None
    ) -> None:
        self._table = table
        self._give_way = give_way
        self._txn = txn
        self._db = table.db
        self._seed = table.seed
        self._meta = table.read_meta_in(txn)
        self._data_bytes = self._meta.data_bytes
        self._results = txn.stat(table.db[DB_RESULTS])["entries"]
        self._gone = txn.stat(table.db[DB_GONE])["entries"]
        self._folded = 0
        self.last_time_us = last_time_us

    # -- folding ----------------------------------------------------------------------------

    def apply(self, results: Mapping[bytes, Entry], progress: Mapping[bytes, Entry | None]) -> None:
        """Put or delete the newest record of each key.

        Marks go in by key, records by time: in the order of their trees, which is cheapest.
        """
        tasks = sorted(progress)
        for key in self._in_steps(tasks):
            if progress[key] is None:
                self._clear_progress(key)
        self._mark_results(results)
        for key in self._in_steps(tasks):
            newest = progress[key]
            if newest is not None:
                self._mark_progress(key, newest, results.get(key))
        for name, source in ((DB_RESULTS, results), (DB_PROGRESS, progress)):
            kind = RESULT if name == DB_RESULTS else PROGRESS
            new = [(e.time_us, k, e) for k, e in source.items() if e is not None and e.kind == kind]
            new.sort()
            self._put_records(name, new)
        self._folded += len(results) + len(progress)

    def _in_steps(self, items: Sequence[T]) -> Iterator[T]:
        """Yield the items, and give way after each STEP of them."""
        give_way = self._give_way
        for number, item in enumerate(items, 1):
            yield item
            if give_way is not None and number % STEP == 0:
                give_way()

    def remove_old(self, retention: Retention | None, now_us: int) -> None:
        """Remove what has expired, is over the limits, or is forgotten.

        With ``retention`` None, results stay, because their removal needs times of its own, which
        the writer lock orders.  That of the others changes nothing that a reader can see.
        """
        until_s = time.perf_counter() + PURGE_S
        gone = self._gone
        kinds = (PROGRESS,) if retention is None else (RESULT, PROGRESS)
        self._purge_expired(kinds, now_us, self._budget(until_s))
        if retention is not None:
            self._evict(retention, self._budget(until_s))
        # At least as many as were added, so that their number does not grow.
        self._forget_gone(now_us - GONE_KEPT_US, self._budget(until_s, max(0, self._gone - gone)))

    def _budget(self, until_s: float, count: int = 0) -> Iterator[None]:
        """Yield once for each record that may be removed."""
        for _ in range(count + max(PURGE_MIN, 2 * self._folded)):
            yield
        while time.perf_counter() < until_s:
            yield

    def apply_queued(self, queued: Queued) -> None:
        """Fold what an epoch says about queues."""
        QueueFold(self._table, self._txn).apply(queued)
        self._meta = self._meta._replace(features=self._meta.features | QUEUES)

    def write_meta(self, epoch: int, incarnation: int, clean: bool) -> None:
        """Write the meta record only: of the present format version, whatever it was."""
        meta = self._meta._replace(
            version=FORMAT_VERSION,
            epoch=epoch,
            incarnation=incarnation,
            clean=clean,
            data_bytes=max(self._data_bytes, 0),
        )
        self._table.write_meta(self._txn, meta)

    # -- one task ---------------------------------------------------------------------------

    def _mark(self, key: bytes) -> Mark:
        try:
            return self._table.mark_in(self._txn, key) or Mark()
        except CorruptRecordError:
            return Mark()

    def _set_mark(self, key: bytes, mark: Mark) -> None:
        if any(mark):
            self._txn.put(key, records.encode_mark(self._seed, key, mark), db=self._db[DB_IDS])
        else:
            self._txn.delete(key, db=self._db[DB_IDS])

    def _mark_results(self, results: Mapping[bytes, Entry]) -> None:
        """Mark or remove the results; ids that are new to the table are put in one call."""
        keys = sorted(results)
        ids = self._db[DB_IDS]
        with self._txn.cursor(db=ids) as cursor:
            known = {bytes(key) for key, _ in cursor.getmulti(keys)}
        new: list[tuple[bytes, bytes]] = []
        for key in self._in_steps(keys):
            entry = results[key]
            if entry.kind != RESULT:
                self._remove(key, entry)
            elif key in known:
                self._mark_result(key, entry)
            else:
                new.append((key, records.encode_mark(self._seed, key, (entry.time_us, 0, 0))))
        with self._txn.cursor(db=ids) as cursor:
            cursor.putmulti(new)

    def _mark_result(self, key: bytes, entry: Entry) -> None:
        mark = self._mark(key)
        if mark.result_us:
            self._drop_record(DB_RESULTS, mark.result_us)
        elif mark.gone_us:
            self._drop_record(DB_GONE, mark.gone_us)
        mark = Mark(entry.time_us, 0, mark.progress_us)
        self._set_running(mark, entry)
        self._set_mark(key, mark)

    def _mark_progress(self, key: bytes, entry: Entry, result: Entry | None) -> None:
        """Mark progress; ``result`` is what is folded with it and has no record yet, or None."""
        mark = self._mark(key)
        if mark.progress_us:
            self._drop_record(DB_PROGRESS, mark.progress_us)
            self._txn.delete(TIME.pack(mark.progress_us), db=self._db[DB_RUNNING])
        mark = mark._replace(progress_us=entry.time_us)
        if result is None and mark.result_us:
            result = self._table.head_in(self._txn, DB_RESULTS, mark.result_us)
        self._set_running(mark, result)
        self._set_mark(key, mark)

    def _set_running(self, mark: Mark, result: Entry | None) -> None:
        """Put the progress of a mark into the index of running tasks, or remove it from there.

        A task runs if it has no result, or will have none when the result has expired.
        """
        if not mark.progress_us:
            return
        runs = not mark.result_us or (result is not None and runs_again(result, mark.progress_us))
        time_key = TIME.pack(mark.progress_us)
        if runs:
            self._txn.put(time_key, b"", db=self._db[DB_RUNNING])
        else:
            self._txn.delete(time_key, db=self._db[DB_RUNNING])

    def _clear_progress(self, key: bytes) -> None:
        mark = self._mark(key)
        if mark.progress_us:
            self._drop_record(DB_PROGRESS, mark.progress_us)
            self._txn.delete(TIME.pack(mark.progress_us), db=self._db[DB_RUNNING])
            self._set_mark(key, mark._replace(progress_us=0))

    def _remove(self, key: bytes, entry: Entry) -> None:
        """Remove result and progress, and put ``entry`` in their place.

        Also for a task without a result: a watcher may have seen its progress.
        """
        mark = self._mark(key)
        progress_us = mark.progress_us
        if entry.kind == EXPIRED and progress_us > entry.expires_us:
            # The task runs again under its old id: its progress is newer than the expired result.
            self._txn.put(TIME.pack(progress_us), b"", db=self._db[DB_RUNNING])
        elif progress_us:
            self._clear_progress(key)
            progress_us = 0
        if mark.result_us:
            self._drop_record(DB_RESULTS, mark.result_us)
        if mark.gone_us:
            self._drop_record(DB_GONE, mark.gone_us)
        flags = HAD_RESULT if mark.result_us else entry.flags & HAD_RESULT
        gone = Entry(entry.kind, flags, entry.time_us, entry.expires_us, b"")
        self._put_records(DB_GONE, [(gone.time_us, key, gone)])
        self._set_mark(key, Mark(0, entry.time_us, progress_us))

    # -- one record -------------------------------------------------------------------------

    def _put_records(self, name: bytes, entries: Sequence[tuple[int, bytes, Entry]]) -> None:
        """Put records, which are given with their times and in the order of the times."""
        raws = [
            (TIME.pack(time_us), records.encode_record(self._seed, key, entry))
            for time_us, key, entry in self._in_steps(entries)
        ]
        with self._txn.cursor(db=self._db[name]) as cursor:
            consumed, appended = cursor.putmulti(raws, append=True)
            if appended < consumed:
                cursor.putmulti(raws)  # some are not the newest: folded before, or expired
        if name != DB_GONE:
            expiries = [
                (EXPIRY.pack(entry.expires_us, entry.kind, time_us), b"")
                for time_us, _, entry in entries
                if entry.expires_us
            ]
            with self._txn.cursor(db=self._db[DB_EXPIRIES]) as cursor:
                cursor.putmulti(sorted(expiries))
        self._count(name, len(raws), sum([len(raw) for _, raw in raws]))

    def _drop_record(self, name: bytes, time_us: int) -> None:
        time_key = TIME.pack(time_us)
        raw = self._txn.get(time_key, db=self._db[name])
        if raw is None:
            return
        size = len(raw)
        if size >= RECORD.size and name != DB_GONE:
            _, kind, _, _, expires_us = RECORD.unpack_from(raw)
            if expires_us:
                expiry = EXPIRY.pack(expires_us, kind, time_us)
                self._txn.delete(expiry, db=self._db[DB_EXPIRIES])
        self._txn.delete(time_key, db=self._db[name])
        self._count(name, -1, -size)

    def _count(self, name: bytes, count: int, raw_bytes: int) -> None:
        if name == DB_GONE:
            self._gone += count
            return
        self._data_bytes += raw_bytes - count * RECORD.size
        if name == DB_RESULTS:
            self._results += count

    # -- retention --------------------------------------------------------------------------

    def _purge_expired(self, kinds: Sequence[int], now_us: int, budget: Iterator[None]) -> None:
        at = b"\0"
        for _ in budget:
            with self._txn.cursor(db=self._db[DB_EXPIRIES]) as cursor:
                if not cursor.set_range(at):
                    return
                at = bytes(cursor.key())
                expires_us, kind, time_us = EXPIRY.unpack(at)
                if expires_us > now_us:
                    return
                at += b"\0"
                if kind not in kinds:
                    continue
                cursor.delete()
            name = DB_RESULTS if kind == RESULT else DB_PROGRESS
            key = self._key_of(name, time_us)
            mark = Mark() if key is None else self._mark(key)
            if key is None or time_us not in mark:
                self._drop_record(name, time_us)
            elif kind == RESULT:
                self._expire(key, max(expires_us, time_us))
            else:
                self._clear_progress(key)

    def _expire(self, key: bytes, end_us: int) -> None:
        """Remove a result, and its progress up to ``end_us`` in record time."""
        self.last_time_us += 1
        self._remove(key, Entry(EXPIRED, HAD_RESULT, self.last_time_us, end_us, b""))

    def _evict(self, retention: Retention, budget: Iterator[None]) -> None:
        for _ in budget:
            time_us = self._oldest(DB_RESULTS)
            if time_us is None or not is_over(retention, self._results, self._data_bytes):
                return
            key = self._key_of(DB_RESULTS, time_us)
            if key is None or self._mark(key).result_us != time_us:
                self._drop_record(DB_RESULTS, time_us)
            else:
                self._expire(key, self.last_time_us + 1)

    def _forget_gone(self, oldest_kept_us: int, budget: Iterator[None]) -> None:
        for _ in budget:
            time_us = self._oldest(DB_GONE)
            if time_us is None or (time_us >= oldest_kept_us and self._gone <= GONE_COUNT_MAX):
                return
            key = self._key_of(DB_GONE, time_us)
            self._drop_record(DB_GONE, time_us)
            if key is not None:
                mark = self._mark(key)
                if mark.gone_us == time_us:
                    self._set_mark(key, mark._replace(gone_us=0))

    def _oldest(self, name: bytes) -> int | None:
        with self._txn.cursor(db=self._db[name]) as cursor:
            if not cursor.first():
                return None
            time_us: int = TIME.unpack(cursor.key())[0]
            return time_us

    def _key_of(self, name: bytes, time_us: int) -> bytes | None:
        """Return the task id of a record, None if the record is damaged or missing."""
        raw = self._txn.get(TIME.pack(time_us), b"", db=self._db[name])
        try:
            return records.decode_record(
                self._seed, time_us, raw, self._table.path, with_payload=False
            ).key
        except CorruptRecordError:
            return None


def is_over(retention: Retention, results: int, data_bytes: int) -> bool:
    """Return whether results have to be evicted."""
    results_max, bytes_max = retention
    return results > 0 and (
        (results_max is not None and results > results_max)
        or (bytes_max is not None and data_bytes > bytes_max)
    )


def is_due(table: Table, txn: Txn, retention: Retention, now_us: int) -> bool:
    """Return whether a compaction would remove something."""
    results, gone = (txn.stat(table.db[name])["entries"] for name in (DB_RESULTS, DB_GONE))
    if is_over(retention, results, table.read_meta_in(txn).data_bytes) or gone > GONE_COUNT_MAX:
        return True
    with txn.cursor(db=table.db[DB_EXPIRIES]) as cursor:
        if cursor.first() and EXPIRY.unpack(cursor.key())[0] <= now_us:
            return True
    with txn.cursor(db=table.db[DB_GONE]) as cursor:
        return cursor.first() and TIME.unpack(cursor.key())[0] < now_us - GONE_KEPT_US


def fold_into(
    table: Table,
    batches: Iterable[Batch],
    retention: Retention | None = None,
    *,
    queued: Sequence[Queued] = (),
    now_us: int = 0,
    last_time_us: int = 0,
    epoch: int,
    incarnation: int,
    clean: bool = False,
    wait_s: float = WAIT_S,
    has_new: bool = True,
    give_way: Callable[[], None] | None = None,
) -> int:
    """Fold entries into a table and set its epoch; on the disk when this returns.

    ``queued`` is what the same epochs say about queues.  With ``now_us``, what is old at that time
    is removed, but no results with ``retention`` None.  ``give_way`` is called again and again
    meanwhile.  ``wait_s`` and ``has_new`` are those of :meth:`Table.write`.  Returns the time of
    the newest record.  The map is grown when it is full.  Raises OldReadersError, without any
    effect, if readers of an old snapshot do not end within ``wait_s``, lmdb.Error or OSError; after
    these errors the table has either the state before or the state after.
    """
    batches = list(batches)

    def fill(txn: Txn) -> int:
        fold = Fold(table, txn, max(last_time_us, now_us), give_way)
        for results, progress in batches:
            fold.apply(results, progress)
        for part in queued:
            fold.apply_queued(part)
        if now_us:
            fold.remove_old(retention, now_us)
        fold.write_meta(epoch, incarnation, clean)
        return fold.last_time_us

    while True:
        try:
            return table.write(fill, wait_s=wait_s, has_new=has_new)
        except lmdb.MapFullError:
            table.grow_map()
        except lmdb.MapResizedError:
            table.adopt_map_size()
        except lmdb.Error as exc:
            sizes = [len(e.payload) for b in batches for side in b for e in side.values() if e]
            sizes += [len(entry.payload) for part in queued for _, entry in part.order]
            blame_space(table.path, exc, sum(sizes))
            raise
