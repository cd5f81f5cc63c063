"""The backend of a taskiq broker: results, errors and progress of tasks reach the client."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Any

import pytest
from taskiq import Context, ResultGetError, TaskiqDepends
from taskiq.depends.progress_tracker import ProgressTracker, TaskProgress, TaskState

from logstore.testing.conformance_cases.exceptions import QuotaError
from logstore.testing.conformance_cases.runner import ConformanceSuite, Kit, case


@dataclasses.dataclass
class Report:
    """The return value of a task."""

    name: str
    rows: list[int]


class Opaque:
    """An object that cannot be stored."""


class WorkerCases(ConformanceSuite):
    """The way from a task's end to ``wait_result``."""

    @case("worker")
    async def test_a_task_returns_to_its_waiter(self, kit: Kit) -> None:
        @kit.broker.task(task_name="add")
        async def add(a: int, b: int) -> int:
            return a + b

        result = await kit.wait(await add.kiq(1, 2))
        assert (result.return_value, result.is_err) == (3, False)

    @case("worker")
    async def test_tasks_that_wait_for_tasks(self, kit: Kit) -> None:
        @kit.broker.task(task_name="fibonacci")
        async def fibonacci(n: int) -> int:
            if n < 2:
                return n
            tasks = [await fibonacci.kiq(n - 1), await fibonacci.kiq(n - 2)]
            results = [await kit.wait(task) for task in tasks]
            return sum(result.return_value for result in results)

        assert (await kit.wait(await fibonacci.kiq(6))).return_value == 8

    @case("worker")
    async def test_a_task_raises_to_its_waiter(self, kit: Kit) -> None:
        @kit.broker.task(task_name="fails")
        async def fails() -> int:
            raise QuotaError(user="u", limit=3)

        result = await kit.wait(await fails.kiq())
        with pytest.raises(QuotaError) as caught:
            result.raise_for_error()
        assert (caught.value.user, caught.value.limit) == ("u", 3)

    @case("worker")
    async def test_a_return_type_is_rebuilt(self, kit: Kit) -> None:
        async def report() -> Report:
            return Report("r", [1, 2])

        # Annotations of a local function are strings, which taskiq resolves in its module.
        task = kit.broker.register_task(report, task_name="report")
        assert (await kit.wait(await task.kiq())).return_value == Report("r", [1, 2])

    @case("worker")
    async def test_what_cannot_be_stored_reaches_the_waiter(self, kit: Kit) -> None:
        @kit.broker.task(task_name="opaque")
        async def opaque() -> Any:
            return {"rows": [1, Opaque()]}

        task = await opaque.kiq()
        result = await kit.wait(task)
        if result.is_err:
            assert "Opaque" in str(result.error)
            assert "['rows'][1]" in str(result.error)
        else:
            assert isinstance(result.return_value["rows"][1], Opaque)

    @case("worker")
    async def test_a_progress_tracker_reports(self, kit: Kit) -> None:
        seen = asyncio.Event()

        @kit.broker.task(task_name="tracked")
        async def tracked(
            tracker: ProgressTracker[Any] = TaskiqDepends(),
        ) -> str:
            await tracker.set_progress(TaskState.STARTED, {"done": 1})
            await asyncio.wait_for(seen.wait(), kit.suite.wait_s)
            await tracker.set_progress(TaskState.SUCCESS)  # keeps the meta
            return "done"

        task = await tracked.kiq()
        progress = None
        give_up_at = time.monotonic() + kit.suite.wait_s
        while progress is None and time.monotonic() < give_up_at:
            await asyncio.sleep(0.005)
            progress = await task.get_progress()
        assert progress is not None
        assert (progress.state, progress.meta) == (TaskState.STARTED, {"done": 1})
        seen.set()
        await kit.wait(task)
        progress = await task.get_progress()
        assert progress is not None
        assert (progress.state, progress.meta) == (TaskState.SUCCESS, {"done": 1})

    @case("worker")
    async def test_a_task_can_report_through_its_context(self, kit: Kit) -> None:
        @kit.broker.task(task_name="context")
        async def reports(
            context: Context = TaskiqDepends(),
        ) -> None:
            await context.broker.result_backend.set_progress(
                context.message.task_id, TaskProgress(state="half", meta=5)
            )

        task = await reports.kiq()
        await kit.wait(task)
        progress = await task.get_progress()
        assert progress is not None
        assert (progress.state, progress.meta) == ("half", 5)

    @case("worker")
    async def test_getting_before_the_end_raises(self, kit: Kit) -> None:
        let_go = asyncio.Event()

        @kit.broker.task(task_name="slow")
        async def slow() -> int:
            await let_go.wait()
            return 1

        task = await slow.kiq()
        assert await task.is_ready() is False
        with pytest.raises(ResultGetError):
            await task.get_result()
        let_go.set()
        assert (await kit.wait(task)).return_value == 1

    @case("worker")
    async def test_50_tasks_reach_50_waiters(self, kit: Kit) -> None:
        @kit.broker.task(task_name="square")
        async def square(n: int) -> int:
            return n * n

        tasks = [await square.kiq(n) for n in range(50)]
        results = await asyncio.gather(*(kit.wait(task) for task in tasks))
        assert [result.return_value for result in results] == [n * n for n in range(50)]
