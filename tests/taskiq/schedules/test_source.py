"""LogStoreScheduleSource: what it keeps, what it gives to taskiq's scheduler, and what is sent."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import sys
import types
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import lmdb
import pytest
from taskiq import InMemoryBroker, ScheduledTask, TaskiqScheduler
from taskiq.cli.scheduler import run as scheduler_run
from taskiq.exceptions import ScheduledTaskCancelledError
from taskiq.message import TaskiqMessage
from taskiq.scheduler.scheduled_task import CronSpec

import logstore
from logstore.errors import UnserializableValueError
from logstore.taskiq import LogStoreBroker
from logstore.taskiq.schedules import plan
from logstore.taskiq.schedules.slots import SECOND_US, Timing, last_slot
from logstore.taskiq.schedules.source import LogStoreScheduleSource
from tests.support.stores import Clock

NOON = datetime(2026, 7, 1, 12, tzinfo=timezone.utc)
ID = "schedule-1"


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


def by(schedule_id: str = ID, **fields: Any) -> ScheduledTask:
    given = {"task_name": "m:f", "labels": {}, "args": [], "kwargs": {}, **fields}
    return ScheduledTask(schedule_id=schedule_id, **given)


def every(seconds: int | timedelta = 10, schedule_id: str = ID, **fields: Any) -> ScheduledTask:
    return by(schedule_id, interval=seconds, **fields)


@asynccontextmanager
async def opened(path: Path, **options: Any) -> AsyncIterator[LogStoreScheduleSource]:
    """A source on a broker of its own, as each scheduler has one."""
    broker = LogStoreBroker(str(path))
    await broker.startup()
    source = LogStoreScheduleSource(broker, **options)
    await source.startup()
    try:
        yield source
    finally:
        await source.shutdown()
        await broker.shutdown()


def scheduler_of(source: LogStoreScheduleSource) -> TaskiqScheduler:
    return TaskiqScheduler(source._queue_broker, [source])


async def given(source: LogStoreScheduleSource) -> list[ScheduledTask]:
    """What taskiq's scheduler gets."""
    return await asyncio.create_task(scheduler_run.get_schedules(source))


async def send_due(source: LogStoreScheduleSource, clock: Clock) -> int:
    """Send what is due as taskiq's scheduler does; return how much that was."""
    await given(source)
    await source._refresh()
    now = datetime.fromtimestamp(clock._time_ns() / 1e9, timezone.utc)
    due = [task for task in source._live if scheduler_run.is_time_task_now(at(task), now)]
    scheduler = scheduler_of(source)
    await asyncio.gather(*(scheduler_run.send(scheduler, source, task) for task in due))
    return len(due)


def at(task: ScheduledTask) -> datetime:
    assert task.time is not None
    return task.time


def sent(path: Path) -> list[TaskiqMessage]:
    """The messages in the queue, in their order."""
    formatter = LogStoreBroker("-").formatter
    with logstore.open(path) as store:
        taker = store._handle.taker
        return [formatter.loads(store._handle.decoded(one.body)) for one in taker.messages()]


def slots_of(path: Path) -> list[str]:
    return [str(message.labels["schedule_slot"]) for message in sent(path)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(monkeypatch)
    clock.advance(NOON.timestamp() - clock._time_ns() / 1e9)
    return clock


# -- what is kept --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule",
    [
        by(cron="*/5 * * * *"),
        by(cron="0 3 * * mon", cron_offset="Europe/Berlin", labels={"queue_name": "x", "n": 3}),
        by(cron="0 3 * * *", cron_offset=timedelta(hours=-4)),
        every(30, args=[1, "two", (3,), {4}, datetime(2026, 1, 1)], kwargs={"k": b"v"}),
        every(timedelta(minutes=5), task_id="always-this"),
    ],
)
def test_a_schedule_is_there_after_a_restart_as_it_was_added(
    path: Path, schedule: ScheduledTask
) -> None:
    async def main() -> None:
        async with opened(path) as source:
            await source.add_schedule(schedule)
            assert await source.get_schedules() == [schedule]
        async with opened(path) as source:
            assert await source.get_schedules() == [schedule]
            await source.delete_schedule(ID)
            await source.delete_schedule(ID)
            assert await source.get_schedules() == []

    run(main())


