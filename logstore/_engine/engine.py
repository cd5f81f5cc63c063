"""The engine: one per store file and process; connects log, table, shared header and overlay.

Rules: locks are taken in this order: ``commit_lock`` (one thread), the writer lock (one process),
the flush lock (one process, publishing.py), the fold lock (one thread, foldlock.py), the view lock
(one thread, for microseconds), the table's gate (one thread, for one short read).  Reads take the
last two only, so they do not wait for writers.
The states of a store are in :mod:`logstore._engine.header`.  A process that gets the writer lock in
the state *interrupted* or *failed* recovers first: it folds what was appended into the table and
begins a new epoch, so that nothing is ever appended to the tail of an interrupted append.
Signal handlers (:mod:`logstore._engine.shelter`): the append runs in the caller's thread;
everything that replaces a file, a map or an epoch is sheltered.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

import lmdb

from logstore._engine import clock, durability, files, frames, identity, locks, queuetable
from logstore._engine.commitqueue import CommitQueue, nested_error
from logstore._engine.compaction import fold_into, is_due
from logstore._engine.counters import Counters
from logstore._engine.deferral import Deferral
from logstore._engine.foldlock import FoldLock
from logstore._engine.frames import DELETED, HAD_RESULT, PROGRESS, Entry
from logstore._engine.header import Copy, SharedHeader, split
from logstore._engine.lmdbfile import BrokenHandleError, MapResizedError
from logstore._engine.log import FIRST_OFFSET, Logs
from logstore._engine.logview import LogView
from logstore._engine.messages import Message
from logstore._engine.options import Options, arena_bytes
from logstore._engine.overlay import Batch, Change, Overlay
from logstore._engine.publishing import Found, Publisher
from logstore._engine.queuetable import message_in, schedule_in
from logstore._engine.readers import WAIT_S, OldReadersError
from logstore._engine.reading import BaseEngine, LogState
from logstore._engine.records import Mark, mark_of
from logstore._engine.schedules import Schedule
from logstore._engine.shelter import acquire, is_interrupt, sheltered
from logstore._engine.systemerrors import raise_write_error
from logstore._engine.table import Table
from logstore._engine.writerlock import WriterLock
from logstore._engine.writes import Write
from logstore.errors import (
    LogstoreError,
    OpenError,
    StoreClosedError,
    WriteError,
    WriteTimeoutError,
)

T = TypeVar("T")
Keyed = tuple[bytes, Entry]
CommitGroup = Callable[["Engine", list[Write], Callable[[], None]], None]


class Engine(BaseEngine):
    """An open store file.  All methods are safe to call from any thread."""

    def __init__(
        self,
        path: str,
        options: Options,
        header: SharedHeader,
        presence_fd: int,
        logs: Logs,
        table: Table,
        counters: Counters,
        commit_group: CommitGroup,
    ) -> None:
        super().__init__(path, options, table, counters)
        self.header = header
        self.presence_fd = presence_fd  # of the -shm file, with the locks of processes
        self.logview = LogView(logs, header, self.seed)
        self.view_lock = self.logview.lock
        self.publisher = Publisher(self.logview, header, presence_fd, counters)
        self.commit_lock = threading.RLock()  # held by the one thread that may write
        self._retired: list[Table] = []
        self.lost_files: list[str] = []  # those that this process has found replaced
        self.copy_lock = threading.Lock()  # held while there is a copy of the table
        self.deferral = Deferral(header, options.compact_at)
        self._writer_lock = WriterLock(header, presence_fd)
        self.fold_lock = FoldLock(header, presence_fd)
        self.waited_at = 0  # the state in which a fold was last waited for in vain
        self.kept_up_at = 0  # where it was last seen to that removals keep up
        self.removing: Iterator[list[Write]] = iter(())  # results that are due to be removed
        self.removing_from = -1  # the epoch of the table that was looked at, -1 to look again
        self.on_sealed: Callable[[], object] = lambda: None  # asks for a fold of the sealed log
        self.commit_queue = CommitQueue(partial(commit_group, self), options.write_timeout_s)

    # -- the view ---------------------------------------------------------------------------

    @property
    def logs(self) -> Logs:
        """The log's files."""
        return self.logview.logs

    @property
    def overlay(self) -> Overlay:
        """What this process knows to be published in the log."""
        return self.logview.overlay

    def view(self) -> Overlay:
        """Return an overlay that has everything published before this call.

        Raises CorruptLogError if the published part of the log is damaged, StoreReplacedError if
        the files at the path were removed or replaced.
        """
        overlay = self.overlay
        if overlay.state == self.header.state and (
            overlay.sealed is None or overlay.sealed.state == self.header.sealed
        ):
            return overlay
        return self._refresh()

    def must_look_again(self, state: int) -> bool:
        """Return whether a look into the table does not go with one at the overlay before it.

        A recovery puts into the table what readers have not been shown, and publishes it then.
        """
        return self.header.writing != 0 and self.header.state != state

    def current_view(self) -> Overlay | None:
        """Return the overlay if it is complete, without reading from the disk; otherwise None."""
        overlay = self.overlay
        if overlay.state != self.header.state:
            return None
        if overlay.sealed is not None and overlay.sealed.state != self.header.sealed:
            return None
        return overlay

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
                if header.log_id != self.logs.log_id:
                    self.sheltered_write(self.logview.reopen)
                if header.incarnation != self.incarnation:
                    self.sheltered_write(self._follow_table)
                state = header.state
                if (
                    header.incarnation == self.incarnation
                    and header.log_id == self.logs.log_id
                    and self.logview.catch_up(state)
                ):
                    return self.overlay
                is_unpublished = header.incarnation != self.incarnation and header.writing
            if is_unpublished:
                self.exclusively(lambda: None)  # a vacuum may have died after its rename

    def latest_trace(self, key: bytes) -> Entry | None:
        """As :meth:`find_trace`, with what is not published yet; writer lock held."""
        entry = self.logview.unpublished.index().results.get(key)
        if entry is not None and (entry.kind != DELETED or entry.flags & HAD_RESULT):
            return entry
        return self.find_trace(key)

    def latest_progress(self, key: bytes) -> Entry | None:
        """As :meth:`find_progress`, with what is not published yet; writer lock held."""
        progress = self.logview.unpublished.index().progress
        return progress[key] if key in progress else self.find_progress(key)

    def latest_mark(self, key: bytes, group: Overlay) -> Mark:
        """Return the times of the newest records, published or not; writer lock held.

        Those of a ``group`` are the newest of all.  No record is read, which may be large.  Raises
        CorruptRecordError for the mark itself.
        """
        result: Entry | None = None
        is_known, progress = False, None
        for part in (group, self.logview.unpublished.index(), self.view()):
            result = result or part.result(key)
            if not is_known:
                is_known, progress = part.find_progress(key)
        mark = Mark()
        if result is None or not is_known:
            mark = self.from_table(lambda table: table.marks([key]))[0]
        if result is not None:
            mark = mark_of(result)._replace(progress_us=mark.progress_us)
        if is_known:
            mark = mark._replace(progress_us=0 if progress is None else progress.time_us)
        return mark

    def latest_message(self, sequence: int, group: Overlay) -> Message | None:
        """Return a message as the newest records leave it, published or not; writer lock held.

        Those of a ``group`` are the newest of all.  None if it is settled or unknown.
        """
        enqueued: Change | None = None
        change: Change | None = None
        for part in (group, self.logview.unpublished.index(), self.view()):
            found = part.find_message(sequence)
            enqueued, change = enqueued or found[0], change or found[1]
        return message_in(self, sequence, enqueued, change)

    def has_message(self, key: bytes, group: Overlay) -> bool:
        """Return whether a task has a live message, published or not; writer lock held."""
        sequences = set(self.from_table(lambda table: queuetable.held(table, key)))
        for part in (group, self.logview.unpublished.index(), self.view()):
            sequences.update(part.held(key))
        found = (self.latest_message(sequence, group) for sequence in sequences)
        return any(message is not None and not message.reason for message in found)

    def latest_schedule(self, key: bytes, group: Overlay) -> Schedule | None:
        """Return a schedule as the newest records leave it, published or not; writer lock held."""
        parts = (group, self.logview.unpublished.index(), self.view())
        found = (part.find_schedule(key) for part in parts)
        entry = next((entry for entry in found if entry is not None), None)
        return schedule_in(self, key, entry)

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
            except BrokenHandleError:
                self.sheltered_write(table.reopen)  # a fold in another thread has just failed
            except StoreClosedError:
                if self.closed:
                    raise self.closed_error() from None
                with self.view_lock:  # otherwise another thread is just opening a new table
                    if table is self.table:
                        # A failed compaction could not open it again.
                        self.sheltered_write(table.ensure_open)

    def sheltered_write(self, work: Callable[[], object]) -> None:
        """Work sheltered, and raise the errors of the system and of LMDB as those of a write."""
        try:
            sheltered(work)
        except Exception as exc:
            raise_write_error(self.path, exc)

    # -- the locks of writers ---------------------------------------------------------------

    def exclusively(
        self, work: Callable[[], T], *, recover: bool = True, timeout_s: float | None = None
    ) -> T:
        """Run ``work`` holding all locks of writers, with everything that is written published.

        Raises as :meth:`in_turn` and :meth:`settled` do.
        """
        return self.in_turn(
            lambda deadline: self.settled(work, deadline, recover=recover), timeout_s
        )

    def in_turn(self, work: Callable[[float], T], timeout_s: float | None = None) -> T:
        """Run ``work`` holding ``commit_lock``; it gets the time at which to give up.

        Raises WriteTimeoutError after ``timeout_s`` (the store's ``write_timeout_s``),
        StoreClosedError, and what ``work`` raises.
        """
        lock = self.commit_lock
        if lock._is_owned():  # type: ignore[attr-defined]
            raise nested_error()
        if timeout_s is None:
            timeout_s = self.options.write_timeout_s
        deadline = time.monotonic() + timeout_s
        try:
            if not acquire(lock, timeout_s):
                raise self.timeout_error()
            if self.closed:
                raise self.closed_error()
            return work(deadline)
        finally:
            try:
                lock.release()  # the first call, so that no signal handler comes before it
            except RuntimeError:
                pass  # not held: the wait for it was interrupted, or too long

    def appending(self, work: Callable[[], T], deadline: float) -> T:
        """Run ``work`` holding the writer lock, caught up with what is appended.

        The caller has ``commit_lock``.  Raises WriteTimeoutError at the deadline,
        StoreReplacedError, and what ``work`` raises.  The lock is given back whatever raises, a
        signal handler at any moment included.
        """
        return self._with_writer_lock(work, deadline, self._prepare)

    def settled(self, work: Callable[[], T], deadline: float, *, recover: bool = True) -> T:
        """As :meth:`appending`, with all locks of writers, and everything appended is published.

        With ``recover`` False the log is not looked at, for it may be damaged.
        """
        within = self.settled_within if recover else self._with_other_locks
        prepare = self._prepare if recover else self._adopt_files
        return self._with_writer_lock(lambda: within(work, deadline), deadline, prepare)

    def settled_within(self, work: Callable[[], T], deadline: float) -> T:
        """As :meth:`settled`, for work within :meth:`appending`."""

        def prepared() -> T:
            self._settle()
            return work()

        return self._with_other_locks(prepared, deadline)

    def _with_writer_lock(
        self, work: Callable[[], T], deadline: float, prepare: Callable[[], object]
    ) -> T:
        writer_lock = self._writer_lock
        try:
            try:
                if not writer_lock.acquire(deadline):
                    raise self.timeout_error()
                prepare()
            except Exception as exc:
                raise_write_error(self.path, exc)
            value = work()
            writer_lock.about_to_release()
            return value
        finally:
            try:
                locks.fcntl_call(self.presence_fd, locks.SETLK, locks.WRITER.unlocked)  # as above
            finally:
                writer_lock.released()
                if self.logview.left:
                    sheltered(self.logview.close_left)

    def _with_other_locks(self, work: Callable[[], T], deadline: float) -> T:
        """Run ``work`` holding the flush lock and the fold lock.  The caller has the writer lock.

        Raises WriteTimeoutError at the deadline, and what ``work`` raises.
        """
        found = self.publisher.with_lock(lambda: self.fold_lock.hold(work, deadline), deadline)
        if found is None:
            raise self.timeout_error()
        return found[0]

    def refuse_nested(self) -> None:
        """Raise WriteError within another call of the same thread, as in a signal handler."""
        if (
            self.commit_lock._is_owned()  # type: ignore[attr-defined]
            or self.view_lock._is_owned()  # type: ignore[attr-defined]
            or self.commit_queue.is_led_here()
        ):
            raise nested_error()
        super().refuse_nested()

    def _adopt_files(self) -> None:
        """Take over the logs and the table that the header names."""
        header = self.header
        if header.replaced:
            raise identity.replaced_error(self)
        if header.log_id != self.logs.log_id:
            with self.view_lock:
                sheltered(self.logview.reopen)
        if header.incarnation != self.incarnation:
            with self.view_lock:  # LMDB must not open a file twice, and readers open it too
                sheltered(self._reopen_table)

    def _prepare(self) -> None:
        """Under the writer lock: catch up with what is published and what is appended."""
        self._adopt_files()
        header = self.header
        if not header.appended == header.state == self.overlay.state:
            self.logview.under_lock(self.logview.look_ahead)

    def _follow_table(self) -> None:
        """Open the file that a vacuum has put in the table's place.

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
        """Open the file that is the table now; writer lock held."""
        header = self.header
        at_path = files.identity(self.path)
        if at_path is None or at_path[1] != header.table_inode:
            if not identity.is_vacuumed(self):
                raise identity.replaced_error(self)
            # A vacuum died between its rename and its publication.
            durability.sync_directory(os.path.dirname(self.path))
        elif at_path == self.table.identity:
            return  # a reader has just followed it
        else:
            self._leave_old_tables()
        table = Table(self.path, readers=header.readers)
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

    def append(self, entries: list[Keyed], *, sync: bool, deadline: float) -> int:
        """Write one group behind what is appended; writer lock held.  Return ``appended`` then.

        Raises OSError; nothing is appended then.
        """
        try:
            point = self.logview.append(entries, sync=sync)
        except OSError as exc:
            if self.header.writing and not is_interrupt(exc):
                try:
                    self.settled_within(lambda: None, deadline)
                except (OSError, lmdb.Error, LogstoreError) as error:
                    self.note_error(error)
            raise
        if entries:
            self.counters.count_group(len(entries))
        return point

    # -- publishing ---------------------------------------------------------------------------

    def publish(self, point: int, deadline: float, *, flush: bool) -> None:
        """Return when everything up to a point, a value of ``appended``, is published.

        With ``flush`` it is on the disk, too.

        The caller has ``commit_lock``.  Raises WriteTimeoutError at the deadline, and OSError if
        the flush fails, of this process or of another: what was not published then never is.
        """
        error: OSError | None = None
        while True:
            try:
                found = self.publisher.publish(point, deadline, flush=flush)
            except OSError as exc:
                if is_interrupt(exc):
                    raise
                error = error or exc
                if not self.header.log_failed:
                    raise error from None
                found = Found.BROKEN
            if found is Found.PUBLISHED:
                return
            if found is Found.LATE:
                raise self.timeout_error()
            try:
                self.settled(lambda: None, deadline)  # what has failed is only sure in a new epoch
            except (OSError, lmdb.Error, LogstoreError) as exc:
                self.note_error(exc)
                raise error or exc from None

    def sync(self, *, timeout_s: float | None = None) -> None:
        """Put everything appended on the disk, and publish what a dead process has left."""

        def publish(deadline: float) -> None:
            self.publish(self.header.appended, deadline, flush=True)

        self.in_turn(publish, timeout_s)

    def _settle(self) -> None:
        """Publish everything appended, and recover if a write or flush has failed; all locks held.

        The overlay is complete then, and does not change before the locks are released.
        """
        if not self.is_settled(0):
            self.sheltered_write(self.recover)

    def is_settled(self, synced_to: int) -> bool:
        """Publish everything appended; return whether no write or flush has failed.

        Up to ``synced_to`` it is on the disk too.  Writer and flush lock held.
        """
        try:
            self.publisher.publish_all(synced_to)
        except OSError as exc:
            self.note_error(exc)
        if self.overlay.state != self.header.state:
            with self.view_lock:
                self.logview.catch_up(self.header.state)
        return not (self.must_recover() or self.header.flushing)

    # -- compaction and recovery ------------------------------------------------------------

    def compact(self, *, timeout_s: float | None = None) -> None:
        """Fold the log into the table.  On the disk when this returns.  Raises WriteError."""
        wait_s = self.options.write_timeout_s if timeout_s is None else WAIT_S

        def fold() -> None:
            if self.overlay.applied > FIRST_OFFSET or self.overlay.sealed or self.expiry_due():
                self.fold(wait_s=wait_s)

        try:
            self.exclusively(fold, timeout_s=timeout_s)
        except (OSError, lmdb.Error, OpenError) as exc:
            raise_write_error(self.path, exc)

    def fold_large(self, key: bytes, entry: Entry) -> None:
        """Put a large record into the table at once; on the disk when this returns.

        Raises OldReadersError if readers have put that off.
        """
        overlay = self.overlay
        is_in_log = overlay.find_progress(key)[0] if entry.kind == PROGRESS else overlay.result(key)
        if is_in_log:
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

    def hold_compactions(self, by: Copy) -> None:
        """Put compactions off, for a copy of the table.  Raises StoreClosedError."""
        self.deferral.hold(by)
        if self.closed:
            raise self.closed_error()

    def fold(
        self, *, extra: Batch | None = None, clean: bool = False, wait_s: float = WAIT_S
    ) -> None:
        """Fold the overlay, then ``extra``, and begin a new epoch; all locks held, caught up.

        ``clean`` marks the table as closed cleanly, for a process that is alone and closes.  An
        error leaves ``writing`` set.  Raises OldReadersError, without any effect, if readers of an
        old snapshot do not end within ``wait_s``, and StoreReplacedError if the files at the path
        were removed or replaced; their data has been rescued then.
        """
        sheltered(lambda: self._fold(extra, clean, wait_s))

    def _fold(self, extra: Batch | None, clean: bool, wait_s: float) -> None:
        identity.verify(self)
        self.fold_unverified(extra=extra, clean=clean, wait_s=wait_s)

    def fold_unverified(
        self, *, extra: Batch | None = None, clean: bool = False, wait_s: float | None = None
    ) -> None:
        """Fold as :meth:`fold` does, into the open table, without a look at the path.

        By default it waits for readers up to the store's ``write_timeout_s``.
        """
        started = time.perf_counter()
        header = self.header
        was_writing, header.writing = header.writing, 1
        view = self.overlay
        meta = self.from_table(Table.read_meta)
        epoch = max(meta.epoch, view.epoch) + 1
        if epoch > frames.EPOCH_MAX:
            raise WriteError(errno.EOVERFLOW, f"{self.path}: no epochs are left")
        batches = view.newer_than(meta.epoch)
        queued = view.queued_since(meta.epoch)
        has_new = extra is not None or any(self.options.retention)  # evictions are not in the log
        if meta.epoch <= view.epoch:  # else a process folded it and died before it said so
            if header.log_failed:
                header.add_failure()
            else:
                unpublished = self.logview.unpublished.index()
                batches.append((unpublished.results, unpublished.progress))
                if unpublished.queued is not None:
                    queued.append(unpublished.queued)
                has_new = has_new or bool(unpublished)
        else:  # nor which times it has used
            newest_us = self.from_table(Table.newest_time_us)
            header.last_time_us = max(header.last_time_us, newest_us)
        if extra is not None:
            batches.append(extra)
        try:
            header.last_time_us = fold_into(
                self.table,
                batches,
                self.options.retention,
                queued=queued,
                now_us=clock.now_us(),
                last_time_us=header.last_time_us,
                epoch=epoch,
                incarnation=self.incarnation,
                clean=clean,
                wait_s=self.options.write_timeout_s if wait_s is None else wait_s,
                has_new=has_new,
            )
        except OldReadersError:
            header.writing = was_writing
            self.deferral.put_off()
            raise
        except lmdb.Error:
            self.table.reopen()  # LMDB refuses further use after some failed commits
            raise
        self.begin_epoch(epoch)
        self.counters.count_compaction(time.perf_counter() - started)

    def begin_epoch(self, epoch: int) -> None:
        """Publish that the table holds everything and the log starts over; all locks held.

        Logs that have failed are replaced.
        """
        header = self.header
        header.table_txn = self.table.last_transaction()
        self.logview.begin_epoch(epoch)
        header.folding = header.flushing = 0
        if header.log_failed:
            self._replace_logs()
        header.writing = 0

    def must_recover(self) -> bool:
        """Return whether a write was interrupted or has failed; writer lock held."""
        header = self.header
        return bool(header.writing or header.log_failed)

    def recover(self) -> None:
        """After a death or failure within a write; all locks held.

        Whole frames are kept, unless a flush has failed: then only what was published is.  A
        flush that was cut short is not made again: it may have failed, too.
        """
        identity.verify(self)
        if files.identity(self.path) != self.table.identity:
            with self.view_lock:
                self._reopen_table()  # a vacuum died after its rename
        elif not self.table.is_open:
            self.table.reopen()
        self.fold_unverified()
        self.counters.recoveries += 1

    def note_error(self, exc: Exception) -> None:
        """Keep an error for ``stats()``; the next writer tries again.  Raises an interrupt."""
        if is_interrupt(exc):
            raise exc
        self.counters.last_compaction_error = str(exc)

    def _replace_logs(self) -> None:
        """Begin new log files, after a failed write or when an old one was removed.

        The page cache does not show what of the old files is on the disk.
        """
        for log in self.logs.both:
            if not identity.has_log(log) and identity.is_worth_keeping(log.path, log.uuid):
                files.keep_aside(log.path, "replaced")  # that file is not ours to remove
        self.logview.replace(Logs.create(self.path, self.logs.uuid, arena_bytes(self.options)))
        self.header.log_failed = 0

    # -- salvage ----------------------------------------------------------------------------

    def adopt_salvaged(self, overlay: Overlay) -> None:
        """Fold an overlay made of whole frames and replace the logs; all locks held."""
        header = self.header
        if header.appended >> 32 == header.epoch:
            header.state = header.appended
        header.log_failed = 1
        self.logview.overlay = overlay
        self.recover()

    # -- facts ------------------------------------------------------------------------------

    def log_state(self) -> LogState:
        """Return how far the log has been published and synced."""
        if self.closed:
            raise self.closed_error()
        header = self.header
        while True:
            state, sealed = header.state, header.sealed
            epoch, committed = split(state)
            before, end = split(sealed)
            if header.epoch == epoch:  # which may just be being sealed
                return LogState(epoch, committed, header.synced, end if before == epoch - 1 else 0)

    def log_file_bytes(self) -> int:
        """Return the size of the log files."""
        return self.logs.bytes

    def read_log(self, epoch: int, end: int) -> bytes:
        """Read the log of an epoch from the disk, up to an offset."""
        return self.logs.of(epoch).read(FIRST_OFFSET, end)

    # -- closing ----------------------------------------------------------------------------

    def flush(self) -> None:
        """Put everything appended on the disk; all locks held.  Raises OSError."""
        self.publisher.publish_all(split(self.header.appended)[1])

    def stop(self) -> None:
        """Refuse all further operations, also those that are about to read the shared header."""
        with self.view_lock:
            self.closed = True

    def release(self) -> None:
        """Close all files but that of the presence lock.  No thread may be inside the engine."""
        with ExitStack() as stack:  # each is closed, whatever happens to the others
            stack.callback(self.header.close)
            stack.callback(self.logview.close)
            stack.callback(self.table.close)
            stack.callback(self.close_retired)

    # -- fork -------------------------------------------------------------------------------

    def after_fork_in_child(self) -> None:
        """Drop inherited handles: closed, not unlocked, because the parent has the same locks."""
        self.closed = self.forked = True
        for log in self.logs.both:
            log.fd = -1  # files.py closes it with all others
        self.header.close()

    def timeout_error(self) -> WriteTimeoutError:
        return WriteTimeoutError(
            f"{self.path}: another process or thread has held the writer lock for more than "
            f"{self.options.write_timeout_s} s; the outcome of this write is unknown; look for a "
            f"stopped process that has the store open"
        )
