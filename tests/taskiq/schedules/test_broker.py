"""The schedule source of a broker: its messages and the slots that they claim are one write."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from pathlib import Path

from taskiq import Context, SmartRetryMiddleware, TaskiqDepends, TaskiqScheduler
from taskiq.cli.scheduler.run import SchedulerLoop
from taskiq.receiver import Receiver

from logstore.taskiq import LogStoreBroker

WAIT_S = 60.0


def test_a_brokers_source_sends_slots_once_and_delayed_retries(tmp_path: Path) -> None:
    broker = LogStoreBroker(tmp_path / "a.db")
    source = broker.schedule_source
    broker.add_middlewares(SmartRetryMiddleware(default_delay=0.05, schedule_source=source))
    slots: list[str] = []
    enough = asyncio.Event()

    @broker.task(task_name="tick", schedule=[{"interval": 1}])
    async def tick(context: Context = TaskiqDepends()) -> None:
        slots.append(context.message.labels["schedule_slot"])
        if len(slots) >= 3:
            enough.set()

    @broker.task(task_name="flaky", retry_on_error=True)
    async def flaky(context: Context = TaskiqDepends()) -> int:
        retries = int(context.message.labels.get("_retries", 0))
        if not retries:
            raise ValueError("once")
        return retries

    async def main() -> None:
        await broker.startup()
        await source.startup()
        finish = asyncio.Event()
        receiver = Receiver(broker, run_startup=False, max_async_tasks=4)
        listening = asyncio.create_task(receiver.listen(finish))
        schedulers = [
            asyncio.create_task(SchedulerLoop(TaskiqScheduler(broker, [source])).run())
            for _ in range(2)
        ]
        soon = datetime.now(timezone.utc) + timedelta(seconds=0.1)
        await tick.schedule_by_time(source, soon)
        sent = await flaky.kiq()
        assert (await sent.wait_result(timeout=WAIT_S)).return_value == 1
        await asyncio.wait_for(enough.wait(), WAIT_S)
        for scheduler in schedulers:
            scheduler.cancel()
        finish.set()
        await listening
        await source.shutdown()
        await broker.shutdown()

    asyncio.run(main())
    assert len(set(slots)) == len(slots)