def test_a_schedule_is_changed_under_its_id(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as source:
            await source.add_schedule(every(5))
            await source.add_schedule(by(cron="1 * * * *"))
            assert await source.get_schedules() == [by(cron="1 * * * *")]

    run(main())


@pytest.mark.parametrize(
    ("schedule", "error", "message"),
    [
        (by(cron="* *"), ValueError, "five fields"),
        (by(cron="* * * * *", cron_offset="Nowhere"), ValueError, "no such time zone"),
        (every(1, args=[object()]), UnserializableValueError, "object"),
        (every(1, schedule_id=""), ValueError, "task id"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    path: Path, schedule: ScheduledTask, error: type[Exception], message: str
) -> None:
    async def main() -> None:
        async with opened(path) as source:
            with pytest.raises(error, match=message):
                await source.add_schedule(schedule)
            assert await source.get_schedules() == []

    run(main())


def test_a_damaged_schedule_is_set_again(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as source:
            await source.add_schedule(every(1))
        with (
            lmdb.open(str(path), subdir=False, lock=False, max_dbs=16) as env,
            env.begin(write=True) as txn,
        ):
            db = env.open_db(b"schedules", txn=txn, create=False)
            txn.put(ID.encode(), b"damage", db=db)
        async with opened(path) as source:
            assert await source.get_schedules() == []
            await source.add_schedule(every(2))
            assert await source.get_schedules() == [every(2)]

    run(main())


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="missed must be one of skip, send, send_all, not 'late'"):
        LogStoreScheduleSource("app.db", missed="late")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"expected a LogStoreBroker or a path, not .*InMemory"):
        LogStoreScheduleSource(InMemoryBroker())  # type: ignore[arg-type]


def test_what_cannot_be_decoded_is_left_out_with_one_warning(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from logstore._engine.writes import PutSchedule

    async def main() -> None:
        async with opened(path) as source:
            await source.add_schedule(every(1))
            handle = (await source._opened())._handle
            values = [7, {"task_name": "m:f"}, {**every(1).model_dump(), "interval": -1}]
            for number, value in enumerate(values):
                key = b"bad-%d" % number
                handle.commit([PutSchedule(key, handle.encoded(value), 5, restarts=False)])
            for _ in range(2):
                assert await source.get_schedules() == [every(1)]

    run(main())
    assert len([one for one in caplog.records if "is left out" in one.message]) == 3


def test_a_forked_child_opens_the_store_again(path: Path) -> None:
    source = LogStoreScheduleSource(path)
    run(source.add_schedule(every(1)))

    def child() -> None:
        async def main() -> None:
            assert await source.get_schedules() == [every(1)]
            await source.add_schedule(every(2))
            await source.shutdown()

        asyncio.run(main())

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(250)
    assert process.exitcode == 0

    async def after() -> None:
        assert await source.get_schedules() == [every(2)]
        await source.shutdown()

    run(after())


# -- schedules by time ---------------------------------------------------------------------------


def test_one_by_time_is_a_delayed_message_at_once(path: Path, clock: Clock) -> None:
    later = NOON + timedelta(hours=1)

    async def main() -> None:
        async with opened(path) as source:
            await source.add_schedule(by(time=later, args=[1], labels={"a": "b"}))
            [listed] = await source.get_schedules()
            assert (listed.schedule_id, listed.time, listed.args) == (ID, later, [1])
            assert await given(source) == []  # no scheduler sends it
            queue = source._queue_broker.queue()
            assert (await queue.stats()).delayed == 1
            with pytest.raises(ScheduledTaskCancelledError):
                await source.pre_send(listed)
            clock.advance(3600)
            lease = await queue.take(5)
            assert lease is not None
            assert await source.get_schedules() == []
            await source.delete_schedule(ID)  # it is too late
            await lease.ack()

    run(main())


def test_one_by_time_can_be_removed_and_changed(path: Path) -> None:
    later = datetime.now(timezone.utc) + timedelta(hours=1)

    async def main() -> None:
        async with opened(path) as source:
            queue = source._queue_broker.queue()
            for task_id in (None, "of-its-own"):
                await source.add_schedule(by(time=later, task_id=task_id))
                await source.add_schedule(by(time=later + timedelta(1), task_id=task_id))
                [listed] = await source.get_schedules()
                assert listed.time == later + timedelta(1)
                assert (await queue.stats()).delayed == 1
                await source.delete_schedule("another")
                await source.delete_schedule(ID)
                assert (await queue.stats()).delayed == 0
            await source.add_schedule(by(time=later))
            await source.add_schedule(by(cron="* * * * *"))
            assert await source.get_schedules() == [by(cron="* * * * *")]
            assert (await queue.stats()).delayed == 0

    run(main())


def test_other_messages_that_wait_are_no_schedules(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as source:
            queue = source._queue_broker.queue()
            await queue.put(b"of another program", delay_s=100)
            again = {"schedule_id": ID, "schedule_slot": NOON.isoformat()}  # one that is retried
            for labels in ({}, again):
                task = TaskiqMessage(
                    task_id="t", task_name="m:f", labels=labels, args=[], kwargs={}
                )
                sent = source._queue_broker.formatter.dumps(task)
                await queue.put(sent.message, delay_s=100)
            assert await source.get_schedules() == []
            await source.delete_schedule(ID)
            assert (await queue.stats()).delayed == 3

    run(main())


def test_one_by_time_in_the_past_is_ready_at_once(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as source:
            await source.add_schedule(by(time=datetime(1960, 1, 1)))
            assert (await source._queue_broker.queue().stats()).ready == 1
            assert await source.get_schedules() == []

    run(main())


def test_taskiqs_own_way_to_schedule(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as source:
            broker = source._queue_broker

            @broker.task  # type: ignore[untyped-decorator]
            async def add(a: int, b: int) -> int:
                return a + b

            at_once = datetime.now(timezone.utc) + timedelta(hours=1)
            created = [
                await add.schedule_by_time(source, at_once, 1, b=2),
                await add.schedule_by_interval(source, 5, 1, 2),
                await add.kicker()
                .with_schedule_id("mine")
                .schedule_by_cron(source, "* * * * *", 1),
                await add.schedule_by_cron(source, CronSpec(hours=3, offset="Asia/Tokyo"), 1),
            ]
            found = {task.schedule_id: task for task in await source.get_schedules()}
            assert found.keys() == {one.schedule_id for one in created}
            assert found["mine"].args == [1]
            assert found[created[3].schedule_id].cron == "* 3 * * *"
            assert found[created[3].schedule_id].cron_offset == "Asia/Tokyo"
            for one in created:
                await one.unschedule()
            assert await source.get_schedules() == []

    run(main())


# -- what is sent --------------------------------------------------------------------------------


def test_an_interval_is_sent_once_per_slot_by_any_number_of_schedulers(
    path: Path, clock: Clock
) -> None:
    async def main() -> None:
        async with opened(path) as source, opened(path) as other:
            await source.add_schedule(every(10, args=[1], labels={"x": "y"}))
            assert [await send_due(one, clock) for one in (source, other)] == [0, 0]
            clock.advance(1.1)
            both = await asyncio.gather(send_due(source, clock), send_due(other, clock))
            assert sum(both) >= 1
            assert [await send_due(one, clock) for one in (source, other)] == [0, 0]
            clock.advance(10)
            assert [await send_due(one, clock) for one in (source, other)] == [1, 0]

    run(main())
    first, second = sent(path)
    assert slots_of(path) == ["2026-07-01T12:00:01+00:00", "2026-07-01T12:00:11+00:00"]
    assert (first.args, first.labels["x"], first.labels["schedule_id"]) == ([1], "y", ID)
    assert first.task_id != second.task_id


def test_of_two_that_send_at_the_same_moment_one_does(path: Path, clock: Clock) -> None:
    async def main() -> None:
        async with opened(path) as source, opened(path) as other:
            await source.add_schedule(every(10))
            clock.advance(1.1)
            [mine], [theirs] = await given(source), await given(other)
            broker = source._queue_broker

            async def both_have_looked(one: LogStoreScheduleSource, task: ScheduledTask) -> None:
                await one.pre_send(task)
                await barrier.wait()
                kicker = scheduler_of(one).broker
                message = TaskiqMessage(
                    task_id=task.schedule_id + str(id(one)),
                    task_name="m:f",
                    labels={"schedule_id": task.schedule_id, **task.labels},
                    args=[],
                    kwargs={},
                )
                await kicker.kick(broker.formatter.dumps(message))
                await one.post_send(task)

            barrier = Meeting(2)
            await asyncio.gather(both_have_looked(source, mine), both_have_looked(other, theirs))

    run(main())
    assert len(sent(path)) == 1


class Meeting:
    """Lets coroutines go on when all of them are there."""

    def __init__(self, count: int) -> None:
        self._missing = count
        self._there = asyncio.Event()

    async def wait(self) -> None:
        self._missing -= 1
        if not self._missing:
            self._there.set()
        await self._there.wait()


def test_slots_of_a_schedule_are_sent_in_their_order(path: Path, clock: Clock) -> None:
    async def main() -> None:
        async with opened(path) as source:
            await source.add_schedule(every(1))
            clock.advance(4.5)
            assert await send_due(source, clock) == 4

    run(main())
    assert [slot[17:19] for slot in slots_of(path)] == ["01", "02", "03", "04"]


def test_a_slot_waits_until_the_one_before_was_sent(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with opened(path) as source:
            await source.add_schedule(every(1))
            clock.advance(2.5)
            broker = source._queue_broker
            kick, kicked, second = broker.kick, [], asyncio.Event()

            async def slow_at_first(message: Any) -> None:
                kicked.append(message)
                if len(kicked) == 1:
                    with suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(second.wait(), 0.5)
                else:
                    second.set()
                await kick(message)

            monkeypatch.setattr(broker, "kick", slow_at_first)
            await send_due(source, clock)

    run(main())
    assert [slot[17:19] for slot in slots_of(path)] == ["01", "02"]


def test_a_slot_that_was_sent_elsewhere_is_cancelled_and_given_no_more(
    path: Path, clock: Clock
) -> None:
    async def main() -> None:
        async with opened(path) as source, opened(path) as other:
            await source.add_schedule(every(100))
            clock.advance(1.5)
            [mine], [theirs] = await given(source), await given(other)
            await scheduler_of(source).on_ready(source, mine)
            assert source._live == []
            with pytest.raises(ScheduledTaskCancelledError):
                await other.pre_send(theirs)
            assert other._live == []

    run(main())


def test_slots_count_from_the_time_at_which_the_timing_was_changed(
    path: Path, clock: Clock
) -> None:
    async def main() -> None:
        async with opened(path) as source:
            await source.add_schedule(every(100))
            clock.advance(65)
            await source.add_schedule(by(cron="* * * * *"))
            assert await send_due(source, clock) == 0
            clock.advance(60)
            assert await send_due(source, clock) == 1

    run(main())
    assert slots_of(path) == ["2026-07-01T12:02:00+00:00"]


def test_what_another_process_adds_changes_and_removes_is_in_the_same_list(
    path: Path, clock: Clock
) -> None:
    async def main() -> None:
        async with opened(path) as source, opened(path) as other:
            live = await given(source)
            assert live == []

            async def until(is_so: Callable[[], bool]) -> None:
                async def wait() -> None:
                    while not is_so():  # noqa: ASYNC110 - the list has no event
                        await asyncio.sleep(0.05)

                await asyncio.wait_for(wait(), 30)

            await other.add_schedule(every(2))
            await until(lambda: len(live) > 0)
            await other.add_schedule(by(time=NOON + timedelta(hours=3), schedule_id="x"))
            await other.add_schedule(by(cron="0 * * * *"))  # the next one is in an hour
            await until(lambda: not live)
            await other.add_schedule(every(2))
            await until(lambda: len(live) > 0)
            await other.delete_schedule(ID)
            await until(lambda: not live)

    run(main())


def test_a_slot_is_kept_until_it_is_claimed_and_given_again_if_it_could_not_be_sent(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with opened(path) as source:
            await source.add_schedule(every(100))
            clock.advance(1.5)
            [slot] = await given(source)
            await source._refresh()
            assert source._live == [slot]
            assert source._live[0] is slot
            await source.pre_send(slot)  # and the broker fails
            await source._refresh()
            assert source._live == []
            monkeypatch.setattr("logstore.taskiq.schedules.plan.RETRY_S", 0.0)
            await source._refresh()
            [again] = source._live
            await scheduler_of(source).on_ready(source, again)
            await source._refresh()
            assert source._live == []

    run(main())
    assert len(sent(path)) == 1


def test_a_slot_of_a_schedule_that_was_changed_or_removed_is_not_sent(
    path: Path, clock: Clock
) -> None:
    async def main() -> None:
        async with opened(path) as source:
            for seconds, changes in ((1.5, True), (100, False)):
                await source.add_schedule(every(100))
                clock.advance(seconds)
                [slot] = await given(source)
                if changes:
                    await source.add_schedule(every(100, args=[2]))
                else:
                    await source.delete_schedule(ID)
                await scheduler_of(source).on_ready(source, slot)

    run(main())
    assert sent(path) == []


def test_a_scheduler_of_another_kind_sends_once_per_slot_too(path: Path, clock: Clock) -> None:
    async def main() -> None:
        async with opened(path) as source:
            await source.add_schedule(by(cron="*/5 * * * *"))
            [task] = await source.get_schedules()
            for seconds in (60, 239, 3, 50, 20, 240):
                clock.advance(seconds)
                await scheduler_of(source).on_ready(source, task.model_copy())
            await scheduler_of(source).on_ready(source, every(1, schedule_id="unknown"))

    run(main())
    assert slots_of(path) == ["2026-07-01T12:05:00+00:00", "2026-07-01T12:10:00+00:00"]


def test_a_broker_elsewhere_gets_a_slot_that_was_claimed_before(path: Path, clock: Clock) -> None:
    kicked: list[str] = []

    class Elsewhere(InMemoryBroker):
        async def kick(self, message: Any) -> None:
            kicked.append(message.labels["schedule_slot"])

    async def main() -> None:
        brokers = [Elsewhere(), Elsewhere()]
        sources = [LogStoreScheduleSource(path, broker=broker) for broker in brokers]
        for source in sources:
            await source.startup()
        await sources[0].add_schedule(every(10))
        await sources[0].add_schedule(by("t", time=NOON + timedelta(seconds=5)))
        assert len(await sources[1].get_schedules()) == 2
        for seconds in (1.5, 5, 5):
            clock.advance(seconds)
            for source, broker in zip(sources, brokers, strict=True):
                await given(source)
                await source._refresh()
                now = datetime.fromtimestamp(clock._time_ns() / 1e9, timezone.utc)
                for task in list(source._live):
                    if at(task) <= now:
                        await TaskiqScheduler(broker, [source]).on_ready(source, task)
        assert await sources[0].get_schedules() == [every(10)]
        for source in sources:
            await source.shutdown()

    run(main())
    assert [slot[14:19] for slot in kicked] == ["00:01", "00:05", "00:11"]


def test_of_two_with_a_broker_elsewhere_that_have_looked_one_sends(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        source, other = LogStoreScheduleSource(path), LogStoreScheduleSource(path)
        await source.add_schedule(every(10))
        clock.advance(1.5)
        [mine, *_], [theirs, *_] = await given(source), await given(other)
        found = other._slot_of((await other._opened())._handle, theirs)
        monkeypatch.setattr(other, "_slot_of", lambda handle, task: found)
        await source.pre_send(mine)
        await source.post_send(mine)
        with pytest.raises(ScheduledTaskCancelledError):
            await other.pre_send(theirs)
        await source.shutdown()
        await other.shutdown()

    run(main())


def test_a_source_with_the_wrong_broker_says_so(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    class Elsewhere(InMemoryBroker):
        async def kick(self, message: Any) -> None: ...

    async def main() -> None:
        async with opened(path) as source:
            await source.add_schedule(every(10))
            clock.advance(1.5)
            [slot] = await given(source)
            await TaskiqScheduler(Elsewhere(), [source]).on_ready(source, slot)
            await source._refresh()
            assert not any(at(task) <= NOON + timedelta(seconds=1.5) for task in source._live)

    run(main())
    assert "give the schedule source a path" in caplog.text


def test_a_store_that_cannot_be_read_is_told_once_and_looked_at_again(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with opened(path) as source:
            await source.add_schedule(every(1))
            with monkeypatch.context() as patch:

                def fail(handle: object) -> None:
                    raise logstore.WriteError("the disk is gone")

                patch.setattr(source, "_planned", fail)
                for _ in range(3):
                    assert await given(source) == []
            assert len(await given(source)) > 0

    run(main())
    assert caplog.text.count("cannot be read") == 1


# -- missed slots --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missed", "expected"),
    [("skip", []), ("send", ["15:00"]), ("send_all", ["13:00", "14:00", "15:00"])],
)
def test_slots_that_no_scheduler_has_sent(
    path: Path, clock: Clock, missed: str, expected: list[str]
) -> None:
    async def main() -> None:
        async with opened(path) as source:
            await source.add_schedule(by(cron="0 * * * *"))
        clock.advance(3 * 3600 + 120)
        async with opened(path, missed=missed) as source, opened(path, missed=missed) as other:
            for _ in range(3):
                await asyncio.gather(send_due(source, clock), send_due(other, clock))

    run(main())
    assert [slot[11:16] for slot in slots_of(path)] == expected


@pytest.mark.parametrize("missed", ["skip", "send"])
def test_a_slot_is_not_missed_within_a_minute(path: Path, clock: Clock, missed: str) -> None:
    async def main() -> None:
        async with opened(path, missed=missed) as source:
            await source.add_schedule(by(cron="0 * * * *"))
            clock.advance(3600 + 50)
            assert await send_due(source, clock) == 1

    run(main())
    assert [slot[11:16] for slot in slots_of(path)] == ["13:00"]


def test_a_scheduler_that_was_stopped_sends_no_missed_slot(path: Path, clock: Clock) -> None:
    async def main() -> None:
        async with opened(path) as source:
            await source.add_schedule(by(cron="0 * * * *"))
            clock.advance(3600 + 1)
            [slot] = await given(source)
            clock.advance(100)
            await scheduler_of(source).on_ready(source, slot)

    run(main())
    assert sent(path) == []


def test_a_long_gap_is_looked_through_once(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []

    def from_there(timing: Timing, since_us: int, after_us: int, until_us: int) -> int | None:
        begun.append(after_us)
        return last_slot(timing, since_us, after_us, until_us)

    monkeypatch.setattr(plan, "last_slot", from_there)

    async def main() -> None:
        async with opened(path, missed="send") as source:
            await source.add_schedule(by(cron="0 0 29 2 *"))
            for days in (300, 1):
                clock.advance(days * 86400)
                assert await send_due(source, clock) == 0
            assert begun[-1] - begun[0] > 299 * 86400 * SECOND_US
            clock.advance(400 * 86400)
            assert await send_due(source, clock) == 1

    run(main())
    assert slots_of(path) == ["2028-02-29T00:00:00+00:00"]


def test_a_clock_that_is_set_back_doubles_no_slot_and_stops_nothing_for_long(
    path: Path, clock: Clock
) -> None:
    async def main() -> None:
        async with opened(path) as source:
            await source.add_schedule(by("c", cron="* * * * *"))
            await source.add_schedule(every(10, schedule_id="i"))
            clock.advance(61)
            assert await send_due(source, clock) == 6  # one minute, the last intervals
            clock.advance(-60)
            assert await send_due(source, clock) >= 1  # of the interval
            clock.advance(59)
            await send_due(source, clock)
            clock.advance(-2 * 86400)
            assert await send_due(source, clock) >= 1

    run(main())
    of_cron = [m.labels["schedule_slot"] for m in sent(path) if m.labels["schedule_id"] == "c"]
    assert of_cron == ["2026-07-01T12:01:00+00:00", "2026-06-29T12:01:00+00:00"]


# -- schedules in code ---------------------------------------------------------------------------


async def restarted(
    path: Path, add_tasks: Callable[[LogStoreBroker], object]
) -> tuple[list[ScheduledTask], list[ScheduledTask]]:
    """All schedules, and those that this process sends, after a start with these tasks."""
    broker = LogStoreBroker(str(path))
    add_tasks(broker)
    source = LogStoreScheduleSource(broker)
    await source.startup()
    try:
        return await source.get_schedules(), list(await given(source))
    finally:
        await source.shutdown()


async def nop(*_: object) -> None: ...


def with_labels(name: str, *schedule: dict[str, Any], **labels: Any) -> Callable[..., object]:
    return lambda broker: broker.register_task(
        nop, task_name=name, schedule=list(schedule), **labels
    )


def test_labels_are_taken_over_changed_and_removed(path: Path) -> None:
    async def main() -> None:
        hourly, often = {"cron": "0 * * * *"}, {"interval": 10, "args": [1]}
        first, _ = await restarted(path, with_labels("m:f", hourly, often, queue_name="q"))
        assert [(one.cron, one.interval, one.args) for one in first] == [
            ("0 * * * *", None, []),
            (None, 10, [1]),
        ]
        assert [one.labels for one in first] == [{"queue_name": "q"}] * 2
        again, _ = await restarted(path, with_labels("m:f", hourly, often, queue_name="q"))
        assert again == first
        moved = with_labels("m:f", {**often, "args": [2]}, {"cron": "1 * * * *"}, queue_name="q")
        changed, _ = await restarted(path, moved)
        assert [(one.cron, one.args) for one in changed] == [("1 * * * *", []), (None, [2])]
        assert changed[1].schedule_id == first[1].schedule_id
        none, _ = await restarted(path, with_labels("m:f"))
        assert none == []

    run(main())


def test_a_label_keeps_its_slots_over_a_restart_and_a_change_of_arguments(
    path: Path, clock: Clock
) -> None:
    async def main() -> None:
        for argument in (1, 1, 2, 2):
            broker = LogStoreBroker(str(path))
            with_labels("m:f", {"interval": 100, "args": [argument]})(broker)
            source = LogStoreScheduleSource(broker)
            await source.startup()
            await send_due(source, clock)
            await source.shutdown()
            await broker.shutdown()
            clock.advance(40)

    run(main())
    assert [slot[14:19] for slot in slots_of(path)] == ["00:01", "01:41"]


def test_schedules_of_tasks_that_a_process_does_not_know_stay_and_are_sent_elsewhere(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        await restarted(path, with_labels("elsewhere:f", {"interval": 1}))
        found, to_send = await restarted(path, with_labels("m:g", {"interval": 1}))
        assert [one.task_name for one in found] == ["elsewhere:f", "m:g"]
        assert {one.task_name for one in to_send} == {"m:g"}
        monkeypatch.setitem(sys.modules, "elsewhere", types.ModuleType("elsewhere"))
        found, _ = await restarted(path, with_labels("m:g", {"interval": 1}))
        assert [one.task_name for one in found] == ["m:g"]  # its module has it no more

    run(main())


def test_what_was_added_at_run_time_stays(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as source:
            await source.add_schedule(every(1))
        found, to_send = await restarted(path, with_labels("m:f"))
        assert found == [every(1)]
        assert {one.task_name for one in to_send} == {"m:f"}

    run(main())


def test_labels_that_are_no_schedule_are_left_out(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels: list[dict[str, Any]] = [
        {"cron": "* *"},
        {"interval": 5, "args": [object()]},
        {"interval": 5, "schedule_id": ""},
        {"interval": 0},
        {"args": [1]},
        {"cron": "* * * * *", "args": [1]},
    ]

    async def main() -> None:
        add = with_labels("m:f", *labels, types_of_exceptions=(ValueError,), n=3)
        found, _ = await restarted(path, add)
        assert [(one.cron, one.labels) for one in found] == [("* * * * *", {"n": 3})]

    run(main())
    assert caplog.text.count("is left out") == 4


def test_labels_have_ids_of_their_own(path: Path) -> None:
    same: dict[str, Any] = {"cron": "* * * * *"}
    labels: list[dict[str, Any]] = [same, {**same, "args": [1]}, {**same, "schedule_id": "mine"}]

    async def main() -> None:
        found, _ = await restarted(path, with_labels("m:" + "f" * 480, *labels))
        assert len({one.schedule_id for one in found}) == 3
        assert "mine" in [one.schedule_id for one in found]

    run(main())


def test_a_label_by_time_is_sent_once_in_all(path: Path, clock: Clock) -> None:
    async def main() -> None:
        for _ in range(3):
            broker = LogStoreBroker(str(path))
            with_labels("m:f", {"time": NOON - timedelta(days=1)})(broker)
            source = LogStoreScheduleSource(broker)
            await source.startup()
            await send_due(source, clock)
            await source.shutdown()
            await broker.shutdown()

    run(main())
    assert slots_of(path) == ["2026-06-30T12:00:00+00:00"]


def test_tasks_of_another_broker_are_left_alone(path: Path) -> None:
    def add(broker: LogStoreBroker) -> None:
        other = LogStoreBroker(str(path))
        with_labels("m:f", {"interval": 1})(other)
        broker.local_task_registry.update(other.local_task_registry)

    assert run(restarted(path, add)) == ([], [])


def test_the_log_of_a_sending_is_quiet(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    async def main() -> None:
        async with opened(path) as source, opened(path) as other:
            await source.add_schedule(every(1))
            for _ in range(3):
                clock.advance(1)
                await asyncio.gather(send_due(source, clock), send_due(other, clock))

    run(main())
    assert caplog.records == []
