"""How a schedule's slot gets to the message that is sent for it.

Rules: taskiq's scheduler calls the source's ``pre_send``, the broker's ``kick`` and the source's
``post_send`` in one asyncio task.  ``pre_send`` leaves a :class:`Firing` in the context, and
``kick`` of a broker on the same store takes it and writes the claim of the slot together with the
message: both are in the log after any crash, or neither.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from logstore._engine.writes import SlotTakenError, Together, Write

if TYPE_CHECKING:
    from taskiq.message import BrokerMessage, TaskiqMessage

    from logstore._handle import OpenOptions

__all__ = ["Firing", "SlotTakenError", "take_firing"]


@runtime_checkable
class StoreBroker(Protocol):
    """A taskiq broker that puts its messages into a store, with the help of this module."""

    @property
    def path(self) -> str:
        """The path of the store."""

    @property
    def store_options(self) -> OpenOptions:
        """The options that the store is opened with."""

    def task_message(self, body: bytes) -> TaskiqMessage:
        """Return the task that a message of the queue is about.  Raises ValueError."""


class Firing:
    """One message that a schedule source has sent."""

    def __init__(self, schedule_id: str, *, claim: Write | None = None, due_us: int = 0) -> None:
        self.schedule_id = schedule_id
        self.claim = claim  # of its slot; None if there is nothing to claim
        self.due_us = due_us  # when it is to be delivered, 0 for at once
        self.taken = False

    def write(self, put: Write) -> Write:
        """Return what enqueues the message, instead of the write that usually does.

        It is refused with SlotTakenError if another process has sent the slot: then there is
        nothing to send.
        """
        if self.due_us:
            put.entry = put.entry._replace(expires_us=self.due_us)
        return put if self.claim is None else Together([self.claim, put])


_firing: ContextVar[Firing | None] = ContextVar("logstore_firing", default=None)


def leave(firing: Firing | None) -> None:
    """Leave a firing for the next kick in this context."""
    _firing.set(firing)


def left() -> Firing | None:
    """Return the firing that was left last in this context."""
    return _firing.get()


def take_firing(message: BrokerMessage) -> Firing | None:
    """Return the firing that a message is sent for; for ``kick``, which must write its claim."""
    firing = _firing.get()
    if firing is None or firing.taken:
        return None
    if message.labels.get("schedule_id") != firing.schedule_id:
        return None
    firing.taken = True
    return firing
