"""Everything that is specific to an operating system, in one place.

Rules: no other module but ``oslimits`` calls ``fcntl``, ``ctypes`` or a Linux-only path.  Each
function says what it falls back to where the system lacks the facility.  Run and tested on Linux
only.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import mmap
import os
import sys
import threading
import time
from collections.abc import Callable

try:
    _sched_getcpu: Callable[[], int] | None = ctypes.CDLL(None).sched_getcpu
except (AttributeError, OSError):  # not a system with glibc or musl
    _sched_getcpu = None

# What a call ends with that a sandbox forbids, or that the file system does not have.
_FORBIDDEN = frozenset((errno.ENOSYS, errno.EPERM, errno.EACCES))
_REFUSED = _FORBIDDEN | {errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV}
_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))

_GET_FLAGS, _SET_FLAGS, _NO_COPY_ON_WRITE = 0x80086601, 0x40086602, 0x00800000  # linux/fs.h

NETWORK_FILESYSTEMS = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "smb", "ncpfs", "afs", "9p", "virtiofs"),
        *("ceph", "glusterfs", "lustre", "gpfs", "beegfs", "ocfs2", "gfs2", "davfs"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone"),
    )
)


# -- locks on whole files (flock: owned by the open file, freed by the kernel on death) ------

# The system call itself, for a ``finally`` that no signal handler may come before.
flock = fcntl.flock
LOCK_UN = fcntl.LOCK_UN


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Take or convert the lock on an open file without waiting; False if others hold it."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True


def unlock(fd: int) -> None:
    """Give the lock back."""
    fcntl.flock(fd, fcntl.LOCK_UN)


# -- durability ------------------------------------------------------------------------------


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
    """Write all of ``data`` at ``offset``, going on after a short write."""
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

    Raises OSError (ENOSPC, EDQUOT).  No byte that is in the file is written, not even with what
    it holds: another process may be changing it.  Where blocks cannot be asked for, zeros are
    written behind the file's end; blocks that are missing before it stay so.
    """
    info = os.fstat(fd)
    if info.st_size >= size and info.st_blocks * 512 >= size:
        return  # and no library emulates what the system lacks by writing into it
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
    """Have an empty file changed in its own blocks by a file system that copies on write.

    Else a change needs new blocks, and through a mapping a full disk ends the process.
    """
    try:
        flags = int.from_bytes(fcntl.ioctl(fd, _GET_FLAGS, bytes(8))[:4], sys.byteorder)
        fcntl.ioctl(fd, _SET_FLAGS, (flags | _NO_COPY_ON_WRITE).to_bytes(8, sys.byteorder))
    except OSError:  # most file systems have no such thing and need none
        pass


