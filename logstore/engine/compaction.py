"""Compaction: folding the newest record per task into the table, in one transaction.

Rules: called under the writer lock (or on a table that nobody else has yet, by a vacuum).  The
indexes are kept in step with the records in the same transaction, which also carries the new
epoch: either the old table and the old epoch's frames are complete, or the new table is.  Folding
the same entries twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import lmdb

from logstore.engine import records
from logstore.engine.frames import EXPIRED, HAD_RESULT, RESULT, Entry
from logstore.engine.records import GONE, RESULTS, RUNNING
from logstore.engine.table import Meta, Table

GONE_KEPT_US = 24 * 3600 * 1_000_000
GONE_COUNT_MAX = 100_000
PURGE_MIN = 1000  # expired records taken away per compaction, at least


class Retention(NamedTuple):
    """Limits on what the table keeps; None is no limit."""

    results_max: int | None = None
    bytes_max: int | None = None


class Fold:
    """One compaction's transaction on one table."""

    def __init__(self, table: Table, txn: lmdb.Transaction[bytes], now_us: int) -> None:
        self._table = table
        self._txn = txn
        self._now_us = now_us
        self._seed = table.seed
        self._meta = table.read_meta_in(txn)
        self._data_bytes = self._meta.data_bytes
        self._results = txn.stat(table.results)["entries"]
        self._gone = txn.stat(table.gone)["entries"]
        self._folded = 0

    # -- folding ----------------------------------------------------------------------------

    def apply(self, results: Mapping[bytes, Entry], progress: Mapping[bytes, Entry | None]) -> None:
        """Put or delete the newest record of each key, in the order of the keys."""
        for key in sorted(results):
            entry = results[key]
            if entry.kind == RESULT:
                self._put_result(key, entry)
            else:
                self._remove(key, entry)
        for key in sorted(progress):
            newest = progress[key]
            if newest is not None:
                self._put_progress(key, newest)
        self._folded += len(results) + len(progress)

    def finish(self, retention: Retention, *, epoch: int, incarnation: int, clean: bool) -> None:
        """Drop what has expired or is over the limits, and write the meta record."""
        self._purge_expired(max(PURGE_MIN, 2 * self._folded))
        self._evict(retention)
        self._forget_gone()
        self._table.write_meta(
            self._txn, Meta(self._meta.uuid, epoch, incarnation, max(self._data_bytes, 0), clean)
        )

    # -- single records ---------------------------------------------------------------------

    def _get(self, database: lmdb._Database, key: bytes) -> Entry | None:
        """A record's header fields; its payload may be damaged, its place in the indexes not."""
        raw = self._txn.get(key, db=database)
        if raw is None:
            return None
        if len(raw) < records.RECORD.size:
            return Entry(RESULT, 0, 0, 0, b"")
        _, kind, flags, _, time_us, expires_us = records.RECORD.unpack_from(raw)
        return Entry(kind, flags, time_us, expires_us, raw[records.RECORD.size :])

    def _put_result(self, key: bytes, entry: Entry) -> None:
        txn, table = self._txn, self._table
        old = self._get(table.results, key)
        if old is None:
            self._results += 1
            self._unindex_running(key)
            self._drop_gone(key)
        else:
            self._unindex_result(key, old)
        txn.put(key, records.encode_record(self._seed, key, entry), db=table.results)
        txn.put(records.time_key(RESULTS, entry.time_us, key), b"", db=table.by_time)
        if entry.expires_us:
            txn.put(records.expiry_key(entry.expires_us, RESULTS, key), b"", db=table.by_expiry)
        self._data_bytes += len(key) + len(entry.payload)

    def _put_progress(self, key: bytes, entry: Entry) -> None:
        txn, table = self._txn, self._table
        running = txn.get(key, db=table.results) is None
        old = self._get(table.progress, key)
        if old is not None:
            self._data_bytes -= len(key) + len(old.payload)
            if running:
                txn.delete(records.time_key(RUNNING, old.time_us, key), db=table.by_time)
            if old.expires_us:
                txn.delete(records.expiry_key(old.expires_us, RUNNING, key), db=table.by_expiry)
        txn.put(key, records.encode_record(self._seed, key, entry), db=table.progress)
        if running:
            txn.put(records.time_key(RUNNING, entry.time_us, key), b"", db=table.by_time)
        if entry.expires_us:
            txn.put(records.expiry_key(entry.expires_us, RUNNING, key), b"", db=table.by_expiry)
        self._data_bytes += len(key) + len(entry.payload)

    def _remove(self, key: bytes, entry: Entry) -> None:
        """Take away result and progress; remember a result's id as ``entry`` says."""
        old = self._get(self._table.results, key)
        progress = self._get(self._table.progress, key)
        if progress is not None and entry.kind == EXPIRED and progress.time_us > entry.time_us:
            # The task runs again under its old id: its progress is newer than what expired.
            self._txn.put(
                records.time_key(RUNNING, progress.time_us, key), b"", db=self._table.by_time
            )
        else:
            self._remove_progress(key, running=old is None)
        if old is not None:
            self._txn.delete(key, db=self._table.results)
            self._unindex_result(key, old)
            self._results -= 1
        if old is not None or entry.flags & HAD_RESULT:
            self._drop_gone(key)
            self._put_gone(key, entry)

    def _unindex_result(self, key: bytes, old: Entry) -> None:
        self._txn.delete(records.time_key(RESULTS, old.time_us, key), db=self._table.by_time)
        if old.expires_us:
            self._txn.delete(
                records.expiry_key(old.expires_us, RESULTS, key), db=self._table.by_expiry
            )
        self._data_bytes -= len(key) + len(old.payload)

    def _unindex_running(self, key: bytes) -> None:
        progress = self._get(self._table.progress, key)
        if progress is not None:
            self._txn.delete(
                records.time_key(RUNNING, progress.time_us, key), db=self._table.by_time
            )

    def _remove_progress(self, key: bytes, *, running: bool) -> None:
        old = self._get(self._table.progress, key)
        if old is None:
            return
        self._txn.delete(key, db=self._table.progress)
        if running:
            self._txn.delete(records.time_key(RUNNING, old.time_us, key), db=self._table.by_time)
        if old.expires_us:
            self._txn.delete(
                records.expiry_key(old.expires_us, RUNNING, key), db=self._table.by_expiry
            )
        self._data_bytes -= len(key) + len(old.payload)

    # -- ids that are gone ------------------------------------------------------------------

    def _put_gone(self, key: bytes, entry: Entry) -> None:
        record = Entry(entry.kind, HAD_RESULT, entry.time_us, 0, b"")
        self._txn.put(key, records.encode_record(self._seed, key, record), db=self._table.gone)
        self._txn.put(records.time_key(GONE, entry.time_us, key), b"", db=self._table.by_time)
        self._gone += 1

    def _drop_gone(self, key: bytes) -> None:
        if self._gone and (old := self._get(self._table.gone, key)) is not None:
            self._txn.delete(key, db=self._table.gone)
            self._txn.delete(records.time_key(GONE, old.time_us, key), db=self._table.by_time)
            self._gone -= 1

    def _forget_gone(self) -> None:
        oldest_kept_us = self._now_us - GONE_KEPT_US
        while self._gone:
            found = self._oldest(GONE)
            if found is None:
                return
            time_us, key = found
            if time_us >= oldest_kept_us and self._gone <= GONE_COUNT_MAX:
                return
            self._drop_gone(key)

    # -- retention --------------------------------------------------------------------------

    def _purge_expired(self, count_max: int) -> None:
        for _ in range(count_max):
            with self._txn.cursor(db=self._table.by_expiry) as cursor:
                if not cursor.first():
                    return
                expires_us, index_class, key = records.split_expiry_key(cursor.key())
            if expires_us > self._now_us:
                return
            if index_class == RESULTS:
                self._remove(key, Entry(EXPIRED, HAD_RESULT, expires_us, 0, b""))
            else:
                running = self._txn.get(key, db=self._table.results) is None
                self._remove_progress(key, running=running)

    def _evict(self, retention: Retention) -> None:
        results_max, bytes_max = retention
        while (results_max is not None and self._results > results_max) or (
            bytes_max is not None and self._data_bytes > bytes_max
        ):
            found = self._oldest(RESULTS)
            if found is None:
                return
            self._remove(found[1], Entry(EXPIRED, HAD_RESULT, self._now_us, 0, b""))

    def _oldest(self, index_class: bytes) -> tuple[int, bytes] | None:
        with self._txn.cursor(db=self._table.by_time) as cursor:
            if not cursor.set_range(index_class) or cursor.key()[:1] != index_class:
                return None
            return records.split_time_key(cursor.key())


def fold_into(
    table: Table,
    overlays: Iterable[tuple[Mapping[bytes, Entry], Mapping[bytes, Entry | None]]],
    retention: Retention,
    *,
    now_us: int,
    epoch: int,
    incarnation: int,
    clean: bool = False,
) -> None:
    """Fold entries into a table and give it a new epoch; on the disk when this returns.

    The map is grown when it is full.  Raises lmdb.Error or OSError; after an error the table
    holds either the state before or the state after.
    """
    batches = list(overlays)
    table.reader_check()
    while True:
        try:
            with table.writing() as txn:
                fold = Fold(table, txn, now_us)
                for results, progress in batches:
                    fold.apply(results, progress)
                fold.finish(retention, epoch=epoch, incarnation=incarnation, clean=clean)
            return
        except lmdb.MapFullError:
            table.grow_map()
        except lmdb.MapResizedError:
            table.adopt_map_size()
