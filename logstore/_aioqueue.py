"""A queue for event loops: the methods of :class:`~logstore.queue.Queue`.

Rules: disk access never runs on an event loop: messages are written by the thread for writes of the
store, and taken in a thread.  If the caller of :meth:`AsyncQueue.take` is cancelled, what a thread
has taken for it goes back to the line.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from logstore._engine.writes import Together, Write
from logstore._loops.handover import in_thread
from logstore.queue import Lease, Queue, Sending

if TYPE_CHECKING:
    from datetime import datetime

    from logstore._codec.weight import Limit
    from logstore.types import MessageInfo, MessageStatus, QueueStats

T = TypeVar("T")
LISTED_BATCH = 256


class Loops(Protocol):
    """What is needed of an :class:`~logstore.aio.AsyncStore`."""

    async def _write(self, write: Write) -> None: ...

    def _set(self, encode: Callable[[Limit], Write]) -> Coroutine[Any, Any, None]: ...

    def _read(self, job: Callable[[], T]) -> asyncio.Future[T]: ...


class AsyncLease:
    """A message that this process works on; as :class:`~logstore.queue.Lease`."""

    def __init__(self, loops: Loops, lease: Lease) -> None:
        self._loops = loops
        self._lease = lease

    @property
    def task_id(self) -> str:
        """The id of the message's task."""
        return self._lease.task_id

    @property
    def payload(self) -> Any:
        """The value that was put; decoded each time."""
        return self._lease.payload

    @property
    def priority(self) -> int:
        """The priority that it was put with."""
        return self._lease.priority

    @property
    def attempts(self) -> int:
        """How many deliveries before this one have ended without an outcome."""
        return self._lease.attempts

    async def ack(self) -> None:
        """Settle the message: it is done."""
        await self._end(self._lease._ack())

    async def ack_with_result(
        self, value: object, *, ttl_s: float | None = None, failed: bool = False
    ) -> None:
        """Store the task's result and settle the message, with one flush."""
        write = self._lease._ack_with_result
        with self._lease._ending():
            await self._loops._set(lambda limit: write(value, ttl_s, failed, limit))

    async def retry(self, *, delay_s: float = 0.0) -> None:
        """Have the message delivered again, after a delay, as one attempt more."""
        await self._return(self._lease._retry(delay_s))

    async def dead(self, reason: str) -> None:
        """Keep the message among the dead ones, and deliver it no more."""
        await self._return(self._lease._dead(reason))

    async def release(self) -> None:
        """Give the message back: it is delivered again at once, and this was no attempt."""
        await in_thread(self._lease.release, "logstore-release")

    async def _end(self, write: Write) -> None:
        with self._lease._ending():
            await self._loops._write(write)

    async def _return(self, write: Write) -> None:
        with self._lease._ending(returns=True):
            await self._loops._write(write)
        await in_thread(self._lease._returned, "logstore-release")


class _Taking:
    """A take in a thread, whose caller may be cancelled."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._given_up = False
        self._lease: Lease | None = None

    def run(self, timeout_s: float | None) -> Lease | None:
        """Take a message; give it back if the caller was cancelled meanwhile."""
        self._lease = self._queue._take(timeout_s, lambda: self._given_up)
        if self._given_up:
            self.give_back()
        return self._lease

    def give_up(self) -> bool:
        """Return whether there is something to give back; else the thread will do it."""
        self._given_up = True
        return self._lease is not None

    def give_back(self) -> None:
        """Give back what was taken; twice is once."""
        if self._lease is not None:
            self._lease.release()


class AsyncQueue:
    """One queue of a store, returned by :meth:`AsyncStore.queue`."""

    def __init__(self, loops: Loops, queue: Queue) -> None:
        self._loops = loops
        self._queue = queue

    @property
    def name(self) -> str:
        """The name of the queue."""
        return self._queue.name

    async def put(
        self,
        payload: object,
        *,
        task_id: str | None = None,
        priority: int = 0,
        delay_s: float | None = None,
        at: datetime | None = None,
        unique: bool = False,
        max_attempts: int = 0,
    ) -> str | None:
        """Enqueue a message; on the disk when this returns.  Return its task id."""
        sending = Sending(task_id, priority, delay_s, at, unique, max_attempts)
        writes: list[Write] = []

        def encode(limit: Limit) -> Write:
            writes.append(self._queue._put_write(payload, sending, limit))
            return writes[0]

        await self._loops._set(encode)
        return self._queue._was_put(writes[0])

    async def put_many(self, payloads: Iterable[object], *, priority: int = 0) -> list[str]:
        """Enqueue messages, all of them or none, with one flush; return their task ids."""
        writes = await asyncio.to_thread(self._queue._put_writes, payloads, priority)
        if writes:
            await self._loops._write(Together(writes))
        return self._queue._were_put(writes)

    async def take(self, timeout_s: float | None = None) -> AsyncLease | None:
        """Return a lease on the next message; None if none came within the time-out."""
        taking = _Taking(self._queue)
        try:
            lease = await self._loops._read(partial(taking.run, 0))
            if lease is None and timeout_s != 0:
                lease = await in_thread(partial(taking.run, timeout_s), "logstore-take")
        except BaseException:
            if taking.give_up():
                await in_thread(taking.give_back, "logstore-release")
            raise
        return None if lease is None else AsyncLease(self._loops, lease)

    async def __aiter__(self) -> AsyncIterator[AsyncLease]:
        """Take messages for ever."""
        while True:
            lease = await self.take()
            if lease is not None:
                yield lease

    async def cancel(self, task_id: str) -> bool:
        """Settle the messages of a task, in any queue; return whether there was one."""
        return await asyncio.to_thread(self._queue.cancel, task_id)

    async def purge(self, status: MessageStatus | None = None) -> int:
        """Settle all messages that no worker has, or those of one status; return how many."""
        return await asyncio.to_thread(self._queue.purge, status)

    async def requeue(self, task_id: str | None = None) -> int:
        """Deliver dead messages again, of one task or all, with no attempts; return how many."""
        return await asyncio.to_thread(self._queue.requeue, task_id)

    async def pause(self) -> None:
        """Deliver nothing from this queue until :meth:`resume`, also after a restart."""
        await asyncio.to_thread(self._queue.pause)

    async def resume(self) -> None:
        """Undo :meth:`pause`."""
        await asyncio.to_thread(self._queue.resume)

    async def messages(
        self, status: MessageStatus | None = None, *, limit: int | None = None
    ) -> AsyncIterator[MessageInfo]:
        """Yield the messages of this queue, or those of one status, the oldest first."""
        found = self._queue.messages(status, limit=limit)
        while batch := await asyncio.to_thread(lambda: list(islice(found, LISTED_BATCH))):
            for info in batch:
                yield info

    async def stats(self) -> QueueStats:
        """Count the messages of each status.  It takes as long as listing them."""
        return await asyncio.to_thread(self._queue.stats)
