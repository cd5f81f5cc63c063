from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstore.progress import TaskProgress
from logstore.taskiq import InmemoryResultBackend, ResultIsMissingError
from logstore.testing.conformance_cases.runner import ok
from tests.support.guarded import touched_without


@pytest.mark.parametrize("wrong", [0, -2, -100])
def test_a_limit_of_nothing_is_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match="max_stored_results"):
        InmemoryResultBackend(max_stored_results=wrong)


@pytest.mark.parametrize("wrong", [1.5, "5", None, True])
def test_a_limit_that_is_no_count_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="max_stored_results"):
        InmemoryResultBackend(max_stored_results=wrong)


def test_the_oldest_goes_first() -> None:
    async def main() -> None:
        backend: InmemoryResultBackend[int] = InmemoryResultBackend(max_stored_results=3)
        for number in range(5):
            await backend.set_result(f"t{number}", ok(number))
        assert [await backend.is_result_ready(f"t{n}") for n in range(5)] == [
            False,
            False,
            True,
            True,
            True,
        ]
        with pytest.raises(ResultIsMissingError):
            await backend.get_result("t0")

    asyncio.run(main())


def test_overwriting_evicts_no_other() -> None:
    async def main() -> None:
        backend: InmemoryResultBackend[int] = InmemoryResultBackend(max_stored_results=2)
        await backend.set_result("a", ok(1))
        for number in range(5):
            await backend.set_result("b", ok(number))
        assert await backend.is_result_ready("a")

    asyncio.run(main())


def test_there_may_be_no_limit() -> None:
    async def main() -> None:
        backend: InmemoryResultBackend[int] = InmemoryResultBackend(max_stored_results=-1)
        for number in range(1000):
            await backend.set_result(str(number), ok(number))
        assert await backend.is_result_ready("0")

    asyncio.run(main())


def test_progress_is_bounded_and_goes_with_its_result() -> None:
    async def main() -> None:
        backend: InmemoryResultBackend[int] = InmemoryResultBackend(max_stored_results=3)
        for number in range(10):
            await backend.set_progress(f"t{number}", TaskProgress(current=number))
        kept = [n for n in range(10) if await backend.get_progress(f"t{n}") is not None]
        assert kept == [7, 8, 9]
        for task_id in ("t7", "a", "b", "c"):
            await backend.set_result(task_id, ok(1))
        assert await backend.get_progress("t7") is None

    asyncio.run(main())


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from(["set", "delete"]), st.sampled_from("abcdef"))),
)
def test_the_newest_writes_are_kept(limit: int, steps: list[tuple[str, str]]) -> None:
    async def main() -> None:
        backend: InmemoryResultBackend[int] = InmemoryResultBackend(max_stored_results=limit)
        model: list[str] = []
        for verb, task_id in steps:
            was_there = task_id in model
            if was_there:
                model.remove(task_id)
            if verb == "set":
                await backend.set_result(task_id, ok(1))
                model = [*model, task_id][-limit:]
            else:
                assert await backend.delete_result(task_id) is was_there
        assert [t for t in "abcdef" if await backend.is_result_ready(t)] == sorted(model)

    asyncio.run(main())


def test_setting_again_counts_as_the_newest_write() -> None:
    async def main() -> None:
        backend: InmemoryResultBackend[int] = InmemoryResultBackend(max_stored_results=2)
        for task_id in ("a", "b", "a", "c"):
            await backend.set_result(task_id, ok(1))
            await backend.set_progress(task_id, TaskProgress())
        assert [await backend.is_result_ready(task_id) for task_id in "abc"] == [True, False, True]
        assert await backend.get_progress("a") is not None
        assert await backend.get_progress("b") is None

    asyncio.run(main())


def test_every_call_looks_and_changes_under_the_lock() -> None:
    async def main() -> None:
        backend: InmemoryResultBackend[int] = InmemoryResultBackend(max_stored_results=1)
        touched = touched_without(backend._lock, backend, "_results", "_progress")
        for task_id in ("a", "b"):
            await backend.set_progress(task_id, TaskProgress())
            await backend.set_result(task_id, ok(1))
        assert await backend.get_progress("b") is not None
        assert (await backend.get_result("b")).return_value == 1
        assert await backend.is_result_ready("b")
        assert await backend.delete_result("b")
        assert touched == []

    asyncio.run(main())


def test_what_comes_back_is_a_copy_with_or_without_its_log() -> None:
    async def main() -> None:
        backend: InmemoryResultBackend[int] = InmemoryResultBackend()
        await backend.set_result("a", ok(1).model_copy(update={"log": "text"}))
        assert (await backend.get_result("a")).log == "text"
        assert (await backend.get_result("a", with_logs=True)).log == "text"
        changed = await backend.get_result("a", with_logs=False)
        assert changed.log is None
        changed.return_value = 2
        assert (await backend.get_result("a")).return_value == 1

    asyncio.run(main())
