"""The engine: one per store file and process; ties log, table, shared header and overlay together.

Rules, in the order of the locks: the committer's lead (one thread), the writer lock (one process),
the view lock (one thread, for microseconds), the table's gate (one thread, for one short read).
Nothing is published before it is on the disk, if it was asked to be.  Whoever finds the WRITING
word set under the writer lock recovers first: it folds what had been published into the table and
begins a new epoch, so that the tail of an interrupted append is never appended to.  An error that
leaves open what has reached the disk leaves WRITING set.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, TypeVar

import lmdb

from logstore.engine import frames, osdep
from logstore.engine.commit import REFUSED, Committer, Lookup, Write
from logstore.engine.compaction import Retention, fold_into
from logstore.engine.counters import Counters
from logstore.engine.failures import write_error
from logstore.engine.frames import DELETED, HAD_RESULT, OFFSET_MAX, Entry, Frame
from logstore.engine.header import (
    INCARNATION,
    LAST_HOLDER,
    LAST_TIME,
    LOG_FAILED,
    LOG_ID,
    STATE,
    SYNCED,
    TABLE_INODE,
    VACUUM,
    WRITING,
    SharedHeader,
)
from logstore.engine.lmdbfile import MapResizedError
from logstore.engine.log import FIRST_OFFSET, Log
from logstore.engine.overlay import Overlay
from logstore.engine.records import Record
from logstore.engine.table import Table
from logstore.errors import (
    CorruptLogError,
    LogstoreError,
    StoreClosedError,
    WriteError,
    WriteTimeoutError,
)

T = TypeVar("T")

LARGE_BYTES = 1 << 18  # a record above this goes to the table at once, not through the log
LISTING_BATCH = 256
LOCK_RECHECK_S = 0.01  # how long a waiter for the writer lock sleeps at most before it looks again
FAIRNESS_S = 0.002  # how long the last holder lets a waiting process go first
VACUUM_LOG_FACTOR = 64  # while a vacuum copies, the log may grow to this many times its limit


class Options(NamedTuple):
    """What all handles of one engine share; those of the first opening count."""

    compact_at: int = 1 << 20
    write_timeout_s: float = 30.0
    sync_interval_s: float = 1.0
    retention: Retention = Retention()


class Engine:
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
        self.path = path
        self.options = options
        self.header = header
        self.presence_fd = presence_fd
        self.log = log
        self.table = table
        self.counters = counters
        self.seed = table.seed
        self.closed = False
        self.forked = False
        self.committer = Committer(self._commit_group, options.write_timeout_s)
        self.commit_lock = threading.Lock()  # held by the one thread that may write
        self._leader = 0  # that thread
        self.view_lock = threading.Lock()
        self.on_activity: Callable[[], None] = _nothing  # told after each publication
        self.incarnation = header.words[INCARNATION]
        self._member = int.from_bytes(os.urandom(3), "little") | 1
        self._view = Overlay(header.words[STATE] >> 32)

    # -- reading ----------------------------------------------------------------------------

    def view(self) -> Overlay:
        """An overlay that holds everything published before this call."""
        view = self._view
        try:
            if view.state == self.header.words[STATE]:
                return view
        except ValueError:  # the header is unmapped
            raise self._closed_error() from None
        return self.refresh()

    def current_view(self) -> Overlay | None:
        """The overlay if it is complete as it is, without touching the disk; else None."""
        view = self._view
        return view if view.state == self.log_state()[0] else None

    def refresh(self) -> Overlay:
        """Catch the overlay up with the log, after other processes' writes."""
        while True:
            if self.closed:
                raise self._closed_error()
            words = self.header.words
            if words[INCARNATION] != self.incarnation or words[LOG_ID] != self.log.log_id:
                with self.exclusive():
                    pass  # taking the writer lock reopens what has been replaced
                continue
            with self.view_lock:
                state = words[STATE]
                if (
                    words[INCARNATION] == self.incarnation
                    and words[LOG_ID] == self.log.log_id
                    and self._catch_up(state)
                ):
                    return self._view

    def _catch_up(self, state: int) -> bool:
        """Bring the overlay to ``state``; False if the epoch moved meanwhile.  View lock held."""
        epoch, committed = state >> 32, state & OFFSET_MAX
        view = self._view
        if view.epoch != epoch:
            view = Overlay(epoch)
        if committed > view.applied:
            start = view.applied
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
            view.apply(((frame.key, frame.entry) for frame in found), committed)
        self._view = view
        return True

    def find_result(self, key: bytes) -> Entry | None:
        """The newest record of a result: RESULT or DELETED, expired or not; or None."""
        entry = self.view().results.get(key)
        if entry is None:
            entry = self.from_table(lambda table: table.get_result(key))
        return entry

    def find_trace(self, key: bytes) -> Entry | None:
        """As :meth:`find_result`, and if there is no result, what is known of one that has gone."""
        entry = self.find_result(key)
        if entry is not None and entry.kind == DELETED and not entry.flags & HAD_RESULT:
            entry = self.from_table(lambda table: table.get_result(key))
        return entry

    def find_progress(self, key: bytes) -> Entry | None:
        """The newest progress record, expired or not; or None."""
        progress = self.view().progress
        if key in progress:
            return progress[key]
        return self.from_table(lambda table: table.get_progress(key))

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
                    raise self._closed_error() from None
                if table is self.table:
                    with self._leading():  # a failed compaction could not open it again
                        table.ensure_open()

    def listing(self, name: bytes, *, newest_first: bool = True) -> Iterator[Record]:
        """The records of one of the table's databases by time, in batches of short reads."""
        after_us: int | None = None
        while True:
            read = partial(
                Table.listing,
                name=name,
                newest_first=newest_first,
                after_us=after_us,
                limit=LISTING_BATCH,
            )
            batch = self.from_table(read)
            yield from batch
            if len(batch) < LISTING_BATCH:
                return
            after_us = batch[-1].entry.time_us

    # -- the writer lock --------------------------------------------------------------------

    @contextmanager
    def _leading(self) -> Iterator[None]:
        """As :meth:`exclusive`, also for a thread that leads already."""
        if self._leader == threading.get_ident():
            yield
        else:
            with self.exclusive():
                yield

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold lead and writer lock, recovered and caught up; for compaction and the like."""
        deadline = time.monotonic() + self.options.write_timeout_s
        if not self.commit_lock.acquire(timeout=self.options.write_timeout_s):
            raise self._timeout_error()
        try:
            self._leader = threading.get_ident()
            try:
                self._lock_log(deadline)
                self._prepare()
                yield
            finally:
                if not self.closed:
                    self._unlock_log()
        finally:
            self._leader = 0
            self.commit_lock.release()
        self._announce()

    def _lock_log(self, deadline: float) -> None:
        """Take the writer lock of the current log.  Raises WriteTimeoutError."""
        if self.closed:
            raise self._closed_error()
        header, member = self.header, self._member
        words = header.words
        wanted = header.wanted.value
        if wanted and wanted != member and words[LAST_HOLDER] == member:
            header.releases.wait(header.releases.value, FAIRNESS_S)
            if header.wanted.value == wanted:
                header.wanted.value = 0  # it may be dead: do not wait for it again
        while True:
            seen = header.releases.value
            if self.log.try_lock():
                if words[LOG_ID] == self.log.log_id:
                    break
                self.log.unlock()
                self._reopen_log()
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._timeout_error()
            header.wanted.value = member
            header.releases.wait(seen, min(left, LOCK_RECHECK_S))
        if header.wanted.value == member:
            header.wanted.value = 0

    def _unlock_log(self) -> None:
        """Give the writer lock back, if it is held, and wake a process that waits for it."""
        header = self.header
        header.words[LAST_HOLDER] = self._member
        self.log.unlock()
        header.releases.value += 1
        if header.wanted.value:
            header.releases.wake()

    def _announce(self) -> None:
        if not self.closed:
            self.header.announce()
            self.on_activity()

    def _reopen_log(self) -> None:
        with self.view_lock:
            old, self.log = self.log, Log.open(self.log.path, self.log.uuid)
            old.close()

    def _prepare(self) -> None:
        """Under the writer lock: recover if somebody died or failed, and catch up."""
        words = self.header.words
        if words[INCARNATION] != self.incarnation:
            self._reopen_table()
        if self._view.state != words[STATE]:
            with self.view_lock:
                if not self._catch_up(words[STATE]):
                    raise AssertionError("the epoch moved under the writer lock")
        if words[WRITING] or words[LOG_FAILED]:
            self._recover()

    def _reopen_table(self) -> None:
        """Take over the file that a vacuum has put in the table's place."""
        words = self.header.words
        if os.stat(self.path).st_ino != words[TABLE_INODE]:
            # A vacuum died between its rename and its publication: the lock file may still be
            # the old table's, whose readers' slots say nothing of the new file.
            osdep.remove(self.path + "-lock")
            osdep.sync_directory(os.path.dirname(self.path))
        table = Table(self.path)
        self.table = table  # the old one is closed when its last reader lets go of it
        words[TABLE_INODE] = table.inode
        self.incarnation = words[INCARNATION]

    # -- committing -------------------------------------------------------------------------

    def _commit_group(self, group: list[Write], ack: Callable[[], None]) -> None:
        """Commit what the committer has gathered.  Every write gets its outcome or error."""
        timeout_s = self.options.write_timeout_s
        deadline = time.monotonic() + timeout_s
        if not self.commit_lock.acquire(timeout=timeout_s):
            _fail(group, self._timeout_error())
            return
        try:
            self._leader = threading.get_ident()
            try:
                self._lock_log(deadline)
                self._prepare()
                for segment in _segments(group):
                    self._commit_segment(segment)
                ack()
                if self.header.words[STATE] & OFFSET_MAX >= self.options.compact_at:
                    self._compact_if_due()
            except Exception as exc:
                _fail(group, write_error(self.path, exc))
            finally:
                if not self.closed:
                    self._unlock_log()
        finally:
            self._leader = 0
            self.commit_lock.release()
        self._announce()

    def _commit_segment(self, writes: list[Write]) -> None:
        words = self.header.words
        try:
            if words[WRITING] or words[LOG_FAILED]:
                self._recover()  # the segment before this one failed
            now_us = time.time_ns() // 1000
            pending = _Pending(self)
            resolved: list[tuple[bytes, Entry]] = []
            time_us = max(now_us, words[LAST_TIME])
            for write in writes:
                entry = write.resolve(pending, now_us)
                if entry is not None:
                    time_us += 1
                    entry = Entry(entry[0], entry[1], time_us, entry[3], entry[4])
                    resolved.append((write.key, entry))
                    pending.add(write.key, entry)
            words[LAST_TIME] = time_us
            must_sync = any(write.sync for write in writes)
            if len(writes) == 1 and resolved and self._is_large(resolved[0][1]):
                self._fold_large(*resolved[0])
            else:
                self._append(resolved, must_sync=must_sync)
        except Exception as exc:
            _fail(writes, write_error(self.path, exc))
        else:
            for write in writes:
                if write.error is not None and write.outcome is not REFUSED:
                    write.error = None

    def _is_large(self, entry: Entry) -> bool:
        return len(entry.payload) > LARGE_BYTES and not self._vacuum_defers(len(entry.payload))

    def _fold_large(self, key: bytes, entry: Entry) -> None:
        """Put a large record into the table at once."""
        if key in self._view.results:
            self.fold()  # else readers would find the older record in the overlay, now and then
        self.fold(extra={key: entry})

    def _append(self, resolved: list[tuple[bytes, Entry]], *, must_sync: bool) -> None:
        """Write, flush and publish one group: the only place that appends to the log."""
        words, log = self.header.words, self.log
        state, synced = words[STATE], words[SYNCED]
        epoch, start = state >> 32, state & OFFSET_MAX
        if not resolved and (not must_sync or synced >= start):
            return
        encode, seed = frames.encode_frame, self.seed
        data = b"".join([encode(seed, epoch, synced, key, entry) for key, entry in resolved])
        end = start + len(data)
        if end > OFFSET_MAX:
            raise WriteError(errno.EFBIG, f"{log.path}: the log has reached its largest size")
        log.reserve(end)
        words[WRITING] = 1
        try:
            if data:
                log.write(data, start)
            if must_sync:
                log.sync()
                self.counters.flushes += 1
        except OSError:
            words[LOG_FAILED] = 1
            self._recover_quietly()
            raise
        with self.view_lock:
            if must_sync:
                words[SYNCED] = end
            self.header.publish(epoch, end)
            view = self._view
            if view.epoch == epoch and view.applied == start:
                view.apply(resolved, end)
        words[WRITING] = 0
        self.counters.count_group(len(resolved))

    # -- compaction and recovery ------------------------------------------------------------

    def compact(self) -> None:
        """Fold the log into the table.  On the disk when this returns.  Raises WriteError."""
        try:
            with self.exclusive():
                if self._view or self.expiry_due():
                    self.fold()
        except (OSError, lmdb.Error) as exc:
            raise write_error(self.path, exc) from exc

    def expiry_due(self) -> bool:
        """Whether the table holds something whose time to live is over."""
        return self.table.expiry_due(time.time_ns() // 1000)

    def _compact_if_due(self) -> None:
        """After a commit that has been acked: errors stay here, the next writer recovers."""
        if self._vacuum_defers(0):
            return
        try:
            self.fold()
        except (OSError, lmdb.Error, LogstoreError) as exc:
            self.counters.compaction_errors += 1
            self.counters.last_compaction_error = str(exc)

    def _vacuum_defers(self, coming_bytes: int) -> bool:
        """Whether a vacuum is copying and the log may still grow, so that nothing is folded."""
        words = self.header.words
        if not words[VACUUM]:
            return False
        committed = words[STATE] & OFFSET_MAX
        if committed + coming_bytes > self.options.compact_at * VACUUM_LOG_FACTOR:
            return False
        if self.vacuum_is_dead():
            words[VACUUM] = 0
            return False
        return True

    def vacuum_is_dead(self) -> bool:
        """Whether the process that put off compactions is gone."""
        try:
            fd = os.open(self.path + "-vacuum", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            return osdep.try_lock(fd, shared=True)
        finally:
            os.close(fd)

    def fold(self, *, extra: dict[bytes, Entry] | None = None, clean: bool = False) -> None:
        """Fold the overlay, and ``extra`` behind it, and begin a new epoch.

        Under the writer lock, caught up.  An error leaves WRITING set.
        """
        started = time.perf_counter()
        words = self.header.words
        words[WRITING] = 1
        view = self._view
        meta = self.table.read_meta()
        epoch = max(meta.epoch, view.epoch) + 1
        if epoch > frames.EPOCH_MAX:
            raise WriteError(errno.EOVERFLOW, f"{self.path}: no epochs are left")
        batches = [] if meta.epoch > view.epoch else [(view.results, view.progress)]
        if extra:
            batches.append((extra, {}))
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
            self._view = Overlay(epoch)
        words[WRITING] = 0

    def _recover(self) -> None:
        """Somebody died or failed amid a write: keep what was published, nothing else."""
        words = self.header.words
        self.table.ensure_open()
        if os.stat(self.path).st_ino != self.table.inode:
            self._reopen_table()
            meta = self.table.read_meta()
            words[INCARNATION] = self.incarnation = meta.incarnation
        self.fold()
        if words[LOG_FAILED]:
            words[WRITING] = 1
            self._replace_log()
            words[LOG_FAILED] = 0
            words[WRITING] = 0
        self.counters.recoveries += 1

    def _recover_quietly(self) -> None:
        try:
            self._recover()
        except (OSError, lmdb.Error, LogstoreError) as exc:
            self.counters.last_compaction_error = str(exc)

    def _replace_log(self) -> None:
        """After a failed write: what the page cache holds of the old file is no evidence."""
        words = self.header.words
        log_id = int.from_bytes(os.urandom(8), "little") >> 1 | 1
        new = Log.create(self.log.path, self.log.uuid, log_id, arena_bytes(self.options))
        with self.view_lock:
            old, self.log = self.log, new
            words[LOG_ID] = log_id
        old.close()

    # -- salvage ----------------------------------------------------------------------------

    @contextmanager
    def locked_without_recovery(self) -> Iterator[None]:
        """Hold lead and writer lock of a store whose log may be damaged."""
        deadline = time.monotonic() + self.options.write_timeout_s
        with self.commit_lock:
            try:
                self._lock_log(deadline)
                yield
            finally:
                self._unlock_log()
        self._announce()

    def loaded_view(self) -> Overlay:
        """The overlay as far as it is loaded."""
        return self._view

    def adopt_salvaged(self, view: Overlay) -> None:
        """Fold an overlay made of whole frames and replace the log; writer lock held."""
        self._view = view
        self.fold()
        self.header.words[WRITING] = 1
        self._replace_log()
        self.header.words[WRITING] = 0

    # -- facts ------------------------------------------------------------------------------

    def log_state(self) -> tuple[int, int]:
        """The published state (epoch << 32 | committed offset) and the synced offset."""
        return self.header.words[STATE], self.header.words[SYNCED]

    def log_end(self) -> int:
        """The committed offset."""
        return self.header.words[STATE] & OFFSET_MAX

    def log_file_bytes(self) -> int:
        """Size of the log's file."""
        return os.stat(self.log.path).st_size

    def read_log(self) -> bytes:
        """The published part of the log, from the disk."""
        return self.log.read(FIRST_OFFSET, self.log_end())

    # -- ending -----------------------------------------------------------------------------

    def flush(self) -> None:
        """Put what has been published but not synced on the disk; writer lock held."""
        self._append([], must_sync=True)

    def fold_clean(self) -> None:
        """Fold everything and mark the table as closed cleanly; writer lock held, alone."""
        self.fold(clean=True)

    def stop(self) -> None:
        """Let no operation begin any more."""
        self.closed = True

    def release(self, *, keep_presence: bool = False) -> None:
        """Close all handles.  Nobody may be inside the engine."""
        self.table.close()
        self.log.close()
        with self.view_lock:
            self.header.close()
        if not keep_presence:
            os.close(self.presence_fd)

    # -- fork -------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Wait until no thread is inside a commit, the view or a table read."""
        self.commit_lock.acquire()
        self.view_lock.acquire()
        self.table.hold_reads()

    def after_fork_in_parent(self) -> None:
        """Undo :meth:`before_fork`."""
        self.table.resume_reads()
        self.view_lock.release()
        self.commit_lock.release()

    def after_fork_in_child(self) -> None:
        """Drop what was inherited: closed, never unlocked, for the locks are the parent's too."""
        self.closed = self.forked = True
        self.view_lock = threading.Lock()
        self.table.abandon()
        self.log.close()
        self.header.close()
        os.close(self.presence_fd)

    # -- errors -----------------------------------------------------------------------------

    def _timeout_error(self) -> WriteTimeoutError:
        return WriteTimeoutError(
            f"{self.path}: another process or thread has held the writer lock for more than "
            f"{self.options.write_timeout_s} s; the outcome of this write is unknown; look for a "
            f"stopped process that has the store open"
        )

    def _closed_error(self) -> StoreClosedError:
        return StoreClosedError(f"{self.path}: the store is closed")


class _Pending(Lookup):
    """The store as the next write of a group finds it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._results: dict[bytes, Entry] = {}
        self._progress: dict[bytes, bool] = {}

    def add(self, key: bytes, entry: Entry) -> None:
        if entry.kind == frames.PROGRESS:
            self._progress[key] = True
        else:
            self._results[key] = entry
            if entry.kind == DELETED:
                self._progress[key] = False

    def result(self, key: bytes) -> Entry | None:
        entry = self._results.get(key)
        return self._engine.find_trace(key) if entry is None else entry

    def has_progress(self, key: bytes) -> bool:
        if key in self._progress:
            return self._progress[key]
        return self._engine.find_progress(key) is not None


def arena_bytes(options: Options) -> int:
    """How large a new log is: its limit and room for the group that crosses it."""
    return FIRST_OFFSET + options.compact_at + LARGE_BYTES


def last_sync(found: list[Frame]) -> int:
    """How far the frames of a scan say that the log had been synced."""
    return max((frame.synced_through for frame in found), default=FIRST_OFFSET)


def _segments(group: list[Write]) -> Iterator[list[Write]]:
    """Split a group so that each large write stands alone, in the group's order."""
    segment: list[Write] = []
    for write in group:
        if len(write.entry.payload) > LARGE_BYTES:
            if segment:
                yield segment
            yield [write]
            segment = []
        else:
            segment.append(write)
    if segment:
        yield segment


def _fail(writes: list[Write], error: BaseException) -> None:
    for write in writes:
        if write.error is not None:
            write.error = error


def _nothing() -> None:
    return None
