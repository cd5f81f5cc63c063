"""The table: the LMDB file that the log is compacted into.  See FORMAT.md, "The table".

Rules: a write transaction is begun only under the writer lock and ended on the thread that began
it.  All reads of one process go through ``_gate``, hold it for one short transaction, and copy
what they return, so that a fork, a resize and a close find no transaction open.  Nothing here
ever opens the ``-lock`` file: a plain open and close of it would drop LMDB's locks.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias, TypeVar

import lmdb

from logstore.engine import osdep, records
from logstore.engine.failures import raise_write_error
from logstore.engine.frames import FORMAT_VERSION, RESULT, TIME_MAX, Entry, checksum_seed
from logstore.engine.frames import PROGRESS as PROGRESS_KIND
from logstore.engine.lmdbfile import (
    DATA_FORMAT,
    inspect_file,
    make_lock_file,
    open_environment,
    translate,
)
from logstore.engine.records import TIME, Mark, Meta, Record
from logstore.errors import (
    CorruptRecordError,
    CorruptTableError,
    FormatVersionError,
    NotAStoreError,
    StoreClosedError,
)

T = TypeVar("T")
Txn: TypeAlias = "lmdb.Transaction[Any]"

_META_KEY = b"header"

# How much is looked up in one transaction at most, but for the last record.
BATCH_KEYS = 64
BATCH_BYTES = 1 << 20

# Databases: task id -> mark; time -> record; time of the progress of unfinished tasks -> nothing;
# expiry, kind and time of a record -> nothing.
IDS, RESULTS, PROGRESS, GONE, RUNNING, EXPIRIES = (
    b"ids",
    b"results",
    b"progress",
    b"gone",
    b"running",
    b"expiries",
)
DATABASES = (IDS, RESULTS, PROGRESS, GONE, RUNNING, EXPIRIES)


class TableCounts(NamedTuple):
    """Sizes of the table, from its own bookkeeping."""

    results: int
    progress: int
    gone: int
    data_bytes: int
    free_bytes: int
    file_bytes: int
    readers: int
    oldest_reader: int | None


class Table:
    """An open table file."""

    def __init__(
        self, path: str, *, readonly: bool = False, lock: bool = True, new_lock: bool = False
    ) -> None:
        """Open an existing file, after checking that opening it is safe.

        ``new_lock`` makes LMDB's lock file anew, for a caller who knows that nobody has this
        table file open.  Raises an :class:`OpenError` or CorruptTableError that names the file
        and what was found, or OSError.
        """
        inspect_file(path)
        if new_lock:
            make_lock_file(path)
        self.path = path
        self._readonly, self._lock = readonly, lock
        self._gate = threading.Lock()
        self._copying = threading.Lock()
        self._env: lmdb.Environment | None = None
        self._open()

    @classmethod
    def create(cls, path: str, uuid: bytes) -> None:
        """Make an empty table, marked clean, and put it at ``path``, durably and whole.

        The caller syncs the directory.  Raises OSError or an :class:`OpenError`.
        """
        temporary = path + "-new"
        osdep.remove(temporary)
        env = open_environment(temporary, readonly=False, lock=False, create=True)
        try:
            with env.begin(write=True) as txn:
                for name in DATABASES:
                    env.open_db(name, txn=txn)
                meta_db = env.open_db(b"meta", txn=txn)
                meta = Meta(FORMAT_VERSION, DATA_FORMAT, uuid, 1, 1, 0, True)
                txn.put(_META_KEY, records.encode_meta(meta), db=meta_db)
        finally:
            env.close()
        os.rename(temporary, path)

    def _open(self) -> None:
        env = open_environment(self.path, readonly=self._readonly, lock=self._lock, create=False)
        try:
            self.inode = os.stat(self.path).st_ino
            # Each handle is opened in an empty write transaction, hence only under the writer
            # lock: those opened in a read transaction would go with it.
            self._meta_db = self._open_database(env, b"meta")
            self.db = {name: self._open_database(env, name) for name in DATABASES}
            with env.begin() as txn:
                self.meta = self.read_meta_in(txn)
            self.seed = checksum_seed(self.meta.uuid)
        except lmdb.Error as exc:
            env.close()
            raise translate(exc, self.path) from exc
        except BaseException:
            env.close()
            raise
        self._env = env

    def _open_database(self, env: lmdb.Environment, name: bytes) -> lmdb._Database:
        try:
            return env.open_db(name, create=False)
        except (lmdb.NotFoundError, lmdb.ReadonlyError) as exc:
            raise NotAStoreError(
                f"{self.path}: an LMDB file, but not a logstore one: it has no database "
                f"{name.decode()!r}"
            ) from exc

    def reopen(self) -> None:
        """Begin anew with the same file; readers wait.  After an error they get one as well."""
        with self._copying, self._gate:
            if self._env is not None:
                self._env.close()
                self._env = None
            self._open()

    def ensure_open(self) -> None:
        """Open the file again if :meth:`reopen` has failed."""
        if self._env is None:
            self.reopen()

    @property
    def env(self) -> lmdb.Environment:
        """The LMDB handle."""
        if self._env is None:
            raise StoreClosedError(f"{self.path}: the table could not be opened again")
        return self._env

    def close(self) -> None:
        """Close the file; readers that come later get StoreClosedError, a copy is waited for."""
        with self._copying, self._gate:
            if self._env is not None:
                self._env.close()

    # -- reading ----------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[Txn]:
        """A read transaction; no other of this process is open meanwhile.

        Values are memoryviews of the map: copy what is to outlive the block.
        """
        with self._gate:
            try:
                txn = self._begin_read()
                try:
                    yield txn
                finally:
                    txn.abort()
            except lmdb.Error as exc:
                raise translate(exc, self.path) from exc
            except struct.error as exc:
                raise self._damaged_index(exc) from exc

    def _begin_read(self) -> Txn:
        try:
            return self.env.begin(buffers=True)
        except lmdb.ReadersFullError:
            self.env.reader_check()
            return self.env.begin(buffers=True)

    def get_result(self, key: bytes) -> Entry | None:
        """The newest record of a task's result: RESULT, expired or not, DELETED or EXPIRED."""
        return self._get(key, progress=False)

    def get_progress(self, key: bytes) -> Entry | None:
        """The stored progress of a task, expired or not."""
        return self._get(key, progress=True)

    def get_results(self, keys: list[bytes]) -> list[Entry | CorruptRecordError | None]:
        """As :meth:`get_result` for each key, with few transactions, all of them short."""
        found: list[Entry | CorruptRecordError | None] = []
        while len(found) < len(keys):
            with self.reading() as txn:
                size = 0
                for key in keys[len(found) :][:BATCH_KEYS]:
                    try:
                        entry = self._get_in(txn, key, False)
                    except CorruptRecordError as exc:
                        found.append(exc)
                        continue
                    found.append(entry)
                    size += 0 if entry is None else len(entry.payload)
                    if size > BATCH_BYTES:
                        break
        return found

    def _get(self, key: bytes, *, progress: bool) -> Entry | None:
        with self._gate:
            try:
                txn = self._begin_read()
                try:
                    return self._get_in(txn, key, progress)
                finally:
                    txn.abort()
            except lmdb.Error as exc:
                raise translate(exc, self.path) from exc

    def _get_in(self, txn: Txn, key: bytes, progress: bool) -> Entry | None:
        mark = self.mark_in(txn, key)
        if mark is None:
            return None
        name, time_us = _place(mark, progress)
        return self.record_in(txn, name, time_us, key).entry if time_us else None

    def mark_in(self, txn: Txn, key: bytes) -> Mark | None:
        """A task's mark as a transaction sees it."""
        raw = txn.get(key, db=self.db[IDS])
        return None if raw is None else records.decode_mark(self.seed, key, bytes(raw), self.path)

    def record_in(self, txn: Txn, name: bytes, time_us: int, key: bytes) -> Record:
        """The record that a task's mark speaks of.  Raises CorruptRecordError."""
        raw = txn.get(TIME.pack(time_us), db=self.db[name])
        if raw is None:
            raise CorruptRecordError(
                f"{self.path}: the record of task {key!r}, of time {time_us}, is missing; "
                f"overwrite this task, or restore a backup; others are not affected"
            )
        try:
            record = records.decode_record(self.seed, time_us, raw, self.path)
        except CorruptRecordError as exc:
            raise CorruptRecordError(f"{exc} (task {key!r})") from None
        if record.key != key:
            raise CorruptRecordError(
                f"{self.path}: the mark of task {key!r} leads to a record of {record.key!r}"
            )
        return record

    def listing(
        self, name: bytes, *, newest_first: bool, after_us: int | None, limit: int
    ) -> tuple[list[Record], int | None]:
        """Some records of a database by time, behind ``after_us``, and where to go on; None: end.

        The payload of a result is left out.  Of RUNNING the records of the progress.  Damaged
        records are left out: a check names them.
        """
        found: list[Record] = []
        records_of = PROGRESS if name == RUNNING else name
        with self.reading() as txn, txn.cursor(db=self.db[name]) as cursor:
            if after_us is None:
                placed = cursor.last() if newest_first else cursor.first()
            elif newest_first:
                placed = cursor.prev() if cursor.set_range(TIME.pack(after_us)) else cursor.last()
            else:
                placed = cursor.set_range(TIME.pack(after_us + 1))
            step = cursor.prev if newest_first else cursor.next
            for _ in range(limit):
                if not placed:
                    return found, None
                after_us = TIME.unpack(cursor.key())[0]
                record = self._listed(txn, records_of, after_us)
                if record is not None:
                    found.append(record)
                placed = step()
        return found, after_us

    def _listed(self, txn: Txn, name: bytes, time_us: int) -> Record | None:
        """A record without a result's payload; None if it is damaged or nobody's."""
        raw = txn.get(TIME.pack(time_us), b"", db=self.db[name])
        try:
            record = records.decode_record(
                self.seed, time_us, raw, self.path, with_payload=name == PROGRESS
            )
            mark = self.mark_in(txn, record.key)
        except CorruptRecordError:
            return None
        return record if mark is not None and time_us in mark else None

    def changes_since(self, time_us: int) -> list[tuple[bytes, Entry]]:
        """Keys and entries, without results' payloads, of what is newer than a time.

        Behind the end of a result there is progress of the same time if the task runs again: its
        progress is older than the compaction that has taken the expired result away.
        """
        found: list[tuple[bytes, Entry]] = []
        with self.reading() as txn:
            for name in (RESULTS, GONE, PROGRESS):
                with txn.cursor(db=self.db[name]) as cursor:
                    placed = cursor.set_range(TIME.pack(time_us + 1))
                    while placed:
                        at_us = TIME.unpack(cursor.key())[0]
                        record = self._listed(txn, name, at_us)
                        if record is not None:
                            found.append((record.key, record.entry))
                            if name == GONE and self._runs_again(txn, record.key, at_us):
                                again = Entry(PROGRESS_KIND, 0, at_us, 0, b"")
                                found.append((record.key, again))
                        placed = cursor.next()
        return found

    def _runs_again(self, txn: Txn, key: bytes, gone_us: int) -> bool:
        """Whether a task has progress that was there before the end of its result was noted."""
        mark = self.mark_in(txn, key)
        return mark is not None and 0 < mark.progress_us < gone_us

    def expired_results(self, now_us: int) -> list[Record]:
        """Results whose time to live is over and that no compaction has taken away yet."""
        found: list[Record] = []
        with self.reading() as txn, txn.cursor(db=self.db[EXPIRIES]) as cursor:
            placed = cursor.first()
            while placed:
                expires_us, kind, time_us = records.EXPIRY.unpack(cursor.key())
                if expires_us > now_us:
                    break
                record = self._listed(txn, RESULTS, time_us) if kind == RESULT else None
                if record is not None:
                    found.append(record)
                placed = cursor.next()
        return found

    def newest_time_us(self) -> int:
        """The time of the newest record, 0 for an empty table; past keys that are damaged."""
        times = [0]
        with self.reading() as txn:
            for name in (RESULTS, PROGRESS, GONE):
                with txn.cursor(db=self.db[name]) as cursor:
                    placed = cursor.last()
                    while placed and TIME.unpack(cursor.key())[0] > TIME_MAX:
                        placed = cursor.prev()
                    if placed:
                        times.append(TIME.unpack(cursor.key())[0])
        return max(times)

    def snapshot(self, visit: Callable[[Txn], T]) -> T:
        """Run ``visit`` in one read transaction, for checks that need a whole view."""
        with self.reading() as txn:
            return visit(txn)

    def counts(self) -> TableCounts:
        """Sizes, in a few microseconds."""
        with self.reading() as txn:
            stats = {name: txn.stat(db) for name, db in self.db.items()}
            others = [txn.stat(self._meta_db), self.env.stat()]
            info = self.env.info()
            meta = self.read_meta_in(txn)
        try:
            with self._gate:  # behind the transaction, which would be among them
                readers = self.env.readers()
        except lmdb.Error as exc:
            raise translate(exc, self.path) from exc
        page = others[0]["psize"]
        pages = (info["last_pgno"] + 1) - 2
        for stat in (*stats.values(), *others):
            pages -= stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return TableCounts(
            stats[RESULTS]["entries"],
            stats[PROGRESS]["entries"],
            stats[GONE]["entries"],
            meta.data_bytes,
            max(pages, 0) * page,
            (info["last_pgno"] + 1) * page,
            info["num_readers"],
            _oldest_reader(readers),
        )

    def expiry_due(self, now_us: int) -> bool:
        """Whether there is something to take away because its time to live is over."""
        with self.reading() as txn, txn.cursor(db=self.db[EXPIRIES]) as cursor:
            return cursor.first() and records.EXPIRY.unpack(cursor.key())[0] <= now_us

    def read_meta(self) -> Meta:
        """The meta record as it is on the disk now."""
        with self.reading() as txn:
            return self.read_meta_in(txn)

    def read_meta_in(self, txn: Txn) -> Meta:
        """The meta record as a transaction sees it."""
        raw = txn.get(_META_KEY, db=self._meta_db)
        if raw is None:
            raise NotAStoreError(f"{self.path}: an LMDB file, but it has no logstore header")
        meta = records.decode_meta(bytes(raw), self.path)
        if (meta.version, meta.data_format) != (FORMAT_VERSION, DATA_FORMAT):
            raise FormatVersionError(
                f"{self.path}: format {meta.version}.{meta.data_format}, this version of logstore "
                f"reads {FORMAT_VERSION}.{DATA_FORMAT}"
            )
        return meta

    # -- writing ----------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[Txn]:
        """A write transaction: committed, and on the disk, when the block ends well.

        After an error in the commit itself, what is on the disk is either the state before or
        the state after: the caller finds out by reading the meta record.
        """
        txn = self.env.begin(write=True, buffers=True)
        try:
            yield txn
        except struct.error as exc:
            txn.abort()
            raise self._damaged_index(exc) from exc
        except BaseException:
            txn.abort()
            raise
        txn.commit()

    def _damaged_index(self, exc: struct.error) -> CorruptTableError:
        return CorruptTableError(
            f"{self.path}: a key of a wrong size in an index ({exc}); restore a backup, or copy "
            f"what can be read with get_result()"
        )

    def write_meta(self, txn: Txn, meta: Meta) -> None:
        """Put the meta record, as part of a transaction."""
        txn.put(_META_KEY, records.encode_meta(meta), db=self._meta_db)

    def grow_map(self) -> None:
        """Double the map.  Only under the writer lock, with no transaction open."""
        with self._gate:
            self.env.set_mapsize(self.env.info()["map_size"] * 2)

    def adopt_map_size(self) -> None:
        """Take over the size that another process gave the map; under the writer lock."""
        with self._gate:
            self.env.set_mapsize(0)

    def reader_check(self) -> int:
        """Free the slots of dead readers; how many there were."""
        with self._gate:
            return self.env.reader_check()

    def copy_to(self, fd: int) -> None:
        """Copy a snapshot without its free pages to an open, empty file; it is not synced."""
        try:
            with self._copying:
                self.env.copyfd(fd, compact=True)
        except lmdb.Error as exc:
            raise_write_error(self.path, exc)

    # -- fork -------------------------------------------------------------------------------

    def hold_reads(self) -> None:
        """Wait for open reads to end and let no other begin, before a fork."""
        self._copying.acquire()
        self._gate.acquire()

    def resume_reads(self) -> None:
        """Undo :meth:`hold_reads`."""
        self._gate.release()
        self._copying.release()

    def abandon(self) -> None:
        """In a forked child: drop the inherited handle."""
        self._gate = threading.Lock()
        self._copying = threading.Lock()
        if self._env is not None:
            self._env.close()


def _place(mark: Mark, progress: bool) -> tuple[bytes, int]:
    """Where the record is that a reader wants."""
    if progress:
        return PROGRESS, mark.progress_us
    if mark.result_us:
        return RESULTS, mark.result_us
    return GONE, mark.gone_us


def _oldest_reader(printed: str) -> int | None:
    """The lowest transaction number in LMDB's printed reader table."""
    numbers = [line.split()[-1] for line in printed.splitlines()[1:] if line.strip()]
    return min((int(number) for number in numbers if number.isdigit()), default=None)
