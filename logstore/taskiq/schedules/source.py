"""The schedule source of a store: schedules that survive restarts, and are sent once per slot.

Rules:

- The constructor opens nothing.  The store is opened by ``startup()``, or by the first call that
  needs it.  The event loop never waits for the disk.
- What all schedulers share is in the store.  A slot is sent by the one that claims it, in one
  commit with the message if the broker is on the same store.
- taskiq's scheduler gets one list, which is kept up to date in place, so that a change by any
  process counts at its next look, whatever its ``--update-interval`` is.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from logging import getLogger
from typing import TYPE_CHECKING, Any, get_args

from taskiq.abc.schedule_source import ScheduleSource
from taskiq.cli.scheduler import run as scheduler_run
from taskiq.exceptions import ScheduledTaskCancelledError
from taskiq.kicker import AsyncKicker
from taskiq.scheduler.scheduled_task import ScheduledTask
from typing_extensions import Unpack

import logstore
from logstore._arguments import task_key
from logstore._engine import clock, messages
from logstore._engine.queuetable import all_schedules, schedule_in
from logstore._engine.writes import Change, Claim, PutSchedule, RemoveSchedule, SlotTakenError
from logstore._handle import Handle, OpenOptions
from logstore.errors import (
    DecodeError,
    LogstoreError,
    UnserializableValueError,
    ValueTooLargeError,
)
from logstore.taskiq.schedules import firing as firings
from logstore.taskiq.schedules.definitions import (
    Definition,
    definition_of,
    definitions_in_code,
    is_known_here,
)
from logstore.taskiq.schedules.firing import Firing, StoreBroker
from logstore.taskiq.schedules.plan import Known, Missed, Plan, Slot
from logstore.taskiq.schedules.slots import SECOND_US, last_slot, moment

if TYPE_CHECKING:
    from taskiq.abc.broker import AsyncBroker

    from logstore._engine.messages import Message
    from logstore._engine.schedules import Schedule
    from logstore._engine.writes import Write
    from logstore.aio import AsyncStore

logger = getLogger(__name__)

SLOT_LABEL = "schedule_slot"
LOOK_AT_S = 0.9  # in each second: taskiq's scheduler looks at its beginning


class LogStoreScheduleSource(ScheduleSource):
    """Keeps schedules in a logstore file.

    ``store`` is a broker on a logstore file, or the path of one for use with any other broker.
    ``broker`` is the one whose tasks' labels ``schedule`` are taken over by :meth:`startup`; by
    default the broker that was given as ``store``.

    ``missed`` says what becomes of slots that no scheduler has sent within a minute, as when all of
    them were down: ``"skip"`` leaves them out, ``"send"`` sends the last one of each schedule,
    ``"send_all"`` sends all of them.  All other keywords are those of :func:`logstore.open`.
    """

    def __init__(
        self,
        store: StoreBroker | str | os.PathLike[str],
        *,
        broker: AsyncBroker | None = None,
        missed: Missed = "skip",
        **store_options: Unpack[OpenOptions],
    ) -> None:
        if missed not in get_args(Missed):
            raise ValueError(f"missed must be one of {', '.join(get_args(Missed))}, not {missed!r}")
        self.missed = missed
        self._queue_broker: Any = None  # the broker that puts messages into the same store
        if isinstance(store, str | os.PathLike):
            self.path = os.path.abspath(store)
            self._options = store_options
        else:
            if not isinstance(store, StoreBroker):
                raise TypeError(
                    f"expected a LogStoreBroker or a path, not {store!r}: for another broker write "
                    f"LogStoreScheduleSource(path, broker=broker)"
                )
            self._queue_broker = store
            self.path = os.path.abspath(store.path)
            self._options = {**store.store_options, **store_options}
        self._broker = self._queue_broker if broker is None else broker
        self._store: AsyncStore | None = None
        self._lock = threading.Lock()  # of the plan, and of the store while it is opened or closed
        self._plan = Plan(missed)
        self._live: list[ScheduledTask] = []
        self._watching: asyncio.Task[None] | None = None
        self._sending: dict[str, asyncio.Task[Any]] = {}
        self._decoded: dict[bytes, tuple[bytes, Definition | None]] = {}
        self._last_problem = ""

    # -- opening and closing ------------------------------------------------------------------

    async def startup(self) -> None:
        """Open the store, and take over the labels of the broker's tasks.

        Raises :class:`~logstore.errors.OpenError` when it cannot be opened.
        """
        store = await self._opened()
        if self._broker is not None:
            await asyncio.to_thread(self._take_over, store._handle, self._broker)

    async def shutdown(self) -> None:
        """Close the store; a later call opens it again."""
        watching, self._watching = self._watching, None
        if watching is not None and watching.get_loop() is asyncio.get_running_loop():
            watching.cancel()
            await asyncio.wait([watching])
        with self._lock:
            store, self._store = self._store, None
        if store is not None:
            await store.close()

    async def _opened(self) -> AsyncStore:
        store = self._store
        if store is not None and not store.closed:
            return store
        opened = await logstore.open_async(self.path, **self._options)
        with self._lock:
            store = self._store
            if store is None or store.closed:
                self._store = opened
                return opened
        await opened.close()  # another task was faster
        return store

    def _take_over(self, handle: Handle, broker: AsyncBroker) -> None:
        """Bring the schedules that come from code to what the code says.

        Those of tasks that this process does not know stay: another one may know them.
        """
        wanted = definitions_in_code(broker, lambda value: _is_storable(handle, value))
        writes: list[Write] = []
        for known in self._read(handle):
            schedule_id = known.definition.task.schedule_id
            if (
                schedule_id not in wanted
                and known.definition.of_code
                and is_known_here(broker, known.definition.task.task_name)
            ):
                writes.append(RemoveSchedule(known.schedule.key))
        writes += [self._put_write(handle, definition) for definition in wanted.values()]
        if writes:
            handle.commit(writes)

    # -- taskiq's interface -------------------------------------------------------------------

    async def get_schedules(self) -> list[ScheduledTask]:
        """Return all schedules; to taskiq's scheduler what it has to send next.

        That list is kept up to date until :meth:`shutdown`.
        """
        store = await self._opened()
        if not _is_asked_by_the_scheduler():
            return await asyncio.to_thread(self._list, store._handle)
        await self._refresh()
        watching, loop = self._watching, asyncio.get_running_loop()
        if watching is None or watching.done() or watching.get_loop() is not loop:
            self._watching = loop.create_task(self._watch())
        return self._live

    async def add_schedule(self, schedule: ScheduledTask) -> None:
        """Add a schedule, or change the one of this id; on the disk when this returns.

        An interval begins with the next full second.  With another timing its slots count from now
        on.  One by time is put into the broker's queue at once, as a delayed message, and needs no
        scheduler.  Raises ValueError for a cron expression or time zone that there is not, and the
        errors of a write.
        """
        definition = Definition(schedule)
        definition.timing.check()
        store = await self._opened()
        if self._queue_broker is None or not definition.timing.time_us:
            write = await asyncio.to_thread(self._put_write, store._handle, definition)
            await store._write(write)
            await self._cancel(store, schedule.schedule_id)
        else:
            await self.delete_schedule(schedule.schedule_id)
            await self._put_message(definition)

    async def delete_schedule(self, schedule_id: str) -> None:
        """Remove a schedule, also one by time that waits in the queue; no effect without one."""
        store = await self._opened()
        removal = RemoveSchedule(task_key(schedule_id))
        await store._write(removal)
        await self._cancel(store, schedule_id, look=not removal.outcome)

    async def pre_send(self, task: ScheduledTask) -> None:
        """Take the slot that a task is sent for, or cancel the sending."""
        if isinstance(task, Slot):
            task._tried_at = time.monotonic()
            self._live[:] = [one for one in self._live if one is not task]
            task.schedule_id = task._known.definition.task.schedule_id
        await self._in_turn(task.schedule_id)
        store = await self._opened()
        found = await asyncio.to_thread(self._slot_of, store._handle, task)
        if found is None:
            raise ScheduledTaskCancelledError
        known, slot_us = found
        task.labels = {**task.labels, SLOT_LABEL: moment(slot_us).isoformat()}
        ahead_us = clock.now_us() + known.definition.timing.tolerance_us()
        claim = Claim(known.schedule, slot_us, ahead_us=ahead_us, once=known.once)
        if self._queue_broker is not None:
            firings.leave(Firing(task.schedule_id, claim=claim))
            return
        try:
            await store._write(claim)
        except SlotTakenError:
            raise ScheduledTaskCancelledError from None

    async def post_send(self, task: ScheduledTask) -> None:
        """Find out whether the slot was claimed."""
        firing = firings.left()
        if firing is None or firing.taken:
            return
        firings.leave(None)
        logger.error(
            "Task %s was sent for schedule %s by a broker that is not on %s, so other schedulers "
            "may send it, too: give the schedule source a path instead of a broker",
            task.task_name,
            task.schedule_id,
            self.path,
        )
        if firing.claim is not None:
            store = await self._opened()
            with suppress(SlotTakenError):
                await store._write(firing.claim)

    # -- sending ------------------------------------------------------------------------------

    async def _in_turn(self, schedule_id: str) -> None:
        """Wait until the slot before of this schedule was sent: each sending is a task."""
        me = asyncio.current_task()
        assert me is not None
        before = self._sending.get(schedule_id)
        self._sending[schedule_id] = me
        me.add_done_callback(lambda _: self._forget(schedule_id, me))
        if before is not None and before is not me:
            await asyncio.wait([before])

    def _forget(self, schedule_id: str, sent: asyncio.Task[Any]) -> None:
        if self._sending.get(schedule_id) is sent:
            del self._sending[schedule_id]

    def _slot_of(self, handle: Handle, task: ScheduledTask) -> tuple[Known, int] | None:
        """Return the schedule of a task and the slot that it is to be sent for, if there is one."""
        known = self._find(handle, task.schedule_id)
        if known is None:
            return None
        now_us = clock.now_us()
        since_us, after_us = known.times_us(now_us)
        if isinstance(task, Slot):
            slot_us: int | None = task._slot_us
            if known.schedule.definition != task._known.schedule.definition:
                return None
        else:  # another scheduler than taskiq's decides when
            slot_us = last_slot(known.definition.timing, since_us, after_us, now_us)
        if slot_us is None or slot_us <= after_us:
            return None
        if self.missed == "skip" and known.is_missed(slot_us, now_us):
            return None
        return known, slot_us

    async def _put_message(self, definition: Definition) -> None:
        """Put the message of a schedule by time into the queue."""
        task = definition.task
        kicker: AsyncKicker[Any, Any] = AsyncKicker(
            task.task_name,
            self._queue_broker,
            {
                **task.labels,
                "schedule_id": task.schedule_id,
                SLOT_LABEL: moment(definition.timing.time_us).isoformat(),
            },
        )
        firings.leave(Firing(task.schedule_id, due_us=definition.timing.time_us))
        try:
            await kicker.with_task_id(task.task_id or task.schedule_id).kiq(
                *task.args, **task.kwargs
            )
        finally:
            firings.leave(None)

    async def _cancel(self, store: AsyncStore, schedule_id: str, *, look: bool = False) -> None:
        """Cancel what waits in the queue for a schedule by time.

        Its message has the id of the schedule, or one of its own: then, with ``look``, it is looked
        for in the whole queue.
        """
        if self._queue_broker is not None:
            await asyncio.to_thread(self._cancel_now, store._handle, schedule_id, look)

    def _cancel_now(self, handle: Handle, schedule_id: str, look: bool) -> None:
        of_task = handle.taker.messages_of(task_key(schedule_id))
        found = [
            one for one, task in self._waiting(handle, of_task) if task.schedule_id == schedule_id
        ]
        if look and not found:
            everything = self._waiting(handle, handle.taker.messages())
            found = [one for one, task in everything if task.schedule_id == schedule_id]
        if found:
            handle.commit(
                [
                    Change(one.key, messages.settled_entry(one.sequence, messages.CANCELLED))
                    for one in found
                ]
            )

    def _waiting(
        self, handle: Handle, found: Iterable[Message]
    ) -> Iterator[tuple[Message, ScheduledTask]]:
        """Yield those of some messages that wait for the time of a schedule, with that schedule."""
        now_us = clock.now_us()
        for message in found:
            if message.due_us <= now_us or message.reason:
                continue
            try:
                sent = self._queue_broker.task_message(message.body)
            except ValueError:
                continue  # it is of no task of this broker
            schedule_id, time = sent.labels.get("schedule_id"), moment(message.due_us)
            if schedule_id is not None and sent.labels.get(SLOT_LABEL) == time.isoformat():
                yield (
                    message,
                    ScheduledTask(
                        task_name=sent.task_name,
                        labels=sent.labels,
                        args=sent.args,
                        kwargs=sent.kwargs,
                        task_id=sent.task_id,
                        schedule_id=schedule_id,
                        time=time,
                    ),
                )

    # -- looking ------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Keep the scheduler's list up to date."""
        while True:
            await asyncio.sleep((LOOK_AT_S - time.time()) % 1.0)
            await self._refresh()
            await asyncio.sleep(0.05)  # a timer may fire a moment early

    async def _refresh(self) -> None:
        try:
            store = await self._opened()
            found = await asyncio.to_thread(self._planned, store._handle)
        except (LogstoreError, OSError) as exc:  # it looks again in a second
            if str(exc) != self._last_problem:
                logger.exception("The schedules of %s cannot be read", self.path)
            self._last_problem = str(exc)
            return
        self._last_problem = ""
        self._live[:] = [slot for slot in found if slot._tried_at is None]

    def _planned(self, handle: Handle) -> list[Slot]:
        with self._lock:
            known = [one for one in self._read(handle) if self._is_sent_here(one.definition)]
            return self._plan.slots(known, clock.now_us())

    def _is_sent_here(self, definition: Definition) -> bool:
        """Return whether this process may send a schedule: of code only what its code has."""
        broker = self._broker
        return not definition.of_code or (
            broker is not None and definition.task.task_name in broker.get_all_tasks()
        )

    def _list(self, handle: Handle) -> list[ScheduledTask]:
        found = [known.definition.task.model_copy() for known in self._read(handle)]
        if self._queue_broker is not None:
            found += [task for _, task in self._waiting(handle, handle.taker.messages())]
        return found

    def _read(self, handle: Handle) -> list[Known]:
        """Return all schedules that can be read."""
        schedules = all_schedules(handle.writable_engine)
        found = (self._known(handle, schedule) for schedule in schedules)
        return [known for known in found if known is not None]

    def _find(self, handle: Handle, schedule_id: str) -> Known | None:
        engine, key = handle.writable_engine, task_key(schedule_id)
        schedule = schedule_in(engine, key, engine.view().find_schedule(key))
        return None if schedule is None else self._known(handle, schedule)

    def _known(self, handle: Handle, schedule: Schedule) -> Known | None:
        found = self._decoded.get(schedule.key)
        if found is None or found[0] != schedule.definition:
            found = schedule.definition, self._decode(handle, schedule)
            self._decoded[schedule.key] = found
        definition = found[1]
        return None if definition is None else Known(schedule, definition)

    def _decode(self, handle: Handle, schedule: Schedule) -> Definition | None:
        schedule_id = schedule.key.decode()
        try:
            definition = definition_of(schedule_id, handle.decoded(schedule.definition))
            definition.timing.check()
        except (DecodeError, ValueError) as exc:
            logger.warning("The schedule %s of %s is left out: %s", schedule_id, self.path, exc)
            return None
        return definition

    def _put_write(self, handle: Handle, definition: Definition) -> Write:
        """Return the write that adds or changes a schedule; its slots are from now on."""
        timing = definition.timing
        schedule_id = definition.task.schedule_id
        known = self._find(handle, schedule_id)
        now_us = clock.now_us()
        since_us = now_us // SECOND_US * SECOND_US + SECOND_US
        if timing.time_us:
            since_us = min(since_us, timing.time_us)
        return PutSchedule(
            task_key(schedule_id),
            handle.encoded(definition.value()),
            since_us,
            restarts=known is None or known.definition.timing != timing,
        )


def _is_asked_by_the_scheduler() -> bool:
    """Return whether taskiq's scheduler asks for schedules, in a task of its own."""
    task = asyncio.current_task()
    asking = getattr(task and task.get_coro(), "cr_code", None)
    return asking is scheduler_run.get_schedules.__code__


def _is_storable(handle: Handle, value: object) -> bool:
    try:
        handle.encoded(value)
    except (UnserializableValueError, ValueTooLargeError):
        return False
    return True
