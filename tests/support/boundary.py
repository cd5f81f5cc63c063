"""Faults and observers at the boundary to the operating system and LMDB.

Rules: only functions of ``os`` and ``lmdb`` are replaced, by ``monkeypatch`` or, in a process of
its own, for good.  So no test depends on which module of the package makes a call.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
from collections.abc import Callable
from typing import Any
from unittest import mock

import lmdb
import pytest

# For a peer: its log is replaced after it.
A_WRITE_WHOSE_FLUSH_FAILS = """
boundary.fail_next("fdatasync")
try:
    store.set_result("lost", 1)
except logstore.WriteError:
    pass
else:
    raise AssertionError("the flush has not failed")
"""


def path_of(fd: int) -> str:
    """Return the path of an open file."""
    return os.readlink(f"/proc/self/fd/{fd}")


def is_directory(fd: int) -> bool:
    """Return whether a directory is open."""
    return stat.S_ISDIR(os.fstat(fd).st_mode)


def die_at(name: str) -> None:
    """Kill this process where it calls a function, given by its whole name."""

    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    mock.patch(name, die).start()


def die_half_written() -> None:
    """Let the process die in its next write, when all but the last byte has been written."""
    real = os.pwrite

    def half(fd: int, data: bytes, offset: int) -> None:
        real(fd, data[:-1], offset)
        os.kill(os.getpid(), signal.SIGKILL)

    mock.patch("os.pwrite", half).start()


def fail_next(name: str, code: int = errno.EIO) -> None:
    """Let the next call of a function of ``os`` fail."""
    real = getattr(os, name)

    def failing(*_: object) -> None:
        setattr(os, name, real)
        raise OSError(code, os.strerror(code))

    setattr(os, name, failing)


def when_copied(
    monkeypatch: pytest.MonkeyPatch, work: Callable[[], object], *, times: int = 1
) -> None:
    """Do something when a copy of the table has its last page, the first few times."""
    real = os.pwrite
    left = times

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        nonlocal left
        written = real(fd, data, offset)
        # A copy ends with the second page of LMDB's; the first frame of a log has the same place.
        if left and offset == 4096 and "-log" not in os.path.basename(path_of(fd)):
            left -= 1
            work()
        return written

    monkeypatch.setattr(os, "pwrite", pwrite)


class _Environment:
    """LMDB's, which says so before a transaction begins."""

    def __init__(self, env: lmdb.Environment, begins: Callable[[bool], object]) -> None:
        self._env = env
        self._begins = begins

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def begin(self, *arguments: Any, **options: Any) -> Any:
        self._begins(bool(options.get("write")))
        return self._env.begin(*arguments, **options)


def transactions_seen_by(begins: Callable[[bool], object]) -> Callable[..., Any]:
    """Return an ``lmdb.open`` that calls ``begins(write)`` before each transaction."""
    real = lmdb.open
    return lambda *arguments, **options: _Environment(real(*arguments, **options), begins)
