"""Waiting on a word of shared memory."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import time

from logstore._engine.libc import call

# The errors of the system call where a sandbox forbids it.
_FORBIDDEN = frozenset((errno.ENOSYS, errno.EPERM, errno.EACCES))

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


class SharedWord(ctypes.c_uint32):
    """A 32-bit word of a shared mapping on which processes can sleep and be woken.

    ``value`` is the word as it is now; a value that is set is cut to 32 bits.

    Uses a futex where the system call is known and allowed; elsewhere :meth:`wait` polls every
    2 ms and :meth:`wake` does nothing.  The word keeps the mapping alive.
    """

    def __new__(cls, mapping: mmap.mmap, offset: int) -> SharedWord:
        """Return the word at an offset of a mapping."""
        if offset % 4:
            raise ValueError(f"a futex word must be 4-byte aligned, not at offset {offset}")
        return cls.from_buffer(mapping, offset)

    def __init__(self, mapping: mmap.mmap, offset: int) -> None:
        self._address = ctypes.addressof(self)
        self._syscall = None
        if _FUTEX_SYSCALL is not None and ctypes.sizeof(ctypes.c_void_p) == 8:
            self._syscall = ctypes.CDLL(None, use_errno=True).syscall
            self._syscall.restype = ctypes.c_long

    def add_one(self) -> None:
        """Count up; the largest number is followed by 0."""
        self.value += 1

    def wait(self, seen: int, timeout_s: float) -> None:
        """Sleep while the word is ``seen``, at most ``timeout_s``; may return early."""
        if self._syscall is None:
            self._poll(seen, timeout_s)
            return
        seconds = int(timeout_s)
        spec = _Timespec(seconds, int((timeout_s - seconds) * 1e9))
        result = call(
            self._syscall,
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

    def wake(self, count: int = 0x7FFFFFFF) -> None:
        """Wake all processes that sleep on the word, or some of them."""
        if self._syscall is not None:
            call(
                self._syscall,
                ctypes.c_long(_FUTEX_SYSCALL or 0),
                ctypes.c_void_p(self._address),
                ctypes.c_int(_FUTEX_WAKE),
                ctypes.c_int(count),
                None,
                None,
                ctypes.c_int(0),
            )
