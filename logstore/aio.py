"""The asynchronous store: the methods of :class:`~logstore.store.Store` for event loops.

Rules: disk access never runs on an event loop.  Reads of data in memory are answered on the loop,
without suspending.  Each store has one thread for writes and one for all other reads.  Both run
batches of jobs: requests that a loop makes during a batch form its next batch, with one hand-over
in each direction.  There is no timer.  A commit that has begun is always completed.  If its caller
is cancelled, the outcome of the write is unknown; other callers are not affected.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

from logstore import store as sync_store
from logstore._aioqueue import AsyncQueue
from logstore._arguments import FilePath, task_key, time_out
from logstore._codec.tags import HOOKED_HEAD
from logstore._codec.values import decode_value
from logstore._codec.weight import SMALL_BYTES, BudgetExceededError, Limit, UnknownTypeError
from logstore._engine import threads
from logstore._engine.clock import now_us
from logstore._engine.frames import Entry
from logstore._engine.notify import Change, Subscription
from logstore._engine.systemerrors import raisable
from logstore._engine.taskstatus import is_live_progress, is_live_result
from logstore._engine.writes import Flush, Write
from logstore._handle import Handle, OpenOptions
from logstore._loops.handover import Deadline, Outcome, Worker, call_soon, in_thread
from logstore._loops.waiters import Waiters, Woken
from logstore._watch import PendingEvents, watched_keys
from logstore.errors import WaitTimeoutError
from logstore.progress import TaskProgress, decode_progress
from logstore.store import Store
from logstore.types import CheckReport, Event, Status, StoreStats, TaskInfo, VacuumReport

if TYPE_CHECKING:
    from typing_extensions import Unpack

TASKS_BATCH = 256

T = TypeVar("T")
_Job = tuple["Callable[[], Any] | bytes | _Check", "asyncio.Future[Any]"]
_WriteJob = tuple[Write, "asyncio.Future[None]"]


def open_async(path: FilePath, **options: Unpack[OpenOptions]) -> _Opening:
    """Open a store for event loops: ``await`` the call, or use it with ``async with``.

    The options and errors are those of :func:`logstore.open`.  A thread opens the store.
    """
    return _Opening(path, options)


class _Opening:
    """The result of :func:`open_async`: an awaitable and an asynchronous context manager."""

    def __init__(self, path: FilePath, options: OpenOptions) -> None:
        self._path = path
        self._options = options
        self._opened: AsyncStore | None = None

    async def _open(self) -> AsyncStore:
        opened: list[Store] = []
        given_up: list[bool] = []

        def open_store() -> None:
            opened.append(sync_store.open(self._path, **self._options))
            if given_up:
                opened[0].close()

        try:
            await in_thread(open_store, "logstore-open")
            return AsyncStore(opened[0])
        except BaseException:
            given_up.append(True)
            if opened:  # otherwise the opening thread closes it
                threads.start(opened[0].close, "logstore-close", opened[0].path)
            raise

    def __await__(self) -> Generator[Any, None, AsyncStore]:
        return self._open().__await__()

    async def __aenter__(self) -> AsyncStore:
        self._opened = await self._open()
        return self._opened

    async def __aexit__(self, *_: object) -> None:
        assert self._opened is not None
        await self._opened.close()

    def __enter__(self) -> NoReturn:
        raise TypeError("use `async with logstore.open_async(...)`, not `with`")

    def __exit__(self, *_: object) -> None:
        """Do nothing: Python requires this method before it calls ``__enter__``."""

    def __getattr__(self, name: str) -> NoReturn:
        if name in dir(AsyncStore):
            raise AttributeError(
                f"the store is not open yet, so it has no {name!r}: write "
                f"`store = await logstore.open_async(...)`, or use `async with`"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class AsyncStore:
    """A store for event loops.  Any number of loops and threads may share one.

    Every method raises the errors of the same method of :class:`~logstore.store.Store`.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._handle = store._handle
        self._writer: Worker[_WriteJob] = Worker("logstore-writer", self._run_writes)
        self._reader: Worker[_Job] = Worker("logstore-reader", self._run_reads, near=True)
        # Weak keys would not help: the waiters refer to their loop.
        self._waiters: dict[asyncio.AbstractEventLoop, Waiters] = {}

    @property
    def store(self) -> Store:
        """The synchronous store underneath."""
        return self._store

    @property
    def path(self) -> str:
        """The real path of the file."""
        return self._store.path

    @property
    def closed(self) -> bool:
        """Whether the store has been closed."""
        return self._store.closed

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"an AsyncStore can be neither pickled nor copied; open it where it is needed:"
            f" logstore.open_async({self.path!r})"
        )

    async def __aenter__(self) -> AsyncStore:
        return self

    def __enter__(self) -> NoReturn:
        raise TypeError("use `async with` for an AsyncStore, not `with`")

    def __exit__(self, *_: object) -> None:
        """Do nothing: Python requires this method before it calls ``__enter__``."""

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # -- writes -------------------------------------------------------------------------------

    async def set_result(
        self, task_id: str, value: object, *, ttl_s: float | None = None, failed: bool = False
    ) -> None:
        """Store a task's result.  A thread may encode the value: do not change it afterwards."""
        write = self._handle.result_write
        await self._set(lambda limit: write(task_id, value, ttl_s, failed, limit))

    async def set_progress(
        self, task_id: str, progress: TaskProgress, *, ttl_s: float | None = None
    ) -> None:
        """Store a task's progress."""
        write = self._handle.progress_write
        await self._set(lambda limit: write(task_id, progress, ttl_s, limit))

    async def delete_result(self, task_id: str) -> bool:
        """Delete a task's result and progress; return whether there was a result."""
        write = self._handle.delete_write(task_id)
        await self._write(write)
        return bool(write.outcome)

    async def pop_result(self, task_id: str) -> Any:
        """Delete a task's result and return its value; only one of several callers gets it."""
        write = self._handle.pop_write(task_id)
        await self._write(write)
        entry = write.outcome
        assert isinstance(entry, Entry)
        return await self._decode(entry.payload)

    async def sync(self) -> None:
        """Sync all acknowledged writes to disk, including progress."""
        await self._write(Flush())

    def _set(self, encode: Callable[[Limit], Write]) -> Coroutine[Any, Any, None]:
        """Commit the write that ``encode(limit)`` returns; do long work in a thread."""
        try:
            return self._write(encode("small"))
        except BudgetExceededError as error:
            return self._set_in_thread(encode, isinstance(error, UnknownTypeError))

    async def _set_in_thread(self, encode: Callable[[Limit], Write], may_block: bool) -> None:
        if not may_block:
            try:
                return await self._write(await self._read(partial(encode, "stored")))
            except BudgetExceededError:
                pass
        # Reads must not wait for the code of other types.
        return await self._write(await asyncio.to_thread(encode, "any"))

    async def _decode(self, payload: bytes, decode: Callable[..., Any] = decode_value) -> Any:
        dec_hook = self._handle.dec_hook
        if dec_hook is not None and HOOKED_HEAD in payload:
            return await asyncio.to_thread(decode, payload, dec_hook)
        if len(payload) <= SMALL_BYTES:
            return decode(payload, dec_hook)
        return await self._read(partial(decode, payload, dec_hook))

    async def _write(self, write: Write) -> None:
        loop = asyncio.get_running_loop()
        await self._writer.submit(loop, (write, loop.create_future()))
        if write.error is not None:
            raise raisable(write.error)

    def _run_writes(self, jobs: list[_WriteJob]) -> list[Outcome]:
        writes = [write for write, _ in jobs]
        self._handle.writable_engine.commit_queue.run(writes)
        return [(future, None, None) for _, future in jobs]

    # -- reads --------------------------------------------------------------------------------

    async def get_result(self, task_id: str) -> Any:
        """Return the value of a task's result.

        One that is in memory is returned without suspending, so do not poll in a tight loop: use
        :meth:`wait_result`.
        """
        key = task_key(task_id)
        entry = self._in_memory(key)
        if entry is None or not is_live_result(entry, now_us()):
            entry = await self._found(key)
        if len(entry.payload) <= SMALL_BYTES and self._handle.dec_hook is None:
            return decode_value(entry.payload)
        return await self._decode(entry.payload)

    async def is_result_ready(self, task_id: str) -> bool:
        """Return whether the task has a result."""
        store = self._store
        entry = self._in_memory(task_key(task_id))
        if entry is not None:
            return is_live_result(entry, now_us())
        return await self._read(lambda: store.is_result_ready(task_id))

    async def get_progress(self, task_id: str) -> TaskProgress | None:
        """Return a task's progress, or None if it was never set or has expired."""
        key = task_key(task_id)
        view = self._handle.current_view()
        known, entry = (False, None) if view is None else view.find_progress(key)
        if not known:
            entry = await self._read(lambda: self._handle.engine.find_progress(key))
        if entry is None or not is_live_progress(entry, now_us()):
            return None
        progress: TaskProgress = await self._decode(entry.payload, decode_progress)
        return progress

    async def status(self, task_id: str) -> Status:
        """Return ``"unknown"``, ``"running"``, ``"ready"``, ``"expired"`` or ``"deleted"``."""
        entry = self._in_memory(task_key(task_id))
        if entry is not None and is_live_result(entry, now_us()):
            return "ready"
        store = self._store
        return await self._read(lambda: store.status(task_id))

    def _in_memory(self, key: bytes) -> Entry | None:
        view = self._handle.current_view()
        return None if view is None else view.result(key)

    def wait_result(
        self, task_id: str, *, timeout_s: float | None = None, timeout: float | None = None
    ) -> Coroutine[Any, Any, Any]:
        """Wait for a task's result and return its value.  Any process may store it."""
        return self._wait(task_id, time_out(timeout_s, timeout), get=True)

    def wait_ready(
        self, task_id: str, *, timeout_s: float | None = None, timeout: float | None = None
    ) -> Coroutine[Any, Any, bool]:
        """Wait until a task has a result; return False after the time-out.

        Any number of callers may wait.  Each costs about a kilobyte and wakes up only for its own
        result.
        """
        return self._wait(task_id, time_out(timeout_s, timeout), get=False)

    async def _wait(self, task_id: str, timeout_s: float | None, *, get: bool) -> Any:
        """Wait for both of the above; one coroutine, because there may be very many."""
        key = task_key(task_id)
        if self._is_in_memory(key):
            return await self.get_result(task_id) if get else True
        waiters = self._waiters_here()
        loop = waiters.loop
        future: Woken = loop.create_future()
        deadline, timer = Deadline(future), None
        try:
            waiters.add(key, future)
            if timeout_s is not None:
                timer = self._reader.expire_at(loop, loop.time() + timeout_s, deadline)
            self._reader.submit(loop, (_Check(waiters, key), future))
            woken = True
            while woken:  # after the time-out the body runs once more
                woken = await future
                if woken and not self._is_in_memory(key):
                    # Enter again before reading the state, so that no change is missed.
                    waiters.remove(key, future)
                    deadline.future = future = loop.create_future()
                    waiters.add(key, future)
                    woken = not deadline.expired
                if await self._is_settled(key):
                    return await self.get_result(task_id) if get else True
        finally:
            waiters.live.discard(future)  # first, and in one call: see the rules of waiters.py
            waiters.remove(key, future)
            if timer is not None:
                timer.cancel()
        if not get:
            return False
        raise WaitTimeoutError(f"no result for task {task_id!r} within {timeout_s} s")

    def _waiters_here(self) -> Waiters:
        loop = asyncio.get_running_loop()
        waiters = self._waiters.get(loop)
        if waiters is None:
            for other in list(self._waiters):  # a copy: threads of other loops change it too
                if other.is_closed():
                    self._waiters.pop(other, None)
            waiters = self._waiters[loop] = Waiters(loop, self._handle)
        return waiters

    def _is_in_memory(self, key: bytes) -> bool:
        entry = self._in_memory(key)
        return entry is not None and is_live_result(entry, now_us())

    async def _is_settled(self, key: bytes) -> bool:
        if self._is_in_memory(key):
            return True
        return await self._read(partial(self._handle.is_settled, key))

    async def watch(self, task_id: str | None = None) -> AsyncGenerator[Event, None]:
        """Yield the later changes to one task or to all tasks, by any process.

        The watch begins at the first step of this asynchronous generator.  It ends with
        ``aclose()`` or when the store is closed.
        """
        following = _Following(asyncio.get_running_loop(), self._handle, task_id)
        pending, changed = following.pending, following.changed
        try:
            await self._read(partial(self._handle.subscribe, following))
            while True:
                changed.clear()
                while (event := pending.first()) is not None:
                    yield event
                    pending.drop(event)
                if self._store.closed:
                    return
                await changed.wait()
        finally:
            following.ended = True
            self._handle.unsubscribe(following)

    async def tasks(
        self,
        *,
        status: Status | None = None,
        newest_first: bool = True,
        limit: int | None = None,
    ) -> AsyncIterator[TaskInfo]:
        """Yield the tasks by time, read in batches in a thread."""
        store = self._store
        found = await self._read(
            lambda: store.tasks(status=status, newest_first=newest_first, limit=limit)
        )

        def some() -> list[TaskInfo]:
            return list(islice(found, TASKS_BATCH))

        # Reads must not wait for the code of a hook.
        has_hook = self._handle.dec_hook is not None
        while batch := await (asyncio.to_thread(some) if has_hook else self._read(some)):
            for info in batch:
                yield info

    def _read(self, job: Callable[[], T]) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        return self._reader.submit(loop, (job, loop.create_future()))

    def _found(self, key: bytes) -> asyncio.Future[Entry]:
        """Look up the live result of a key in the thread of :meth:`_read`."""
        loop = asyncio.get_running_loop()
        return self._reader.submit(loop, (key, loop.create_future()))

    def _run_reads(self, jobs: list[_Job]) -> list[Outcome]:
        """Look up all requested results together, then check the waiters, then run the calls."""
        outcomes: list[Outcome] = []
        wanted: list[tuple[bytes, asyncio.Future[Any]]] = []
        checks: list[tuple[bytes, asyncio.Future[Any]]] = []
        waiters: Waiters | None = None  # a batch belongs to one loop
        for job, future in jobs:
            if isinstance(job, bytes):
                wanted.append((job, future))
            elif isinstance(job, _Check):
                waiters = job.waiters
                checks.append((job.key, future))
        if wanted:
            try:
                found = self._handle.result_entries([key for key, _ in wanted])
            except BaseException as exc:
                found = [raisable(exc) for _ in wanted]
            for (_, future), entry in zip(wanted, found, strict=True):
                if isinstance(entry, Entry):
                    outcomes.append((future, entry, None))
                else:
                    outcomes.append((future, None, entry))
        if waiters is not None:
            outcomes += waiters.check(checks)
        for job, future in jobs:
            if not isinstance(job, bytes | _Check):
                try:
                    outcomes.append((future, job(), None))
                except BaseException as exc:
                    outcomes.append((future, None, exc))
        return outcomes

    def queue(self, name: str = "default") -> AsyncQueue:
        """Return a queue of this store."""
        return AsyncQueue(self, self._store.queue(name))

    # -- the whole store ------------------------------------------------------------------------

    async def compact(self) -> None:
        """Compact the log into the table now."""
        await in_thread(self._store.compact, "logstore-compact")

    async def vacuum(self) -> VacuumReport:
        """Return free pages of the file to the file system."""
        return await in_thread(self._store.vacuum, "logstore-vacuum")

    async def backup(self, destination: FilePath) -> None:
        """Copy the store to a new file."""
        await in_thread(partial(self._store.backup, destination), "logstore-backup")

    async def check(self, *, salvage: bool = False) -> CheckReport:
        """Verify every record, index and frame."""
        return await in_thread(partial(self._store.check, salvage=salvage), "logstore-check")

    async def stats(self) -> StoreStats:
        """Return sizes and counters."""
        return await self._read(self._store.stats)

    async def close(self) -> None:
        """Finish the current writes and close the store; later calls raise StoreClosedError."""
        await in_thread(self._close, "logstore-close")

    def _close(self) -> None:
        self._writer.stop()
        self._reader.stop()
        self._store.close()


class _Check(NamedTuple):
    """A job of the reader: find out whether a waiter has to wait."""

    waiters: Waiters
    key: bytes


class _Following(Subscription):
    """The subscription of a watch on a loop."""

    __slots__ = ("_handle", "_loop", "changed", "pending")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, handle: Handle, task_id: str | None
    ) -> None:
        super().__init__(watched_keys(task_id))
        self._loop = loop
        self._handle = handle
        self.pending = PendingEvents()
        self.changed = asyncio.Event()

    def notify(self, changes: list[Change] | None) -> None:
        if changes:
            self.pending.add(changes)
        if not call_soon(self._loop, self.changed.set):
            self._handle.unsubscribe(self)

    def recheck(self) -> None:
        if self._loop.is_closed():
            self._handle.unsubscribe(self)
        elif self._loop.is_running() and (self._handle.closed or self.pending.first() is not None):
            call_soon(self._loop, self.changed.set)