def remove(path: str) -> None:
    """Unlink a file that may be there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


# -- facts about the machine -----------------------------------------------------------------


@functools.cache
def boot_id() -> bytes:
    """16 bytes that change with every boot of the machine; zeros where it cannot be told.

    Raises OSError if no descriptor is left: processes must not disagree about the boot.
    """
    try:
        found = bytes.fromhex(_read_text("/proc/sys/kernel/random/boot_id", "").replace("-", ""))
    except ValueError:
        found = b""
    return found.ljust(16, b"\0")


def filesystem_type(path: str) -> str:
    """The type of the file system that holds ``path`` ("ext4", "nfs4"), "" if unknown.

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
    """What a file of the system says; the default where it is not there or not to be read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().strip()
    except OSError as exc:
        if exc.errno in _EXHAUSTED:
            raise
        return default


# -- processors --------------------------------------------------------------------------------


class Companion:
    """Has a thread run on the processor of whoever hands it work and then waits for it.

    Where threads hold one lock all the same, as Python's do, a second processor gains them nothing,
    and waking it from its sleep takes longer than a short job: a third of the time of a read,
    measured on an idle machine.  Does nothing where processors cannot be told or chosen.
    """

    def __init__(self) -> None:
        self._processor = -1
        self._usable = _sched_getcpu is not None and hasattr(os, "sched_setaffinity")

    def come(self, thread: threading.Thread) -> None:
        """Let ``thread`` run where the caller runs."""
        if not self._usable:
            return
        assert _sched_getcpu is not None
        processor = _sched_getcpu()
        if processor < 0:  # the system call is refused
            self._usable = False
        elif processor != self._processor and thread.native_id is not None:
            self._processor = processor
            try:
                if thread.native_id not in _before:
                    _before[thread.native_id] = os.sched_getaffinity(thread.native_id)
                os.sched_setaffinity(thread.native_id, {processor})
            except OSError:  # not allowed, or the thread has ended
                self._usable = False
                run_on(_before.get(thread.native_id), thread.native_id)


# Where a thread could run before it was bound by a companion.
_before: dict[int, set[int]] = {}


def unbound() -> set[int] | None:
    """Where the calling thread could run before a companion bound it; None if none did."""
    return _before.get(threading.get_native_id())


def run_on(processors: set[int] | None, thread_id: int = 0) -> None:
    """Let a thread, the calling one for 0, run on these processors; None changes nothing.

    Whoever starts a thread gives it :func:`unbound`'s answer to call this with, because a thread
    inherits its maker's bonds.  Does nothing where processors cannot be chosen.
    """
    if processors is not None:
        try:
            os.sched_setaffinity(thread_id, processors)
        except OSError:
            pass


# -- waiting on a word of shared memory (futex) -----------------------------------------------

_FUTEX_WAIT, _FUTEX_WAKE = 0, 1
_FUTEX_SYSCALL = {
    "x86_64": 202,
    "aarch64": 98,
    "riscv64": 98,
    "ppc64le": 221,
    "s390x": 238,
}.get(os.uname().machine)
_POLL_S = 0.002


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class SharedWord:
    """A 32-bit word of a shared mapping on which processes can sleep and be woken.

    Uses a futex where the system call is known and allowed; elsewhere :meth:`wait` polls every
    2 ms and :meth:`wake` does nothing.  The mapping lasts as long as the
    word, or until it is released.
    """

    def __init__(self, mapping: mmap.mmap, offset: int) -> None:
        if offset % 4:
            raise ValueError(f"a futex word must be 4-byte aligned, not at offset {offset}")
        self._word: ctypes.c_uint32 | None = ctypes.c_uint32.from_buffer(mapping, offset)
        self._address = ctypes.addressof(self._word)
        self._syscall = None
        if _FUTEX_SYSCALL is not None and ctypes.sizeof(ctypes.c_void_p) == 8:
            self._syscall = ctypes.CDLL(None, use_errno=True).syscall
            self._syscall.restype = ctypes.c_long

    @property
    def value(self) -> int:
        """The word as it is now."""
        assert self._word is not None
        return self._word.value

    def wait(self, seen: int, timeout_s: float) -> None:
        """Sleep while the word is ``seen``, at most ``timeout_s``; may return early."""
        if self._syscall is None:
            self._poll(seen, timeout_s)
            return
        seconds = int(timeout_s)
        spec = _Timespec(seconds, int((timeout_s - seconds) * 1e9))
        result = self._syscall(
            ctypes.c_long(_FUTEX_SYSCALL or 0),
            ctypes.c_void_p(self._address),
            ctypes.c_int(_FUTEX_WAIT),
            ctypes.c_uint32(seen),
            ctypes.byref(spec),
            None,
            ctypes.c_int(0),
        )
        if result == -1 and ctypes.get_errno() in _FORBIDDEN:
            self._syscall = None
            self._poll(seen, timeout_s)

    def _poll(self, seen: int, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        while self.value == seen and (left := end - time.monotonic()) > 0:
            time.sleep(min(_POLL_S, left))

    def wake(self) -> None:
        """Wake every process that sleeps on the word."""
        if self._syscall is not None:
            self._syscall(
                ctypes.c_long(_FUTEX_SYSCALL or 0),
                ctypes.c_void_p(self._address),
                ctypes.c_int(_FUTEX_WAKE),
                ctypes.c_int(0x7FFFFFFF),
                None,
                None,
                ctypes.c_int(0),
            )

    def release(self) -> None:
        """Let go of the mapping, so that it can be closed."""
        self._word = None
