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
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import lmdb

from logstore.engine import osdep, records
from logstore.engine.frames import FORMAT_VERSION, Entry, checksum_seed
from logstore.errors import (
    CorruptTableError,
    FormatVersionError,
    LogstoreError,
    NotAStoreError,
    OpenError,
    StoreBusyError,
    StoreClosedError,
    StorePermissionError,
    TruncatedFileError,
)

MODE = 0o600
MAP_BYTES = 1 << 36  # address space, not memory; grown under the writer lock when it is full
READERS_MAX = 1024
LMDB_DATA_FORMAT = 0  # py-lmdb's lib_version for LMDB 0.9 files

_META_KEY = b"header"
_DATABASES = (b"results", b"progress", b"gone", b"by_time", b"by_expiry")

T = TypeVar("T")


class Meta(NamedTuple):
    """What the table says of the store."""

    uuid: bytes
    epoch: int
    incarnation: int
    data_bytes: int  # keys and payloads of results and progress
    clean: bool  # closed cleanly: the log, if there is one, says nothing


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


class MapResizedError(LogstoreError):
    """Another process has grown the map: take the writer lock and call ``adopt_map_size``."""


class Table:
    """An open table file."""

    def __init__(self, path: str, *, readonly: bool = False, lock: bool = True) -> None:
        """Open an existing file, after checking that opening it is safe.

        Raises an :class:`OpenError` or CorruptTableError that names the file and what was found.
        """
        inspect_file(path)
        self.path = path
        self._readonly, self._lock = readonly, lock
        self._gate = threading.Lock()
        self._copying = threading.Lock()
        self._env: lmdb.Environment | None = None
        self._open()

    def _open(self) -> None:
        env = _open_environment(self.path, readonly=self._readonly, lock=self._lock, create=False)
        try:
            self.inode = os.stat(self.path).st_ino
            # Each handle is opened in an empty write transaction, hence only under the writer
            # lock: those opened in a read transaction would go with it.
            self._meta_db = self._open_database(env, b"meta")
            self.results, self.progress, self.gone, self.by_time, self.by_expiry = (
                self._open_database(env, name) for name in _DATABASES
            )
            with env.begin() as txn:
                self.meta = self.read_meta_in(txn)
            self.seed = checksum_seed(self.meta.uuid)
        except lmdb.Error as exc:
            env.close()
            raise self._translate(exc) from exc
        except BaseException:
            env.close()
            raise
        self._env = env

    def reopen(self) -> None:
        """Begin anew with the same file; readers wait.  After an error they get one as well."""
        with self._gate:
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

    @classmethod
    def create(cls, path: str, uuid: bytes) -> None:
        """Make an empty table, marked clean, and put it at ``path``, durably and whole.

        The caller syncs the directory.  Raises OSError or an :class:`OpenError`.
        """
        temporary = path + "-new"
        osdep.remove(temporary)
        env = _open_environment(temporary, readonly=False, lock=False, create=True)
        try:
            with env.begin(write=True) as txn:
                for name in _DATABASES:
                    env.open_db(name, txn=txn)
                meta_db = env.open_db(b"meta", txn=txn)
                txn.put(_META_KEY, _encode_meta(Meta(uuid, 1, 1, 0, True)), db=meta_db)
        finally:
            env.close()
        os.rename(temporary, path)

    def close(self) -> None:
        """Close the file; readers that come later get StoreClosedError."""
        with self._gate:
            if self._env is not None:
                self._env.close()

    # -- reading ----------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[lmdb.Transaction[bytes]]:
        """A read transaction; no other of this process is open meanwhile."""
        with self._gate:
            try:
                txn = self._begin_read()
            except lmdb.Error as exc:
                raise self._translate(exc) from exc
            try:
                yield txn
            except lmdb.Error as exc:
                raise self._translate(exc) from exc
            finally:
                txn.abort()

    def _begin_read(self) -> lmdb.Transaction[bytes]:
        try:
            return self.env.begin()
        except lmdb.ReadersFullError:
            self.env.reader_check()
            return self.env.begin()

    def get_result(self, key: bytes) -> Entry | None:
        """The stored result of a key, expired or not."""
        return self._get("results", key)

    def get_progress(self, key: bytes) -> Entry | None:
        """The stored progress of a key, expired or not."""
        return self._get("progress", key)

    def get_gone(self, key: bytes) -> Entry | None:
        """What is remembered of a deleted or expired result."""
        return self._get("gone", key)

    def _get(self, database: str, key: bytes) -> Entry | None:
        with self._gate:
            try:
                txn = self._begin_read()
                try:
                    raw = txn.get(key, db=getattr(self, database))
                finally:
                    txn.abort()
            except lmdb.Error as exc:
                raise self._translate(exc) from exc
        return None if raw is None else records.decode_record(self.seed, key, raw, self.path)

    def get_results(self, keys: list[bytes]) -> list[Entry | Exception | None]:
        """Several results in one transaction; a damaged one is its error."""
        with self.reading() as txn:
            raws = [txn.get(key, db=self.results) for key in keys]
        found: list[Entry | Exception | None] = []
        for key, raw in zip(keys, raws, strict=True):
            try:
                found.append(
                    None if raw is None else records.decode_record(self.seed, key, raw, self.path)
                )
            except Exception as exc:
                found.append(exc)
        return found

    def index_slice(
        self, index_class: bytes, *, newest_first: bool, after: bytes | None, limit: int
    ) -> list[bytes]:
        """Up to ``limit`` raw keys of the index by time, beginning behind ``after``."""
        found: list[bytes] = []
        with self.reading() as txn, txn.cursor(db=self.by_time) as cursor:
            if newest_first:
                bound = after if after is not None else bytes([index_class[0] + 1])
                placed = cursor.set_range(bound)
                placed = cursor.prev() if placed else cursor.last()
                step: Callable[[], bool] = cursor.prev
            else:
                placed = cursor.set_range(after if after is not None else index_class)
                if placed and cursor.key() == after:
                    placed = cursor.next()
                step = cursor.next
            while placed and len(found) < limit:
                key = cursor.key()
                if key[:1] != index_class:
                    break
                found.append(key)
                placed = step()
        return found

    def newest_time_us(self) -> int:
        """The time of the newest record, 0 for an empty table."""
        newest = [
            records.split_time_key(raw)[0]
            for index_class in (records.RESULTS, records.RUNNING, records.GONE)
            for raw in self.index_slice(index_class, newest_first=True, after=None, limit=1)
        ]
        return max(newest, default=0)

    def snapshot(self, visit: Callable[[lmdb.Transaction[bytes]], T]) -> T:
        """Run ``visit`` in one read transaction, for checks that need a whole view."""
        with self.reading() as txn:
            return visit(txn)

    def counts(self) -> TableCounts:
        """Sizes, in a few microseconds."""
        with self.reading() as txn:
            by_db = [
                txn.stat(db)
                for db in (
                    self.results,
                    self.progress,
                    self.gone,
                    self.by_time,
                    self.by_expiry,
                    self._meta_db,
                )
            ]
            info = self.env.info()
            main = self.env.stat()
            meta = self.read_meta_in(txn)
        page = main["psize"]
        pages = (info["last_pgno"] + 1) - 2
        for stat in (*by_db, main):
            pages -= stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return TableCounts(
            by_db[0]["entries"],
            by_db[1]["entries"],
            by_db[2]["entries"],
            meta.data_bytes,
            max(pages, 0) * page,
            (info["last_pgno"] + 1) * page,
            info["num_readers"],
            self._oldest_reader(),
        )

    def _oldest_reader(self) -> int | None:
        """The lowest transaction number in LMDB's printed reader table."""
        numbers = [line.split()[-1] for line in self.env.readers().splitlines()[1:]]
        return min((int(number) for number in numbers if number.isdigit()), default=None)

    def expiry_due(self, now_us: int) -> bool:
        """Whether there is something to take away because its time to live is over."""
        with self.reading() as txn, txn.cursor(db=self.by_expiry) as cursor:
            return cursor.first() and records.split_expiry_key(cursor.key())[0] <= now_us

    def read_meta(self) -> Meta:
        """The meta record as it is on the disk now."""
        with self.reading() as txn:
            return self.read_meta_in(txn)

    # -- writing ----------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[lmdb.Transaction[bytes]]:
        """A write transaction: committed, and on the disk, when the block ends well.

        After an error in the commit itself, what is on the disk is either the state before or
        the state after: the caller finds out by reading the meta record.
        """
        txn = self.env.begin(write=True)
        try:
            yield txn
        except BaseException:
            txn.abort()
            raise
        txn.commit()

    def write_meta(self, txn: lmdb.Transaction[bytes], meta: Meta) -> None:
        """Put the meta record, as part of a transaction."""
        txn.put(_META_KEY, _encode_meta(meta), db=self._meta_db)

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
            raise self._translate(exc) from exc

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

    # -- helpers ----------------------------------------------------------------------------

    def _open_database(self, env: lmdb.Environment, name: bytes) -> lmdb._Database:
        try:
            return env.open_db(name, create=False)
        except (lmdb.NotFoundError, lmdb.ReadonlyError) as exc:
            raise NotAStoreError(
                f"{self.path}: an LMDB file, but not a logstore one: it has no database "
                f"{name.decode()!r}"
            ) from exc

    def read_meta_in(self, txn: lmdb.Transaction[bytes]) -> Meta:
        """The meta record as a transaction sees it."""
        return _decode_meta(txn.get(_META_KEY, db=self._meta_db), self.path)

    def _translate(self, exc: lmdb.Error) -> Exception:
        if isinstance(exc, lmdb.MapResizedError):
            return MapResizedError()
        if isinstance(exc, lmdb.ReadersFullError):
            return StoreBusyError(
                f"{self.path}: all {READERS_MAX} reader slots are taken by live processes"
            )
        if isinstance(exc, lmdb.CorruptedError | lmdb.PageNotFoundError | lmdb.PanicError):
            return CorruptTableError(
                f"{self.path}: LMDB found its pages damaged ({exc}); restore a backup, or copy "
                f"what can be read with tasks() and get_result()"
            )
        if "closed" in str(exc):
            return StoreClosedError(f"{self.path}: the store is closed")
        return _translate_open(exc, self.path)


