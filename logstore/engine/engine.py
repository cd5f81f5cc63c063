"""The engine: one per store file and process; ties log, table, shared header and overlay together.

Rules, in the order of the locks: ``copy_lock`` (one vacuum or backup), ``commit_lock`` (one
thread), the writer lock (one process), the view lock (one thread, for microseconds), the table's
gate (one thread, for one short read).
Whoever finds the WRITING word set under the writer lock recovers first: it folds what had been
published into the table and begins a new epoch, so that the tail of an interrupted append is never
appended to.  An error that leaves open what has reached the disk leaves WRITING set.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import FrameType
from typing import TypeVar

import lmdb

from logstore.engine import frames, osdep
from logstore.engine.commit import Committer, amid_error
from logstore.engine.compaction import Batch, fold_into
from logstore.engine.counters import Counters
from logstore.engine.failures import raise_write_error
from logstore.engine.frames import OFFSET_MAX, PROGRESS, Entry
from logstore.engine.groups import GroupCommit
from logstore.engine.header import (
    HOLDS,
    INCARNATION,
    LAST_TIME,
    LOG_FAILED,
    LOG_ID,
    STATE,
    SYNCED,
    TABLE_INODE,
    WRITING,
    SharedHeader,
)
from logstore.engine.lmdbfile import MapResizedError
from logstore.engine.lock import WriterLock
from logstore.engine.log import FIRST_OFFSET, Log, new_log_id
from logstore.engine.options import Options, arena_bytes
from logstore.engine.overlay import Overlay
from logstore.engine.reading import Reading
from logstore.engine.table import Table
from logstore.errors import (
    CorruptLogError,
    LogstoreError,
    OpenError,
    StoreClosedError,
    WriteError,
    WriteTimeoutError,
)

T = TypeVar("T")

COPY_LOG_FACTOR = 64  # while a copy gets on, the log may grow to this many times its limit
HOLD_NS = 10 * 10**9  # a copy that takes longer from one step to the next does not get on


class Engine(Reading):
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
    ) -> None:
        super().__init__(path, options, table, counters)
        self.header = header
        self.presence_fd = presence_fd
        self.log = log
        self.overlay = Overlay(header.words[STATE] >> 32)
        self.commit_lock = threading.RLock()  # held by the one thread that may write
        self._retired: list[Table] = []
        self.view_lock = threading.Lock()
        self.copy_lock = threading.Lock()  # held while there is a copy of the table
        self._held_until_ns = 0  # what this process last wrote into one of HOLDS
        self._leader = 0  # the thread that holds commit_lock
        self._holder: FrameType | None = None  # of the call that holds it
        self._writer_lock = WriterLock(header)
        self.groups = GroupCommit(self)
        self.committer = Committer(self.groups.commit, options.write_timeout_s)

    # -- the view ---------------------------------------------------------------------------

    def view(self) -> Overlay:
        """An overlay that holds everything published before this call.

        Raises CorruptLogError if the published part of the log is damaged.
        """
        overlay = self.overlay
        try:
            if overlay.state == self.header.words[STATE]:
                return overlay
        except ValueError:  # the header is unmapped
            raise self.closed_error() from None
        return self._refresh()

    def current_view(self) -> Overlay | None:
        """The overlay if it is complete as it is, without touching the disk; else None."""
        overlay = self.overlay
        try:
            return overlay if overlay.state == self.header.words[STATE] else None
        except ValueError:
            raise self.closed_error() from None

    def _refresh(self) -> Overlay:
        """Catch the overlay up with the log, after other processes' writes."""
        while True:
            if self.closed:
                raise self.closed_error()
            words = self.header.words
            if words[INCARNATION] != self.incarnation or words[LOG_ID] != self.log.log_id:
                with self._leading():
                    pass  # taking the writer lock reopens what has been replaced
                continue
            with self.view_lock:
                state = words[STATE]
                if (
                    words[INCARNATION] == self.incarnation
                    and words[LOG_ID] == self.log.log_id
                    and self._catch_up(state)
                ):
                    return self.overlay

    def _catch_up(self, state: int) -> bool:
        """Bring the overlay to ``state``; False if the epoch moved meanwhile.  View lock held."""
        epoch, committed = state >> 32, state & OFFSET_MAX
        overlay = self.overlay
        if overlay.epoch != epoch:
            overlay = Overlay(epoch)
        if committed > overlay.applied:
            start = overlay.applied
            data = self.log.read(start, committed)
            found, end = frames.scan(data, start, self.seed, epoch)
            if self.header.words[STATE] >> 32 != epoch:
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
                return read(table)
            except MapResizedError:
                with self._leading():
                    table.adopt_map_size()
            except StoreClosedError:
                if self.closed:
                    raise self.closed_error() from None
                if table is self.table:
                    with self._leading():  # a failed compaction could not open it again
                        table.ensure_open()

    # -- the writer lock --------------------------------------------------------------------

    def exclusive(self, *, recover: bool = True) -> _Exclusive:
        """A context that holds ``commit_lock`` and the writer lock, recovered and caught up.

        With ``recover`` False the log is not looked at, for it may be damaged.  Entering raises
        WriteTimeoutError, StoreClosedError, and what a recovery meets.
        """
        return _Exclusive(self, recover)

    def _leading(self) -> AbstractContextManager[None]:
        """As :meth:`exclusive`, also for a thread that leads already."""
        return nullcontext() if self._leader == threading.get_ident() else self.exclusive()

    def begin_exclusive(self, recover: bool) -> None:
        """Take both locks; :meth:`end_exclusive` is owed only if this returns."""
        if self._leader == threading.get_ident():
            if self._is_amid():
                raise amid_error()
            self.end_exclusive()  # what a signal handler that raised has left behind
        timeout_s = self.options.write_timeout_s
        deadline = time.monotonic() + timeout_s
        try:
            if not self.commit_lock.acquire(timeout=timeout_s):
                raise self._timeout_error()
            self._leader = threading.get_ident()
            if self.closed:
                raise self.closed_error()
            if not self._writer_lock.acquire(self.log, deadline, self._reopen_log):
                raise self._timeout_error()
            self._prepare(recover=recover)
        except BaseException as exc:
            self.end_exclusive()
            if isinstance(exc, OSError | lmdb.Error | OpenError):
                raise_write_error(self.path, exc)
            raise

    def end_exclusive(self) -> None:
        """Give both locks back, as far as this thread has them."""
        leads = self._leader == threading.get_ident()
        try:
            if leads and not self.closed:
                self._writer_lock.release(self.log)
                self.header.announce()
        finally:
            if leads:
                self._leader = 0
                self._holder = None
            try:
                self.commit_lock.release()
            except RuntimeError:
                pass  # not held: the wait for it was interrupted, or too long

    def _is_amid(self) -> bool:
        """Whether the thread holds the locks further up its stack."""
        taking = Engine.begin_exclusive.__code__, Engine.end_exclusive.__code__
        frame = sys._getframe(1).f_back
        while frame is not None:
            if frame is self._holder:
                return True
            if frame.f_code in taking and frame.f_locals.get("self") is self:
                return True
            frame = frame.f_back
        return False

    def _prepare(self, *, recover: bool) -> None:
        """Under the writer lock: recover if somebody died or failed, and catch up."""
        words = self.header.words
        if words[INCARNATION] != self.incarnation:
            self._reopen_table()
        if not recover:
            return
        if self.overlay.state != words[STATE]:
            with self.view_lock:
                if not self._catch_up(words[STATE]):
                    raise AssertionError("the epoch moved under the writer lock")
        if words[WRITING] or words[LOG_FAILED]:
            self.recover()

    def _reopen_log(self) -> Log:
        with self.view_lock:
            old, self.log = self.log, Log.open(self.log.path, self.log.uuid)
            old.close()
            return self.log

    def _reopen_table(self) -> None:
        """Take over the file that a vacuum has put in the table's place."""
        words = self.header.words
        if os.stat(self.path).st_ino != words[TABLE_INODE]:
            # A vacuum died between its rename and its publication: the lock file may still be
            # the old table's, whose readers' slots say nothing of the new file.
            osdep.sync_directory(os.path.dirname(self.path))
            table = Table(self.path, new_lock=True)
        else:
            table = Table(self.path)
        self.replace_table(table)
        words[INCARNATION] = self.incarnation = table.meta.incarnation
        words[TABLE_INODE] = table.inode

    def replace_table(self, table: Table) -> None:
        """Go over to another file; the old one is closed later, without the writer lock.

        Closing a vacuumed file for the last time frees its blocks, which takes a while.
        """
        self._retired.append(self.table)
        self.table = table

    def close_retired(self) -> None:
        """Close the tables that have been replaced; a reader still in one tries again."""
        while self._retired:
            self._retired.pop().close()

    # -- compaction and recovery ------------------------------------------------------------

    def compact(self) -> None:
        """Fold the log into the table.  On the disk when this returns.  Raises WriteError."""
        try:
            with self.exclusive():
                if self.overlay or self.expiry_due():
                    self.fold()
        except (OSError, lmdb.Error, OpenError) as exc:
            raise_write_error(self.path, exc)

    def fold_large(self, key: bytes, entry: Entry) -> None:
        """Put a large record into the table at once; on the disk when this returns."""
        overlay = self.overlay
        if key in (overlay.progress if entry.kind == PROGRESS else overlay.results):
            self.fold()  # else readers would find the older record in the overlay, now and then
            words = self.header.words
            words[LAST_TIME] += 1
            entry = entry._replace(time_us=words[LAST_TIME])  # it has come behind what expired
        self.fold(extra=({}, {key: entry}) if entry.kind == PROGRESS else ({key: entry}, {}))

    def expiry_due(self) -> bool:
        """Whether the table holds something whose time to live is over."""
        now_us = time.time_ns() // 1000
        return self.from_table(lambda table: table.expiry_due(now_us))

    def compact_if_due(self) -> None:
        """After a commit that has been acked: errors stay here, the next writer recovers."""
        if self.copy_defers(0):
            return
        try:
            self.fold()
        except (OSError, lmdb.Error, LogstoreError) as exc:
            self.counters.compaction_errors += 1
            self.counters.last_compaction_error = str(exc)

    def hold_compactions(self, by: int) -> None:
        """Put compactions off for a copy of the table that gets on; again within HOLD_NS.

        ``by`` is the word of the header for its kind.  A copy that is stopped or dead does not call
        it again, and the others go on.  Raises StoreClosedError.
        """
        self._held_until_ns = time.monotonic_ns() + HOLD_NS
        try:
            self.header.words[by] = self._held_until_ns
        except ValueError:
            raise self.closed_error() from None

    def let_compactions_go_on(self, by: int) -> None:
        """Undo :meth:`hold_compactions`, unless another process has called it since."""
        try:
            if self.header.words[by] == self._held_until_ns:
                self.header.words[by] = 0
        except ValueError:
            pass  # the header is unmapped

    def is_held(self, by: int | None = None) -> bool:
        """Whether a copy of this kind, or of any, gets on in this process or another."""
        words = self.header.words
        now_ns = time.monotonic_ns()
        return any(0 < words[n] - now_ns <= HOLD_NS for n in (HOLDS if by is None else (by,)))

    def copy_defers(self, coming_bytes: int) -> bool:
        """Whether nothing is folded now because a copy gets on and the log may still grow.

        When it may not, the copies have lost: from then on, until they get on again, all is as if
        they were not there.
        """
        words = self.header.words
        end = (words[STATE] & OFFSET_MAX) + coming_bytes
        if not self.is_held():
            return False
        if end <= self.options.compact_at * COPY_LOG_FACTOR:
            return True
        for word in HOLDS:
            words[word] = 0
        return False

    def fold(self, *, extra: Batch | None = None, clean: bool = False) -> None:
        """Fold the overlay, and ``extra`` behind it, and begin a new epoch.

        ``clean`` marks the table as closed cleanly, for whoever is alone and leaves.  Under the
        writer lock, caught up.  An error leaves WRITING set.
        """
        started = time.perf_counter()
        words = self.header.words
        words[WRITING] = 1
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
            words[LAST_TIME] = fold_into(
                self.table,
                batches,
                self.options.retention,
                now_us=time.time_ns() // 1000,
                last_time_us=words[LAST_TIME],
                epoch=epoch,
                incarnation=self.incarnation,
                clean=clean,
            )
        except lmdb.Error:
            self.table.reopen()  # LMDB refuses further use after some failed commits
            raise
        self.begin_epoch(epoch)
        self.counters.count_compaction(time.perf_counter() - started)

    def begin_epoch(self, epoch: int) -> None:
        """Publish that the table holds everything and the log starts over; writer lock held."""
        words = self.header.words
        with self.view_lock:
            words[SYNCED] = FIRST_OFFSET
            self.header.publish(epoch, FIRST_OFFSET)
            self.overlay = Overlay(epoch)
        words[WRITING] = 0

    def recover(self) -> None:
        """Somebody died or failed amid a write: keep what was published, nothing else."""
        words = self.header.words
        if os.stat(self.path).st_ino != self.table.inode:
            self._reopen_table()
        else:
            self.table.ensure_open()
        self.fold()
        if words[LOG_FAILED]:
            words[WRITING] = 1
            self._replace_log()
            words[LOG_FAILED] = 0
            words[WRITING] = 0
        self.counters.recoveries += 1

    def recover_quietly(self) -> None:
        """Try at once to :meth:`recover`; if it fails, the next writer tries again."""
        try:
            self.recover()
        except (OSError, lmdb.Error, LogstoreError) as exc:
            self.counters.last_compaction_error = str(exc)

    def _replace_log(self) -> None:
        """After a failed write: what the page cache holds of the old file is no evidence."""
        words = self.header.words
        log_id = new_log_id()
        new = Log.create(self.log.path, self.log.uuid, log_id, arena_bytes(self.options))
        with self.view_lock:
            old, self.log = self.log, new
            words[LOG_ID] = log_id
        old.close()

    # -- salvage ----------------------------------------------------------------------------

    def adopt_salvaged(self, overlay: Overlay) -> None:
        """Fold an overlay made of whole frames and replace the log; writer lock held."""
        self.header.words[LOG_FAILED] = 1
        self.overlay = overlay
        self.recover()

    # -- facts ------------------------------------------------------------------------------

    def log_state(self) -> tuple[int, int]:
        """The published state (epoch << 32 | committed offset) and the synced offset."""
        try:
            return self.header.words[STATE], self.header.words[SYNCED]
        except ValueError:
            raise self.closed_error() from None

    def log_file_bytes(self) -> int:
        """Size of the log's file."""
        return self.log.size

    def read_log(self) -> bytes:
        """The published part of the log, from the disk."""
        return self.log.read(FIRST_OFFSET, self.log_end())

    # -- ending -----------------------------------------------------------------------------

    def flush(self) -> None:
        """Put what has been published but not synced on the disk; writer lock held."""
        self.groups.append([], must_sync=True)

    def stop(self) -> None:
        """Let no operation begin any more."""
        self.closed = True

    def release(self, *, keep_presence: bool = False) -> None:
        """Close all handles.  Nobody may be inside the engine."""
        self.close_retired()
        self.table.close()
        self.log.close()
        with self.view_lock:
            self.header.close()
        if not keep_presence:
            os.close(self.presence_fd)

    # -- fork -------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Wait until no thread is inside a commit, the view or a table read."""
        self.copy_lock.acquire()
        self.commit_lock.acquire()
        self.view_lock.acquire()
        self.table.hold_reads()

    def after_fork_in_parent(self) -> None:
        """Undo :meth:`before_fork`."""
        self.table.resume_reads()
        self.view_lock.release()
        self.commit_lock.release()
        self.copy_lock.release()

    def after_fork_in_child(self) -> None:
        """Drop what was inherited: closed, never unlocked, for the locks are the parent's too."""
        self.closed = self.forked = True
        self.view_lock = threading.Lock()
        for table in (self.table, *self._retired):
            table.abandon()
        self.log.close()
        self.header.close()
        os.close(self.presence_fd)

    def _timeout_error(self) -> WriteTimeoutError:
        return WriteTimeoutError(
            f"{self.path}: another process or thread has held the writer lock for more than "
            f"{self.options.write_timeout_s} s; the outcome of this write is unknown; look for a "
            f"stopped process that has the store open"
        )


class _Exclusive:
    """The context of :meth:`Engine.exclusive`; not a generator, so that a signal has less room."""

    __slots__ = ("_engine", "_recover")

    def __init__(self, engine: Engine, recover: bool) -> None:
        self._engine = engine
        self._recover = recover

    def __enter__(self) -> None:
        self._engine.begin_exclusive(self._recover)
        self._engine._holder = sys._getframe(1)

    def __exit__(self, *_: object) -> None:
        self._engine.end_exclusive()
