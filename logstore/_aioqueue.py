"""A queue for event loops: the methods of :class:`~logstore.queue.Queue`.

Rules: disk access never runs on an event loop: messages are written by the thread for writes of the
store, and taken in a thread.  If the caller of :meth:`AsyncQueue.take` is cancelled, what a thread
has taken for it goes back to the line.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from logstore._engine.writes import Together, Write
from logstore._loops.handover import in_thread
from logstore.queue import Lease, Queue

if TYPE_CHECKING:
    from datetime import datetime

    from logstore.types import MessageInfo, MessageStatus, QueueStats

T = TypeVar("T")
LISTED_BATCH = 256
FOREVER_S = 1e6


class Loops(Protocol):
    """What is needed of an :class:`~logstore.aio.AsyncStore`."""

    async def _write(self, write: Write) -> None: ...

    def _read(self, job: Callable[[], T]) -> asyncio.Future[T]: ...


class AsyncLease:
    """A message that this process works on; as :class:`~logstore.queue.Lease`."""

    def __init__(self, lease: Lease) -> None:
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
        await asyncio.to_thread(self._lease.ack)

    async def ack_with_result(
        self, value: object, *, ttl_s: float | None = None, failed: bool = False
    ) -> None:
        """Store the task's result and settle the message, with one flush."""
        call = partial(self._lease.ack_with_result, value, ttl_s=ttl_s, failed=failed)
        await asyncio.to_thread(call)

    async def retry(self, *, delay_s: float = 0.0) -> None:
        """Have the message delivered again, after a delay, as one attempt more."""
        await asyncio.to_thread(partial(self._lease.retry, delay_s=delay_s))

    async def dead(self, reason: str) -> None:
        """Keep the message among the dead ones, and deliver it no more."""
        await asyncio.to_thread(self._lease.dead, reason)

    async def release(self) -> None:
        """Give the message back: it is delivered again at once, and this was no attempt."""
        await asyncio.to_thread(self._lease.release)


class _Taking:
    """One take in a thread, whose caller may be cancelled."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self.given_up = False
        self.lease: Lease | None = None

    def run(self) -> Lease | None:
        """Take a message, and give it back if nobody waits for it any more."""
        self.lease = self._queue.take(0)
        if self.given_up:
            self.give_back()
        return self.lease

    def give_back(self) -> None:
        """Give back what was taken; twice is once."""
        if self.lease is not None:
            self.lease.release()


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
        write = await asyncio.to_thread(
            partial(
                self._queue._put_write,
                payload,
                task_id,
                priority,
                delay_s,
                at,
                unique=unique,
                max_attempts=max_attempts,
            )
        )
        await self._loops._write(write)
        return self._queue._was_put(write)

    async def put_many(self, payloads: Iterable[object], *, priority: int = 0) -> list[str]:
        """Enqueue messages, all of them or none, with one flush; return their task ids."""
        writes = await asyncio.to_thread(self._queue._put_writes, payloads, priority)
        if writes:
            await self._loops._write(Together(writes))
        return self._queue._were_put(writes)

    async def take(self, timeout_s: float | None = None) -> AsyncLease | None:
        """Return a lease on the next message; None if none came within the time-out."""
        loop = asyncio.get_running_loop()
        end = loop.time() + (FOREVER_S if timeout_s is None else timeout_s)
        while True:
            seen = self._queue._seen()
            lease = await self._take()
            if lease is not None:
                return AsyncLease(lease)
            left = end - loop.time()
            if left <= 0:
                return None
            await in_thread(partial(self._queue._wait, seen, left), "logstore-take")

    async def _take(self) -> Lease | None:
        taking = _Taking(self._queue)
        try:
            return await self._loops._read(taking.run)
        except BaseException:
            taking.given_up = True
            if taking.lease is not None:
                self._loops._read(taking.give_back)
            raise

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
