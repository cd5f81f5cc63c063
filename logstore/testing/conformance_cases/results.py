"""Results: set, get, replace, missing, delete; and task ids."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from taskiq.depends.progress_tracker import TaskProgress
from taskiq.exceptions import ResultGetError, TaskiqResultTimeoutError
from taskiq.task import AsyncTaskiqTask

from logstore.testing.conformance_cases.runner import ConformanceSuite, Kit, case, failed, ok

_ODD_IDS = {
    "slash": "a/b",
    "traversal": "../../up",
    "dots": "..",
    "dot": ".",
    "absolute": "/etc/passwd",
    "backslash": "a\\b",
    "space": " lead and trail ",
    "newline": "a\nb",
    "nul": "a\0b",
    "percent": "%2f",
    "quote": "a'b\"c",
    "glob": "*?[x]",
    "colon": "a:b:c",
    "hash": "a#b",
    "tilde": "~",
    "device": "con",
    "emoji": "tâche-🚀",
    "combining": "e\u0301",
    "long": "x" * 480,
    "json": '{"id": 1}',
    "suffix": "a.result.json",
    "uuid": "3b241101-e2bb-4255-8caf-4136c566a962",
}

_PAIRS = {
    "case": ("Task", "task"),
    "unicode-form": ("\u00e9", "e\u0301"),
    "escape": ("a/b", "a%2fb"),
    "trailing-space": ("a", "a "),
    "trailing-dot": ("a", "a."),
    "long": ("x" * 479 + "a", "x" * 479 + "b"),
    "prefix": ("a", "a:b"),
    "suffix": ("a", "a.result"),
    "nul": ("a", "a\0"),
}


class ResultCases(ConformanceSuite):
    """Results of one backend, one task at a time."""

    @case("missing")
    async def test_a_result_is_not_ready_before_it_is_set(self, kit: Kit) -> None:
        assert await kit.backend.is_result_ready("t") is False

    @case("results")
    async def test_a_result_is_ready_once_it_is_set(self, kit: Kit) -> None:
        await kit.backend.set_result("t", ok(1))
        assert await kit.backend.is_result_ready("t") is True

    @case("results")
    async def test_a_result_comes_back_whole(self, kit: Kit) -> None:
        result = await kit.stored(ok("v", execution_time=1.25, labels={"a": 1, "b": "x"}))
        assert (result.is_err, result.return_value, result.error) == (False, "v", None)
        assert (result.execution_time, result.labels) == (1.25, {"a": 1, "b": "x"})

    @case("results")
    async def test_a_failure_comes_back_as_a_failure(self, kit: Kit) -> None:
        result = await kit.stored(failed(ValueError("no")))
        assert result.is_err is True
        assert result.return_value is None
        with pytest.raises(ValueError, match="no"):
            result.raise_for_error()

    @case("results")
    async def test_a_result_that_is_none_is_a_result(self, kit: Kit) -> None:
        await kit.backend.set_result("t", ok(None))
        assert await kit.backend.is_result_ready("t")
        assert await kit.value("t") is None

    @case("results")
    async def test_a_result_can_be_got_twice(self, kit: Kit) -> None:
        assert (await kit.stored(ok([1]))).return_value == [1]
        assert await kit.value("t") == [1]

    @case("results")
    async def test_tasks_do_not_mix(self, kit: Kit) -> None:
        for number in range(20):
            await kit.backend.set_result(f"t{number}", ok(number))
        await kit.check_numbers(reversed(range(20)))

    @case("logs", with_logs={"asked": True, "not-asked": False})
    async def test_the_log_is_there_when_asked_for(self, kit: Kit, with_logs: bool) -> None:
        result = await kit.stored(ok(1, log="what it said"), with_logs=with_logs)
        assert result.log == ("what it said" if with_logs else None)

    @case("logs")
    async def test_leaving_the_log_out_once_does_not_lose_it(self, kit: Kit) -> None:
        await kit.backend.set_result("t", ok(1, log="what it said"))
        assert (await kit.backend.get_result("t", with_logs=False)).log is None
        assert (await kit.backend.get_result("t", with_logs=True)).log == "what it said"

    # -- overwriting -----------------------------------------------------------------------

    @case("overwrite")
    async def test_a_second_result_replaces_the_first(self, kit: Kit) -> None:
        await kit.backend.set_result("t", ok("old", log="old", labels={"old": 1}))
        result = await kit.stored(ok("new"))
        assert (result.return_value, result.log, result.labels) == ("new", None, {})

    @case("overwrite")
    async def test_a_success_replaces_a_failure(self, kit: Kit) -> None:
        await kit.backend.set_result("t", failed(ValueError("no")))
        result = await kit.stored(ok(1))
        assert (result.is_err, result.error, result.return_value) == (False, None, 1)

    @case("overwrite")
    async def test_a_failure_replaces_a_success(self, kit: Kit) -> None:
        await kit.backend.set_result("t", ok(1))
        result = await kit.stored(failed(ValueError("no")))
        assert (result.is_err, result.return_value) == (True, None)
        assert isinstance(result.error, ValueError)

    @case("overwrite", sizes={"growing": (1, 10_000), "shrinking": (10_000, 1)})
    async def test_a_result_of_another_size_replaces(
        self, kit: Kit, sizes: tuple[int, int]
    ) -> None:
        for size in sizes:
            await kit.backend.set_result("t", ok("x" * size))
            assert await kit.value("t") == "x" * size

    @case("overwrite")
    async def test_the_last_of_many_results_stays(self, kit: Kit) -> None:
        await kit.backend.set_result("other", ok("other"))
        for number in range(150):
            await kit.backend.set_result("t", ok(number))
        assert await kit.value("t") == 149
        assert await kit.value("other") == "other"

    # -- missing ---------------------------------------------------------------------------

    @case("missing")
    async def test_getting_an_unknown_result_raises(self, kit: Kit) -> None:
        with pytest.raises(ResultGetError):
            await kit.backend.get_result("unknown")

    @case("missing")
    async def test_a_missing_result_does_not_disturb_the_others(self, kit: Kit) -> None:
        await kit.backend.set_result("t", ok(1))
        with pytest.raises(ResultGetError):
            await kit.backend.get_result("t2")
        assert await kit.value("t") == 1

    @case("missing")
    async def test_progress_alone_is_no_result(self, kit: Kit) -> None:
        await kit.backend.set_progress("t", TaskProgress(state="STARTED", meta=None))
        assert await kit.backend.is_result_ready("t") is False
        with pytest.raises(ResultGetError):
            await kit.backend.get_result("t")

    # -- status and waiting ----------------------------------------------------------------

    @case("missing")
    async def test_a_status_check_waits_for_nothing(self, kit: Kit) -> None:
        await kit.backend.set_progress("t0", TaskProgress(state="STARTED", meta=None))
        for number in range(200):  # with a wait in each, the case exceeds its time limit
            task: AsyncTaskiqTask[Any] = AsyncTaskiqTask(f"t{number % 100}", kit.backend)
            assert await task.is_ready() is False

    @case("missing")
    async def test_waiting_for_what_never_comes_ends_with_the_timeout(self, kit: Kit) -> None:
        task: AsyncTaskiqTask[Any] = AsyncTaskiqTask("never", kit.backend)
        with pytest.raises(TaskiqResultTimeoutError):
            await task.wait_result(check_interval=0.005, timeout=0.02)

    @case("results")
    async def test_all_who_wait_for_a_result_get_it(self, kit: Kit) -> None:
        task: AsyncTaskiqTask[Any] = AsyncTaskiqTask("t", kit.backend)
        waiters = [asyncio.ensure_future(kit.wait(task)) for _ in range(5)]
        await asyncio.sleep(0)
        await kit.backend.set_result("t", ok(1))
        results = await asyncio.gather(*waiters)
        assert [result.return_value for result in results] == [1] * 5

    # -- deletion --------------------------------------------------------------------------

    @case("deletion")
    async def test_a_task_sent_again_after_deletion_reaches_its_waiter(self, kit: Kit) -> None:
        await kit.backend.set_result("t", ok("old"))
        await kit.backend.delete_result("t")
        task: AsyncTaskiqTask[Any] = AsyncTaskiqTask("t", kit.backend)
        waiter = asyncio.ensure_future(kit.wait(task))
        await asyncio.sleep(0)
        await kit.backend.set_result("t", ok("new"))
        assert (await waiter).return_value == "new"

    @case("deletion")
    async def test_a_deleted_result_is_gone(self, kit: Kit) -> None:
        await kit.backend.set_result("t", ok(1))
        assert await kit.backend.delete_result("t") is True
        assert await kit.backend.is_result_ready("t") is False
        with pytest.raises(ResultGetError):
            await kit.backend.get_result("t")

    @case("deletion")
    async def test_deleting_what_is_not_there_says_so(self, kit: Kit) -> None:
        assert await kit.backend.delete_result("t") is False

    @case("deletion")
    async def test_deleting_twice_says_so(self, kit: Kit) -> None:
        await kit.backend.set_result("t", ok(1))
        assert [await kit.backend.delete_result("t") for _ in range(2)] == [True, False]

    @case("deletion")
    async def test_a_result_can_be_set_again_after_deletion(self, kit: Kit) -> None:
        await kit.backend.set_result("t", ok("old"))
        await kit.backend.delete_result("t")
        await kit.backend.set_result("t", ok("new"))
        assert await kit.backend.is_result_ready("t")
        assert await kit.value("t") == "new"

    @case("deletion")
    async def test_deletion_spares_other_tasks(self, kit: Kit) -> None:
        for task_id in ("t", "tt", "t2"):
            await kit.backend.set_result(task_id, ok(task_id))
        await kit.backend.delete_result("t")
        assert await kit.value("tt") == "tt"
        assert await kit.value("t2") == "t2"

    @case("deletion")
    async def test_deletion_clears_progress(self, kit: Kit) -> None:
        await kit.backend.set_progress("t", TaskProgress(state="STARTED", meta={"n": 1}))
        await kit.backend.set_result("t", ok(1))
        await kit.backend.delete_result("t")
        assert await kit.backend.get_progress("t") is None

    # -- ids -------------------------------------------------------------------------------

    @case("ids", task_id=_ODD_IDS)
    async def test_an_odd_id_is_an_id(self, kit: Kit, task_id: str) -> None:
        assert await kit.backend.is_result_ready(task_id) is False
        await kit.backend.set_result(task_id, ok(task_id))
        assert await kit.backend.is_result_ready(task_id) is True
        assert await kit.value(task_id) == task_id

    @case("ids", pair=_PAIRS)
    async def test_similar_ids_are_two(self, kit: Kit, pair: tuple[str, str]) -> None:
        first, second = pair
        await kit.backend.set_result(first, ok(1))
        assert await kit.backend.is_result_ready(second) is False
        await kit.backend.set_result(second, ok(2))
        assert await kit.value(first) == 1
        assert await kit.value(second) == 2

    @case("missing", suffix={s: s for s in ("__progress", ".progress", ":progress", "-progress")})
    async def test_progress_is_no_other_tasks_result(self, kit: Kit, suffix: str) -> None:
        await kit.backend.set_progress("t", TaskProgress(state="STARTED", meta=None))
        assert await kit.backend.is_result_ready(f"t{suffix}") is False

    # -- isolation -------------------------------------------------------------------------

    @case("isolation")
    async def test_changing_what_was_set_changes_nothing(self, kit: Kit) -> None:
        value = [1]
        await kit.backend.set_result("t", ok(value))
        value.append(2)
        assert await kit.value("t") == [1]

    @case("isolation")
    async def test_changing_what_was_got_changes_nothing(self, kit: Kit) -> None:
        await kit.backend.set_result("t", ok({"a": [1]}))
        (await kit.value("t"))["a"].append(2)
        assert await kit.value("t") == {"a": [1]}

    @case("results")
    async def test_changing_a_results_field_changes_nothing(self, kit: Kit) -> None:
        await kit.backend.set_result("t", ok(1))
        (await kit.backend.get_result("t")).return_value = 2
        assert await kit.value("t") == 1
