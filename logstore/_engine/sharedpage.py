"""The first pages of a file, mapped so that they can be replaced while threads use them.

A thread may still be inside a call while another closes the store.  Views of the pages stay valid:
:meth:`SharedPage.detach` maps zeros in the place of the file's pages, in one system call, so that
nothing keeps the file open or its file system busy.  Python's mmap of a file cannot do that: it
keeps a descriptor, and its views become invalid when it is closed.

Rules: the address space belongs to an anonymous mmap of Python; the pages of the file, and later
the zeros, are mapped over it.  Linux only.
"""

from __future__ import annotations

import ctypes
import mmap
import os

from logstore._engine.libc import call

_MAP_FIXED = 0x10
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int),
    ctypes.c_long,
)


class SharedPage:
    """Pages of memory; views are made of ``memory``."""

    def __init__(self, fd: int, size: int) -> None:
        """Map the first ``size`` bytes of an open file, shared.  Raises OSError."""
        self.memory = mmap.mmap(-1, size)
        self._size = size
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self._map(mmap.MAP_SHARED, fd)

    def detach(self) -> None:
        """Unmap the file; the views now show zeros, private to this process."""
        self._map(mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)

    def _map(self, flags: int, fd: int) -> None:
        access = mmap.PROT_READ | mmap.PROT_WRITE
        found = call(_LIBC.mmap, self._address, self._size, access, flags | _MAP_FIXED, fd, 0)
        if found != self._address:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
