"""The write-ahead log's two files: the one module that opens, writes, reads and syncs them.

Rules: one file has the even epochs, the other the odd ones, so that a log can be folded into the
table while the next one is written.  Only append.py writes frames, as the holder of the writer
lock.  A file grows in zero-filled steps and never shrinks, so that a commit usually does not change
its size and ``fdatasync`` needs no commit of the file system's journal.  A new log is complete and
on the disk before it is renamed into place.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from logstore._engine import durability, files, frames
from logstore._engine.systemerrors import raise_open_error
from logstore.errors import CorruptLogError, FormatVersionError, MissingLogError

FIRST_OFFSET = frames.HEADER_BYTES
GROW_BYTES = 1 << 18


class Log:
    """An open log file.  Not thread-safe: its callers hold the locks of the engine."""

    def __init__(self, path: str, fd: int, header: frames.LogHeader, size: int) -> None:
        self.path = path
        self.fd = fd
        self.version = header.version
        self.uuid = header.uuid
        self.log_id = header.log_id
        self.size = size  # as last seen; another process may have grown the file since
        self.identity = files.identity(fd)

    @classmethod
    def create(
        cls, path: str, uuid: bytes, log_id: int, size: int, *, like: str | None = None
    ) -> Log:
        """Make a new log, zero-filled, and put it at ``path``.

        It gets the owner and mode of the file ``like``, and is on the disk, its name included,
        when this returns.  Raises OSError; the file that was at ``path`` is then still there.
        """
        temporary = path + "-new"
        files.remove(temporary)
        fd = files.open_file(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, like=like)
        try:
            durability.pwrite_all(fd, frames.encode_log_header(uuid, log_id), 0)
            _fill(fd, FIRST_OFFSET, size)
            durability.sync_file(fd)
            os.rename(temporary, path)
            durability.sync_directory(os.path.dirname(path))
            return cls(path, fd, frames.LogHeader(frames.FORMAT_VERSION, uuid, log_id), size)
        except BaseException:
            files.close(fd)
            files.remove(temporary)
            raise

    @classmethod
    def open(cls, path: str, uuid: bytes, *, writable: bool = True) -> Log:
        """Open the log of the store with this UUID.

        Raises MissingLogError, FormatVersionError, CorruptLogError if page 0 is damaged or
        another store's, or another :class:`~logstore.errors.OpenError`.
        """
        try:
            fd = files.open_file(path, os.O_RDWR if writable else os.O_RDONLY)
        except FileNotFoundError:
            raise MissingLogError(
                f"{path}: the store was not closed cleanly and its log is missing, so writes "
                f"since the last compaction may be lost; put the file back, or open with "
                f"accept_log_loss=True to go on without them"
            ) from None
        except OSError as exc:
            raise_open_error(path, exc)
        try:
            info = os.fstat(fd)
            page = os.pread(fd, frames.HEADER_BYTES, 0)
            header = frames.decode_log_header(page)
            if header is None:
                raise CorruptLogError(
                    f"{path}: expected the header page of a log, found {page[:16]!r}; the file "
                    f"is kept as it is; check(salvage=True) recovers every whole frame"
                )
            check_header(path, header, uuid)
            return cls(path, fd, header, info.st_size)
        except BaseException:
            files.close(fd)
            raise

    def reserve(self, end: int) -> None:
        """Make the file reach ``end``.  Raises OSError (ENOSPC, EDQUOT); nothing is lost then."""
        if end <= self.size:
            return
        self.size = os.fstat(self.fd).st_size
        if end > self.size:
            grown = -(-end // GROW_BYTES) * GROW_BYTES
            _fill(self.fd, self.size, grown)
            self.size = grown

    def write(self, data: bytes, offset: int) -> None:
        """Write the frames of a group: to the operating system, not yet to the disk."""
        durability.pwrite_all(self.fd, data, offset)

    def sync(self) -> None:
        """Force what has been written to the disk."""
        durability.sync_data(self.fd)

    def read(self, start: int, end: int) -> bytes:
        """Read from ``start`` up to ``end``, or up to the end of the file."""
        parts = []
        while start < end:
            part = os.pread(self.fd, min(end - start, 1 << 24), start)
            if not part:
                break
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_all(self) -> bytes:
        """Read everything after page 0."""
        return self.read(FIRST_OFFSET, os.fstat(self.fd).st_size)

    def close(self) -> None:
        """Close the file."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            files.close(fd)


