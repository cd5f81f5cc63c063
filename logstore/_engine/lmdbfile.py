"""Opening an LMDB file safely, and LMDB's errors as the package's own.

Rules: a file is inspected before LMDB opens it, so that no damaged file crashes the process; the
inspection only reads.  Every message names the file and what was found.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Iterator

import lmdb

from logstore._engine import metapages, system
from logstore._engine.metapages import MetaPage
from logstore._engine.systemerrors import open_error, raise_open_error, system_code
from logstore.errors import (
    CorruptTableError,
    FormatVersionError,
    LogstoreError,
    NotAStoreError,
    ResourceLimitError,
    StoreClosedError,
    TruncatedFileError,
)

MODE = 0o600
MAP_BYTES = 1 << 36  # address space, not memory; grown under the fold lock when it is full
MAP_BYTES_MIN = 1 << 20
MAP_UNIT = 1 << 16  # a multiple of every page size
DATABASES_MAX = 16
LOOKS = 5
DATA_FORMAT = 0  # py-lmdb's lib_version for LMDB 0.9 files


class MapResizedError(LogstoreError):
    """Another process has grown the map; this one has to adopt its size."""


class BrokenHandleError(CorruptTableError):
    """A commit has failed, and LMDB refuses further use of its handle: open the file again."""


def inspect_file(path: str) -> None:
    """Refuse a file that LMDB could not open or that would crash it.

    Raises NotAStoreError, FormatVersionError, TruncatedFileError, CorruptTableError,
    StorePermissionError or another OpenError.
    """
    for _ in range(LOOKS - 1):
        try:
            return _look_at(path)
        except (CorruptTableError, FormatVersionError, TruncatedFileError):
            continue  # a writer may just be changing these pages
    return _look_at(path)


def _look_at(path: str) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # it may be a FIFO
    except OSError as exc:
        raise_open_error(path, exc)
    try:
        info = os.fstat(fd)
        if stat.S_ISDIR(info.st_mode):
            raise NotAStoreError(f"{path}: a directory, expected a logstore file")
        if not stat.S_ISREG(info.st_mode):
            raise NotAStoreError(f"{path}: not a regular file")
        pages = _meta_pages(path, fd)
        page = metapages.newest(pages)
        problem = metapages.problem(pages)
        for tree in (page.free, page.main):
            if problem is None and not tree.is_empty:
                root = os.pread(fd, metapages.ROOT_BYTES, tree.root * page.page_bytes)
                problem = tree.root_problem(root) if root else None
        if problem is not None:
            raise CorruptTableError(f"{path}: damaged: {problem}; restore a backup")
        expected = (page.last_page + 1) * page.page_bytes
        size = os.fstat(fd).st_size  # last: LMDB writes new pages before the header that has them
        if size < expected and not _is_whole(path):
            raise TruncatedFileError(
                f"{path}: {size} bytes, but {expected} by its header; restore a backup"
            )
    except OSError as exc:
        raise_open_error(path, exc)
    finally:
        os.close(fd)


def _meta_pages(path: str, fd: int) -> tuple[MetaPage, MetaPage]:
    """Read both meta pages, as close together as possible."""
    first = os.pread(fd, metapages.META_BYTES, 0)
    size = os.fstat(fd).st_size
    if len(first) >= metapages.MAGIC_AT + 4 and not _has_magic(first):
        if _has_magic(os.pread(fd, metapages.META_BYTES, mmap.PAGESIZE)):
            raise CorruptTableError(f"{path}: damaged: the first meta page; restore a backup")
        raise NotAStoreError(f"{path}: not a logstore file, it begins {first[:16]!r}")
    if len(first) < metapages.META_BYTES:
        raise TruncatedFileError(
            f"{path}: {size} bytes, expected at least {metapages.META_BYTES}; restore a backup"
        )
    page_bytes = metapages.decode(first).page_bytes
    if page_bytes != mmap.PAGESIZE and (
        page_bytes & (page_bytes - 1)
        or not 512 <= page_bytes <= 65536
        or _has_magic(os.pread(fd, metapages.META_BYTES, mmap.PAGESIZE))
    ):
        raise CorruptTableError(
            f"{path}: damaged: a page size of {page_bytes} in the header; restore a backup"
        )
    both = os.pread(fd, page_bytes + metapages.META_BYTES, 0)
    if len(both) < page_bytes + metapages.META_BYTES:
        raise TruncatedFileError(
            f"{path}: {size} bytes, expected at least {2 * page_bytes}; restore a backup"
        )
    pages = metapages.decode(both), metapages.decode(both[page_bytes:])
    versions = {page.version for page in pages}
    if len(versions) == 1 and versions != {metapages.VERSION}:
        raise FormatVersionError(
            f"{path}: LMDB data format {versions.pop()}, expected {metapages.VERSION}"
        )
    return pages


def _has_magic(raw: bytes) -> bool:
    return metapages.MAGIC.to_bytes(4, "little") == raw[metapages.MAGIC_AT :][:4]


def _is_whole(path: str) -> bool:
    """Return whether all used pages are there: free pages at the end may never be written."""
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


def open_environment(path: str, *, readonly: bool, create: bool) -> lmdb.Environment:
    """Open an LMDB handle, with as large a map as there is room for.

    Raises an :class:`OpenError` or CorruptTableError.
    """
    least = least_map_bytes(path)
    for size in map_sizes(least):
        try:
            return lmdb.open(
                os.fsencode(path),
                map_size=size,
                subdir=False,
                readonly=readonly,
                lock=False,  # readers.py does the work of the lock file
                create=create,
                mode=MODE,
                max_dbs=DATABASES_MAX,
                lib_version=DATA_FORMAT,
            )
        except lmdb.Error as exc:
            # EAGAIN: the map does not fit into the memory that may be locked.
            if system_code(exc) not in (errno.ENOMEM, errno.EAGAIN):
                raise translate(exc, path) from exc
            failed = exc
    if system_code(failed) == errno.EAGAIN:
        raise translate(failed, path) from failed
    raise no_address_space(path, least) from failed


# -- the size of the map ---------------------------------------------------------------------


def least_map_bytes(path: str) -> int:
    """Return how much of a file has to be mapped, whether or not it exists yet."""
    try:
        size = os.stat(path).st_size
    except OSError:  # it will be made, or opening it raises the same error
        size = 0
    return max(MAP_BYTES_MIN, -(-size // MAP_UNIT) * MAP_UNIT)


def map_sizes(least: int) -> Iterator[int]:
    """Yield the sizes to try for a map: the largest first, and at last the least size.

    Where the address space is limited, a map takes at most a quarter of the rest, so that a
    process can have several stores and other maps.
    """
    left = system.address_space_left()
    size = MAP_BYTES
    while size > least:
        if left is None or size <= left // 4:
            yield size
        size //= 4
    yield least


def grow_map(env: lmdb.Environment, path: str) -> None:
    """Enlarge a map that is full.  No transaction may be open.

    Raises ResourceLimitError if there is no room; the map then usually stays as it is, but the
    handle may be lost.
    """
    _enlarge(env, path, env.info()["map_size"] + MAP_UNIT)


def adopt_map(env: lmdb.Environment, path: str) -> None:
    """Enlarge a map that has become smaller than the file, as :func:`grow_map` does."""
    used = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    if used > env.info()["map_size"]:
        _enlarge(env, path, used)


def _enlarge(env: lmdb.Environment, path: str, least: int) -> None:
    current = env.info()["map_size"]
    for wanted in (current * 2, current + current // 4, least):
        size = -(-max(wanted, least) // MAP_UNIT) * MAP_UNIT
        if system.can_reserve(size - current):
            env.set_mapsize(size)
            return
    raise no_address_space(path, least)


def no_address_space(path: str, least: int) -> ResourceLimitError:
    """Return the error for a map that does not fit."""
    left = system.address_space_left()
    limit = "" if left is None else f"; ulimit -v leaves this process {left}"
    error = ResourceLimitError(
        f"{path}: no address space, or no memory, is left: the table needs {least} bytes of "
        f"address space{limit}; raise the limit (ulimit -v), or unmap something else"
    )
    error.errno = errno.ENOMEM
    return error


def translate(exc: lmdb.Error, path: str) -> LogstoreError:
    """Return the package's error for an error of LMDB."""
    if isinstance(exc, lmdb.MapResizedError):
        return MapResizedError(f"{path}: {exc}")
    if isinstance(exc, lmdb.InvalidError):
        return NotAStoreError(f"{path}: not a logstore file ({exc})")
    if isinstance(exc, lmdb.VersionMismatchError):
        return FormatVersionError(f"{path}: {exc}")
    if isinstance(exc, lmdb.CorruptedError | lmdb.PageNotFoundError | lmdb.PanicError):
        kind = BrokenHandleError if isinstance(exc, lmdb.PanicError) else CorruptTableError
        return kind(
            f"{path}: LMDB found its pages damaged ({exc}); restore a backup, or copy what can be "
            f"read with tasks() and get_result()"
        )
    if str(exc).startswith("Attempt to operate on closed"):
        return StoreClosedError(f"{path}: the store is closed")
    return open_error(path, exc)
