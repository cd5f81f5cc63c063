"""The workload side: acknowledge work to the explorer. Few imports."""

from __future__ import annotations

import os

__all__ = ["tell"]

_fds: dict[tuple[str, int], int] = {}


def tell(*lines: str) -> None:
    """Acknowledge that work is done and must survive a crash from now on, one line each.

    All lines are written in one write, so that lines of several processes do not mix. Without a
    recording (LOGSTORE_CRASH_ACKS is not set) it does nothing. Raise ValueError for a line with a
    line break. May be called from any thread and process; returns after the lines are written.
    """
    path = os.environ.get("LOGSTORE_CRASH_ACKS")
    if path is None:
        return
    if any("\n" in line for line in lines):
        raise ValueError("an acknowledged line must not contain a line break")
    key = (path, os.getpid())
    fd = _fds.get(key)
    if fd is None:
        fd = _fds[key] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.write(fd, "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
