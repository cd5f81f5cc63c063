"""The table: the LMDB file that the log is compacted into.  See FORMAT.md, "The table".

Rules: a write transaction begins only under the fold lock and ends on the thread that began it.  It
waits for readers of old snapshots, as in readers.py.  All reads of one process go through
``_gate``, hold it for one short transaction, and return copies, so that no transaction is open
during a fork, a resize or a close.  An open table of a store holds a shared lock on its file, one
of the two presence locks.
"""

from __future__ import annotations

import os
import struct
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

import lmdb

from logstore._engine import durability, files, locks, metapages, records
from logstore._engine.frames import (
    FORMAT_VERSION,
    OLDEST_VERSION,
    PROGRESS,
    RESULT,
    TIME_MAX,
    Entry,
    checksum_seed,
)
from logstore._engine.lmdbfile import (
    DATA_FORMAT,
    adopt_map,
    grow_map,
    inspect_file,
    open_environment,
    translate,
)
from logstore._engine.pages import copy_pages
from logstore._engine.readers import (
    ANY_TABLE,
    HAS_NEW,
    META_S,
    NEWEST,
    SEQUENCE,
    WAIT_S,
    Readers,
    table_of,
)
from logstore._engine.records import TIME, Mark, Meta, Record
from logstore.errors import (
    CorruptRecordError,
    CorruptTableError,
    FormatVersionError,
    NotAStoreError,
    StoreBusyError,
    StoreClosedError,
)

T = TypeVar("T")
Txn: TypeAlias = "lmdb.Transaction[Any]"

_META_KEY = b"header"

# The most that is looked up in one transaction; the last record may exceed BATCH_BYTES.
BATCH_KEYS = 64
BATCH_BYTES = 1 << 20
LOOKED_AT_MAX = 2048  # records in a listing; most that are left out take a microsecond
LISTING_KEYS = 256  # the same for records without their payloads

DB_IDS = b"ids"  # task id -> mark
DB_RESULTS, DB_PROGRESS, DB_GONE = b"results", b"progress", b"gone"  # time -> record
DB_RUNNING = b"running"  # time of the progress of an unfinished task -> nothing
DB_EXPIRIES = b"expiries"  # expiry, kind and time of a record -> nothing
# Of queues: made when the first message is folded.  See messages.py for the keys.
DB_MESSAGES, DB_DEAD = b"messages", b"dead"  # sequence -> record of a message
DB_READY, DB_DUE = b"ready", b"due"  # a queue's messages in the order of delivery -> nothing
DB_HELD = b"held"  # task id and sequence -> nothing
DB_QUEUES = b"queues"  # name of a queue -> record of its settings
DB_SCHEDULES = b"schedules"  # id -> record of a schedule
DATABASES = (DB_IDS, DB_RESULTS, DB_PROGRESS, DB_GONE, DB_RUNNING, DB_EXPIRIES)
QUEUE_DATABASES = (DB_MESSAGES, DB_DEAD, DB_READY, DB_DUE, DB_HELD, DB_QUEUES, DB_SCHEDULES)


class TableCounts(NamedTuple):
    """Sizes of the table, from its own counts."""

    results: int
    progress: int
    gone: int
    data_bytes: int
    free_bytes: int
    file_bytes: int
    readers: int
    oldest_reader: int | None


class HeldAloneError(StoreBusyError):
    """A process that is alone with the store is opening, closing or repairing it."""


