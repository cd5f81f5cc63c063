"""The engine: one per store file and process; connects log, table, shared header and overlay.

Rules: locks are taken in this order: ``commit_lock`` (one thread), the writer lock (one process),
the view lock (one thread, for microseconds), the table's gate (one thread, for one short read).
Reads take the last two only, so they do not wait for writers.
The states of a store are in :mod:`logstore._engine.header`.  A process that gets the writer lock in
the state *interrupted* or *failed* recovers first: it folds what was published into the table and
begins a new epoch, so that nothing is ever appended to the tail of an interrupted append.
Signal handlers (:mod:`logstore._engine.shelter`): the append runs in the caller's thread;
everything that replaces a file, a map or an epoch is sheltered.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

import lmdb

from logstore._engine import clock, durability, files, frames, identity, locks
from logstore._engine.append import append
from logstore._engine.commitqueue import CommitQueue, nested_error
from logstore._engine.compaction import Batch, fold_into, is_due
from logstore._engine.counters import Counters
from logstore._engine.frames import PROGRESS, Entry
from logstore._engine.header import HELD_BY, Copy, SharedHeader, split
from logstore._engine.lmdbfile import MapResizedError
from logstore._engine.log import FIRST_OFFSET, Log, new_log_id
from logstore._engine.options import Options, arena_bytes
from logstore._engine.overlay import Overlay
from logstore._engine.reading import BaseEngine, LogState
from logstore._engine.shelter import acquire, sheltered
from logstore._engine.systemerrors import raise_write_error
from logstore._engine.table import Table
from logstore._engine.writerlock import WriterLock
from logstore._engine.writes import Write
from logstore.errors import (
    CorruptLogError,
    LogstoreError,
    OpenError,
    StoreClosedError,
    WriteError,
    WriteTimeoutError,
)

T = TypeVar("T")
CommitGroup = Callable[["Engine", list[Write], Callable[[], None]], None]

COPY_LOG_FACTOR = 64  # while a copy advances, the log may grow to this many times its limit
HOLD_NS = 10 * 10**9  # a copy whose step takes longer does not advance


class Engine(BaseEngine):
    """An open store file.  All methods are safe to call from any thread."""

    def __init__(
        self,
        path: str,
        options: Options,
        header: SharedHeader,
        presence_fd: int,
        log: Log,
        table: Table,
        counters: Counters,
        commit_group: CommitGroup,
    ) -> None:
        super().__init__(path, options, table, counters)
        self.header = header
        self.presence_fd = presence_fd
        self.log = log
        self.overlay = Overlay(header.epoch)
        self.commit_lock = threading.RLock()  # held by the thread that may write
        self._retired: list[Table] = []
        self.lost_files: list[str] = []  # which this process has found removed or replaced
        self.view_lock = threading.RLock()
        self.copy_lock = threading.Lock()  # held while a copy of the table is made
        self._held_until_ns = 0  # the time that this process last set to put compactions off
        self._writer_lock = WriterLock(header)
        self.commit_queue = CommitQueue(partial(commit_group, self), options.write_timeout_s)

    # -- the view ---------------------------------------------------------------------------

    def view(self) -> Overlay:
        """Return an overlay that has everything published before this call.

        Raises CorruptLogError if the published part of the log is damaged, StoreReplacedError if
        the files at the path were removed or replaced.
        """
        overlay = self.overlay
        if overlay.state == self.header.state:
            return overlay
        return self._refresh()

    def current_view(self) -> Overlay | None:
        """Return the overlay if it is complete, without reading from the disk; otherwise None."""
        overlay = self.overlay
        return overlay if overlay.state == self.header.state else None

    def _refresh(self) -> Overlay:
        """Catch up with what other processes have written to the log."""
        if self.view_lock._is_owned():  # type: ignore[attr-defined]
            raise nested_error()
        while True:
            with self.view_lock:
                if self.closed:
                    raise self.closed_error()
                header = self.header
                if header.replaced:
                    raise identity.replaced_error(self)
                if header.log_id != self.log.log_id:
                    self._open_sheltered(self._reopen_log)
                if header.incarnation != self.incarnation:
                    self._open_sheltered(self._follow_table)
                state = header.state
                if (
                    header.incarnation == self.incarnation
                    and header.log_id == self.log.log_id
                    and self._catch_up(state)
                ):
                    return self.overlay
                is_unpublished = header.incarnation != self.incarnation and header.writing
            if is_unpublished:
                self.exclusively(lambda: None)  # a vacuum may have died after its rename

    def _catch_up(self, state: int) -> bool:
        """Bring the overlay to ``state``; return False if the epoch changes.  View lock held."""
        epoch, committed = split(state)
        overlay = self.overlay
        if overlay.epoch != epoch:
            overlay = Overlay(epoch)
        if committed > overlay.applied:
            start = overlay.applied
            data = self.log.read(start, committed)
            found, end = frames.scan(data, start, self.seed, epoch)
            if self.header.epoch != epoch:
                return False
            if end != committed:
                raise CorruptLogError(
                    f"{self.log.path}: expected a whole frame of epoch {epoch} at offset {end}, "
                    f"found none, although everything up to {committed} was published; "
                    f"check(salvage=True) recovers the frames after it"
                )
            overlay.apply([(frame.key, frame.entry) for frame in found], committed)
        self.overlay = overlay
        return True

    def from_table(self, read: Callable[[Table], T]) -> T:
        """Run a read on the table, again if the table is replaced or its map resized."""
        while True:
            table = self.table
            try:
                if self.header.replaced:
                    raise identity.replaced_error(self)
                return read(table)
            except MapResizedError:
                sheltered(table.adopt_map_size)
            except StoreClosedError:
                if self.closed:
                    raise self.closed_error() from None
                with self.view_lock:  # otherwise another thread is just opening a new table
                    if table is self.table:
                        # A failed compaction could not open it again.
                        self._open_sheltered(table.ensure_open)

    def _open_sheltered(self, open_it: Callable[[], object]) -> None:
        try:
            sheltered(open_it)
        except Exception as exc:
            raise_write_error(self.path, exc)

    # -- the writer lock --------------------------------------------------------------------

    def exclusively(
        self, work: Callable[[], T], *, recover: bool = True, timeout_s: float | None = None
    ) -> T:
        """Run ``work`` with ``commit_lock`` and the writer lock, recovered and caught up.

        With ``recover`` False the log is not read, because it may be damaged.  Raises
        WriteTimeoutError after ``timeout_s`` (the store's ``write_timeout_s``), StoreClosedError,
        StoreReplacedError, and the errors of a recovery and of ``work``.  Both locks are released
        whatever raises, also a signal handler at any moment.
        """
        lock = self.commit_lock
        if lock._is_owned():  # type: ignore[attr-defined]
            raise nested_error()
        if timeout_s is None:
            timeout_s = self.options.write_timeout_s
        deadline = time.monotonic() + timeout_s
        try:
            if not acquire(lock, timeout_s):
                raise self._timeout_error(timeout_s)
            if self.closed:
                raise self.closed_error()
            return self._with_writer_lock(work, recover, timeout_s, deadline)
        finally:
            try:
                lock.release()  # the first call, so that no signal handler comes before it
            except RuntimeError:
                pass  # not held: the wait for it was interrupted, or too long

    def _with_writer_lock(
        self, work: Callable[[], T], recover: bool, timeout_s: float, deadline: float
    ) -> T:
        writer_lock = self._writer_lock
        try:
            try:
                if not writer_lock.acquire(self.log, deadline, self._reopen_log_sheltered):
                    raise self._timeout_error(timeout_s)
                self._prepare(recover=recover)
            except Exception as exc:
                raise_write_error(self.path, exc)
            value = work()
            writer_lock.about_to_release()
            return value
        finally:
            try:
                locks.flock(self.log.fd, locks.LOCK_UN)  # the first call, as above
            finally:
                writer_lock.released()
                self.header.announce()

    def refuse_nested(self) -> None:
        """Raise WriteError within another call of the same thread, as in a signal handler."""
        if (
            self.commit_lock._is_owned()  # type: ignore[attr-defined]
            or self.view_lock._is_owned()  # type: ignore[attr-defined]
            or self.commit_queue.is_led_here()
        ):
            raise nested_error()
        super().refuse_nested()

    def _prepare(self, *, recover: bool) -> None:
        """Under the writer lock: recover if a process died or failed, and catch up."""
        header = self.header
        if header.replaced:
            raise identity.replaced_error(self)
        if header.incarnation != self.incarnation or self.table.readonly:
            with self.view_lock:  # LMDB must not open a file twice, and readers open it too
                sheltered(self._reopen_table)
        if not recover:
            return
        if self.overlay.state != header.state:
            with self.view_lock:
                if not self._catch_up(header.state):
                    raise AssertionError("the epoch moved under the writer lock")
        if self.must_recover():
            sheltered(self.recover)

    def _reopen_log_sheltered(self) -> Log:
        with self.view_lock:
            return sheltered(self._reopen_log)

    def _reopen_log(self) -> Log:
        """Open the log that another process has put in the place of a failed one."""
        old, self.log = self.log, Log.open(self.log.path, self.log.uuid)
        old.close()
        return self.log

    def _follow_table(self) -> None:
        """Open, for reading, the file that a vacuum has put in the table's place.

        The vacuum publishes last, so a file whose incarnation is published is complete.  If
        another vacuum comes in between, the caller tries again.
        """
        incarnation = self.header.incarnation
        self._leave_old_tables()
        try:
            table = identity.open_published(self.path, self.header)
        except (OpenError, OSError):
            if self.header.incarnation == incarnation:
                raise
            return
        if table is not None:
            self.replace_table(table)
            self.incarnation = table.meta.incarnation

    def _reopen_table(self) -> None:
        """Open, for writing, the file that is the table now."""
        header = self.header
        at_path = files.identity(self.path)
        if at_path is None or at_path[1] != header.table_inode:
            if not identity.is_vacuumed(self):
                raise identity.replaced_error(self)
            # A vacuum died between its rename and its publication: the lock file may still be
            # the old table's, and has no readers of the new file.
            durability.sync_directory(os.path.dirname(self.path))
            table = Table(self.path, new_lock=True)
        elif at_path == self.table.identity:
            self.table.reopen()
            return
        else:
            self._leave_old_tables()
            table = Table(self.path)
        self.replace_table(table)
        self.incarnation = table.meta.incarnation
        identity.publish_table(self.header, table)

    def _leave_old_tables(self) -> None:
        """Close LMDB's handles of old tables; view lock held.

        LMDB opens a file once in a process, and an old table may have been opened when a vacuum
        had just made the new table's lock file.
        """
        for table in (self.table, *self._retired):
            table.leave()

    def replace_table(self, table: Table) -> None:
        """Switch to another file; the old one is closed later, without the writer lock.

        Closing a replaced file for the last time frees its blocks, which takes a while.
        """
        self._retired.append(self.table)
        self.table = table

    def verify_files(self) -> None:
        """Replace the log if it was removed; writer lock held.

        Raises StoreReplacedError if another file was removed or replaced.
        """
        identity.verify(self)
        if self.header.log_failed:
            self.recover()

    def close_retired(self) -> None:
        """Close the tables that have been replaced; readers in them try again."""
        while self._retired:
            self._retired.pop().close()

    # -- appending ----------------------------------------------------------------------------

    def append(self, entries: list[tuple[bytes, Entry]], *, sync: bool) -> None:
        """Write, flush and publish one group; writer lock held.

        Raises OSError; nothing is published then.
        """
        header = self.header
        state = header.state
        try:
            end = append(self.log, self.header, self.seed, entries, sync=sync)
        except OSError:
            if header.log_failed:
                self.recover_quietly()
            raise
        if end is None:
            return
        if sync:
            self.counters.flushes += 1
        with self.view_lock:
            if sync:
                header.synced = end
            header.publish(split(state)[0], end)
            overlay = self.overlay
            if overlay.state == state:
                overlay.apply(entries, end)
        header.writing = 0
        self.counters.count_group(len(entries))

    # -- compaction and recovery ------------------------------------------------------------

    def compact(self, *, timeout_s: float | None = None) -> None:
        """Fold the log into the table.  On the disk when this returns.  Raises WriteError."""

        def fold() -> None:
            if self.overlay or self.expiry_due():
                self.fold()

        try:
            self.exclusively(fold, timeout_s=timeout_s)
        except (OSError, lmdb.Error, OpenError) as exc:
            raise_write_error(self.path, exc)

    def fold_large(self, key: bytes, entry: Entry) -> None:
        """Put a large record into the table at once; on the disk when this returns."""
        overlay = self.overlay
        if key in (overlay.progress if entry.kind == PROGRESS else overlay.results):
            self.fold()  # otherwise readers could find the older record in the overlay
            header = self.header
            header.last_time_us += 1
            entry = entry._replace(time_us=header.last_time_us)  # after what the fold expired
        self.fold(extra=({}, {key: entry}) if entry.kind == PROGRESS else ({key: entry}, {}))

    def expiry_due(self) -> bool:
        """Return whether a compaction would remove what has expired or is over a limit."""
        now_us, retention = clock.now_us(), self.options.retention
        return self.from_table(
            lambda table: table.read(lambda txn: is_due(table, txn, retention, now_us))
        )

    def compact_if_due(self) -> None:
        """Compact after an acknowledged commit: errors are counted, the next writer recovers."""
        if self.copy_defers(0):
            return
        try:
            self.fold()
        except (OSError, lmdb.Error, LogstoreError) as exc:
            self.counters.compaction_errors += 1
            self.counters.last_compaction_error = str(exc)

    def hold_compactions(self, by: Copy) -> None:
        """Put compactions off for HOLD_NS, for a copy of the table, which repeats the call.

        A copy that is stopped or dead does not, and compactions go on.  Raises StoreClosedError.
        """
        self._held_until_ns = time.monotonic_ns() + HOLD_NS
        if self.closed:
            raise self.closed_error()
        self.header.hold_until(by, self._held_until_ns)

    def let_compactions_go_on(self, by: Copy) -> None:
        """Undo :meth:`hold_compactions`, unless another process has called it since."""
        if self.header.held_until_ns(by) == self._held_until_ns:
            self.header.hold_until(by, 0)

    def is_held(self, by: Copy | None = None) -> bool:
        """Return whether a copy of this kind, or of any, advances in any process."""
        now_ns = time.monotonic_ns()
        return any(
            0 < self.header.held_until_ns(each) - now_ns <= HOLD_NS
            for each in (HELD_BY if by is None else (by,))
        )

    def copy_defers(self, coming_bytes: int) -> bool:
        """Return whether to put a compaction off: a copy advances and the log may still grow.

        If the log may not grow, the copies are overtaken: they do not count until they go on.
        """
        end = self.header.committed + coming_bytes
        if not self.is_held():
            return False
        if end <= self.options.compact_at * COPY_LOG_FACTOR:
            return True
        for by in HELD_BY:
            self.header.hold_until(by, 0)
        return False

    def fold(self, *, extra: Batch | None = None, clean: bool = False) -> None:
        """Fold the overlay, then ``extra``, and begin a new epoch; writer lock held, caught up.

        ``clean`` marks the table as closed cleanly, for a process that is alone and closes.  An
        error leaves ``writing`` set.  Raises StoreReplacedError if the files at the path were
        removed or replaced; their data has been rescued then.
        """
        sheltered(lambda: self._fold(extra, clean))

    def _fold(self, extra: Batch | None, clean: bool) -> None:
        identity.verify(self)
        self.fold_unverified(extra=extra, clean=clean)

    def fold_unverified(self, *, extra: Batch | None = None, clean: bool = False) -> None:
        """Fold as :meth:`fold` does, into the open table, without a look at the path."""
        started = time.perf_counter()
        header = self.header
        header.writing = 1
        view = self.overlay
        meta = self.from_table(Table.read_meta)
        epoch = max(meta.epoch, view.epoch) + 1
        if epoch > frames.EPOCH_MAX:
            raise WriteError(errno.EOVERFLOW, f"{self.path}: no epochs are left")
        batches: list[Batch] = []
        if meta.epoch <= view.epoch:  # otherwise a process folded it and died before publishing
            batches.append((view.results, view.progress))
        if extra is not None:
            batches.append(extra)
        try:
            header.last_time_us = fold_into(
                self.table,
                batches,
                self.options.retention,
                now_us=clock.now_us(),
                last_time_us=header.last_time_us,
                epoch=epoch,
                incarnation=self.incarnation,
                clean=clean,
            )
        except lmdb.Error:
            self.table.reopen()  # LMDB refuses further use after some failed commits
            raise
        self.begin_epoch(epoch)
        self.counters.count_compaction(time.perf_counter() - started)
        if header.log_failed:
            self._replace_log()

    def begin_epoch(self, epoch: int) -> None:
        """Publish that the table has everything and the log begins again; writer lock held."""
        header = self.header
        header.table_txn = self.table.last_transaction()
        with self.view_lock:
            header.synced = FIRST_OFFSET
            self.header.publish(epoch, FIRST_OFFSET)
            self.overlay = Overlay(epoch)
        header.writing = 0

    def must_recover(self) -> bool:
        """Return whether a write was interrupted or has failed; writer lock held."""
        header = self.header
        return bool(header.writing or header.log_failed)

    def recover(self) -> None:
        """Recover from an interrupted or failed write: keep what was published, nothing else."""
        identity.verify(self)
        if files.identity(self.path) != self.table.identity:
            with self.view_lock:
                self._reopen_table()  # a vacuum died after its rename
        elif not self.table.is_open:
            self.table.reopen()
        self.fold_unverified()
        self.counters.recoveries += 1

    def recover_quietly(self) -> None:
        """Try to :meth:`recover` at once; if it fails, the next writer tries again."""
        try:
            sheltered(self.recover)
        except (OSError, lmdb.Error, LogstoreError) as exc:
            self.counters.last_compaction_error = str(exc)

    def _replace_log(self) -> None:
        """Begin a new log file, after a failed write or when the old one was removed.

        The page cache does not show what of the old file is on the disk.
        """
        header = self.header
        header.writing = 1
        log_id = new_log_id()
        if not identity.has_log(self) and identity.is_worth_keeping(self.log.path, self.log.uuid):
            files.keep_aside(self.log.path, "replaced")  # that file is not ours to remove
        new = Log.create(
            self.log.path, self.log.uuid, log_id, arena_bytes(self.options), like=self.path
        )
        with self.view_lock:
            old, self.log = self.log, new
            header.log_id = log_id
        old.close()
        header.log_failed = 0
        header.writing = 0

    # -- salvage ----------------------------------------------------------------------------

    def adopt_salvaged(self, overlay: Overlay) -> None:
        """Fold an overlay made of whole frames and replace the log; writer lock held."""
        self.header.log_failed = 1
        self.overlay = overlay
        self.recover()

    # -- facts ------------------------------------------------------------------------------

    def log_state(self) -> LogState:
        """Return how far the log has been published and synced."""
        if self.closed:
            raise self.closed_error()
        return LogState(*split(self.header.state), self.header.synced)

    def log_file_bytes(self) -> int:
        """Return the size of the log file."""
        return self.log.size

    def read_log(self) -> bytes:
        """Read the published part of the log from the disk."""
        return self.log.read(FIRST_OFFSET, self.log_state().committed)

    # -- closing ----------------------------------------------------------------------------

    def flush(self) -> None:
        """Sync what has been published; writer lock held."""
        self.append([], sync=True)

    def stop(self) -> None:
        """Refuse all further operations, also those that are about to read the shared header."""
        with self.view_lock:
            self.closed = True

    def release(self) -> None:
        """Close all files but that of the presence lock.  No thread may be inside the engine."""
        with ExitStack() as stack:  # each is closed, whatever happens to the others
            stack.callback(self.header.close)
            stack.callback(self.log.close)
            stack.callback(self.table.close)
            stack.callback(self.close_retired)

    # -- fork -------------------------------------------------------------------------------

    def after_fork_in_child(self) -> None:
        """Drop inherited handles: closed, not unlocked, because the parent has the same locks."""
        self.closed = self.forked = True
        self.log.fd = -1  # files.py closes it with all others
        self.header.close()

    def _timeout_error(self, timeout_s: float) -> WriteTimeoutError:
        return WriteTimeoutError(
            f"{self.path}: another process or thread has held the writer lock for more than "
            f"{timeout_s} s; the outcome of this write is unknown; look for a stopped process "
            f"that has the store open"
        )
