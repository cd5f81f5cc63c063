"""The write-ahead log's file: the one module that opens, writes, reads and syncs it.

Rules: every write is made by the holder of the writer lock, which is an exclusive ``flock`` on
this file.  The file grows in zero-filled steps and never shrinks, so that a commit usually does not
change its size and ``fdatasync`` needs no commit of the file system's journal.  A new log is
complete and on the disk before it is renamed into place.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from logstore._engine import durability, files, frames, locks
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
        """Make a new log, zero-filled, locked by the caller, and put it at ``path``.

        It gets the owner and mode of the file ``like``, and is on the disk, its name included,
        when this returns.  Raises OSError; the file that was at ``path`` is then still there.
        """
        temporary = path + "-new"
        files.remove(temporary)
        fd = files.open_file(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, like=like)
        try:
            locks.try_lock(fd)
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
                f"since the last compaction are lost; put the file back, or open with "
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

    def try_lock(self) -> bool:
        """Take the writer lock if it is free."""
        return locks.try_lock(self.fd)

    def unlock(self) -> None:
        """Release the writer lock."""
        locks.unlock(self.fd)

    def close(self) -> None:
        """Close the file, which releases the writer lock if it is held."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            files.close(fd)


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


def new_log_id() -> int:
    """Return a random number, by which a log differs from the one before it."""
    return int.from_bytes(os.urandom(8), "little") >> 1 | 1


def _fill(fd: int, start: int, end: int) -> None:
    zeros = bytes(min(end - start, 1 << 20))
    while start < end:
        part = zeros[: end - start]
        durability.pwrite_all(fd, part, start)
        start += len(part)
