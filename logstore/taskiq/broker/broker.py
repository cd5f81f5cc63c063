"""The broker: tasks wait in queues of a logstore file, beside their results.

Rules:

- When a kick returns, the message is on the disk.  It is delivered until it is settled, whatever
  dies in between; ``delivery.py`` says when that is.
- The constructor opens nothing.  The store is that of the broker's own result backend, which opens
  it at startup or on first use, again in a forked child.
- A message that no worker could run (its task is unknown, it cannot be parsed, a label cannot be
  read) is a dead letter at once, before the receiver sees it.
- A worker that is told to stop gives back what it has not started.  So does one whose process pool
  is broken, and ends: taskiq starts another one in its place.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from taskiq import AsyncBroker, AsyncTaskiqTask, BrokerMessage
from taskiq.abc.middleware import TaskiqMiddleware
from taskiq.decor import AsyncTaskiqDecoratedTask
from taskiq.kicker import AsyncKicker

from logstore._aioqueue import AsyncQueue
from logstore._arguments import task_key, whole
from logstore._engine import messages
from logstore._engine.frames import BURIED
from logstore._engine.writes import Change, Together, Write
from logstore._loops.handover import in_thread
from logstore.errors import MessageSettledError
from logstore.queue import Lease, Queue
from logstore.taskiq.broker import deadletters, labels
from logstore.taskiq.broker.deadletters import DeadLetter
from logstore.taskiq.broker.delivery import Delivered, Delivery, State, current_delivery
from logstore.taskiq.broker.results import BrokerResultBackend
from logstore.taskiq.broker.signals import StopSignals
from logstore.taskiq.errors import LabelError, TaskCancelledError
from logstore.taskiq.schedules.firing import Firing, SlotTakenError, take_firing
from logstore.taskiq.schedules.source import LogStoreScheduleSource

if TYPE_CHECKING:
    from taskiq.message import TaskiqMessage

    from logstore._codec.weight import Limit
    from logstore._engine.messages import Message
    from logstore._handle import Handle, OpenOptions
    from logstore.aio import AsyncStore

T = TypeVar("T")


class LogStoreBroker(AsyncBroker):
    """A taskiq broker whose queues and results are in the logstore file at ``path``.

    A worker takes from ``queues``, the first of them first; a task without the label
    ``queue_name`` goes to the first.  A task that was delivered ``max_attempts`` times without an
    outcome, because its workers died, is a dead letter; 0 means never.  With ``outbox=True`` the
    tasks that a task kicks are enqueued together with its result, all of them or none.

    All other keywords are those of
    :class:`~logstore.taskiq.LogStoreResultBackend` for ``broker.result_backend``, and those of
    :func:`logstore.open`.  Raises ``TypeError`` or ``ValueError`` for invalid arguments.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        queues: str | Iterable[str] = ("default",),
        max_attempts: int = 5,
        outbox: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.queues = (queues,) if isinstance(queues, str) else tuple(queues)
        if not self.queues:
            raise ValueError("queues must name at least one queue")
        for name in self.queues:
            labels.checked({"queue_name": name})
        whole("max_attempts", max_attempts, 0, messages.ATTEMPTS_MAX)
        self.max_attempts = max_attempts
        self.outbox = outbox
        self._home: BrokerResultBackend[Any] = BrokerResultBackend(path, **options)
        self.result_backend = self._home
        self._forget()

    def _forget(self) -> None:
        """Reset to a broker that has not been started."""
        self.stopping = asyncio.Event()
        self._deliveries: weakref.WeakSet[Delivery] = weakref.WeakSet()
        self._takes: set[asyncio.Task[Any]] = set()
        self._later: set[asyncio.Task[Any]] = set()
        self._signals: StopSignals | None = None
        self._schedule_source: LogStoreScheduleSource | None = None

    def __getstate__(self) -> dict[str, Any]:
        left_out = ("stopping", "_deliveries", "_takes", "_later", "_signals", "_schedule_source")
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    @property
    def path(self) -> str:
        """The path of the file."""
        return self._home.path

    @property
    def store_options(self) -> OpenOptions:
        """The options with which the file is opened."""
        return self._home._options.copy()

    @property
    def schedule_source(self) -> LogStoreScheduleSource:
        """A LogStoreScheduleSource for this broker, on the same file."""
        if self._schedule_source is None:
            self._schedule_source = LogStoreScheduleSource(self)
        return self._schedule_source

    # -- starting and stopping ------------------------------------------------------------------

    async def startup(self) -> None:
        """Open the store, and run taskiq's own startup.  Raises as the result backend's."""
        self.stopping = asyncio.Event()
        await self._home.startup()
        if self.is_worker_process and self._signals is None:
            self._signals = StopSignals(asyncio.get_running_loop(), self.stop_taking)
        await super().startup()

    async def shutdown(self) -> None:
        """Give back what has no result yet, and close the store."""
        self.stop_taking()
        self._withdraw("held")
        if self._later:
            await asyncio.wait(self._later)
        await super().shutdown()
        await self._home.shutdown()
        if self._signals is not None:
            self._signals.remove()
            self._signals = None

    def stop_taking(self) -> None:
        """Take nothing any more, and give back what the receiver has not started."""
        self.stopping.set()
        for take in list(self._takes):
            take.cancel()
        self._withdraw("waiting")

    def _withdraw(self, state: State) -> None:
        given_up = [one.lease for one in self._deliveries if one.withdraw(state)]
        if given_up:
            self.run_later(_in_thread(partial(_release, given_up)))

    def run_later(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine beside everything else."""
        task = asyncio.get_running_loop().create_task(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    # -- sending --------------------------------------------------------------------------------

    async def kick(self, message: BrokerMessage) -> None:
        """Enqueue a task; it is on the disk when this returns.

        In a task, a kick of its own id replaces the message that is being worked on; with
        ``outbox`` any other one waits for the task's result.

        Raises LabelError for a label that cannot be read, ValueError for an id or a queue's name
        that cannot be stored, and the errors of a write.
        """
        store = await self._home._opened()
        delivery = self._delivery_of_kick()
        encode = partial(self._put_write, store._handle, message, take_firing(message))
        if delivery is not None and message.task_id == delivery.task_id:
            await delivery.supersede(encode("any"))
        elif delivery is not None and self.outbox:
            delivery.keep(encode("any"))
        else:
            try:
                await store._set(encode)
            except SlotTakenError:
                return  # another scheduler has sent it
            store._handle.taker.announce(1)

    def put(
        self,
        task: AsyncTaskiqDecoratedTask[Any, Any] | AsyncKicker[Any, Any],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> AsyncTaskiqTask[Any]:
        """Enqueue a task from a program without an event loop; it is on the disk when this returns.

        ``task`` is a task, or its ``kicker()`` with labels or an id.  The middlewares' ``pre_send``
        and ``post_send`` are called; one that awaits something that is not ready raises
        RuntimeError: use ``await task.kiq()`` with it.  Raises as :meth:`kick`.
        """
        kicker = task.kicker() if isinstance(task, AsyncTaskiqDecoratedTask) else task
        message = kicker._prepare_message(*args, **kwargs)
        for middleware in self.middlewares:
            if type(middleware).pre_send is not TaskiqMiddleware.pre_send:
                message = _now(middleware.pre_send(message), middleware)
        self._kick_now(self.formatter.dumps(message))
        for middleware in reversed(self.middlewares):
            if type(middleware).post_send is not TaskiqMiddleware.post_send:
                _now(middleware.post_send(message), middleware)
        return AsyncTaskiqTask(message.task_id, self.result_backend, kicker.return_type)

    def _kick_now(self, message: BrokerMessage) -> None:
        handle = self._home._opened_now()._handle
        write = self._put_write(handle, message, None, "any")
        delivery = self._delivery_of_kick()
        if delivery is not None and message.task_id == delivery.task_id:
            delivery.supersede_now(write)
        elif delivery is not None and self.outbox:
            delivery.keep(write)
        else:
            handle.commit([write])
            handle.taker.announce(1)

    def _delivery_of_kick(self) -> Delivery | None:
        delivery = current_delivery()
        if delivery is None or delivery.state != "held" or delivery.owner is not self:
            return None
        return delivery

    def _put_write(
        self, handle: Handle, message: BrokerMessage, firing: Firing | None, limit: Limit
    ) -> Write:
        queue = Queue(handle, labels.queue_name(message.labels, self.queues[0]))
        sending = labels.sending(message.task_id, message.labels, self.max_attempts)
        write = queue._put_write(message.message, sending, limit)
        return write if firing is None else firing.write(write)

    # -- receiving ------------------------------------------------------------------------------

    async def listen(self) -> AsyncGenerator[Delivered, None]:
        """Yield messages for taskiq's receiver, until the worker is told to stop."""
        store = await self._home._opened()
        queue = AsyncQueue(store, Queue(store._handle, *self.queues))
        self._guard(store._handle)
        while not self.stopping.is_set():
            take = asyncio.ensure_future(queue.take())
            self._takes.add(take)
            try:
                lease = await take
            except asyncio.CancelledError:
                if take.done() and not take.cancelled() and (lease := take.result()):
                    await lease.release()  # it came just before
                if self.stopping.is_set():
                    return
                raise
            finally:
                self._takes.discard(take)
            if lease is None:
                continue
            delivery = Delivery(self, store, lease._lease)
            problem, data = self._problem(delivery)
            if self.stopping.is_set():
                await _in_thread(delivery.lease.release)
            elif problem:
                await delivery.bury(problem)
            else:
                self._deliveries.add(delivery)
                yield delivery.message(data)

    def _problem(self, delivery: Delivery) -> tuple[str, bytes]:
        """Return why the message cannot be run, and its bytes."""
        data = b""
        try:
            data = delivery.lease.payload
            message = self.formatter.loads(data)
            message.parse_labels()
            labels.checked(message.labels)
        except LabelError as error:
            return str(error), data
        except Exception as error:  # a formatter may raise anything
            return f"its message cannot be parsed: {error}", data
        if self.find_task(message.task_name) is None:
            return f"the task {message.task_name!r} is unknown to this worker", data
        return "", data

    def task_message(self, body: bytes) -> TaskiqMessage:
        """Return the task that a stored message is about.  Raises ValueError."""
        try:
            message = self.formatter.loads(self._home._opened_now()._handle.decoded(body))
            message.parse_labels()
        except Exception as error:  # a formatter may raise anything
            raise ValueError(f"the message cannot be parsed: {error}") from error
        return message

    def dead_result(self, store: AsyncStore, message: Message, reason: str) -> Write:
        """Return the write of the result that a dead task leaves."""
        return self._home.dead_write(store._handle, message.key.decode(), reason)

    def _guard(self, handle: Handle) -> None:
        """Look for dead workers, and store a result for a message that is buried."""
        for name in self.queues:
            handle.taker.died[name.encode()] = partial(self._died, handle)
        handle.guard()

    def _died(self, handle: Handle, message: Message, write: Write) -> Write:
        if write.entry.kind != BURIED:
            return write
        task_id = message.key.decode()
        reason = messages.after(message, write.entry).reason
        buried = Change(message.key, write.entry, must=True)  # else its result stands
        return Together([self._home.dead_write(handle, task_id, reason), buried])

    def result_key(self, task_id: str) -> bytes:
        """Return the key under which a task's result is stored."""
        return task_key(self._home._key(task_id))

    # -- the queues -----------------------------------------------------------------------------

    def queue(self, name: str | None = None) -> AsyncQueue:
        """Return one of the queues, by default the first: to pause it, list it, or count it.

        Opens the store in this thread if that has not been done.
        """
        return self._home._opened_now().queue(self.queues[0] if name is None else name)

    async def cancel(self, task_id: str) -> bool:
        """Cancel a task in any queue; return whether it had a message.

        It gets an error result, so that nobody waits for it.  If a worker is running it, that goes
        on, and its result is dropped.
        """
        store = await self._home._opened()
        return await _in_thread(partial(self._cancel, store._handle, task_id))

    def _cancel(self, handle: Handle, task_id: str) -> bool:
        error = TaskCancelledError(f"task {task_id!r} was cancelled")
        found = handle.taker.messages_of(task_key(task_id))
        if not found:
            return False
        result = self._home.error_write(handle, task_id, error)
        settled = [Change(one.key, messages.cancelled_entry(one)) for one in found]
        settled[0].must = True  # else its result stands
        try:
            handle.commit([Together([result, *settled])])
        except MessageSettledError:
            return False
        return True

    async def dead_letters(
        self, *, task_id: str | None = None, task_name: str | None = None
    ) -> AsyncIterator[DeadLetter]:
        """Yield the dead letters of all queues, the oldest first."""
        store = await self._home._opened()
        found = deadletters.found(self, store._handle, task_id, task_name)
        while (letter := await _in_thread(partial(next, found, None))) is not None:
            yield letter

    async def requeue_dead(
        self, *, task_id: str | None = None, task_name: str | None = None
    ) -> int:
        """Send dead letters again, with no attempts and their results deleted; return how many."""
        store = await self._home._opened()
        return await _in_thread(
            partial(deadletters.requeue, self, store._handle, task_id, task_name)
        )


def _release(leases: Iterable[Lease]) -> None:
    for lease in leases:
        lease.release()


async def _in_thread(job: Callable[[], T]) -> T:
    return await in_thread(job, "logstore-broker")


def _now(value: Any, middleware: TaskiqMiddleware) -> Any:
    """Return what a middleware returns, or what its coroutine returns without a loop."""
    if not inspect.isawaitable(value):
        return value
    waiting = value.__await__()
    try:
        next(waiting)
    except StopIteration as end:
        return end.value
    waiting.close()
    raise RuntimeError(
        f"{type(middleware).__name__} waits for something, which put() cannot: use `await "
        f"task.kiq()`"
    )