def log_paths(path: str) -> tuple[str, str]:
    """Return where the logs of a store are, that of the even epochs first."""
    return path + "-log", path + "-log2"


def log_path(path: str, epoch: int, version: int = frames.FORMAT_VERSION) -> str:
    """Return where the log of an epoch is.  A store of version 1 has one log."""
    return log_paths(path)[epoch & 1 if version > 1 else 0]


class Logs:
    """The two open logs of a store."""

    def __init__(self, even: Log, odd: Log) -> None:
        self.both = even, odd
        self.log_id = even.log_id if even.log_id == odd.log_id else 0  # replaced together
        self.uuid = even.uuid
        self.path = even.path.removesuffix("-log")  # of the store

    @classmethod
    def create(cls, path: str, uuid: bytes, size: int) -> Logs:
        """Make both logs of the store at ``path``, as :meth:`Log.create` does."""
        made: list[Log] = []
        log_id = _new_log_id()
        try:
            for each in log_paths(path):
                made.append(Log.create(each, uuid, log_id, size, like=path))
            return cls(*made)
        except BaseException:
            for log in made:
                log.close()
            raise

    @classmethod
    def create_odd(cls, path: str, uuid: bytes, size: int) -> None:
        """Make the log of the odd epochs beside a store that has the other one only."""
        Log.create(log_paths(path)[1], uuid, _new_log_id(), size, like=path).close()

    @classmethod
    def open(cls, path: str, uuid: bytes, *, writable: bool = True) -> Logs:
        """Open both logs of the store at ``path``, as :meth:`Log.open` does."""
        even, odd = log_paths(path)
        first = Log.open(even, uuid, writable=writable)
        try:
            return cls(first, Log.open(odd, uuid, writable=writable))
        except BaseException:
            first.close()
            raise

    def of(self, epoch: int) -> Log:
        """Return the log of an epoch."""
        return self.both[epoch & 1]

    @property
    def bytes(self) -> int:
        """The sizes of both files, as last seen."""
        return sum(log.size for log in self.both)

    def close(self) -> None:
        """Close both files."""
        for log in self.both:
            log.close()


def read_whole(path: str) -> bytes:
    """Read a log without a check.  Raises an :class:`OpenError` or OSError."""
    try:
        fd = files.open_file(path, os.O_RDONLY)
    except OSError as exc:
        raise_open_error(path, exc)
    try:
        with os.fdopen(os.dup(fd), "rb") as file:
            return file.read()
    finally:
        files.close(fd)


def check_header(path: str, header: frames.LogHeader, uuid: bytes) -> None:
    """Refuse a whole header page of another version or of another store's log."""
    if not frames.OLDEST_VERSION <= header.version <= frames.FORMAT_VERSION:
        raise FormatVersionError(
            f"{path}: log format {header.version}, this version reads {frames.OLDEST_VERSION} to "
            f"{frames.FORMAT_VERSION}"
        )
    if header.uuid != uuid:
        raise CorruptLogError(
            f"{path}: the log belongs to store {header.uuid.hex()}, not to {uuid.hex()}; put the "
            f"right log beside the table"
        )


@contextmanager
def frames_of(path: str) -> Iterator[None]:
    """Name the log in the error for a frame that a newer version has written."""
    try:
        yield
    except frames.NewerFrameError as exc:
        raise FormatVersionError(f"{path}: {exc}") from None


def _new_log_id() -> int:
    """Return a random number, by which a log differs from the one before it."""
    return int.from_bytes(os.urandom(8), "little") >> 1 | 1


def _fill(fd: int, start: int, end: int) -> None:
    zeros = bytes(min(end - start, 1 << 20))
    while start < end:
        part = zeros[: end - start]
        durability.pwrite_all(fd, part, start)
        start += len(part)