class Table:
    """An open table file."""

    def __init__(
        self,
        path: str,
        *,
        readonly: bool = False,
        readers: Readers | None = None,
        fd: int | None = None,
    ) -> None:
        """Open an existing file, after checking that opening it is safe.

        ``readers`` are those of a store, whose other processes may use the file: the table is one
        of them, and holds a shared lock on the descriptor ``fd``, which it owns if this returns,
        or on its own one.  Raises an :class:`OpenError` or CorruptTableError that names the file
        and what was found, StoreBusyError if a process is alone with the file, or OSError.
        """
        self.path = path
        self.readonly = readonly
        self._gate = threading.RLock()  # held for each read
        self._writing = threading.Lock()  # held for each write
        self._made: dict[bytes, lmdb._Database] = {}  # databases that the write has made
        self._env: lmdb.Environment | None = None
        self.fd = -1 if fd is None else fd
        self._slot = -1
        try:
            inspect_file(path)
            if readers is not None and fd is None:
                self.fd = files.open_file(path, os.O_RDONLY)
                if not locks.try_lock(self.fd, shared=True):
                    raise HeldAloneError(f"{path}: a process is alone with this file")
            self._readers = readers or Readers.private()
            self._words = self._readers.words
            self._slot = self._readers.claim(path)
            self._open()
            self.identity = files.identity(path if self.fd < 0 else self.fd)
            self.inode = self.identity[1] if self.identity is not None else 0
            _tables.add(self)
        except BaseException:
            self._close_environment()
            self._give_slot_back()
            if fd is None and self.fd >= 0:
                files.close(self.fd)
            raise

    @classmethod
    def create(cls, path: str, uuid: bytes) -> None:
        """Make an empty table, marked clean, and put it at ``path``, complete and durable.

        The caller syncs the directory.  Raises OSError or an :class:`OpenError`.
        """
        temporary = path + "-new"
        files.remove(temporary)
        try:
            with environments:
                env = open_environment(temporary, readonly=False, create=True)
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
        except BaseException:
            files.remove(temporary)
            raise

    def _open(self) -> None:
        with environments:
            env = open_environment(self.path, readonly=self.readonly, create=False)
            try:
                # The handles live on after a transaction that may write.  It does not, so it needs
                # no lock.  After a read transaction they would not, so py-lmdb makes one for each;
                # then there is no writer.
                self._table = self._shown = ANY_TABLE
                self._sequence = -1  # no snapshot of this handle is known yet
                self._committing = (0, 0)  # a sequence, and the snapshot to take while it lasts
                if self.readonly:
                    self._open_databases(env, None)
                try:
                    with self._begin_anew(env, write=not self.readonly) as txn:
                        if not self.readonly:
                            self._open_databases(env, txn)
                        self.meta = self.read_meta_in(txn)
                        if not self.readonly:
                            self._open_queues(env, txn)
                finally:
                    self._words[self._slot] = 0
                if self.readonly:
                    self._open_queues(env, None)
                self._table = self._shown = table_of(self.meta.incarnation)
                self._sequence = -1
                self.seed = checksum_seed(self.meta.uuid)
            except lmdb.Error as exc:
                env.close()
                raise translate(exc, self.path) from exc
            except BaseException:
                env.close()
                raise
            self._env = env

    def _open_databases(self, env: lmdb.Environment, txn: Txn | None) -> None:
        self._meta_db = self._open_database(env, b"meta", txn)
        self.db = {name: self._open_database(env, name, txn) for name in DATABASES}

    def _open_database(self, env: lmdb.Environment, name: bytes, txn: Txn | None) -> lmdb._Database:
        try:
            return env.open_db(name, txn=txn, create=False)
        except (lmdb.NotFoundError, lmdb.ReadonlyError) as exc:
            raise NotAStoreError(
                f"{self.path}: an LMDB file, but not a logstore one: it has no database "
                f"{name.decode()!r}"
            ) from exc

    def _open_queues(self, env: lmdb.Environment, txn: Txn | None) -> None:
        if self.meta.features & records.QUEUES:
            self.db |= {name: self._open_database(env, name, txn) for name in QUEUE_DATABASES}

    def make_queues(self, txn: Txn) -> dict[bytes, lmdb._Database]:
        """Return the databases of queues, made if there are none; part of a write.

        Readers get to know of them after the commit: they are in no snapshot before it.
        """
        if DB_MESSAGES not in self.db:
            self._made = {name: self.env.open_db(name, txn=txn) for name in QUEUE_DATABASES}
        return self.db | self._made

    def has_queues(self) -> bool:
        """Return whether there are databases of queues, which another process may have made."""
        if DB_MESSAGES in self.db:
            return True
        if not self.read_meta().features & records.QUEUES:
            return False
        self.reopen()
        return True

    def reopen(self) -> None:
        """Open the same file again; readers wait.  After an error they get an error too."""
        with self._writing, self._gate:
            self._close_environment()
            self._open()

    def ensure_open(self) -> None:
        """Open the file again if :meth:`reopen` has failed."""
        if self._env is None:
            self.reopen()

    @property
    def is_open(self) -> bool:
        """Whether there is an LMDB handle: :meth:`reopen` may have failed."""
        return self._env is not None

    def is_read_here(self) -> bool:
        """Return whether the calling thread is inside a read."""
        return self._gate._is_owned()  # type: ignore[attr-defined, no-any-return]

    @property
    def env(self) -> lmdb.Environment:
        """The LMDB handle."""
        if self._env is None:
            raise StoreClosedError(f"{self.path}: the table could not be opened again")
        return self._env

    def close(self) -> None:
        """Close the file; later readers get StoreClosedError.

        Closing a file that has been replaced frees its blocks, which takes a while.
        """
        with self._writing, self._gate:
            self._close_environment()
            self._give_slot_back()
            fd, self.fd = self.fd, -1
        _tables.discard(self)
        if fd >= 0:
            files.close(fd)

    def leave(self) -> None:
        """Close LMDB's handle only: the next read opens it again."""
        with self._writing, self._gate:
            self._close_environment()

    def _close_environment(self) -> None:
        # LMDB's registry of open files uses inodes: while ``fd`` is open, no other file can get
        # this inode before the registry has removed it.
        if self._env is not None:
            with environments:
                self._env.close()
            self._env = None

    def _give_slot_back(self) -> None:
        slot, self._slot = self._slot, -1
        if slot >= 0:
            self._readers.release(slot)

    # -- reading ----------------------------------------------------------------------------

    def read(self, visit: Callable[[Txn], T]) -> T:
        """Run ``visit`` in a read transaction, the only one of this process.

        Values are memoryviews of the map: copy what has to outlive the call.
        """
        with self._gate:
            env = self.env
            try:
                try:
                    txn = self._begin(env)
                    try:
                        return visit(txn)
                    finally:
                        txn.abort()
                finally:
                    self._words[self._slot] = 0
            except lmdb.Error as exc:
                raise translate(exc, self.path) from exc
            except struct.error as exc:
                raise self._damaged_index(exc) from exc

    def _begin(self, env: lmdb.Environment) -> Txn:
        """Begin a transaction; the caller clears the slot when it has ended."""
        words = self._words
        words[self._slot] = self._shown
        before = words[SEQUENCE]
        txn = env.begin(buffers=True)
        if before == self._sequence == words[SEQUENCE]:
            return txn  # of the same snapshot as the last one
        txn.abort()
        return self._begin_anew(env)

    def _begin_anew(self, env: lmdb.Environment, *, write: bool = False) -> Txn:
        """Begin a transaction whose snapshot is not known yet."""
        words, slot = self._words, self._slot
        words[slot] = self._shown
        while True:
            sequence = words[SEQUENCE]
            txn = env.begin(write=write, buffers=True)
            snapshot = txn.id() - write
            newest, has_new = words[NEWEST], words[HAS_NEW]
            if words[SEQUENCE] == sequence:
                if not sequence & 1:
                    self._sequence = sequence
                    break
                if snapshot == newest or self._committing == (sequence, snapshot):
                    break
            txn.abort()
            if words[SEQUENCE] == sequence:
                if has_new and not self._readers.wait_for_commit(sequence):
                    durability.sync_data(self.fd)
                time.sleep(META_S)
                self._committing = sequence, snapshot
        words[slot] = self._shown = self._table | snapshot
        return txn

    def get_result(self, key: bytes) -> Entry | None:
        """Return a task's newest record of kind RESULT (expired or not), DELETED or EXPIRED."""
        return self.read(lambda txn: self._get_in(txn, key, progress=False))

    def get_progress(self, key: bytes) -> Entry | None:
        """Return the stored progress of a task, expired or not."""
        return self.read(lambda txn: self._get_in(txn, key, progress=True))

    def get_results(self, keys: list[bytes]) -> list[Entry | CorruptRecordError | None]:
        """As :meth:`get_result` for each key, with few transactions, all of them short."""
        found: list[Entry | CorruptRecordError | None] = []

        def some(txn: Txn) -> None:
            size = 0
            for key in keys[len(found) :][:BATCH_KEYS]:
                try:
                    entry = self._get_in(txn, key, progress=False)
                except CorruptRecordError as exc:
                    found.append(exc)
                    continue
                found.append(entry)
                size += 0 if entry is None else len(entry.payload)
                if size > BATCH_BYTES:
                    break

        while len(found) < len(keys):
            self.read(some)
        return found

    def _get_in(self, txn: Txn, key: bytes, *, progress: bool) -> Entry | None:
        mark = self.mark_in(txn, key)
        if mark is None:
            return None
        name, time_us = _place(mark, progress)
        return self.record_in(txn, name, time_us, key).entry if time_us else None

    def marks(self, keys: list[bytes]) -> list[Mark]:
        """Return the marks of some tasks, empty for unknown tasks, in one transaction."""
        return self.read(lambda txn: [self.mark_in(txn, key) or Mark() for key in keys])

    def held(self, keys: list[bytes]) -> list[tuple[int, int]]:
        """Return how many results the table has of each task, and how many bytes of data.

        In one transaction, for at most LISTING_KEYS tasks; records are not verified.
        """

        def of(txn: Txn, key: bytes) -> tuple[int, int]:
            try:
                mark = self.mark_in(txn, key) or Mark()
            except CorruptRecordError:
                return 0, 0
            places = (DB_RESULTS, mark.result_us), (DB_PROGRESS, mark.progress_us)
            sizes = [
                len(txn.get(TIME.pack(time_us), b"", db=self.db[name])) - records.RECORD.size
                for name, time_us in places
                if time_us
            ]
            return int(mark.result_us > 0), max(0, sum(sizes))

        return self.read(lambda txn: [of(txn, key) for key in keys])

    def mark_in(self, txn: Txn, key: bytes) -> Mark | None:
        """Return a task's mark as a transaction sees it."""
        raw = txn.get(key, db=self.db[DB_IDS])
        return None if raw is None else records.decode_mark(self.seed, key, bytes(raw), self.path)

    def record_in(self, txn: Txn, name: bytes, time_us: int, key: bytes) -> Record:
        """Return the record to which a task's mark points.  Raises CorruptRecordError."""
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
                f"{self.path}: the mark of task {key!r} points to a record of {record.key!r}"
            )
        return record

    def head_in(self, txn: Txn, name: bytes, time_us: int) -> Entry | None:
        """Return the unverified head of a record; None if there is none."""
        raw = txn.get(TIME.pack(time_us), b"", db=self.db[name])
        if len(raw) < records.RECORD.size:
            return None
        _, kind, flags, _, expires_us = records.RECORD.unpack_from(raw)
        return Entry(kind, flags, time_us, expires_us, b"")

    def listing(
        self,
        name: bytes,
        *,
        newest_first: bool,
        after_us: int | None,
        limit: int,
        alive_us: int = 0,
        kind: int = 0,
    ) -> tuple[list[Record], int | None]:
        """Return some records of a database by time, after ``after_us``, and where to go on.

        That is None at the end.  For DB_RUNNING the records are those of the progress.  Payloads of
        results are left out, and so are damaged records, which a check names, records that have
        expired at ``alive_us``, and records of another ``kind``, if one is given.
        """
        found: list[Record] = []
        records_of = DB_PROGRESS if name == DB_RUNNING else name
        looked_at, last = 0, b""

        def some(txn: Txn) -> int | None:
            nonlocal looked_at, last
            left = limit
            with txn.cursor(db=self.db[name]) as cursor:
                after = None if after_us is None else TIME.pack(after_us)
                if not _place_behind(cursor, after, newest_first):
                    return None
                step = cursor.iterprev if newest_first else cursor.iternext
                for key, value in step(keys=True, values=True):
                    if not left or looked_at == LOOKED_AT_MAX:
                        time_us: int = TIME.unpack(last)[0]
                        return time_us
                    last, looked_at = key, looked_at + 1
                    if name == DB_RUNNING:
                        value = txn.get(key, b"", db=self.db[DB_PROGRESS])
                    if records.is_left_out(value, alive_us, kind):
                        continue
                    left -= 1
                    record = self._listed(txn, records_of, TIME.unpack(key)[0])
                    if record is not None:
                        found.append(record)
            return None

        return found, self.read(some)

    def _listed(self, txn: Txn, name: bytes, time_us: int) -> Record | None:
        """Return a record without a result's payload; None if it is damaged or has no mark."""
        raw = txn.get(TIME.pack(time_us), b"", db=self.db[name])
        try:
            record = records.decode_record(
                self.seed, time_us, raw, self.path, with_payload=name == DB_PROGRESS
            )
            mark = self.mark_in(txn, record.key)
        except CorruptRecordError:
            return None
        return record if mark is not None and time_us in mark else None

    def changes_since(self, time_us: int) -> list[tuple[bytes, Entry]]:
        """Return keys and entries, without results' payloads, of all that is newer than a time.

        If a task runs again, the end of its result is followed by progress of the same time: its
        own progress is older than the compaction that removed the expired result.
        """
        found: list[tuple[bytes, Entry]] = []
        # DB_GONE after DB_RESULTS: a result that is removed in between is found in both.
        for name in (DB_RESULTS, DB_GONE, DB_PROGRESS):
            after_us: int | None = time_us
            while after_us is not None:
                some, after_us = self.listing(
                    name, newest_first=False, after_us=after_us, limit=LISTING_KEYS
                )
                found += [(record.key, record.entry) for record in some]
                if name == DB_GONE:
                    found += self._running_again(some)
        return found

    def _running_again(self, gone: list[Record]) -> list[tuple[bytes, Entry]]:
        """Return progress for tasks that ran again before the end of a result was recorded."""
        marks = self.marks([record.key for record in gone])
        return [
            (record.key, Entry(PROGRESS, 0, record.entry.time_us, 0, b""))
            for record, mark in zip(gone, marks, strict=True)
            if 0 < mark.progress_us < record.entry.time_us
        ]

    def expired_results(
        self, now_us: int, *, newest_first: bool, after: bytes | None, limit: int
    ) -> tuple[list[Record], bytes | None]:
        """Return some expired results that no compaction has removed yet, and where to go on.

        They are in the order of their expiry, after the expiry key ``after``.  None is the end.
        """
        found: list[Record] = []

        def expired(txn: Txn) -> bytes | None:
            at = after
            if at is None and newest_first:
                at = records.EXPIRY.pack(now_us + 1, 0, 0)
            with txn.cursor(db=self.db[DB_EXPIRIES]) as cursor:
                placed = _place_behind(cursor, at, newest_first)
                step = cursor.prev if newest_first else cursor.next
                for _ in range(LOOKED_AT_MAX):
                    if not placed:
                        return None
                    at = bytes(cursor.key())
                    expires_us, kind, time_us = records.EXPIRY.unpack(at)
                    if expires_us > now_us:
                        return None
                    record = self._listed(txn, DB_RESULTS, time_us) if kind == RESULT else None
                    if record is not None:
                        found.append(record)
                    placed = step()
                    if len(found) == limit:
                        break
            return at

        return found, self.read(expired)

    def newest_time_us(self) -> int:
        """Return the time of the newest record, 0 for an empty table; ignore damaged keys."""
        times = [0]

        def newest(txn: Txn) -> None:
            names = (DB_RESULTS, DB_PROGRESS, DB_GONE, DB_MESSAGES, DB_DEAD)
            for name in filter(self.db.__contains__, names):
                with txn.cursor(db=self.db[name]) as cursor:
                    placed = cursor.last()
                    while placed and TIME.unpack(cursor.key())[0] > TIME_MAX:
                        placed = cursor.prev()
                    if placed:
                        times.append(TIME.unpack(cursor.key())[0])

        self.read(newest)
        return max(times)

    def counts(self) -> TableCounts:
        """Return sizes, in a few microseconds."""

        def look(txn: Txn) -> tuple[Any, ...]:
            stats = {name: txn.stat(db) for name, db in self.db.items()}
            others = [txn.stat(self._meta_db), self.env.stat()]
            return stats, others, self.env.info(), self.read_meta_in(txn)

        stats, others, info, meta = self.read(look)
        snapshots = self._readers.snapshots(self._table)
        page = others[0]["psize"]
        pages = (info["last_pgno"] + 1) - 2
        for stat in (*stats.values(), *others):
            pages -= stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return TableCounts(
            stats[DB_RESULTS]["entries"],
            stats[DB_PROGRESS]["entries"],
            stats[DB_GONE]["entries"],
            meta.data_bytes,
            max(pages, 0) * page,
            (info["last_pgno"] + 1) * page,
            len(snapshots),
            min(snapshots, default=None),
        )

    def read_meta(self) -> Meta:
        """Return the current meta record."""
        return self.read(self.read_meta_in)

    def read_meta_in(self, txn: Txn) -> Meta:
        """Return the meta record as a transaction sees it."""
        raw = txn.get(_META_KEY, db=self._meta_db)
        if raw is None:
            raise NotAStoreError(f"{self.path}: an LMDB file, but it has no logstore header")
        meta = records.decode_meta(bytes(raw), self.path)
        if not OLDEST_VERSION <= meta.version <= FORMAT_VERSION or meta.data_format != DATA_FORMAT:
            raise FormatVersionError(
                f"{self.path}: format {meta.version}.{meta.data_format}, this version of logstore "
                f"reads {OLDEST_VERSION}.{DATA_FORMAT} to {FORMAT_VERSION}.{DATA_FORMAT}"
            )
        unknown = meta.features & ~records.FEATURES
        if unknown:
            bits = [str(bit) for bit in range(32) if unknown >> bit & 1]
            raise FormatVersionError(
                f"{self.path}: uses features that this version of logstore does not know (bit "
                f"{', '.join(bits)}); use a newer version"
            )
        return meta

    def last_transaction(self) -> int:
        """Return the number of the newest transaction in the file, -1 if it is no table any more.

        Read from the file and not from the map, because another program may have truncated it.
        """
        first = os.pread(self.fd, metapages.META_BYTES, 0)
        if len(first) < metapages.META_BYTES:
            return -1
        page = metapages.decode(first)
        second = os.pread(self.fd, metapages.META_BYTES, page.page_bytes)
        if page.magic != metapages.MAGIC or len(second) < metapages.META_BYTES:
            return -1
        return max(page.txn_id, metapages.decode(second).txn_id)

    # -- writing ----------------------------------------------------------------------------

    def write(self, fill: Callable[[Txn], T], *, wait_s: float = WAIT_S, has_new: bool = True) -> T:
        """Run ``fill`` in a write transaction; committed, and on the disk, when this returns.

        With ``has_new`` False, readers may see it before it is on the disk.  Raises
        OldReadersError, without any effect, if readers of an old snapshot do not end within
        ``wait_s``.  After an error in the commit itself, what is on the disk is either the state
        before or the state after: the caller finds out by reading the meta record.
        """
        readers = self._readers
        with self._writing:
            newest = self.env.info()["last_txnid"]
        readers.wait_for_old(self.path, self._table, newest, wait_s)  # a fork does not
        with self._writing:
            if readers.is_cut_short():
                durability.sync_data(self.fd)
            txn = self.env.begin(write=True, buffers=True)
            try:
                value = fill(txn)
                readers.begin_commit(newest, has_new=has_new)
                try:
                    txn.commit()
                finally:
                    readers.end_commit()
                self.db |= self._made
                return value
            except struct.error as exc:
                raise self._damaged_index(exc) from exc
            finally:
                self._made = {}
                txn.abort()  # without effect after the commit

    def _damaged_index(self, exc: struct.error) -> CorruptTableError:
        return CorruptTableError(
            f"{self.path}: a key of a wrong size in an index ({exc}); restore a backup, or copy "
            f"what can be read with get_result()"
        )

    def write_meta(self, txn: Txn, meta: Meta) -> None:
        """Put the meta record, as part of a transaction."""
        txn.put(_META_KEY, records.encode_meta(meta), db=self._meta_db)

    def grow_map(self) -> None:
        """Enlarge a map that is full; fold lock held, no transaction open.

        Raises ResourceLimitError if there is no room for a larger one.
        """
        self._resize_map(grow_map)

    def adopt_map_size(self) -> None:
        """Enlarge the map to the file that another process has grown; as :meth:`grow_map`."""
        self._resize_map(adopt_map)

    def _resize_map(self, resize: Callable[[lmdb.Environment, str], None]) -> None:
        with self._writing, self._gate:
            try:
                resize(self.env, self.path)
            except lmdb.Error as exc:  # the old map is lost, and the new one does not fit
                self._close_environment()
                raise translate(exc, self.path) from exc

    def copy_to(self, fd: int, pulse: Callable[[int], None] = lambda written: None) -> None:
        """Copy the newest snapshot without its free pages to an empty file, which is not synced.

        No transaction is open during the copy: see pages.py, also for ``pulse``.  Raises
        OvertakenError, CorruptTableError, StoreClosedError and OSError.
        """
        with self._gate:
            transaction = self.read(lambda txn: txn.id())
            mine = files.duplicate(self.fd)  # the table may be closed during the copy
        try:
            copy_pages(mine, self.path, transaction, fd, pulse)
        finally:
            files.close(mine)


