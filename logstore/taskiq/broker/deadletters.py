"""Dead letters: messages that are delivered no more, each with the reason.

Rules: blocking functions, for a thread.  A dead letter stays until it is requeued or purged.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

from logstore._engine import messages
from logstore._engine.frames import DELETED, Entry
from logstore._engine.listing import utc
from logstore._engine.messages import Message
from logstore._engine.writes import Change, Delete, Together
from logstore.errors import MessageSettledError

if TYPE_CHECKING:
    from taskiq.message import TaskiqMessage

    from logstore._handle import Handle


class DeadLetter(NamedTuple):
    """A task that was given up."""

    task_id: str
    queue: str
    reason: str
    attempts: int
    """How many deliveries have ended without an outcome."""
    enqueued: datetime
    task: TaskiqMessage | None
    """Its name, arguments and labels; None if the message cannot be parsed."""


class Parser(Protocol):
    """What is needed of a broker."""

    def task_message(self, body: bytes) -> TaskiqMessage:
        """Return the task that a stored message is about.  Raises ValueError."""

    def result_key(self, task_id: str) -> bytes:
        """Return the key under which a task's result is stored."""


def found(
    parser: Parser, handle: Handle, task_id: str | None, task_name: str | None
) -> Iterator[DeadLetter]:
    """Yield the dead letters, or those of one task or task name."""
    for message in handle.taker.messages():
        letter = _letter(parser, message, task_id, task_name)
        if letter is not None:
            yield letter


def requeue(parser: Parser, handle: Handle, task_id: str | None, task_name: str | None) -> int:
    """Deliver dead letters again, and delete their results; return how many."""
    count = 0
    for message in handle.taker.messages():
        if _letter(parser, message, task_id, task_name) is None:
            continue
        key = parser.result_key(message.key.decode())
        again = messages.returned_entry(message.sequence, 0, 0)
        back = Change(message.key, again, must=True)
        deleted = Delete(key, Entry(DELETED, 0, 0, 0, b""), sync=True)
        try:
            handle.commit([Together([back, deleted])])
        except MessageSettledError:
            continue
        count += 1
    if count:
        handle.taker.announce(count)
    return count


def _letter(
    parser: Parser, message: Message, task_id: str | None, task_name: str | None
) -> DeadLetter | None:
    if not message.reason or task_id not in (None, message.key.decode()):
        return None
    try:
        task = parser.task_message(message.body)
    except ValueError:
        task = None
    if task_name is not None and (task is None or task.task_name != task_name):
        return None
    return DeadLetter(
        message.key.decode(),
        message.queue.decode(),
        message.reason,
        message.attempts,
        utc(message.sequence),
        task,
    )
