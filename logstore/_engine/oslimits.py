"""How much of what the operating system limits is left to this process.

Rules: only asked, nothing is kept.  Where the system does not say, there is no limit.
"""

from __future__ import annotations

import errno
import mmap
import os
import resource
import sys

from logstore._engine import osdep


def address_space_left() -> int | None:
    """How many bytes this process may still map (``ulimit -v``); None where that is not limited."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * mmap.PAGESIZE
    except (OSError, IndexError, ValueError):
        used = 0
    return max(0, limit - used)


def can_reserve(size: int) -> bool:
    """Whether so much address space is free now."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        mmap.mmap(-1, size, flags=flags, prot=0).close()  # not to be read or written: no memory
    except (OSError, OverflowError):
        return False
    return True


def file_bytes_left(path: str) -> int:
    """By how much a file may grow (``ulimit -f``)."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit == resource.RLIM_INFINITY:
        return sys.maxsize
    try:
        return max(0, limit - os.stat(path).st_size)
    except OSError:
        return limit


def space_error(directory: str, size: int) -> int:
    """ENOSPC or EDQUOT if a file of that size cannot be made in a directory; else 0.

    Makes one without a name: free space alone says nothing of quotas.
    """
    import tempfile  # rarely needed, and not quickly imported

    try:
        with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
            osdep.allocate(file.fileno(), size)
    except OSError as exc:
        return exc.errno if exc.errno in (errno.ENOSPC, errno.EDQUOT) else 0
    return 0
