"""Opening an LMDB file safely, and LMDB's errors as the package's own.

Rules: a file is looked at before LMDB is let near it, so that no file, however damaged, crashes
the process; looking only reads.  Every message names the file and what was found.
"""

from __future__ import annotations

import os
import stat
import struct

import lmdb

from logstore.engine import files, osdep
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
DATABASES_MAX = 16
LOOKS = 3
LOCK_FILE_BYTES = -(-(READERS_MAX + 2) * 64 // 4096) * 4096  # a cache line for each reader
DATA_FORMAT = 0  # py-lmdb's lib_version for LMDB 0.9 files

_META_PAGE = struct.Struct("<QHHI IIQQ I44x 48x QQ")
# page number, pad, flags, bounds; magic, version, address, map size; page size; last page, txn id
assert _META_PAGE.size == 152
_MAGIC = 0xBEEFC0DE
_VERSION = 1


class MapResizedError(LogstoreError):
    """Another process has grown the map: take the writer lock and adopt its size."""


def inspect_file(path: str) -> None:
    """Refuse a file that LMDB could not open or on which it would crash.

    Raises NotAStoreError, FormatVersionError, TruncatedFileError, CorruptTableError,
    StorePermissionError or another OpenError.
    """
    for _ in range(LOOKS - 1):
        try:
            return _look_at(path)
        except (CorruptTableError, FormatVersionError, TruncatedFileError):
            continue  # a live writer may just be changing what was looked at
    return _look_at(path)


def _look_at(path: str) -> None:
    if os.path.isdir(path):
        raise NotAStoreError(f"{path}: a directory, expected a logstore file")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # it may be a FIFO
    except PermissionError as exc:
        raise no_permission(path) from exc
    except OSError as exc:
        raise OpenError(f"{path}: cannot be opened ({exc.strerror})") from exc
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise NotAStoreError(f"{path}: not a regular file")
        first = os.pread(fd, _META_PAGE.size, 0)
        if len(first) >= 20 and int.from_bytes(first[16:20], "little") != _MAGIC:
            raise NotAStoreError(f"{path}: not a logstore file, it begins {first[:16]!r}")
        size = info.st_size
        if len(first) < _META_PAGE.size:
            raise TruncatedFileError(
                f"{path}: {size} bytes, expected at least {_META_PAGE.size}; restore a backup"
            )
        _, _, _, _, _, version, _, _, page, last_page, txn_id = _META_PAGE.unpack(first)
        if version != _VERSION:
            raise FormatVersionError(f"{path}: LMDB data format {version}, expected {_VERSION}")
        if page & (page - 1) or not 512 <= page <= 65536:
            raise CorruptTableError(f"{path}: a page size of {page} in the header")
        second = os.pread(fd, _META_PAGE.size, page)
        if len(second) < _META_PAGE.size:
            raise TruncatedFileError(
                f"{path}: {size} bytes, expected at least {2 * page}; restore a backup"
            )
        fields = _META_PAGE.unpack(second)
        if fields[4] != _MAGIC:
            raise CorruptTableError(f"{path}: the second meta page is damaged; restore a backup")
        if fields[-1] > txn_id:
            last_page = fields[-2]
        expected = (last_page + 1) * page
        size = os.fstat(fd).st_size  # taken last: pages are written before what speaks of them
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


def verify_pages(path: str) -> None:
    """Verify the structure of a table at rest, page by page, without LMDB.

    Raises CorruptTableError, or an :class:`OpenError` as :func:`inspect_file` does.  Takes time
    in proportion to the file.
    """
    from lmdb.verify import VerifyError, verify

    inspect_file(path)
    try:
        problems = verify(path, subdir=False)  # type: ignore[no-untyped-call]
    except VerifyError as exc:
        problems = [str(exc)]
    if problems:
        raise CorruptTableError(
            f"{path}: {len(problems)} damaged pages, the first: {problems[0]}; restore a backup"
        )


def open_environment(path: str, *, readonly: bool, lock: bool, create: bool) -> lmdb.Environment:
    """An LMDB handle.  Raises an :class:`OpenError` or CorruptTableError."""
    try:
        return lmdb.open(
            path,
            map_size=MAP_BYTES,
            subdir=False,
            readonly=readonly,
            lock=lock,
            create=create,
            mode=MODE,
            max_dbs=DATABASES_MAX,
            max_readers=READERS_MAX,
            lib_version=DATA_FORMAT,
        )
    except lmdb.Error as exc:
        raise translate(exc, path) from exc


def make_lock_file(path: str) -> None:
    """Make LMDB's lock file anew, with all its blocks: LMDB maps it and would crash without.

    Only while nobody has it open.  Raises OSError if there is no space.
    """
    lock_path = path + "-lock"
    osdep.remove(lock_path)
    fd = files.open_file(lock_path, os.O_RDWR | os.O_CREAT | os.O_EXCL, like=path)
    try:
        osdep.allocate(fd, LOCK_FILE_BYTES)
    except BaseException:
        osdep.remove(lock_path)
        raise
    finally:
        files.close(fd)


def refuse_link(path: str) -> None:
    """Raise NotAStoreError for a symbolic link, which may lead to another program's file."""
    if os.path.islink(path):
        raise NotAStoreError(f"{path}: a symbolic link, expected a file of the store; remove it")


def translate(exc: lmdb.Error, path: str) -> LogstoreError:
    """LMDB's error as one of ours."""
    if isinstance(exc, lmdb.MapResizedError):
        return MapResizedError(f"{path}: {exc}")
    if isinstance(exc, lmdb.ReadersFullError):
        return StoreBusyError(f"{path}: all {READERS_MAX} reader slots are taken by live processes")
    if isinstance(exc, lmdb.InvalidError):
        return NotAStoreError(f"{path}: not a logstore file ({exc})")
    if isinstance(exc, lmdb.VersionMismatchError):
        return FormatVersionError(f"{path}: {exc}")
    if isinstance(exc, lmdb.CorruptedError | lmdb.PageNotFoundError | lmdb.PanicError):
        return CorruptTableError(
            f"{path}: LMDB found its pages damaged ({exc}); restore a backup, or copy what can be "
            f"read with tasks() and get_result()"
        )
    reason = str(exc)
    if "closed" in reason:
        return StoreClosedError(f"{path}: the store is closed")
    if "Permission denied" in reason or "Read-only file system" in reason:
        return no_permission(path)
    if "Resource temporarily unavailable" in reason:
        return StoreBusyError(
            f"{path}: another process with the same process id uses the store, as happens with "
            f"two containers on one volume; share the host's process ids between them"
        )
    return OpenError(f"{path}: {exc}")


def no_permission(path: str) -> StorePermissionError:
    """The error for files that this process may not use."""
    return StorePermissionError(
        f"{path}: no permission; the store needs to read and write this file and to create "
        f"files beside it (mode='r' needs to read only)"
    )
