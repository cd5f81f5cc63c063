"""Queries to the operating system: the boot, file systems, limits.

Rules: nothing is changed.  A limit that the system does not report does not exist.  Without Linux's
``/proc``, each function has a default.
"""

from __future__ import annotations

import errno
import functools
import mmap
import os
import resource
import sys

from logstore._engine import durability

_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))

NETWORK_FILESYSTEMS = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "smb", "ncpfs", "afs", "9p", "virtiofs"),
        *("ceph", "glusterfs", "lustre", "gpfs", "beegfs", "ocfs2", "gfs2", "davfs"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone"),
    )
)


@functools.cache
def boot_id() -> bytes:
    """Return 16 bytes that change with every boot of the machine; zeros if unknown.

    Raises OSError if no descriptor is left: processes must not disagree about the boot.
    """
    try:
        found = bytes.fromhex(_read_text("/proc/sys/kernel/random/boot_id", "").replace("-", ""))
    except ValueError:
        found = b""
    return found.ljust(16, b"\0")


def filesystem_type(path: str) -> str:
    """Return the type of the file system of ``path`` ("ext4", "nfs4"), "" if unknown.

    Raises OSError if no descriptor is left.
    """
    mounts = _read_text("/proc/self/mountinfo", "")
    try:
        device = os.stat(path).st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        for line in mounts.splitlines():
            left, _, right = line.partition(" - ")
            if left.split()[2] == wanted:
                return right.split()[0]
    except (OSError, IndexError):
        pass
    return ""


def _read_text(path: str, default: str) -> str:
    """Read a file of the system; return the default if it is missing or not readable."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().strip()
    except OSError as exc:
        if exc.errno in _EXHAUSTED:
            raise
        return default


def address_space_left() -> int | None:
    """Return how many bytes this process may still map (``ulimit -v``); None for no limit."""
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
    """Return whether so much address space is free now."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        mmap.mmap(-1, size, flags=flags, prot=0).close()  # without access it takes no memory
    except (OSError, OverflowError):
        return False
    return True


def file_bytes_left(path: str) -> int:
    """Return by how much a file may grow (``ulimit -f``)."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit == resource.RLIM_INFINITY:
        return sys.maxsize
    try:
        return max(0, limit - os.stat(path).st_size)
    except OSError:
        return limit


def space_error(directory: str, size: int) -> int:
    """Return ENOSPC or EDQUOT if a file of that size cannot be made in a directory, else 0.

    Makes a file without a name, because the free space does not show quotas.
    """
    import tempfile  # rarely needed, and slow to import

    try:
        with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
            durability.allocate(file.fileno(), size)
    except OSError as exc:
        return exc.errno if exc.errno in (errno.ENOSPC, errno.EDQUOT) else 0
    return 0