# -- opening safely --------------------------------------------------------------------------

_LMDB_META = struct.Struct("<QHHI IIQQ I44x 48x QQ")
# page number, pad, flags, bounds; magic, version, address, map size; page size; last page, txn id
assert _LMDB_META.size == 152
_LMDB_MAGIC = 0xBEEFC0DE
_LMDB_VERSION = 1


def inspect_file(path: str) -> None:
    """Refuse a file that LMDB could not open or on which it would crash.

    Raises NotAStoreError, FormatVersionError, TruncatedFileError, StorePermissionError or
    FileNotFoundError.  Only reads.
    """
    if os.path.isdir(path):
        raise NotAStoreError(f"{path}: a directory, expected a logstore file")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError as exc:
        raise _no_permission(path) from exc
    try:
        size = os.fstat(fd).st_size
        first = os.pread(fd, _LMDB_META.size, 0)
        if len(first) < _LMDB_META.size:
            if _LMDB_MAGIC.to_bytes(4, "little") != first[16:20] and size:
                raise NotAStoreError(f"{path}: not a logstore file, it begins {first[:16]!r}")
            raise TruncatedFileError(
                f"{path}: {size} bytes, expected at least {_LMDB_META.size}; restore a backup"
            )
        _, _, _, _, magic, version, _, _, page, last_page, txn_id = _LMDB_META.unpack(first)
        if magic != _LMDB_MAGIC:
            raise NotAStoreError(f"{path}: not a logstore file, it begins {first[:16]!r}")
        if version != _LMDB_VERSION:
            raise FormatVersionError(
                f"{path}: LMDB data format {version}, expected {_LMDB_VERSION}"
            )
        if page & (page - 1) or not 512 <= page <= 65536:
            raise CorruptTableError(f"{path}: a page size of {page} in the header")
        second = os.pread(fd, _LMDB_META.size, page)
        if len(second) == _LMDB_META.size:
            fields = _LMDB_META.unpack(second)
            if fields[4] != _LMDB_MAGIC:
                raise CorruptTableError(f"{path}: the second meta page is damaged")
            if fields[-1] > txn_id:
                last_page = fields[-2]
        expected = (last_page + 1) * page
        if size < expected and not _is_whole(path):
            raise TruncatedFileError(
                f"{path}: {size} bytes, but its header speaks of {expected}; restore a backup"
            )
    finally:
        os.close(fd)


