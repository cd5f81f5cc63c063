"""Writing bytes, sizes and names to the disk.

Rules: nothing is durable before one of the ``sync`` functions has returned.  After an error of one
of them the page cache proves nothing: the caller must not trust what it reads back.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys

# The errors of a system call that a sandbox forbids, or that the file system does not have.
_REFUSED = frozenset(
    (errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV)
)

_GET_FLAGS, _SET_FLAGS, _NO_COPY_ON_WRITE = 0x80086601, 0x40086602, 0x00800000  # linux/fs.h


def sync_data(fd: int) -> None:
    """Force a file's data, and its size if it has changed, to the disk."""
    os.fdatasync(fd)


def sync_file(fd: int) -> None:
    """Force a file's data and metadata to the disk."""
    os.fsync(fd)


def sync_directory(path: str) -> None:
    """Force the entries of a directory to the disk: after a create, rename or unlink."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def pwrite_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset``, also after a short write."""
    written = os.pwrite(fd, data, offset)
    if written != len(data):
        view = memoryview(data)
        while written < len(view):
            count = os.pwrite(fd, view[written:], offset + written)
            if count == 0:
                raise OSError(errno.EIO, "write made no progress")
            written += count


def allocate(fd: int, size: int) -> None:
    """Give a file all its blocks, so that writing it through a mapping cannot fail.

    Raises OSError (ENOSPC, EDQUOT).  No byte of the file is written, not even with its own value,
    because another process may be changing it.  Where the system cannot allocate blocks, zeros are
    written after the end of the file; holes before it remain.
    """
    info = os.fstat(fd)
    if info.st_size >= size and info.st_blocks * 512 >= size:
        return  # before the C library can emulate the call by writing into the file
    if not info.st_size:
        _write_in_place(fd)
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as exc:
        if exc.errno not in _REFUSED:
            raise
        end = os.fstat(fd).st_size
        if end < size:
            pwrite_all(fd, bytes(size - end), end)


def _write_in_place(fd: int) -> None:
    """Turn off copy-on-write for an empty file, where the file system has it.

    Otherwise a change needs new blocks, and through a mapping a full disk kills the process.
    """
    try:
        flags = int.from_bytes(fcntl.ioctl(fd, _GET_FLAGS, bytes(8))[:4], sys.byteorder)
        fcntl.ioctl(fd, _SET_FLAGS, (flags | _NO_COPY_ON_WRITE).to_bytes(8, sys.byteorder))
    except OSError:  # most file systems do not copy on write
        pass
