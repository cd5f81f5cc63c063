"""A durable queue in a store: what is put stays until it is settled, whatever dies in between.

Rules: all queues of a store are in its one file.  When :meth:`Queue.put` returns, the message is on
the disk.  It is delivered to one worker at a time, which holds a *lease* until it settles the
message.  If the worker's process dies, the message is delivered to another one.  Every method may
be called from any thread, and raises StoreClosedError on a closed store.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from logstore._arguments import positive, task_key, whole
from logstore._engine import clock, messages
from logstore._engine.frames import QUEUE_NAME_BYTES_MAX, Entry
from logstore._engine.listing import utc
from logstore._engine.messages import Message
from logstore._engine.taking import ended
from logstore._engine.writes import Change, Put, Together, Write
from logstore.errors import MessageSettledError
from logstore.types import MessageInfo, MessageStatus, QueueStats

if TYPE_CHECKING:
    from datetime import datetime

    from logstore._codec.weight import Limit
    from logstore._handle import Handle


BATCH = 200  # messages that are changed in one commit
FOREVER_S = 1e6
ALL = 1 << 20  # workers to wake


class Lease:
    """A message that this process works on, until one of the methods ends that.

    If the object is dropped before, the message is delivered again, as one attempt more.
    """

    def __init__(self, handle: Handle, message: Message) -> None:
        self._handle = handle
        self._message = message
        self._ended = False

    @property
    def task_id(self) -> str:
        """The id of the message's task."""
        return self._message.key.decode()

    @property
    def payload(self) -> Any:
        """The value that was put; decoded each time."""
        return self._handle.decoded(self._message.body)

    @property
    def priority(self) -> int:
        """The priority that it was put with."""
        return self._message.priority

    @property
    def attempts(self) -> int:
        """How many deliveries before this one have ended without an outcome."""
        return self._message.attempts

    def ack(self) -> None:
        """Settle the message: it is done.  On the disk when this returns.

        Raises MessageSettledError if it was settled before, or cancelled meanwhile.
        """
        self._end(self._ack())

    def ack_with_result(
        self, value: object, *, ttl_s: float | None = None, failed: bool = False
    ) -> None:
        """Store the task's result and settle the message, with one flush.

        After any crash both are there, or neither.  Raises as :meth:`ack` and
        :meth:`Store.set_result`.
        """
        self._end(self._ack_with_result(value, ttl_s, failed, "any"))

    def retry(self, *, delay_s: float = 0.0) -> None:
        """Have the message delivered again, after a delay, as one attempt more.

        After ``max_attempts`` it is dead.  Raises as :meth:`ack`.
        """
        self._end(self._retry(delay_s), returns=True)

    def dead(self, reason: str) -> None:
        """Keep the message among the dead ones, and deliver it no more.  Raises as :meth:`ack`."""
        self._end(self._dead(reason), returns=True)

    def release(self) -> None:
        """Give the message back: it is delivered again at once, and this was no attempt."""
        self._ended = True
        self._handle.taker.give_back([self._message.sequence])

    # -- the writes that end it -----------------------------------------------------------------

    def _ack(self) -> Write:
        return self._settle(messages.ACKED)

    def _ack_with_result(
        self, value: object, ttl_s: float | None, failed: bool, limit: Limit
    ) -> Write:
        result = self._handle.result_write(self.task_id, value, ttl_s, failed, limit)
        return Together([result, self._settle(messages.ACKED)])

    def _retry(self, delay_s: float) -> Write:
        due_us = clock.now_us() + int(delay_s * 1e6) if delay_s > 0 else 0
        entry = ended(self._message, "no attempts are left", due_us)
        return Change(self._message.key, entry, must=True)

    def _dead(self, reason: str) -> Write:
        message = self._message
        entry = messages.buried_entry(message.sequence, message.attempts + 1, reason)
        return Change(message.key, entry, must=True)

    def _settle(self, why: int) -> Change:
        entry = messages.settled_entry(self._message.sequence, why)
        return Change(self._message.key, entry, must=True)

    def _end(self, write: Write, *, returns: bool = False) -> None:
        with self._ending(returns=returns):
            self._handle.commit([write])
        if returns:
            self._returned()

    @contextmanager
    def _ending(self, *, returns: bool = False) -> Iterator[None]:
        """End the lease with a write that is made in the block.

        One that returns or buries the message is followed by :meth:`_returned`, which may wait.
        """
        taker, sequence = self._handle.taker, self._message.sequence
        if self._ended:
            raise MessageSettledError(f"the lease of task {self.task_id!r} has ended")
        try:
            yield
        except MessageSettledError:
            self._ended = True
            taker.settled(sequence)
            raise
        self._ended = True
        if not returns:
            taker.settled(sequence)

    def _returned(self) -> None:
        """End the lease of a message that is in line again, or dead."""
        self._handle.taker.returned([self._message.sequence])


