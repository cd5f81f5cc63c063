"""Copies of the table beside writers: what a vacuum, a backup and a check have in common.

Rules: while a copy gets on, compactions are put off, so that its snapshot holds; it says so from
step to step, and never waits for a lock that others need.  A process that is stopped in the middle
of a copy puts compactions off for HOLD_NS, and until the log has reached COPY_LOG_FACTOR times its
limit, at most.  When it goes on it finds its copy void, if it is, and begins again.
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
    """Do what copies the table, again if it was overtaken; one at a time in a process.

    Raises StoreBusyError if it always was, and what ``attempt`` raises.
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
    """Whether a process that gets on with its copy has made the file at ``path``."""
    if not engine.is_held(by):
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
    """The descriptor of a new, empty file that is taken, in place of what another process left."""
    files.remove(path)
    fd = files.open_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, like=engine.table.fd)
    locks.try_lock(fd)
    return fd


def open_copy(fd: int, path: str, *, readonly: bool = False) -> Table:
    """Open a copy that has been made.  Raises OvertakenError if its place has been taken."""
    try:
        table = Table(path, readonly=readonly, lock=False)
    except (LogstoreError, OSError):
        if files.is_at(fd, path):
            raise
        raise OvertakenError(f"{path}: taken away by another process") from None
    if table.identity != files.identity(fd):
        table.close()
        raise OvertakenError(f"{path}: replaced by another process")
    return table


def copy_table(
    engine: Engine, by: Copy, fd: int, pulse: Callable[[int], None] = lambda written: None
) -> None:
    """Copy the table, as of a moment during the call, to an empty file, with compactions put off.

    They still are when this returns.  ``by`` is its kind.  ``pulse`` is called at
    each step with the number of bytes written so far.  The file is not synced.  Raises
    OvertakenError, StoreClosedError, CorruptTableError and OSError.
    """

    def get_on(written: int) -> None:
        shelter.check()
        pulse(written)  # if it finds the copy void, it is another one that gets on
        engine.hold_compactions(by)

    engine.hold_compactions(by)
    engine.from_table(lambda table: table.copy_to(fd, get_on))