def _is_whole(path: str) -> bool:
    """Whether all pages in use are there: LMDB may not have written the free ones at the end."""
    from lmdb.verify import verify  # slow and rarely needed

    try:
        return not verify(path, subdir=False)  # type: ignore[no-untyped-call]
    except Exception:
        return False


def _open_environment(path: str, *, readonly: bool, lock: bool, create: bool) -> lmdb.Environment:
    try:
        return lmdb.open(
            path,
            map_size=MAP_BYTES,
            subdir=False,
            readonly=readonly,
            lock=lock,
            create=create,
            mode=MODE,
            max_dbs=len(_DATABASES) + 1,
            max_readers=READERS_MAX,
            lib_version=LMDB_DATA_FORMAT,
        )
    except lmdb.Error as exc:
        raise _translate_open(exc, path) from exc


def _translate_open(exc: lmdb.Error, path: str) -> Exception:
    if isinstance(exc, lmdb.InvalidError):
        return NotAStoreError(f"{path}: not a logstore file ({exc})")
    if isinstance(exc, lmdb.VersionMismatchError):
        return FormatVersionError(f"{path}: {exc}")
    if isinstance(exc, lmdb.CorruptedError | lmdb.PageNotFoundError | lmdb.PanicError):
        return CorruptTableError(f"{path}: {exc}; restore a backup")
    reason = str(exc)
    if "Permission denied" in reason or "Read-only file system" in reason:
        return _no_permission(path)
    if "Resource temporarily unavailable" in reason:
        return StoreBusyError(
            f"{path}: another process with the same process id uses the store, as happens with "
            f"two containers on one volume; share the host's process ids between them"
        )
    return OpenError(f"{path}: {exc}")


