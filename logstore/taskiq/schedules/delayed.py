"""Schedules by time in a queue: delayed messages, which need no scheduler.

Rules: such a message has the id of its schedule and its time as labels, and nothing else is kept of
it.  Its task id is that of the schedule, unless it was given one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from taskiq.kicker import AsyncKicker
from taskiq.scheduler.scheduled_task import ScheduledTask

from logstore._arguments import task_key
from logstore._engine import clock, messages
from logstore._engine.messages import Message
from logstore._engine.writes import Change
from logstore.taskiq.schedules import firing
from logstore.taskiq.schedules.firing import Firing
from logstore.taskiq.schedules.slots import moment

if TYPE_CHECKING:
    from logstore._handle import Handle
    from logstore.taskiq.schedules.definitions import Definition

SLOT_LABEL = "schedule_slot"


async def put(broker: Any, definition: Definition) -> None:
    """Put the message of a schedule into the queue of a broker."""
    task, due_us = definition.task, definition.timing.time_us
    labels = {"schedule_id": task.schedule_id, SLOT_LABEL: moment(due_us).isoformat()}
    kicker: AsyncKicker[Any, Any] = AsyncKicker(task.task_name, broker, {**task.labels, **labels})
    firing.leave(Firing(task.schedule_id, due_us=due_us))
    try:
        await kicker.with_task_id(task.task_id or task.schedule_id).kiq(*task.args, **task.kwargs)
    finally:
        firing.leave(None)


def cancel(handle: Handle, broker: Any, schedule_id: str, *, look: bool) -> None:
    """Cancel what waits for the time of a schedule.

    With ``look`` a message with a task id of its own is found, too, in the whole queue.
    """
    taker = handle.taker
    of_task = waiting(broker, taker.messages_of(task_key(schedule_id)))
    found = [one for one, task in of_task if task.schedule_id == schedule_id]
    if look and not found:
        everything = waiting(broker, taker.messages())
        found = [one for one, task in everything if task.schedule_id == schedule_id]
    handle.commit([Change(one.key, messages.cancelled_entry(one)) for one in found])


def waiting(broker: Any, found: Iterable[Message]) -> Iterator[tuple[Message, ScheduledTask]]:
    """Yield those of some messages that wait for the time of a schedule, with that schedule."""
    now_us = clock.now_us()
    for message in found:
        if message.due_us <= now_us or message.reason:
            continue
        try:
            sent = broker.task_message(message.body)
        except ValueError:
            continue  # it is of no task of this broker
        schedule_id, time = sent.labels.get("schedule_id"), moment(message.due_us)
        if schedule_id is None or sent.labels.get(SLOT_LABEL) != time.isoformat():
            continue  # it is delayed for another reason
        task = ScheduledTask(
            task_name=sent.task_name,
            labels=sent.labels,
            args=sent.args,
            kwargs=sent.kwargs,
            task_id=sent.task_id,
            schedule_id=schedule_id,
            time=time,
        )
        yield message, task
