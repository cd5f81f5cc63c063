"""Locks on whole files.

Rules: a lock (``flock``) belongs to the open file, not to the process.  The kernel releases it when
the last descriptor of the open file is closed, so also when its process dies.
"""

from __future__ import annotations

import errno
import fcntl

# The system call itself, for a ``finally`` that no signal handler may come before.
flock = fcntl.flock
LOCK_UN = fcntl.LOCK_UN


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Take or convert the lock on an open file; return False at once if others hold it."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True


def unlock(fd: int) -> None:
    """Release the lock."""
    fcntl.flock(fd, fcntl.LOCK_UN)