class Sending(NamedTuple):
    """How a message is sent; see :meth:`Queue.put`."""

    task_id: str | None = None
    priority: int = 0
    delay_s: float | None = None
    at: datetime | None = None
    unique: bool = False
    max_attempts: int = 0


class Queue:
    """One queue of a store, returned by :meth:`Store.queue`."""

    def __init__(self, handle: Handle, name: str, *others: str) -> None:
        self._handle = handle
        self.name = name
        self._key = _queue_key(name)
        # A broker's queue takes from others, too, which come after it.
        self._taken_from = [self._key, *map(_queue_key, others)]

    def put(
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
        """Enqueue a message; on the disk when this returns.  Return its task id.

        ``priority`` is from 0 to 255, higher is first.  It is delivered after ``delay_s`` seconds,
        or at a time.  With ``unique`` nothing is put, and None returned, if the task has a message
        in any queue.  After ``max_attempts`` deliveries without an outcome it is dead; 0: never.
        """
        sending = Sending(task_id, priority, delay_s, at, unique, max_attempts)
        write = self._put_write(payload, sending)
        self._handle.commit([write])
        return self._was_put(write)

    def _was_put(self, write: Write) -> str | None:
        if write.outcome is False:
            return None
        return self._were_put([write])[0]

    def put_many(self, payloads: Iterable[object], *, priority: int = 0) -> list[str]:
        """Enqueue messages, all of them or none, with one flush; return their task ids."""
        writes = self._put_writes(payloads, priority)
        if writes:
            self._handle.commit([Together(writes)])
        return self._were_put(writes)

    def _put_writes(self, payloads: Iterable[object], priority: int) -> list[Write]:
        sending = Sending(priority=priority)
        return [self._put_write(payload, sending) for payload in payloads]

    def _were_put(self, writes: Sequence[Write]) -> list[str]:
        if writes:
            self._handle.taker.announce(len(writes))
        return [write.key.decode() for write in writes]

    def _put_write(self, payload: object, sending: Sending, limit: Limit = "any") -> Write:
        whole("priority", sending.priority, 0, messages.PRIORITY_MAX)
        whole("max_attempts", sending.max_attempts, 0, messages.ATTEMPTS_MAX)
        key = task_key(uuid4().hex if sending.task_id is None else sending.task_id)
        entry = messages.message_entry(
            self._key,
            self._handle.encoded(payload, limit),
            priority=sending.priority,
            due_us=_due_us(sending.delay_s, sending.at),
            attempts_max=sending.max_attempts,
        )
        return Put(key, entry, sync=True) if sending.unique else Write(key, entry, sync=True)

    def take(self, timeout_s: float | None = None) -> Lease | None:
        """Return a lease on the next message; None if none came within the time-out.

        With None it waits without end, with 0 not at all.
        """
        return self._take(timeout_s, _nobody_gives_up)

    def _take(self, timeout_s: float | None, is_given_up: Callable[[], bool]) -> Lease | None:
        handle = self._handle
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not is_given_up():
            seen = handle.taker.seen()
            lease = handle.take(self._taken_from, partial(Lease, handle))
            if lease is not None:
                return lease
            left = FOREVER_S if deadline is None else deadline - time.monotonic()
            if left <= 0:
                break
            handle.taker.wait(seen, self._taken_from, left)
        return None

    def __iter__(self) -> Iterator[Lease]:
        """Take messages for ever."""
        while True:
            lease = self.take()
            if lease is not None:
                yield lease

    def cancel(self, task_id: str) -> bool:
        """Settle the messages of a task, in any queue; return whether there was one.

        On the disk when this returns.  If a worker has it, its settlement raises
        MessageSettledError.
        """
        writes = self._changes(
            self._handle.taker.messages_of(task_key(task_id)), messages.cancelled_entry
        )
        self._handle.commit(writes)
        return any(write.outcome for write in writes)

    def purge(self, status: MessageStatus | None = None) -> int:
        """Settle all messages that no worker has, or those of one status; return how many."""
        return self._change_all(
            lambda message, now: now != "leased" and status in (None, now),
            lambda message: messages.settled_entry(message.sequence, messages.PURGED),
        )

    def requeue(self, task_id: str | None = None) -> int:
        """Deliver dead messages again, of one task or all, with no attempts; return how many."""
        count = self._change_all(
            lambda message, now: now == "dead" and task_id in (None, message.key.decode()),
            lambda message: messages.returned_entry(message.sequence, 0, 0),
        )
        if count:
            self._handle.taker.announce(count)
        return count

    def pause(self) -> None:
        """Deliver nothing from this queue until :meth:`resume`, also after a restart."""
        self._set(paused=True)

    def resume(self) -> None:
        """Undo :meth:`pause`."""
        self._set(paused=False)

    def messages(
        self, status: MessageStatus | None = None, *, limit: int | None = None
    ) -> Iterator[MessageInfo]:
        """Yield the messages of this queue, or those of one status, the oldest first."""
        taker = self._handle.taker
        found = (
            _info(message, now)
            for message in self._own_messages()
            if status in (None, now := _status(message, taker.leased()))
        )
        return islice(found, limit)

    def _own_messages(self) -> Iterator[Message]:
        return (one for one in self._handle.taker.messages() if one.queue == self._key)

    def stats(self) -> QueueStats:
        """Count the messages of each status.  It takes as long as listing them."""
        taker = self._handle.taker
        leased = taker.leased()
        counts = Counter(_status(message, leased) for message in self._own_messages())
        return QueueStats(
            ready=counts["ready"],
            delayed=counts["delayed"],
            leased=counts["leased"],
            dead=counts["dead"],
            paused=taker.settings(self._key).paused,
        )

    def _set(self, *, paused: bool) -> None:
        taker = self._handle.taker
        settings = taker.settings(self._key)._replace(paused=paused)
        self._handle.commit([Write(self._key, messages.settings_entry(settings), sync=True)])
        taker.announce(ALL)

    def _change_all(
        self,
        is_meant: Callable[[Message, MessageStatus], bool],
        entry_of: Callable[[Message], Entry],
    ) -> int:
        count = 0
        found = self._own_messages()
        while part := list(islice(found, BATCH)):
            leased = self._handle.taker.leased()
            meant = [message for message in part if is_meant(message, _status(message, leased))]
            writes = self._changes(meant, entry_of)
            self._handle.commit(writes)
            count += sum(bool(write.outcome) for write in writes)
        return count

    @staticmethod
    def _changes(of: Iterable[Message], entry_of: Callable[[Message], Entry]) -> list[Write]:
        return [Change(message.key, entry_of(message)) for message in of]


def _nobody_gives_up() -> bool:
    return False


def _status(message: Message, leased: Collection[int]) -> MessageStatus:
    if message.reason:
        return "dead"
    if message.sequence in leased:
        return "leased"
    return "delayed" if message.due_us > clock.now_us() else "ready"


def _info(message: Message, status: MessageStatus) -> MessageInfo:
    return MessageInfo(
        task_id=message.key.decode(),
        status=status,
        priority=message.priority,
        attempts=message.attempts,
        enqueued=utc(message.sequence),
        due=utc(message.due_us) if message.due_us else None,
        size_bytes=len(message.body),
        reason=message.reason,
    )


def _queue_key(name: str) -> bytes:
    if not isinstance(name, str) or not name:
        raise ValueError(f"the name of a queue must be a str that is not empty, not {name!r}")
    key = name.encode()
    if len(key) > QUEUE_NAME_BYTES_MAX:
        raise ValueError(
            f"the name of a queue must have at most {QUEUE_NAME_BYTES_MAX} bytes in UTF-8"
        )
    return key


def _due_us(delay_s: float | None, at: datetime | None) -> int:
    if delay_s is not None and at is not None:
        raise TypeError("give delay_s or at, not both")
    if delay_s is not None:
        if delay_s == 0:
            return 0
        positive("delay_s", delay_s)
        return clock.now_us() + int(delay_s * 1e6)
    if at is not None:
        if at.tzinfo is None:
            raise ValueError(f"at must have a time zone: {at!r}")
        return max(1, int(at.timestamp() * 1e6))
    return 0
