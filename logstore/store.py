"""The synchronous store.

Rules: a :class:`Store` is a handle.  All handles of one process on one file share an engine.  Every
method may be called from any thread.  When a write method returns, the write has the requested
durability.  After WriteTimeoutError it is unknown whether the write happens.  After a fork, the
child's handles reopen the file on their first use.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NoReturn

from logstore._arguments import FilePath, file_path, positive, store_path, task_key, time_out, whole
from logstore._codec.hooks import DecHook, EncHook, check_hook
from logstore._codec.values import decode_value
from logstore._engine import checking, registry, vacuum
from logstore._engine.clock import now_us
from logstore._engine.engine import Engine
from logstore._engine.frozen import FrozenEngine, is_in_use
from logstore._engine.listing import list_tasks
from logstore._engine.log import FIRST_OFFSET
from logstore._engine.opening import check_place, open_engine
from logstore._engine.options import Options, Retention
from logstore._engine.salvage import Salvaged, salvage_open
from logstore._engine.shelter import sheltered
from logstore._engine.systemerrors import raise_open_error
from logstore._engine.taskstatus import is_live_progress, is_live_result
from logstore._engine.writes import Flush
from logstore._handle import Handle, Mode, Sync
from logstore._watch import Waiter, Watch
from logstore.errors import WaitTimeoutError
from logstore.progress import TaskProgress, decode_progress
from logstore.queue import Queue
from logstore.types import CheckReport, Status, StoreStats, TaskInfo, VacuumReport

VALUE_BYTES_MAX = 1 << 30
COMPACT_AT_RANGE = (1 << 14, 1 << 28)


def open(
    path: FilePath,
    *,
    mode: Mode = "rw",
    sync: Sync = "always",
    sync_interval_s: float = 1.0,
    compact_at: int = 1 << 20,
    write_timeout_s: float = 30.0,
    result_ttl_s: float | None = None,
    failure_ttl_s: float | None = None,
    progress_ttl_s: float | None = None,
    max_results: int | None = None,
    max_bytes: int | None = None,
    max_value_bytes: int = VALUE_BYTES_MAX,
    accept_log_loss: bool = False,
    force: bool = False,
    enc_hook: EncHook | None = None,
    dec_hook: DecHook | None = None,
) -> Store:
    """Open the store in the file ``path``; create the file if it does not exist.

    ``mode="r"`` opens read-only.  The handle joins live processes that use the store; without
    any, it writes nothing.  ``sync="always"`` syncs each result to disk before its write returns;
    ``"interval"`` syncs within ``sync_interval_s`` seconds.  Progress always uses the interval.
    ``compact_at`` is the size in bytes at which a log is folded into the table, beside the writers,
    who use a second log.  It bounds recovery time and memory.  ``write_timeout_s`` is the longest
    wait for other writers.  Times to live are in seconds; None means no expiry.
    ``failure_ttl_s`` is for results stored with ``failed=True``; its default is ``result_ttl_s``.
    ``max_results`` and ``max_bytes`` are what the table keeps: beyond them the oldest results are
    removed in the background.
    ``accept_log_loss=True`` opens a store whose log is missing, without the writes in that log.
    ``force=True`` opens a store on a network file system.

    ``enc_hook(obj)`` and ``dec_hook(type, obj)`` convert the types of an application, as in
    msgspec.  ``enc_hook`` gets an object of an unsupported type and returns one of a supported
    type.  On reading, ``dec_hook`` gets the class of the object and the stored form, and returns
    the object.  A hook raises ``NotImplementedError`` for types that it does not support.
    ``type`` is the class if its module is imported, otherwise its dotted name.  Without
    ``dec_hook``, or if it does not support the type, the reader gets the stored form.  Hooks may
    be called in any thread.

    A second ``open`` of the same file in a process shares the engine of the first, and its
    ``compact_at``, ``write_timeout_s``, ``sync_interval_s``, ``max_results`` and ``max_bytes``.

    Raises an :class:`~logstore.errors.OpenError`, CorruptLogError, CorruptTableError, DiskFullError
    (an open store needs some space beside its file), ValueError for an invalid path or an option
    out of range, or TypeError for a hook that is not a function.  The files are then unchanged.
    """
    real_path = store_path(path)
    if mode not in ("rw", "r"):
        raise ValueError(f"mode must be 'rw' or 'r', not {mode!r}")
    if sync not in ("always", "interval"):
        raise ValueError(f"sync must be 'always' or 'interval', not {sync!r}")
    whole("compact_at", compact_at, *COMPACT_AT_RANGE)
    whole("max_value_bytes", max_value_bytes, 1)
    for name, limit in (("max_results", max_results), ("max_bytes", max_bytes)):
        if limit is not None:
            whole(name, limit, 1)
    for name, seconds in (
        ("sync_interval_s", sync_interval_s),
        ("write_timeout_s", write_timeout_s),
        ("result_ttl_s", result_ttl_s),
        ("failure_ttl_s", failure_ttl_s),
        ("progress_ttl_s", progress_ttl_s),
    ):
        if seconds is not None:
            positive(name, seconds)
    check_hook("enc_hook", enc_hook)
    check_hook("dec_hook", dec_hook)
    options = Options(
        compact_at=compact_at,
        write_timeout_s=write_timeout_s,
        sync_interval_s=sync_interval_s,
        retention=Retention(max_results, max_bytes),
    )

    def open_lease() -> registry.Lease:
        try:
            if mode == "r" and not is_in_use(real_path):
                check_place(real_path, force=force, create=False)
                return registry.acquire_frozen(
                    real_path, lambda: FrozenEngine(real_path, options), write_timeout_s
                )
            return registry.acquire(
                real_path,
                lambda: open_engine(
                    real_path,
                    options,
                    create=mode == "rw",
                    force=force,
                    accept_log_loss=accept_log_loss,
                ),
                write_timeout_s,
            )
        except Exception as exc:
            raise_open_error(real_path, exc)

    return sheltered(
        lambda: Store(
            Handle(
                real_path,
                open_lease,
                writable=mode == "rw",
                sync=sync == "always",
                ttls_s=(result_ttl_s, failure_ttl_s, progress_ttl_s),
                max_value_bytes=max_value_bytes,
                enc_hook=enc_hook,
                dec_hook=dec_hook,
            )
        ),
        discard=Store.close,
    )


class Store:
    """An open store, returned by :func:`logstore.open`.  As a context manager it closes itself."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    @property
    def path(self) -> str:
        """The real path of the file."""
        return self._handle.path

    @property
    def closed(self) -> bool:
        """Whether the handle has been closed."""
        return self._handle.closed

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<logstore.Store {self.path!r} {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a Store can be neither pickled nor copied; open it where it is needed:"
            f" logstore.open({self.path!r})"
        )

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- results ------------------------------------------------------------------------------

    def set_result(
        self, task_id: str, value: object, *, ttl_s: float | None = None, failed: bool = False
    ) -> None:
        """Store a task's result; replace an earlier one.

        The result is on disk when this returns, unless the store is open with
        ``sync="interval"``.  ``ttl_s`` overrides the store's time to live.  ``failed`` marks the
        result as an error.

        Raises UnserializableValueError, ValueTooLargeError, ValueError for the id or ``ttl_s``,
        ReadOnlyError, DiskFullError, WriteError, WriteTimeoutError, StoreClosedError.
        """
        self._handle.commit([self._handle.result_write(task_id, value, ttl_s=ttl_s, failed=failed)])

    def get_result(self, task_id: str) -> Any:
        """Return the value of a task's result.

        Raises ResultIsMissingError, ResultExpiredError or ResultDeletedError if there is none,
        CorruptRecordError if it is damaged.
        """
        return decode_value(
            self._handle.result_entry(task_key(task_id)).payload, self._handle.dec_hook
        )

    def is_result_ready(self, task_id: str) -> bool:
        """Return whether the task has a result."""
        entry = self._handle.engine.find_result(task_key(task_id))
        return entry is not None and is_live_result(entry, now_us())

    def pop_result(self, task_id: str) -> Any:
        """Delete a task's result and return its value; only one of several callers gets it.

        The task's progress is deleted too.  The deletion is on disk when this returns.  Raises
        the errors of :meth:`get_result` and :meth:`set_result`.
        """
        write = self._handle.pop_write(task_id)
        self._handle.commit([write])
        return self._handle.popped_value(write)

    def delete_result(self, task_id: str) -> bool:
        """Delete a task's result and progress; return whether there was a result.

        The deletion is on disk when this returns.  Deleting again changes nothing.
        """
        write = self._handle.delete_write(task_id)
        self._handle.commit([write])
        return bool(write.outcome)

    # -- progress -----------------------------------------------------------------------------

    def set_progress(
        self, task_id: str, progress: TaskProgress, *, ttl_s: float | None = None
    ) -> None:
        """Store a task's progress; replace earlier progress.

        When this returns, the progress survives the death of this process.  After
        ``sync_interval_s`` it survives power loss.  Raises the errors of :meth:`set_result`.
        """
        self._handle.commit([self._handle.progress_write(task_id, progress, ttl_s=ttl_s)])

    def get_progress(self, task_id: str) -> TaskProgress | None:
        """Return a task's progress, or None if it was never set or has expired."""
        entry = self._handle.engine.find_progress(task_key(task_id))
        if entry is None or not is_live_progress(entry, now_us()):
            return None
        return decode_progress(entry.payload, self._handle.dec_hook)

    # -- states -------------------------------------------------------------------------------

    def status(self, task_id: str) -> Status:
        """Return the status of a task.

        ``"ready"``: there is a result.  ``"running"``: there is progress.  ``"deleted"`` or
        ``"expired"``: there was a result within the last day.  ``"unknown"``: none of these.
        """
        return self._handle.status(task_key(task_id))

    def wait_result(
        self, task_id: str, *, timeout_s: float | None = None, timeout: float | None = None
    ) -> Any:
        """Wait for a task's result and return its value.

        Any process may store it.  The wait ends within milliseconds of that and uses no CPU.
        Raises WaitTimeoutError after ``timeout_s`` seconds, ResultDeletedError or
        ResultExpiredError if the result was removed.  ``timeout`` is an alias, for taskiq.
        """
        timeout_s = time_out(timeout_s, timeout)
        if not self.wait_ready(task_id, timeout_s=timeout_s):
            raise WaitTimeoutError(f"no result for task {task_id!r} within {timeout_s} s")
        return self.get_result(task_id)

    def wait_ready(
        self, task_id: str, *, timeout_s: float | None = None, timeout: float | None = None
    ) -> bool:
        """Wait until a task has a result; return False after ``timeout_s`` seconds without one.

        Raises ResultDeletedError or ResultExpiredError if the result was removed.
        """
        timeout_s = time_out(timeout_s, timeout)
        handle, key = self._handle, task_key(task_id)
        if handle.is_settled(key):
            return True
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        waiter = Waiter(handle, frozenset((key,)))
        try:
            handle.subscribe(waiter)
            while not handle.is_settled(key):
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                waiter.news.wait(left)
        finally:
            waiter.ended = True
            handle.unsubscribe(waiter)
        return True

    def watch(self, task_id: str | None = None) -> Watch:
        """Return an iterator of all later changes to one task or to all tasks, by any process.

        Each result and each deletion is reported once, in order.  Expiry and eviction are
        reported when the entry is removed, some time later.  If one task changes several times
        before the iterator is read, only its last change may be reported.  ``next()`` blocks.
        The iterator ends when it or the store is closed.  It is a context manager.
        """
        return Watch(self._handle, task_id)

    def tasks(
        self,
        *,
        status: Status | None = None,
        newest_first: bool = True,
        limit: int | None = None,
    ) -> Iterator[TaskInfo]:
        """Iterate over the tasks by time: finished and running tasks, or those of one status.

        ``"deleted"`` and ``"expired"`` list the ids that are still known.  The iterator reads an
        index in small batches: the first tasks take milliseconds in a store of any size.  Changes
        during the iteration may or may not be included.
        """
        if status is not None and status not in ("running", "ready", "expired", "deleted"):
            raise ValueError(f"status must be running, ready, expired or deleted, not {status!r}")
        if limit is not None and limit < 0:
            raise ValueError(f"limit must not be negative, not {limit}")
        return list_tasks(
            self._handle.engine,
            status,
            newest_first=newest_first,
            limit=limit,
            dec_hook=self._handle.dec_hook,
        )

    # -- the whole store ----------------------------------------------------------------------

    def queue(self, name: str = "default") -> Queue:
        """Return a queue of this store."""
        return Queue(self._handle, name)

    def compact(self) -> None:
        """Compact the log into the table now.  The table is on disk when this returns."""
        engine = self._handle.writable_engine
        engine.refuse_nested()
        sheltered(engine.compact)

    def vacuum(self) -> VacuumReport:
        """Return free pages of the file to the file system; writers may go on.

        Raises StoreBusyError if another process runs a vacuum, or if concurrent writes forced
        three restarts.
        """
        engine = self._handle.writable_engine
        engine.refuse_nested()
        return sheltered(lambda: vacuum.vacuum(engine))

    def backup(self, destination: FilePath) -> None:
        """Copy the store to a new file, with all writes acknowledged before this call.

        The copy is on disk when this returns.  Writers may go on.  Raises FileExistsError if
        ``destination`` exists, StoreBusyError if concurrent writes forced three restarts.
        """
        engine = self._handle.writable_engine
        engine.refuse_nested()
        absolute = file_path(destination)
        sheltered(lambda: vacuum.backup(engine, absolute))

    def check(self, *, salvage: bool = False) -> CheckReport:
        """Verify every record, index and frame, in a snapshot taken during the call.

        If any process has the store open for writing, a private copy is verified.  It needs disk
        space; readers and writers may go on.  ``salvage`` compacts the intact frames of a damaged
        log into the table and keeps the log under another name.  Raises StoreBusyError if
        concurrent writes forced three restarts of the copy, DiskFullError.
        """
        engine = self._handle.writable_engine if salvage else self._handle.engine
        engine.refuse_nested()

        def check() -> CheckReport:
            saved = salvage_open(engine) if salvage and isinstance(engine, Engine) else Salvaged()
            return checking.check(engine)._replace(**saved._asdict())

        return sheltered(check)

    def stats(self) -> StoreStats:
        """Return sizes and counters, within a few milliseconds."""
        engine = self._handle.engine
        counts, results, progress = checking.sizes(engine)
        counters = engine.counters
        log = engine.log_state()
        return StoreStats(
            path=self.path,
            results=results,
            progress=progress,
            gone=counts.gone,
            data_bytes=counts.data_bytes,
            file_bytes=counts.file_bytes,
            free_bytes=counts.free_bytes,
            log_bytes=log.committed - FIRST_OFFSET + max(log.sealed_end - FIRST_OFFSET, 0),
            log_unsynced_bytes=max(log.committed - log.synced, 0),
            log_file_bytes=engine.log_file_bytes(),
            epoch=log.epoch,
            incarnation=engine.incarnation,
            readers=counts.readers,
            oldest_reader=counts.oldest_reader,
            commits=counters.commits,
            writes=counters.writes,
            flushes=counters.flushes,
            group_size_max=counters.group_size_max,
            group_size_mean=counters.group_size_mean(),
            compactions=counters.compactions,
            compaction_errors=counters.compaction_errors,
            compaction_pause_max_s=counters.compaction_pause_max_s,
            compaction_pause_total_s=counters.compaction_pause_total_s,
            last_error=counters.last_compaction_error,
            recoveries=counters.recoveries,
            recovered_frames=counters.recovered_frames,
            torn_tails=counters.torn_tails,
            vacuums=counters.vacuums,
        )

    def sync(self) -> None:
        """Sync all acknowledged writes to disk, including progress."""
        self._handle.commit([Flush()])

    def close(self) -> None:
        """Close this handle; closing the last handle of the last process leaves a single file.

        Closing again does nothing, unless the first call was interrupted.  Raises WriteError if
        the last compaction failed: nothing is lost, and the log stays beside the table.  Raises
        StoreReplacedError if the file at the path is no longer this store.

        A thread closes handles that are garbage collected without a call of this method.
        """
        self._handle.close()