def _place_behind(cursor: Any, after: bytes | None, newest_first: bool) -> bool:
    """Move a cursor to the next key after ``after``, which need not exist."""
    if after is None:
        return bool(cursor.last() if newest_first else cursor.first())
    found = cursor.set_range(after)
    if newest_first:
        return bool(cursor.prev() if found else cursor.last())
    return bool(cursor.next() if found and cursor.key() == after else found)


def _place(mark: Mark, progress: bool) -> tuple[bytes, int]:
    """Return the database and time of the record that a reader needs."""
    if progress:
        return DB_PROGRESS, mark.progress_us
    if mark.result_us:
        return DB_RESULTS, mark.result_us
    return DB_GONE, mark.gone_us


# -- fork --------------------------------------------------------------------------------------

# One environment at a time is opened or closed, because LMDB's registry of the open ones uses
# inodes, and a file system gives the inode of a removed file to the next file.
environments = threading.Lock()

_tables: weakref.WeakSet[Table] = weakref.WeakSet()
_held: list[Table] = []


def _before_fork() -> None:
    """Wait until no thread is inside LMDB: a child could not close what is open there.

    Reads take microseconds and writes as long as a compaction; none waits for another process.
    """
    while True:
        for table in [table for table in _tables if table not in _held]:
            table._writing.acquire()
            table._gate.acquire()
            _held.append(table)
        # After the tables' locks, as where a table is closed.
        environments.acquire()
        if all(table in _held for table in _tables):
            return
        environments.release()


def _after_fork_in_parent() -> None:
    while _held:
        table = _held.pop()
        table._gate.release()
        table._writing.release()
    environments.release()


def _after_fork_in_child() -> None:
    """Close the inherited handles: a forked child has to open the files again."""
    for table in _held:
        table._gate, table._writing = threading.RLock(), threading.Lock()
        table.fd = table._slot = -1  # files.py closes it with all others; the slot is the parent's
        env, table._env = table._env, None
        if env is not None:
            env.close()
    _held.clear()
    _tables.clear()
    environments.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
