"""Locks on files: one on the whole file (``flock``), and those on single bytes of it.

Rules: a lock belongs to the open file, not to the process.  The kernel frees it when the last
descriptor of the open file is closed, so also when its process dies.  The two kinds do not see
each other.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

# The system call itself, for a ``finally`` that no signal handler may come before.
fcntl_call = fcntl.fcntl
SETLK = fcntl.F_OFD_SETLK
_HELD_BY_OTHERS = (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN)


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Take or convert the lock on an open file; return False at once if others hold it."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno in _HELD_BY_OTHERS:
            return False
        raise
    return True


class ByteLock:
    """The lock on one byte of a file, which need not exist: arguments of ``fcntl_call``."""

    __slots__ = ("locked", "unlocked")

    def __init__(self, at: int) -> None:
        self.locked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, at, 1, 0)
        self.unlocked = struct.pack("hhqqi4x", fcntl.F_UNLCK, os.SEEK_SET, at, 1, 0)


# The locks of writers, and of workers that take messages, on bytes of the ``-shm`` file.
WRITER, FLUSH, FOLD, TAKE = ByteLock(0), ByteLock(1), ByteLock(2), ByteLock(3)


def try_lock_byte(fd: int, byte: ByteLock) -> bool:
    """Take the lock on a byte of an open file without waiting; False if others hold it.

    It is given back by ``fcntl_call(fd, SETLK, byte.unlocked)``.
    """
    try:
        fcntl_call(fd, SETLK, byte.locked)
    except OSError as exc:
        if exc.errno in _HELD_BY_OTHERS:
            return False
        raise
    return True


def unlock_byte(fd: int, byte: ByteLock) -> None:
    """Release the lock on a byte."""
    fcntl_call(fd, SETLK, byte.unlocked)


def is_byte_locked(fd: int, byte: ByteLock) -> bool:
    """Return whether another open file has the lock on a byte."""
    return fcntl_call(fd, fcntl.F_OFD_GETLK, byte.locked)[:2] != byte.unlocked[:2]


def unlock(fd: int) -> None:
    """Release the lock."""
    fcntl.flock(fd, fcntl.LOCK_UN)
