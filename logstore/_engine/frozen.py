"""Reading a store that no process has open, without writing a byte.

Rules: no lock is taken and no file is made, so the medium may be read-only; the log is scanned
into the overlay as recovery would.  What LMDB reads without its lock file is only good while
nobody writes, so around each read the files are looked at: if they have changed, a typed error
comes instead of the value.
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
from logstore._engine.recovery import log_counts, recover_frames
from logstore._engine.table import Table
from logstore.errors import NotAStoreError, StoreBusyError

T = TypeVar("T")


def is_in_use(path: str) -> bool:
    """Whether some process has the store open.  Raises OSError if that cannot be found out.

    It says no where a file may not be read: then nor may those that it is asked for.
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
    """An engine for files at rest or left by a crash: it only reads."""

    def __init__(self, path: str, options: Options) -> None:
        self._files = (path, path + "-shm")
        self._identity = self._look()
        super().__init__(path, options, Table(path, readonly=True, lock=False), Counters())
        meta = self.table.meta
        self._overlay = Overlay(meta.epoch)
        self._log_bytes = 0
        try:
            if log_counts(path, meta):
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
        """What the log holds; it does not change.  Raises StoreBusyError if the files have."""
        if self.closed:
            raise self.closed_error()
        self._check_unchanged()
        return self._overlay

    def current_view(self) -> Overlay | None:
        """None: looking at the files is not for an event loop."""
        return None

    def from_table(self, read: Callable[[Table], T]) -> T:
        """Run a read on the table, if nobody has opened the store meanwhile."""
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
        """Size of the log's file, 0 if there is none."""
        return self._log_bytes

    def read_log(self) -> bytes:
        """The part of the log that counts."""
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
