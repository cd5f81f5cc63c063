"""The asynchronous store: the verbs of :class:`~logstore.store.Store` for event loops.

Rules: nothing that can touch a disk runs on an event loop.  What is in memory is answered inline;
everything else goes to two threads per store, one for writes and one for reads, a batch at a
time: whatever one loop asks for while its last batch is under way goes over together and comes
back together, with one hand-over each way.  There is no timer.  A commit that has begun is carried
to its end: the outcome of a write whose caller was cancelled is unknown, and no other caller is
disturbed.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Generator
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

from logstore import store as sync_store
from logstore.codec import decode_value
from logstore.engine.commit import Flush, Write
from logstore.engine.frames import Entry
from logstore.engine.notify import Change, Subscription
from logstore.engine.states import is_live_progress, is_live_result
from logstore.engine.vacuum import VacuumReport
from logstore.errors import StoreClosedError, WaitTimeoutError
from logstore.progress import TaskProgress, decode_progress
from logstore.store import PendingEvents, Store, Subscribed, raisable, task_key
from logstore.types import CheckReport, Event, Status, StoreStats, TaskInfo

INLINE_BYTES = 1 << 14  # a payload up to this size is decoded on the loop
INLINE_NODES = 64  # a value with up to this many parts is encoded on the loop
TASKS_BATCH = 256

T = TypeVar("T")
_Job = tuple[Callable[[], Any], "asyncio.Future[Any]"]
_WriteJob = tuple[Write, "asyncio.Future[None]"]


def open_async(path: str | os.PathLike[str], **options: Any) -> _Opening:
    """Open a store for use on event loops: ``await`` it, or use it with ``async with``.

    Takes the options of :func:`logstore.open` and raises what that does; opening happens in a
    thread.
    """
    return _Opening(path, options)


class _Opening:
    """What :func:`open_async` returns: an awaitable and an asynchronous context manager."""

    def __init__(self, path: str | os.PathLike[str], options: dict[str, Any]) -> None:
        self._path = path
        self._options = options
        self._opened: AsyncStore | None = None

    async def _open(self) -> AsyncStore:
        opened = await asyncio.to_thread(sync_store.open, self._path, **self._options)
        return AsyncStore(opened)

    def __await__(self) -> Generator[Any, None, AsyncStore]:
        return self._open().__await__()

    async def __aenter__(self) -> AsyncStore:
        self._opened = await self._open()
        return self._opened

    async def __aexit__(self, *_: object) -> None:
        assert self._opened is not None
        await self._opened.close()


class AsyncStore:
    """A store for event loops.  Any number of loops and threads may share one.

    Every method raises what its namesake of :class:`~logstore.store.Store` does.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._writer: _Worker[_WriteJob] = _Worker("logstore-writer", self._run_writes)
        self._reader: _Worker[_Job] = _Worker("logstore-reader", _run_reads)

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
        """Whether :meth:`close` has been called."""
        return self._store.closed

    async def __aenter__(self) -> AsyncStore:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # -- writes -------------------------------------------------------------------------------

    async def set_result(
        self, task_id: str, value: object, *, ttl_s: float | None = None, failed: bool = False
    ) -> None:
        """Store a task's result.  Large values are encoded in a thread: change them no more."""
        store = self._store
        if _is_small(value):
            write = store.result_write(task_id, value, ttl_s=ttl_s, failed=failed)
        else:
            write = await self._read(
                lambda: store.result_write(task_id, value, ttl_s=ttl_s, failed=failed)
            )
        await self._write(write)

    async def set_progress(
        self, task_id: str, progress: TaskProgress, *, ttl_s: float | None = None
    ) -> None:
        """Store how far a task has got."""
        store = self._store
        if _is_small(getattr(progress, "meta", None)):
            write = store.progress_write(task_id, progress, ttl_s=ttl_s)
        else:
            write = await self._read(lambda: store.progress_write(task_id, progress, ttl_s=ttl_s))
        await self._write(write)

    async def delete_result(self, task_id: str) -> bool:
        """Delete a task's result and progress; whether there was a result."""
        write = self._store.delete_write(task_id)
        await self._write(write)
        return bool(write.outcome)

    async def pop_result(self, task_id: str) -> Any:
        """The value of a task's result, which is deleted; exactly one caller gets it."""
        write = self._store.pop_write(task_id)
        await self._write(write)
        entry = write.outcome
        assert isinstance(entry, Entry)
        if len(entry.payload) <= INLINE_BYTES:
            return decode_value(entry.payload)
        return await self._read(lambda: decode_value(entry.payload))

    async def sync(self) -> None:
        """Put everything acked so far, progress included, on the disk."""
        await self._write(Flush())

    async def _write(self, write: Write) -> None:
        await self._writer.ask((write, asyncio.get_running_loop().create_future()))
        if write.error is not None:
            raise raisable(write.error)

    def _run_writes(self, jobs: list[_WriteJob]) -> list[_Outcome]:
        writes = [write for write, _ in jobs]
        self._store.writable_engine.committer.run(writes)
        return [(future, None, None) for _, future in jobs]

    # -- reads --------------------------------------------------------------------------------

    async def get_result(self, task_id: str) -> Any:
        """The value of a task's result."""
        store = self._store
        key = task_key(task_id)
        entry = self._in_memory(key)
        if (
            entry is not None
            and len(entry.payload) <= INLINE_BYTES
            and is_live_result(entry, sync_store.now_us())
        ):
            return decode_value(entry.payload)
        return await self._read(lambda: store.get_result(task_id))

    async def is_result_ready(self, task_id: str) -> bool:
        """Whether there is a result to get."""
        store = self._store
        entry = self._in_memory(task_key(task_id))
        if entry is not None:
            return is_live_result(entry, sync_store.now_us())
        return await self._read(lambda: store.is_result_ready(task_id))

    async def get_progress(self, task_id: str) -> TaskProgress | None:
        """How far a task has got, None if nobody has said or it has expired."""
        store = self._store
        key = task_key(task_id)
        view = store.engine.current_view()
        if view is not None and key in view.progress:
            entry = view.progress[key]
            if entry is None or not is_live_progress(entry, sync_store.now_us()):
                return None
            if len(entry.payload) <= INLINE_BYTES:
                return decode_progress(entry.payload)
        return await self._read(lambda: store.get_progress(task_id))

    async def status(self, task_id: str) -> Status:
        """``"unknown"``, ``"running"``, ``"ready"``, ``"expired"`` or ``"deleted"``."""
        entry = self._in_memory(task_key(task_id))
        if entry is not None and is_live_result(entry, sync_store.now_us()):
            return "ready"
        store = self._store
        return await self._read(lambda: store.status(task_id))

    def _in_memory(self, key: bytes) -> Entry | None:
        view = self._store.engine.current_view()
        return None if view is None else view.results.get(key)

    async def wait_result(self, task_id: str, *, timeout_s: float | None = None) -> Any:
        """The value of a task's result, waiting for it, whichever process stores it."""
        if not await self.wait_ready(task_id, timeout_s=timeout_s):
            raise WaitTimeoutError(f"no result for task {task_id!r} within {timeout_s} s")
        return await self.get_result(task_id)

    async def wait_ready(self, task_id: str, *, timeout_s: float | None = None) -> bool:
        """Wait until there is a result; False if it did not come in time."""
        if await self._is_settled(task_id):
            return True
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        changed = asyncio.Event()
        key = task_key(task_id)
        subscription = Subscription(frozenset((key,)), lambda _: _call_soon(loop, changed.set))
        context = self._store.subscribed(subscription)
        await self._enter(context)
        try:
            while not await self._is_settled(task_id):
                left = None if deadline is None else deadline - loop.time()
                if left is not None and left <= 0:
                    return False
                try:
                    await asyncio.wait_for(changed.wait(), left)
                except asyncio.TimeoutError:
                    continue
                changed.clear()
        finally:
            context.__exit__()
        return True

    async def _enter(self, context: Subscribed) -> None:
        """Subscribe in a thread; a cancelled caller leaves no subscription behind."""
        entering = asyncio.ensure_future(self._read(context.__enter__))

        def leave(entered: asyncio.Future[None]) -> None:
            if not entered.cancelled() and entered.exception() is None:
                context.__exit__()

        try:
            await asyncio.shield(entering)
        except asyncio.CancelledError:
            entering.add_done_callback(leave)
            raise

    async def _is_settled(self, task_id: str) -> bool:
        entry = self._in_memory(task_key(task_id))
        if entry is not None and is_live_result(entry, sync_store.now_us()):
            return True
        store = self._store
        return await self._read(lambda: store.is_settled(task_id))

    async def watch(self, task_id: str | None = None) -> AsyncIterator[Event]:
        """The changes from now on, of one task or of all, by any process.

        An asynchronous generator: it begins to watch at its first step and ends with ``aclose()``
        or when the store is closed.
        """
        loop = asyncio.get_running_loop()
        pending, changed = PendingEvents(), asyncio.Event()

        def tell(changes: list[Change] | None) -> None:
            if changes:
                pending.add(changes)
            _call_soon(loop, changed.set)

        keys = None if task_id is None else frozenset((task_key(task_id),))
        context = self._store.subscribed(Subscription(keys, tell))
        await self._enter(context)
        try:
            while True:
                changed.clear()
                while (event := pending.take()) is not None:
                    yield event
                if self._store.closed:
                    return
                await changed.wait()
        finally:
            context.__exit__()

    async def tasks(
        self,
        *,
        status: Status | None = None,
        newest_first: bool = True,
        limit: int | None = None,
    ) -> AsyncIterator[TaskInfo]:
        """The tasks by time; read in batches in a thread."""
        store = self._store
        found = await self._read(
            lambda: store.tasks(status=status, newest_first=newest_first, limit=limit)
        )

        def some() -> list[TaskInfo]:
            return [info for info, _ in zip(found, range(TASKS_BATCH))]  # noqa: B905

        while batch := await self._read(some):
            for info in batch:
                yield info

    async def _read(self, job: Callable[[], T]) -> T:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        await self._reader.ask((job, future))
        return future.result()

    # -- the whole store ------------------------------------------------------------------------

    async def compact(self) -> None:
        """Fold the log into the table now."""
        await asyncio.to_thread(self._store.compact)

    async def vacuum(self) -> VacuumReport:
        """Give free pages of the file back to the file system."""
        return await asyncio.to_thread(self._store.vacuum)

    async def backup(self, destination: str | os.PathLike[str]) -> None:
        """Copy the store to a new file."""
        await asyncio.to_thread(self._store.backup, destination)

    async def check(self, *, salvage: bool = False) -> CheckReport:
        """Verify every record, index and frame."""
        return await asyncio.to_thread(self._store.check, salvage=salvage)

    async def stats(self) -> StoreStats:
        """Sizes and counters."""
        return await self._read(self._store.stats)

    async def close(self) -> None:
        """Close the store, after the writes under way; later calls get StoreClosedError."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._writer.stop()
        self._reader.stop()
        self._store.close()


# -- hand-over between loops and threads -------------------------------------------------------

_Outcome = tuple["asyncio.Future[Any]", Any, "BaseException | None"]
J = TypeVar("J", bound=tuple[Any, "asyncio.Future[Any]"])


class _Lane(Generic[J]):
    """What one loop has asked of a worker; touched on that loop only."""

    __slots__ = ("busy", "jobs")

    def __init__(self) -> None:
        self.jobs: list[J] = []
        self.busy = False


class _Worker(Generic[J]):
    """A thread that runs batches of jobs and brings each loop its outcomes in one call.

    The thread is started by the first batch, and anew in a forked child.
    """

    def __init__(self, name: str, run: Callable[[list[J]], list[_Outcome]]) -> None:
        self._name = name
        self._run = run
        self._lanes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Lane[J]] = (
            weakref.WeakKeyDictionary()
        )
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self._queue: queue.SimpleQueue[
            tuple[asyncio.AbstractEventLoop, _Lane[J], list[J]] | None
        ] = queue.SimpleQueue()
        self._stopped = False

    def ask(self, job: J) -> asyncio.Future[Any]:
        """Have a job run; the future is resolved on the loop that asks."""
        if self._stopped:
            raise StoreClosedError("the store is closed")
        future: asyncio.Future[Any] = job[1]
        loop = future.get_loop()
        lane = self._lanes.get(loop)
        if lane is None:
            with self._lock:
                lane = self._lanes.setdefault(loop, _Lane())
        lane.jobs.append(job)
        if not lane.busy:
            lane.busy = True
            # At the end of this turn of the loop, so that what other tasks ask comes along.
            loop.call_soon(self._hand_over, loop, lane)
        return future

    def _hand_over(self, loop: asyncio.AbstractEventLoop, lane: _Lane[J]) -> None:
        jobs, lane.jobs = lane.jobs, []
        if not jobs:
            lane.busy = False
            return
        if self._pid != os.getpid():
            self._begin_anew()
        with self._lock:
            if not self._stopped:
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._serve, name=self._name, daemon=True
                    )
                    self._thread.start()
                self._queue.put((loop, lane, jobs))
                return
        lane.busy = False
        for job in jobs:
            if not job[1].done():
                job[1].set_exception(StoreClosedError("the store is closed"))

    def _begin_anew(self) -> None:
        """In a forked child: the thread is not there, and the lock may be held for ever."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._queue = queue.SimpleQueue()
        self._thread = None

    def _serve(self) -> None:
        pending = self._queue
        while (batch := pending.get()) is not None:
            loop, lane, jobs = batch
            try:
                outcomes = self._run(jobs)
            except BaseException as exc:
                outcomes = [(future, None, raisable(exc)) for _, future in jobs]
            _call_soon(loop, partial(self._deliver, loop, lane, outcomes))

    def _deliver(
        self, loop: asyncio.AbstractEventLoop, lane: _Lane[J], outcomes: list[_Outcome]
    ) -> None:
        for future, value, error in outcomes:
            if not future.done():
                if error is None:
                    future.set_result(value)
                else:
                    future.set_exception(error)
        # Those whose callers run now ask again in this turn: gather them into the next batch.
        loop.call_soon(self._hand_over, loop, lane)

    def stop(self) -> None:
        """Run what has been handed over, then end the thread."""
        if self._pid != os.getpid():
            self._begin_anew()
        with self._lock:
            self._stopped = True
            thread, self._thread = self._thread, None
            self._queue.put(None)
        if thread is not None:
            thread.join()


def _run_reads(jobs: list[_Job]) -> list[_Outcome]:
    outcomes: list[_Outcome] = []
    for job, future in jobs:
        try:
            outcomes.append((future, job(), None))
        except BaseException as exc:
            outcomes.append((future, None, exc))
    return outcomes


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """Call on a loop's thread, unless the loop has been closed: then nobody waits there."""
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        if not loop.is_closed():
            raise


def _is_small(value: object) -> bool:
    """Whether encoding a value is short work, seen from a bounded look at it."""
    left = INLINE_NODES
    todo = [value]
    while todo:
        left -= 1
        if left < 0:
            return False
        item = todo.pop()
        if isinstance(item, str | bytes | bytearray):
            if len(item) > INLINE_BYTES:
                return False
        elif isinstance(item, dict):
            if len(item) > left:
                return False
            todo.extend(item.keys())
            todo.extend(item.values())
        elif isinstance(item, list | tuple | set | frozenset):
            if len(item) > left:
                return False
            todo.extend(item)
    return True
