"""Reading a store that no process has open, without writing a byte.

Rules: no lock is taken and no file is made, so the medium may be read-only; the log is scanned
into the overlay as in a recovery.  No writer waits for such a reader, so the files are compared
before and after each read: if they have changed, an error is raised.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TypeVar

from logstore._engine import files, locks
from logstore._engine.counters import Counters
from logstore._engine.log import FIRST_OFFSET, Log
from logstore._engine.options import Options
from logstore._engine.overlay import Overlay
from logstore._engine.reading import BaseEngine, LogState
from logstore._engine.recovery import is_log_needed, recover_frames
from logstore._engine.table import Table
from logstore.errors import NotAStoreError, StoreBusyError

T = TypeVar("T")


def is_in_use(path: str) -> bool:
    """Return whether a process has the store open.  Raises OSError if that cannot be found out.

    False if a side file may not be read: the caller cannot read the store then either.
    """
    return _is_locked(path + "-shm") or _is_locked(path)


def _is_locked(path: str) -> bool:
    try:
        fd = files.open_file(path, os.O_RDONLY)
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR):
            return False
        raise
    except NotAStoreError:
        return False
    try:
        return not locks.try_lock(fd)
    finally:
        files.close(fd)


class FrozenEngine(BaseEngine):
    """An engine that only reads, for a store that was closed or left by a crash."""

    def __init__(self, path: str, options: Options) -> None:
        self._files = (path, path + "-shm")
        self._identity = self._look()
        super().__init__(path, options, Table(path, readonly=True), Counters())
        meta = self.table.meta
        self._overlay = Overlay(meta.epoch)
        self._log_bytes = 0
        try:
            if is_log_needed(path, meta):
                self._scan_log()
        except BaseException:
            self.table.close()
            raise

    def _scan_log(self) -> None:
        meta = self.table.meta
        log = Log.open(self.path + "-log", meta.uuid, writable=False)
        try:
            recover_frames(log, meta, self._overlay, self.counters)
            self._log_bytes = log.size
        finally:
            log.close()

    def view(self) -> Overlay:
        """Return the content of the log.  Raises StoreBusyError if the files have changed."""
        if self.closed:
            raise self.closed_error()
        self._check_unchanged()
        return self._overlay

    def current_view(self) -> Overlay | None:
        """Return None: an event loop must not look at the files."""
        return None

    def from_table(self, read: Callable[[Table], T]) -> T:
        """Run a read on the table.  Raises StoreBusyError if the files have changed."""
        if self.closed:
            raise self.closed_error()
        try:
            found = read(self.table)
        except Exception:
            self._check_unchanged()
            raise
        self._check_unchanged()
        return found

    def log_state(self) -> LogState:
        """Return the end of the log, which is all synced."""
        end = self._overlay.applied
        return LogState(self._overlay.epoch, end, end)

    def log_file_bytes(self) -> int:
        """Return the size of the log file, 0 if there is none."""
        return self._log_bytes

    def read_log(self) -> bytes:
        """Read the valid part of the log."""
        if self.table.meta.clean:
            return b""
        with open(self.path + "-log", "rb") as file:
            return file.read(self._overlay.applied)[FIRST_OFFSET:]

    def release(self) -> None:
        """Close the table."""
        self.closed = True
        self.table.close()

    def after_fork_in_child(self) -> None:
        """Drop the inherited handle."""
        self.closed = self.forked = True

    def _look(self) -> tuple[object, ...]:
        return tuple(map(_identity, self._files))

    def _check_unchanged(self) -> None:
        if self._look() != self._identity:
            raise StoreBusyError(
                f"{self.path}: another process has opened the store for writing since this one "
                f"opened it with mode='r'; open it again"
            )


def _identity(path: str) -> tuple[int, ...] | None:
    try:
        info = os.stat(path)
    except FileNotFoundError:
        return None
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns
