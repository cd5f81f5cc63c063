"""Copies of the table beside writers: the common part of a vacuum, a backup and a check.

Rules: while a copy advances, compactions are put off, so that its snapshot stays valid.  The copy
renews that at each step, and never waits for a lock that others need.  If its process is stopped,
compactions are put off for HOLD_NS, or until the log has COPY_LOG_FACTOR times its limit.  When the
process continues and finds the copy void, it begins again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from logstore._engine import files, locks, shelter
from logstore._engine.engine import Engine
from logstore._engine.header import Copy
from logstore._engine.pages import OvertakenError
from logstore._engine.table import Table
from logstore.errors import LogstoreError, StoreBusyError

T = TypeVar("T")

ATTEMPTS = 3


def make_copy(engine: Engine, what: Copy, attempt: Callable[[], T]) -> T:
    """Call ``attempt``, again if the copy was overtaken; one copy at a time in a process.

    Raises StoreBusyError after three times, and what ``attempt`` raises.
    """
    for _ in range(ATTEMPTS):
        try:
            with engine.copy_lock:
                return attempt()
        except OvertakenError:
            continue
    raise StoreBusyError(
        f"{engine.path}: the {what} was overtaken by compactions {ATTEMPTS} times; try again when "
        f"less is written"
    )


def is_taken(engine: Engine, by: Copy, path: str) -> bool:
    """Return whether the file at ``path`` belongs to a process whose copy advances."""
    if not engine.deferral.is_held(by):
        return False
    try:
        fd = files.open_file(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True  # another user's
    try:
        return not locks.try_lock(fd, shared=True)
    finally:
        files.close(fd)


def take(engine: Engine, path: str) -> int:
    """Make an empty, locked file in place of one that is left over; return its descriptor."""
    files.remove(path)
    fd = files.open_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, like=engine.table.fd)
    locks.try_lock(fd)
    return fd


def open_copy(fd: int, path: str, *, readonly: bool = False) -> Table:
    """Open a finished copy.  Raises OvertakenError if another file is at its path."""
    try:
        table = Table(path, readonly=readonly)
    except (LogstoreError, OSError):
        if files.is_at(fd, path):
            raise
        raise OvertakenError(f"{path}: removed by another process") from None
    if table.identity != files.identity(fd):
        table.close()
        raise OvertakenError(f"{path}: replaced by another process")
    return table


def copy_table(
    engine: Engine, by: Copy, fd: int, pulse: Callable[[int], None] = lambda written: None
) -> None:
    """Copy the table, as of a moment during the call, to an empty file, which is not synced.

    Compactions are put off, and still are when this returns.  ``pulse`` is called at each step
    with the number of bytes written so far.  Raises OvertakenError, StoreClosedError,
    CorruptTableError and OSError.
    """

    def step(written: int) -> None:
        shelter.check()
        pulse(written)  # first: if it finds the copy void, compactions are not put off further
        engine.hold_compactions(by)

    engine.hold_compactions(by)
    engine.from_table(lambda table: table.copy_to(fd, step))
