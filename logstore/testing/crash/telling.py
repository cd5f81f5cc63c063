"""The workload's side: telling the explorer what has been done. Imports next to nothing."""

from __future__ import annotations

import os

__all__ = ["tell"]

_fds: dict[tuple[str, int], int] = {}


def tell(*lines: str) -> None:
    """Tells that something is done and must survive a crash from now on: one line each.

    All lines go out in one write, so that lines of several processes do not mix. Outside of a
    recording (LOGSTORE_CRASH_ACKS is not set) it does nothing. Raises ValueError for a line with a
    line break. May be called from any thread and process; returns when the line is told.
    """
    path = os.environ.get("LOGSTORE_CRASH_ACKS")
    if path is None:
        return
    if any("\n" in line for line in lines):
        raise ValueError("a told line must not contain a line break")
    key = (path, os.getpid())
    fd = _fds.get(key)
    if fd is None:
        fd = _fds[key] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.write(fd, "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
