"""Locks on files: one on the whole file (``flock``), and one on a byte of it.

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
flock = fcntl.flock
LOCK_UN = fcntl.LOCK_UN
fcntl_call = fcntl.fcntl
SETLK = fcntl.F_OFD_SETLK
UNLOCKED_BYTE = struct.pack("hhqqi4x", fcntl.F_UNLCK, os.SEEK_SET, 0, 1, 0)
_LOCKED_BYTE = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
_FLOCK = struct.Struct("hhqqi4x")
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


def try_lock_byte(fd: int) -> bool:
    """Take the lock on the first byte of an open file without waiting; False if others hold it.

    It is given back by ``fcntl_call(fd, SETLK, UNLOCKED_BYTE)``.
    """
    return _try_set(fd, _LOCKED_BYTE)


def _try_set(fd: int, lock: bytes) -> bool:
    try:
        fcntl_call(fd, SETLK, lock)
    except OSError as exc:
        if exc.errno in _HELD_BY_OTHERS:
            return False
        raise
    return True


def try_lock_at(fd: int, offset: int) -> bool:
    """As :func:`try_lock_byte`, for the byte at an offset, which need not exist."""
    return _try_set(fd, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0))


def unlock_at(fd: int, offset: int) -> None:
    """Release the lock on the byte at an offset."""
    fcntl_call(fd, SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, offset, 1, 0))


def unlock(fd: int) -> None:
    """Release the lock."""
    fcntl.flock(fd, fcntl.LOCK_UN)
