from __future__ import annotations

import asyncio
import warnings

import pytest
from taskiq import InMemoryBroker, ResultGetError, TaskiqResultTimeoutError

from logstore.progress import TaskProgress
from logstore.taskiq import AsyncResultBackend, DummyResultBackend, WaitingForNothingWarning
from logstore.testing.conformance_cases.runner import ok


def test_nothing_is_stored() -> None:
    async def main() -> None:
        backend: AsyncResultBackend[int] = DummyResultBackend()
        await backend.set_progress("t", TaskProgress())
        assert await backend.get_progress("t") is None
        await backend.set_result("t", ok(1))
        assert await backend.is_result_ready("t") is False
        assert await backend.delete_result("t") is False
        with pytest.raises(ResultGetError, match="stores nothing"):
            await backend.get_result("t")

    asyncio.run(main())


def test_waiting_warns_once() -> None:
    async def main() -> None:
        broker = InMemoryBroker().with_result_backend(DummyResultBackend())

        @broker.task(task_name="one")
        async def one() -> int:
            return 1

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                task = await one.kiq()
                with pytest.raises(TaskiqResultTimeoutError):
                    await task.wait_result(check_interval=0.001, timeout=0.5)
        assert [warning.category for warning in caught] == [WaitingForNothingWarning]
        await broker.shutdown()

    asyncio.run(main())


def test_the_warning_names_the_line_that_waits_and_nothing_is_remembered_after_it() -> None:
    async def main() -> None:
        backend: DummyResultBackend[int] = DummyResultBackend()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                assert await backend.is_result_ready("t") is False
        assert [warning.filename for warning in caught] == [__file__]
        assert not backend._asked

    asyncio.run(main())


def test_as_many_tasks_are_remembered_as_a_program_waits_for_at_once() -> None:
    async def main() -> None:
        backend: DummyResultBackend[int] = DummyResultBackend()
        for number in range(1001):
            await backend.is_result_ready(f"t{number}")
        assert backend._asked == {f"t{number}" for number in range(1000)}

    asyncio.run(main())


def test_asking_once_for_each_of_many_tasks_does_not_warn() -> None:
    async def main() -> None:
        backend: DummyResultBackend[int] = DummyResultBackend()
        for number in range(3000):
            await backend.is_result_ready(f"t{number}")

    asyncio.run(main())