def _no_permission(path: str) -> StorePermissionError:
    return StorePermissionError(
        f"{path}: no permission; the store needs to read and write this file and to create "
        f"files beside it (mode='r' needs to read only)"
    )


def _encode_meta(meta: Meta) -> bytes:
    body = records.META.pack(
        FORMAT_VERSION,
        LMDB_DATA_FORMAT,
        meta.uuid,
        meta.epoch,
        meta.incarnation,
        meta.data_bytes,
        meta.clean,
        0,
    )[:-4]
    return body + zlib.crc32(body).to_bytes(4, "little")


def _decode_meta(raw: bytes | None, path: str) -> Meta:
    if raw is None:
        raise NotAStoreError(f"{path}: an LMDB file, but it has no logstore header")
    if len(raw) != records.META.size or zlib.crc32(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
        raise CorruptTableError(f"{path}: the table's header is damaged; restore a backup")
    version, data_format, uuid, epoch, incarnation, data_bytes, clean, _ = records.META.unpack(raw)
    if version != FORMAT_VERSION or data_format != LMDB_DATA_FORMAT:
        raise FormatVersionError(
            f"{path}: format {version}.{data_format}, this version of logstore reads "
            f"{FORMAT_VERSION}.{LMDB_DATA_FORMAT}"
        )
    return Meta(uuid, epoch, incarnation, data_bytes, bool(clean))


def sync_path(path: str) -> None:
    """Force a file to the disk by its name."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        osdep.sync_file(fd)
    finally:
        os.close(fd)
