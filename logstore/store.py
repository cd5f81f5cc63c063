"""The synchronous store: what an application opens, writes to and reads from.

Rules: a :class:`Store` is a handle; all handles of one process on one file share an engine.  Every
method may be called from any thread.  A write has reached the durability it was asked for when
its method returns; a method that raises WriteTimeoutError leaves open whether it will.  After a
fork the child's handles open the file anew on their first use.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NoReturn

from logstore._arguments import (
    FilePath,
    file_path,
    now_us,
    task_key,
    time_out,
)
from logstore._codec.hooks import DecHook, EncHook
from logstore._codec.values import decode_value
from logstore._engine import checking, vacuum
from logstore._engine.engine import Engine
from logstore._engine.frames import (
    OFFSET_MAX,
)
from logstore._engine.listing import list_tasks
from logstore._engine.log import FIRST_OFFSET
from logstore._engine.notify import Change, Subscription
from logstore._engine.shelter import sheltered
from logstore._engine.states import (
    is_live_progress,
    is_live_result,
)
from logstore._engine.threads import Signal
from logstore._engine.writes import (
    Flush,
)
from logstore._handle import VALUE_BYTES_MAX, Handle, Mode, Sync, open_handle
from logstore._watch import Watch
from logstore.errors import (
    WaitTimeoutError,
)
from logstore.progress import TaskProgress, decode_progress
from logstore.types import CheckReport, Status, StoreStats, TaskInfo


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
    """Open the store in the file ``path``, which is created if it is not there.

    ``mode="r"`` reads only: beside live processes as one of them, otherwise without writing
    anything.  ``sync="always"`` puts each result on the disk before its write returns;
    ``"interval"`` within ``sync_interval_s`` seconds.  Progress is always written as the latter.
    ``compact_at`` is the size in bytes at which the log is folded into the table: it bounds
    recovery, memory and the pause of a compaction.  ``write_timeout_s`` bounds the wait for other
    writers.  Times to live are in seconds, None for ever: for results, for results stored with
    ``failed=True`` (else as results), for progress.  ``max_results`` and ``max_bytes`` let the
    oldest results go at each compaction.  ``accept_log_loss=True`` opens a store whose log has
    been lost, without what was in it; ``force=True`` opens one on a network file system.

    ``enc_hook(obj)`` and ``dec_hook(type, obj)`` let an application keep its own types, as with
    msgspec.  The first is called with an object of a type that is not stored, and returns one that
    is; the second is called on reading, with the class of that object and what was made of it, and
    returns the value.  ``NotImplementedError`` says "not supported".  ``type`` is the class if its
    module is imported, and else its dotted name; without ``dec_hook``, or if that does not support
    the type, the value is what ``enc_hook`` made.  Any thread may call them.

    A second ``open`` of the same file in a process shares the first one's engine, and with it
    ``compact_at``, ``write_timeout_s``, ``sync_interval_s``, ``max_results`` and ``max_bytes``.

    Raises an :class:`~logstore.errors.OpenError`, CorruptLogError, CorruptTableError, DiskFullError
    (an open store needs some space beside its file), ValueError for a path that is none or an
    option out of its range, or TypeError for a hook that is no function; the files are then as
    they were.
    """

    def opened() -> Store:
        handle = open_handle(
            path,
            mode=mode,
            sync=sync,
            sync_interval_s=sync_interval_s,
            compact_at=compact_at,
            write_timeout_s=write_timeout_s,
            result_ttl_s=result_ttl_s,
            failure_ttl_s=failure_ttl_s,
            progress_ttl_s=progress_ttl_s,
            max_results=max_results,
            max_bytes=max_bytes,
            max_value_bytes=max_value_bytes,
            accept_log_loss=accept_log_loss,
            force=force,
            enc_hook=enc_hook,
            dec_hook=dec_hook,
        )
        return Store(handle)

    return sheltered(opened, discard=Store.close)


class Store:
    """An open store.  Made by :func:`logstore.open`; a context manager that closes it."""

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- results ------------------------------------------------------------------------------

    def set_result(
        self, task_id: str, value: object, *, ttl_s: float | None = None, failed: bool = False
    ) -> None:
        """Store a task's result, over an earlier one.

        On the disk when this returns, unless the store is open with ``sync="interval"``.
        ``ttl_s`` overrides the store's time to live; ``failed`` marks the result as an error.

        Raises UnserializableValueError, ValueTooLargeError, ValueError for the id or ``ttl_s``,
        ReadOnlyError, DiskFullError, WriteError, WriteTimeoutError, StoreClosedError.
        """
        self._handle.commit([self._handle.result_write(task_id, value, ttl_s=ttl_s, failed=failed)])

    def get_result(self, task_id: str) -> Any:
        """The value of a task's result.

        Raises ResultIsMissingError, ResultExpiredError or ResultDeletedError if there is none,
        CorruptRecordError if it is damaged.
        """
        return decode_value(
            self._handle.result_entry(task_key(task_id)).payload, self._handle.dec_hook
        )

    def is_result_ready(self, task_id: str) -> bool:
        """Whether there is a result to get."""
        entry = self._handle.engine.find_result(task_key(task_id))
        return entry is not None and is_live_result(entry, now_us())

    def pop_result(self, task_id: str) -> Any:
        """The value of a task's result, which is deleted: of many callers exactly one gets it.

        The deletion, of the task's progress too, is on the disk when this returns.  Raises as
        :meth:`get_result` and :meth:`set_result` do.
        """
        write = self._handle.pop_write(task_id)
        self._handle.commit([write])
        return self._handle.popped_value(write)

    def delete_result(self, task_id: str) -> bool:
        """Delete a task's result and progress; whether there was a result.

        On the disk when this returns.  Deleting again changes nothing.
        """
        write = self._handle.delete_write(task_id)
        self._handle.commit([write])
        return bool(write.outcome)

    # -- progress -----------------------------------------------------------------------------

    def set_progress(
        self, task_id: str, progress: TaskProgress, *, ttl_s: float | None = None
    ) -> None:
        """Store how far a task has got, over what was stored before.

        It survives the death of this process when this returns, and power loss within
        ``sync_interval_s``.  Raises as :meth:`set_result` does.
        """
        self._handle.commit([self._handle.progress_write(task_id, progress, ttl_s=ttl_s)])

    def get_progress(self, task_id: str) -> TaskProgress | None:
        """How far a task has got, None if nobody has said or it has expired."""
        entry = self._handle.engine.find_progress(task_key(task_id))
        if entry is None or not is_live_progress(entry, now_us()):
            return None
        return decode_progress(entry.payload, self._handle.dec_hook)

    # -- states -------------------------------------------------------------------------------

    def status(self, task_id: str) -> Status:
        """``"ready"``: there is a result; ``"running"``: there is progress; ``"deleted"`` or
        ``"expired"``: there was a result, at most a day ago; or ``"unknown"``.
        """
        return self._handle.status(task_key(task_id))

    def wait_result(
        self, task_id: str, *, timeout_s: float | None = None, timeout: float | None = None
    ) -> Any:
        """The value of a task's result, waiting for it, whichever process stores it.

        Wakes within milliseconds and uses no CPU while it waits.  Raises WaitTimeoutError after
        ``timeout_s`` seconds, ResultDeletedError or ResultExpiredError if it has gone.  ``timeout``
        is taskiq's name for the same.
        """
        timeout_s = time_out(timeout_s, timeout)
        if not self.wait_ready(task_id, timeout_s=timeout_s):
            raise WaitTimeoutError(f"no result for task {task_id!r} within {timeout_s} s")
        return self.get_result(task_id)

    def wait_ready(
        self, task_id: str, *, timeout_s: float | None = None, timeout: float | None = None
    ) -> bool:
        """Wait until there is a result; False if it did not come within ``timeout_s`` seconds.

        Raises ResultDeletedError or ResultExpiredError if it was there and has gone.
        """
        timeout_s = time_out(timeout_s, timeout)
        handle, key = self._handle, task_key(task_id)
        if handle.is_settled(key):
            return True
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        waiter = _Waiter(handle, key)
        try:
            handle.subscribe(waiter)
            while not handle.is_settled(key):
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                waiter.news.wait(left)
        finally:
            waiter.left = True
            handle.unsubscribe(waiter)
        return True

    def watch(self, task_id: str | None = None) -> Watch:
        """An iterator of the changes from now on, of one task or of all, by any process.

        Results and deletions are told once, in order; what has expired or was evicted, when a
        compaction takes it away.  Of changes of one task that come faster than they are taken,
        perhaps only the last is told.  ``next()`` blocks; the iterator ends when it or the store
        is closed.  A context manager.
        """
        return Watch(self._handle, task_id)

    def tasks(
        self,
        *,
        status: Status | None = None,
        newest_first: bool = True,
        limit: int | None = None,
    ) -> Iterator[TaskInfo]:
        """The tasks by time: finished and running ones, or those of one status.

        ``"deleted"`` and ``"expired"`` list the ids that are still known.  Reads an index in
        small batches, so the first tasks cost milliseconds however many there are; what changes
        meanwhile may or may not be seen.
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

    def compact(self) -> None:
        """Fold the log into the table now.  On the disk when this returns."""
        engine = self._handle.writable_engine
        engine.refuse_nested()
        sheltered(engine.compact)

    def vacuum(self) -> vacuum.VacuumReport:
        """Give free pages of the file back to the file system, beside running writers.

        Raises StoreBusyError if another process is at it, or if so much is written meanwhile that
        it had to begin again three times.
        """
        engine = self._handle.writable_engine
        engine.refuse_nested()
        return sheltered(lambda: vacuum.vacuum(engine))

    def backup(self, destination: FilePath) -> None:
        """Copy the store, with everything acked before this call, to a new file, durably.

        Writers go on meanwhile.  Raises FileExistsError if ``destination`` exists, StoreBusyError
        if so much is written meanwhile that it had to begin again three times.
        """
        engine = self._handle.writable_engine
        engine.refuse_nested()
        absolute = file_path(destination)
        sheltered(lambda: vacuum.backup(engine, absolute))

    def check(self, *, salvage: bool = False) -> CheckReport:
        """Verify every record, index and frame, as of a moment during the call.

        Of a store that is open for writing, in any process, a private copy is verified, which needs
        space on the disk; readers and writers go on meanwhile.  With ``salvage`` a damaged log's
        whole frames are folded into the table, and the log is kept aside.  Raises StoreBusyError if
        so much is written meanwhile that the copy had to begin again three times, DiskFullError.
        """
        engine = self._handle.writable_engine if salvage else self._handle.engine
        engine.refuse_nested()
        if isinstance(engine, Engine) and salvage:
            return sheltered(lambda: checking.salvage_live(engine))
        return sheltered(lambda: checking.check(engine))

    def stats(self) -> StoreStats:
        """Sizes and counters; costs at most some milliseconds."""
        engine = self._handle.engine
        view = engine.view()
        counts = engine.from_table(lambda table: table.counts())
        counters = engine.counters
        state, synced = engine.log_state()
        committed = state & OFFSET_MAX
        results, progress = checking.overlay_difference(engine, view)
        return StoreStats(
            path=self.path,
            results=counts.results + results,
            progress=counts.progress + progress,
            gone=counts.gone,
            data_bytes=counts.data_bytes,
            file_bytes=counts.file_bytes,
            free_bytes=counts.free_bytes,
            log_bytes=committed - FIRST_OFFSET,
            log_unsynced_bytes=max(committed - synced, 0),
            log_file_bytes=engine.log_file_bytes(),
            epoch=state >> 32,
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
        """Put everything acked so far, progress included, on the disk."""
        self._handle.commit([Flush()])

    def close(self) -> None:
        """Close this handle; the last one of the last process leaves a single file.

        Closing again does nothing, unless the first time was cut short.  Raises WriteError if the
        last compaction failed: nothing is lost then, and the log stays beside the table.  Raises
        StoreReplacedError if the file at the path is not this store any more.

        A handle that nobody refers to any longer is closed soon, by a thread.
        """
        self._handle.close()


class _Waiter(Subscription):
    """A thread that waits for a task's result."""

    __slots__ = ("_handle", "news")

    def __init__(self, handle: Handle, key: bytes) -> None:
        super().__init__(frozenset((key,)))
        self._handle = handle
        self.news = Signal()

    def tell(self, changes: list[Change] | None) -> None:
        self.news.set()

    def again(self) -> None:
        if self._handle.closed:
            self.news.set()
