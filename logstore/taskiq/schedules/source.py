"""The schedule source of a store: schedules that survive restarts, and are sent once per slot.

Rules:

- The constructor opens nothing.  The store is opened by ``startup()``, or by the first call that
  needs it; see ``opening.py``.  The event loop never waits for the disk.
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
from contextlib import suppress
from logging import getLogger
from typing import TYPE_CHECKING, Any, get_args

from taskiq.abc.schedule_source import ScheduleSource
from taskiq.cli.scheduler import run as scheduler_run
from taskiq.exceptions import ScheduledTaskCancelledError
from taskiq.scheduler.scheduled_task import ScheduledTask
from typing_extensions import Unpack

from logstore._arguments import task_key
from logstore._engine import clock
from logstore._engine.writes import Claim, RemoveSchedule, SlotTakenError
from logstore._handle import Handle, OpenOptions
from logstore.errors import LogstoreError
from logstore.taskiq.opening import OpensStore
from logstore.taskiq.schedules import delayed, stored
from logstore.taskiq.schedules import firing as firings
from logstore.taskiq.schedules.definitions import (
    Definition,
    defined,
    definitions_in_code,
    is_known_here,
)
from logstore.taskiq.schedules.firing import Firing, StoreBroker
from logstore.taskiq.schedules.plan import Known, Missed, Plan, Slot
from logstore.taskiq.schedules.slots import last_slot, moment
from logstore.taskiq.schedules.stored import Stored

if TYPE_CHECKING:
    from taskiq.abc.broker import AsyncBroker

    from logstore._engine.writes import Write
    from logstore.aio import AsyncStore

logger = getLogger(__name__)

LOOK_AT_S = 0.9  # in each second: taskiq's scheduler looks at its beginning


class LogStoreScheduleSource(OpensStore, ScheduleSource):
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
        self._forget()

    def _forget(self) -> None:
        super()._forget()
        self._planning = threading.Lock()
        self._stored = Stored(self.path)
        self._plan = Plan(self.missed)
        self._live: list[ScheduledTask] = []
        self._watching: asyncio.Task[None] | None = None
        self._sending: dict[str, asyncio.Task[Any]] = {}
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
        self._open_here()  # a forked child has nothing to end
        watching, self._watching = self._watching, None
        if watching is not None and watching.get_loop() is asyncio.get_running_loop():
            watching.cancel()
            await asyncio.wait([watching])
        await self._close()

    def _take_over(self, handle: Handle, broker: AsyncBroker) -> None:
        """Bring the schedules that come from code to what the code says.

        Those of tasks that this process does not know stay: another one may know them.
        """
        wanted = definitions_in_code(broker, lambda value: stored.is_storable(handle, value))
        writes: list[Write] = []
        for known in self._stored.read(handle):
            task = known.definition.task
            is_gone = known.definition.of_code and task.schedule_id not in wanted
            if is_gone and is_known_here(broker, task.task_name):
                writes.append(RemoveSchedule(known.schedule.key))
        for schedule_id, definition in wanted.items():
            try:
                writes.append(self._stored.put_write(handle, definition))
            except (TypeError, ValueError) as exc:
                logger.warning("The schedule %s is left out: %s", schedule_id, exc)
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
        definition = defined(schedule)
        store = await self._opened()
        if self._queue_broker is None or not definition.timing.time_us:
            write = await asyncio.to_thread(self._stored.put_write, store._handle, definition)
            await store._write(write)
            await self._cancel(store, schedule.schedule_id)
        else:
            await self.delete_schedule(schedule.schedule_id)
            await delayed.put(self._queue_broker, definition)

    async def delete_schedule(self, schedule_id: str) -> None:
        """Remove a schedule, also one by time that waits in the queue; no effect without one."""
        store = await self._opened()
        removal = RemoveSchedule(task_key(schedule_id))
        await store._write(removal)
        await self._cancel(store, schedule_id, look=not removal.outcome)

    async def _cancel(self, store: AsyncStore, schedule_id: str, *, look: bool = False) -> None:
        broker = self._queue_broker
        if broker is not None:
            await asyncio.to_thread(delayed.cancel, store._handle, broker, schedule_id, look=look)

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
        task.labels = {**task.labels, delayed.SLOT_LABEL: moment(slot_us).isoformat()}
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
        me.add_done_callback(lambda _: self._was_sent(schedule_id, me))
        if before is not None and before is not me:
            await asyncio.wait([before])

    def _was_sent(self, schedule_id: str, sent: asyncio.Task[Any]) -> None:
        if self._sending.get(schedule_id) is sent:
            del self._sending[schedule_id]

    def _slot_of(self, handle: Handle, task: ScheduledTask) -> tuple[Known, int] | None:
        """Return the schedule of a task and the slot that it is to be sent for, if there is one."""
        known = self._stored.find(handle, task.schedule_id)
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
        with self._planning:
            known = [one for one in self._stored.read(handle) if self._is_sent_here(one.definition)]
            return self._plan.slots(known, clock.now_us())

    def _is_sent_here(self, definition: Definition) -> bool:
        """Return whether this process may send a schedule: of code only what its code has."""
        broker = self._broker
        return not definition.of_code or (
            broker is not None and definition.task.task_name in broker.get_all_tasks()
        )

    def _list(self, handle: Handle) -> list[ScheduledTask]:
        found = [known.definition.task.model_copy() for known in self._stored.read(handle)]
        if self._queue_broker is not None:
            waiting = delayed.waiting(self._queue_broker, handle.taker.messages())
            found += [task for _, task in waiting]
        return found


def _is_asked_by_the_scheduler() -> bool:
    """Return whether taskiq's scheduler asks for schedules, in a task of its own."""
    task = asyncio.current_task()
    asking = getattr(task and task.get_coro(), "cr_code", None)
    return asking is scheduler_run.get_schedules.__code__
