"""The engine: one per store file and process; ties log, table, shared header and overlay together.

Rules, in the order of the locks: ``commit_lock`` (one thread), the writer lock (one process), the
view lock (one thread, for microseconds), the table's gate (one thread, for one short read).  Reads
take the last two only, so they wait for no writer.
A process that finds the WRITING word set under the writer lock recovers first: it folds what had
been published into the table and begins a new epoch, so that the tail of an interrupted append is
never appended to.  An error that leaves open what has reached the disk leaves WRITING set.
What a signal handler may interrupt is in :mod:`logstore._engine.shelter`: here the append runs in
the caller's thread, everything that replaces a file, a map or an epoch is sheltered.
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
from logstore._engine.shelter import acquire, is_interrupt, sheltered
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

COPY_LOG_FACTOR = 64  # while a copy gets on, the log may grow to this many times its limit
HOLD_NS = 10 * 10**9  # a copy that takes longer from one step to the next does not get on


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
        self.commit_lock = threading.RLock()  # held by the one thread that may write
        self._retired: list[Table] = []
        self.lost_files: list[str] = []  # those that this process has found replaced
        self.view_lock = threading.RLock()
        self.copy_lock = threading.Lock()  # held while there is a copy of the table
        self._held_until_ns = 0  # what this process last wrote to put compactions off
        self._writer_lock = WriterLock(header)
        self.commit_queue = CommitQueue(partial(commit_group, self), options.write_timeout_s)

    # -- the view ---------------------------------------------------------------------------

    def view(self) -> Overlay:
        """An overlay that holds everything published before this call.

        Raises CorruptLogError if the published part of the log is damaged, StoreReplacedError if
        the files are not those at the path any more.
        """
        overlay = self.overlay
        if overlay.state == self.header.state:
            return overlay
        return self._refresh()

    def current_view(self) -> Overlay | None:
        """The overlay if it is complete as it is, without touching the disk; else None."""
        overlay = self.overlay
        return overlay if overlay.state == self.header.state else None

    def _refresh(self) -> Overlay:
        """Catch the overlay up with the log, after other processes' writes."""
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
                self.exclusively(lambda: None)  # a vacuum may have died behind its rename

    def _catch_up(self, state: int) -> bool:
        """Bring the overlay to ``state``; False if the epoch moved meanwhile.  View lock held."""
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
                    f"check(salvage=True) recovers the frames behind it"
                )
            overlay.apply([(frame.key, frame.entry) for frame in found], committed)
        self.overlay = overlay
        return True

    def from_table(self, read: Callable[[Table], T]) -> T:
        """Run a read on the table, again if the table was replaced or its map resized."""
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
                with self.view_lock:  # else another thread is just going over to a new table
                    if table is self.table:
                        # A failed compaction could not open it again.
                        self._open_sheltered(table.ensure_open)

    def _open_sheltered(self, open_it: Callable[[], object]) -> None:
        try:
            sheltered(open_it)
        except Exception as exc:
            if isinstance(exc, OSError | lmdb.Error | OpenError) and not is_interrupt(exc):
                raise_write_error(self.path, exc)
            raise

    # -- the writer lock --------------------------------------------------------------------

    def exclusively(
        self, work: Callable[[], T], *, recover: bool = True, timeout_s: float | None = None
    ) -> T:
        """Run ``work`` holding ``commit_lock`` and the writer lock, recovered and caught up.

        With ``recover`` False the log is not looked at, for it may be damaged.  Raises
        WriteTimeoutError after ``timeout_s`` (the store's ``write_timeout_s``), StoreClosedError,
        StoreReplacedError, what a recovery meets, and what ``work`` raises.  Both locks are given
        back whatever raises, a signal handler at any moment included.
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
                if isinstance(exc, OSError | lmdb.Error | OpenError) and not is_interrupt(exc):
                    raise_write_error(self.path, exc)
                raise
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
        """Raise WriteError if the thread is inside a call of this store, as a signal handler is."""
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
            with self.view_lock:  # LMDB must not open a file twice, and readers follow it too
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
        """Take over the log that another process has put in the place of a failed one."""
        old, self.log = self.log, Log.open(self.log.path, self.log.uuid)
        old.close()
        return self.log

    def _follow_table(self) -> None:
        """Take over, for reading, the file that a vacuum has put in the table's place.

        The vacuum publishes last, so a file that is found while its incarnation is the published
        one is complete.  If another vacuum comes meanwhile, the caller tries again.
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
        """Take over, for writing, the file that is the table now."""
        header = self.header
        at_path = files.identity(self.path)
        if at_path is None or at_path[1] != header.table_inode:
            if not identity.is_vacuumed(self):
                raise identity.replaced_error(self)
            # A vacuum died between its rename and its publication: the lock file may still be
            # the old table's, whose readers' slots say nothing of the new file.
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
        """Close LMDB's handles of old tables; under the view lock.

        LMDB opens a file once in a process, and an old table may have been opened just when a
        vacuum made the new table's lock file.
        """
        for table in (self.table, *self._retired):
            table.leave()

    def replace_table(self, table: Table) -> None:
        """Go over to another file; the old one is closed later, without the writer lock.

        Closing a vacuumed file for the last time frees its blocks, which takes a while.
        """
        self._retired.append(self.table)
        self.table = table

    def verify_files(self) -> None:
        """Put right, or in safety, what others have done to the files; under the writer lock.

        Raises StoreReplacedError.
        """
        identity.verify(self)
        if self.header.log_failed:
            self.recover()

    def close_retired(self) -> None:
        """Close the tables that have been replaced; a reader still in one tries again."""
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
            self.fold()  # else readers would find the older record in the overlay, now and then
            header = self.header
            header.last_time_us += 1
            entry = entry._replace(time_us=header.last_time_us)  # it has come behind what expired
        self.fold(extra=({}, {key: entry}) if entry.kind == PROGRESS else ({key: entry}, {}))

    def expiry_due(self) -> bool:
        """Whether a compaction would take away what has expired or is over a limit."""
        now_us, retention = clock.now_us(), self.options.retention
        return self.from_table(
            lambda table: table.read(lambda txn: is_due(table, txn, retention, now_us))
        )

    def compact_if_due(self) -> None:
        """After a commit that has been acked: errors stay here, the next writer recovers."""
        if self.copy_defers(0):
            return
        try:
            self.fold()
        except (OSError, lmdb.Error, LogstoreError) as exc:
            self.counters.compaction_errors += 1
            self.counters.last_compaction_error = str(exc)

    def hold_compactions(self, by: Copy) -> None:
        """Put compactions off for a copy of the table that gets on; again within HOLD_NS.

        ``by`` is the kind of the copy.  A copy that is stopped or dead does not call
        it again, and the others go on.  Raises StoreClosedError.
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
        """Whether a copy of this kind, or of any, gets on in this process or another."""
        now_ns = time.monotonic_ns()
        return any(
            0 < self.header.held_until_ns(each) - now_ns <= HOLD_NS
            for each in (HELD_BY if by is None else (by,))
        )

    def copy_defers(self, coming_bytes: int) -> bool:
        """Whether nothing is folded now because a copy gets on and the log may still grow.

        When it may not, the copies have lost: from then on, until they get on again, all is as if
        they were not there.
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
        """Fold the overlay, and ``extra`` behind it, and begin a new epoch.

        ``clean`` marks the table as closed cleanly, for a process that is alone and leaves.  Under
        the writer lock, caught up.  An error leaves WRITING set.  Raises StoreReplacedError if the
        files are not those at the path any more: what they hold has been put in safety then.
        """
        sheltered(lambda: self._fold(extra, clean))

    def _fold(self, extra: Batch | None, clean: bool) -> None:
        identity.verify(self)
        self.fold_unverified(extra=extra, clean=clean)

    def fold_unverified(self, *, extra: Batch | None = None, clean: bool = False) -> None:
        """As :meth:`fold`, into the table that this process has open, wherever it is."""
        started = time.perf_counter()
        header = self.header
        header.writing = 1
        view = self.overlay
        meta = self.from_table(Table.read_meta)
        epoch = max(meta.epoch, view.epoch) + 1
        if epoch > frames.EPOCH_MAX:
            raise WriteError(errno.EOVERFLOW, f"{self.path}: no epochs are left")
        batches: list[Batch] = []
        if meta.epoch <= view.epoch:  # else somebody folded it and died before saying so
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
        """Publish that the table holds everything and the log starts over; writer lock held."""
        header = self.header
        header.table_txn = self.table.last_transaction()
        with self.view_lock:
            header.synced = FIRST_OFFSET
            self.header.publish(epoch, FIRST_OFFSET)
            self.overlay = Overlay(epoch)
        header.writing = 0

    def must_recover(self) -> bool:
        """Whether a write has been cut short or has failed; under the writer lock."""
        header = self.header
        return bool(header.writing or header.log_failed)

    def recover(self) -> None:
        """After a death or failure within a write: keep what was published, nothing else."""
        identity.verify(self)
        if files.identity(self.path) != self.table.identity:
            with self.view_lock:
                self._reopen_table()  # a vacuum died behind its rename
        elif not self.table.is_open:
            self.table.reopen()
        self.fold_unverified()
        self.counters.recoveries += 1

    def recover_quietly(self) -> None:
        """Try at once to :meth:`recover`; if it fails, the next writer tries again."""
        try:
            sheltered(self.recover)
        except (OSError, lmdb.Error, LogstoreError) as exc:
            self.counters.last_compaction_error = str(exc)

    def _replace_log(self) -> None:
        """Begin a new file, after a failed write or when the old one has been removed.

        What the page cache holds of the old file is no evidence.
        """
        header = self.header
        header.writing = 1
        log_id = new_log_id()
        if not identity.has_log(self) and identity.is_worth_keeping(self.log.path, self.log.uuid):
            files.keep_aside(self.log.path, "replaced")  # what lies there is not ours to remove
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
        """Size of the log's file."""
        return self.log.size

    def read_log(self) -> bytes:
        """The published part of the log, from the disk."""
        return self.log.read(FIRST_OFFSET, self.log_state().committed)

    # -- ending -----------------------------------------------------------------------------

    def flush(self) -> None:
        """Put what has been published but not synced on the disk; writer lock held."""
        self.append([], sync=True)

    def stop(self) -> None:
        """Let no operation begin any more, nor go on to look at the shared header."""
        with self.view_lock:
            self.closed = True

    def release(self) -> None:
        """Close all handles but the presence lock's.  No thread may be inside the engine."""
        with ExitStack() as stack:  # each is closed, whatever happens to the others
            stack.callback(self.header.close)
            stack.callback(self.log.close)
            stack.callback(self.table.close)
            stack.callback(self.close_retired)

    # -- fork -------------------------------------------------------------------------------

    def after_fork_in_child(self) -> None:
        """Drop what was inherited: closed, never unlocked, for the locks are the parent's too."""
        self.closed = self.forked = True
        self.log.fd = -1  # closed with all others
        self.header.close()

    def _timeout_error(self, timeout_s: float) -> WriteTimeoutError:
        return WriteTimeoutError(
            f"{self.path}: another process or thread has held the writer lock for more than "
            f"{timeout_s} s; the outcome of this write is unknown; look for a stopped process "
            f"that has the store open"
        )
