"""One message on its way through taskiq's receiver, and how it ends.

Rules:

- taskiq's receiver handles each message in an asyncio task of its own, and begins with reading
  ``ack`` of it.  From then on the delivery is the *current* one of that task's context: a kick or a
  result in that context is known to belong to it, also in a thread that runs a synchronous task.
- A message is settled once.  ``state`` says how; while it is ``"held"`` nothing has ended it.
- A result that the receiver saves is written together with the settlement, with one flush.  A
  later ``ack()`` then does nothing.
- ``ack()`` settles at once if the receiver has been asked to do so before the task runs, or if the
  task itself asks for it.  After the task has run (``when_executed``) it waits for the result.
- When the receiver is done and the message is still held, it comes back.  So it does if saving has
  failed.
- A task that was interrupted has no result: its message is returned, as one attempt more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import BrokenExecutor
from contextvars import ContextVar
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import PrivateAttr
from taskiq.acks import AckableMessage, AcknowledgeType
from taskiq.receiver import Receiver

from logstore._engine import clock, messages
from logstore._engine.frames import BURIED, MESSAGE
from logstore._engine.taking import ended
from logstore._engine.writes import Change, Together, Write
from logstore._loops.handover import in_thread
from logstore.errors import LogstoreError, MessageSettledError, StoreClosedError
from logstore.taskiq.errors import TaskInterruptedError

if TYPE_CHECKING:
    from logstore._codec.weight import Limit
    from logstore._engine.messages import Message
    from logstore.aio import AsyncStore
    from logstore.queue import Lease

State = Literal["waiting", "withdrawn", "held", "acked", "superseded", "saved", "returned", "lost"]

COMES_BACK_S = 5.0  # after saving its result has failed
RETURNED_S_MAX = 60.0
INTERRUPTS = (KeyboardInterrupt, SystemExit, asyncio.CancelledError, BrokenExecutor)

logger = logging.getLogger(__name__)
_current: ContextVar[Delivery | None] = ContextVar("logstore_delivery", default=None)


def current_delivery() -> Delivery | None:
    """Return the delivery whose task runs in this context and process."""
    delivery = _current.get()
    return delivery if delivery is not None and delivery.process == os.getpid() else None


def ack_time_of(frame: FrameType | None) -> AcknowledgeType | None:
    """Return when the receiver acknowledges, if the frame is its ``callback``; else None.

    The receiver keeps it in a local variable only.  Frames are only read.
    """
    if frame is None or frame.f_code is not Receiver.callback.__code__:
        return None
    found = frame.f_locals.get("ack_time")
    return found if isinstance(found, AcknowledgeType) else None


class Delivered(AckableMessage):
    """What the receiver gets.  It has no value for ``ack``: reading that begins the delivery."""

    _delivery: Delivery = PrivateAttr()

    def __getattr__(self, name: str) -> Any:
        if name == "ack":
            self._delivery.begin()
            return self._delivery.ack
        return super().__getattr__(name)  # type: ignore[misc]


class Owner(Protocol):
    """What a delivery needs of its broker."""

    stopping: asyncio.Event

    def dead_result(self, store: AsyncStore, message: Message, reason: str) -> Write:
        """Return the write of the result that a dead task leaves."""

    def run_later(self, work: Any) -> None:
        """Run a coroutine beside everything else."""

    def stop_taking(self) -> None:
        """Take nothing any more, and give back what the receiver has not started."""


class Delivery:
    """One message that this process holds for taskiq's receiver."""

    def __init__(self, owner: Owner, store: AsyncStore, lease: Lease) -> None:
        self.process = os.getpid()
        self.task_id = lease.task_id
        self.state: State = "waiting"
        self.lease = lease
        self.owner = owner
        self._store = store
        self._ack_waits = False  # for the result
        self._is_unsaved = False
        self._kicks: list[Write] = []

    def message(self, data: bytes) -> Delivered:
        """Return the message for the receiver."""
        delivered = Delivered.model_construct(data=data)
        delivered._delivery = self
        return delivered

    def begin(self) -> None:
        """Make this the current delivery; cancel the receiver's task if it was withdrawn."""
        if self.state == "withdrawn":
            raise asyncio.CancelledError("the worker stops: the message went back to its queue")
        if self.state == "waiting":
            self.state = "held"
            _current.set(self)
            task = asyncio.current_task()
            if task is not None:
                task.add_done_callback(self._receiver_is_done)

    def withdraw(self, state: State) -> bool:
        """See that nothing ends it any more, if it is in that state; return whether it was."""
        if self.state != state:
            return False
        self.state = "withdrawn"
        return True

    # -- what the receiver and the task do ------------------------------------------------------

    def ack(self) -> Any:
        """Acknowledge; called by taskiq, which awaits what this returns."""
        asked_by = sys._getframe(1).f_back
        return self._acknowledged(waits=ack_time_of(asked_by) == AcknowledgeType.WHEN_EXECUTED)

    async def _acknowledged(self, *, waits: bool) -> None:
        if self.state != "held" or self._is_unsaved:
            return
        if waits:
            self._ack_waits = True
        else:
            await self._settle()

    async def save(
        self, error: BaseException | None, encode: Callable[[Limit], Write], *, acks: bool
    ) -> None:
        """Store the task's result; with ``acks`` settle the message, too."""
        if self.state not in ("held", "acked", "superseded", "saved"):
            raise MessageSettledError(
                f"the message of task {self.task_id!r} was cancelled, or went back to its queue: "
                f"this result is dropped"
            )
        if self.state == "held" and isinstance(error, INTERRUPTS):
            if isinstance(error, BrokenExecutor):
                self.owner.stop_taking()  # this worker's executor is of no use any more
            reason = f"interrupted by {type(error).__name__}"
            await self.give_up(reason)
            raise TaskInterruptedError(f"task {self.task_id!r} was {reason}, which is no result")
        if self.state != "held" or not acks:
            await self._store._set(encode)
            return
        try:
            await self._end(
                "saved", lambda limit: [encode(limit), self._settled(messages.ACKED), *self._kicks]
            )
        except MessageSettledError:
            raise
        except BaseException:
            self._is_unsaved = True
            raise

    def keep(self, kick: Write) -> None:
        """Enqueue a message together with the end of this one."""
        self._kicks.append(kick)

    async def supersede(self, kick: Write) -> None:
        """Enqueue a message of the same task in place of this one."""
        await self._end("superseded", lambda _: [kick, self._settled(messages.SUPERSEDED)])

    def supersede_now(self, kick: Write) -> None:
        """As :meth:`supersede`, from a thread."""
        self._end_now("superseded", [kick, self._settled(messages.SUPERSEDED)])

    # -- ends without a result ----------------------------------------------------------------

    def _receiver_is_done(self, _: asyncio.Future[Any]) -> None:
        if self.state == "held":
            self.owner.run_later(self._end_unfinished())

    async def _end_unfinished(self) -> None:
        if self._is_unsaved:
            await self._come_back()
        elif self._ack_waits:
            await self._unless_it_fails(self._settle())
        else:
            await self.give_up("it ended without an acknowledgement")

    async def give_up(self, reason: str) -> None:
        """Return the message, as one attempt more, or bury it."""
        message = self.lease._message
        delay_s = min(2.0**message.attempts, RETURNED_S_MAX)
        entry = ended(message, reason, clock.now_us() + int(delay_s * 1e6))
        if entry.kind == BURIED:
            await self.bury(reason)
            return
        logger.warning("Task %s: %s; it comes back after %g s.", self.task_id, reason, delay_s)
        change = Change(message.key, entry, must=True)
        end = partial(self._end_now, "returned", [change], returns=True)
        await self._unless_it_fails(in_thread(end, "logstore-return"))

    async def bury(self, reason: str) -> None:
        """Make the message a dead one, and store an error result."""
        logger.error("Task %s is dead: %s.", self.task_id, reason)
        message = self.lease._message
        parts = [
            self.owner.dead_result(self._store, message, reason),
            self.lease._dead(reason),
        ]
        end = partial(self._end_now, "returned", parts, returns=True)
        await self._unless_it_fails(in_thread(end, "logstore-bury"))

    async def _unless_it_fails(self, end: Awaitable[None]) -> None:
        try:
            await end
        except MessageSettledError:
            pass
        except (LogstoreError, OSError) as error:
            logger.warning("Task %s: its end could not be written: %s", self.task_id, error)
            self.owner.run_later(self._come_back())

    async def _come_back(self) -> None:
        """Give the message back after a while, with nothing written: the disk may be full."""
        logger.warning("Task %s comes back after %g s.", self.task_id, COMES_BACK_S)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.owner.stopping.wait(), COMES_BACK_S)
        if self.state in ("waiting", "held"):
            self.state = "returned"
            with contextlib.suppress(StoreClosedError):  # closing it has given it back
                await in_thread(self.lease.release, "logstore-release")

    # -- writing --------------------------------------------------------------------------------

    def _settled(self, why: int) -> Write:
        return self.lease._settle(why)

    async def _settle(self) -> None:
        await self._end("acked", lambda _: [self._settled(messages.ACKED), *self._kicks])

    async def _end(self, state: State, parts: Callable[[Limit], list[Write]]) -> None:
        kicks = 0

        def encode(limit: Limit) -> Write:
            nonlocal kicks
            found = parts(limit)
            kicks = sum(write.entry.kind == MESSAGE for write in found)
            return found[0] if len(found) == 1 else Together(found)

        try:
            with self.lease._ending():
                await self._store._set(encode)
        except MessageSettledError:
            self.state = "lost"
            raise
        self.state = state
        if kicks:
            self._store._handle.taker.announce(kicks)

    def _end_now(self, state: State, parts: list[Write], *, returns: bool = False) -> None:
        try:
            self.lease._end(Together(parts), returns=returns)
        except MessageSettledError:
            self.state = "lost"
            raise
        self.state = state
        if any(part.entry.kind == MESSAGE for part in parts):
            self._store._handle.taker.announce(1)
