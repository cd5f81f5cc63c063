"""Progress, in taskiq's form and in logstore's form."""

from __future__ import annotations

import datetime as dt
from typing import Any

from taskiq.depends.progress_tracker import TaskProgress as TaskiqProgress
from taskiq.depends.progress_tracker import TaskState

from logstore.progress import TaskProgress
from logstore.testing.conformance_cases.comparing import assert_same
from logstore.testing.conformance_cases.runner import ConformanceSuite, Kit, case, ok

_METAS: dict[str, Any] = {
    "none": None,
    "dict": {"done": 3, "of": 10},
    "empty-dict": {},
    "str": "half-way",
    "int": 5,
    "list": [1, 2, {"a": None}],
    "false": False,
    "int-keys": {1: "a"},
    "tuple": (1, "a"),
    "datetime": dt.datetime(2024, 1, 1),
    "fields-of-ours": {"progress": 7, "status": None, "current": "x", "meta": {}},
}


async def _back(kit: Kit, progress: Any) -> Any:
    await kit.backend.set_progress("t", progress)
    return await kit.backend.get_progress("t")


class ProgressCases(ConformanceSuite):
    """The progress of a task."""

    @case("missing")
    async def test_there_is_no_progress_before_it_is_set(self, kit: Kit) -> None:
        assert await kit.backend.get_progress("t") is None

    @case("progress", state={state.name: state for state in TaskState})
    async def test_a_state_round_trips(self, kit: Kit, state: TaskState) -> None:
        found = await _back(kit, TaskiqProgress(state=state, meta={"n": 1}))
        assert found.state == state
        assert found.meta == {"n": 1}

    @case("progress", state={"text": "half-way there", "empty": ""})
    async def test_a_state_may_be_any_text(self, kit: Kit, state: str) -> None:
        assert (await _back(kit, TaskiqProgress(state=state, meta=None))).state == state

    @case("progress", meta=_METAS)
    async def test_a_meta_round_trips(self, kit: Kit, meta: Any) -> None:
        found = await _back(kit, TaskiqProgress(state=TaskState.STARTED, meta=meta))
        assert_same(found.meta, meta)

    @case(
        "progress", kind={"plain": TaskiqProgress, "parametrised": TaskiqProgress[dict[str, int]]}
    )
    async def test_what_is_got_is_equal_to_what_was_set(
        self, kit: Kit, kind: type[TaskiqProgress[Any]]
    ) -> None:
        progress = kind(state=TaskState.STARTED, meta={"n": 1})
        found = await _back(kit, progress)
        assert isinstance(found, TaskiqProgress)
        assert found == progress
        assert progress == found
        assert found.model_dump() == progress.model_dump()
        assert found != kind(state=TaskState.STARTED, meta={"n": 2})

    @case("progress")
    async def test_the_last_progress_counts(self, kit: Kit) -> None:
        for number in range(20):
            await kit.backend.set_progress("t", TaskiqProgress(state="S", meta=number))
        assert (await kit.backend.get_progress("t")).meta == 19

    @case("progress")
    async def test_progress_of_tasks_does_not_mix(self, kit: Kit) -> None:
        for number in range(20):
            await kit.backend.set_progress(f"t{number}", TaskiqProgress(state="S", meta=number))
        for number in range(20):
            assert (await kit.backend.get_progress(f"t{number}")).meta == number

    @case("progress")
    async def test_a_result_leaves_the_progress(self, kit: Kit) -> None:
        await kit.backend.set_progress("t", TaskiqProgress(state="S", meta=1))
        await kit.backend.set_result("t", ok("done"))
        assert (await kit.backend.get_progress("t")).meta == 1
        assert await kit.value("t") == "done"

    @case("progress")
    async def test_progress_leaves_the_result(self, kit: Kit) -> None:
        await kit.backend.set_result("t", ok("done"))
        await kit.backend.set_progress("t", TaskiqProgress(state="S", meta=1))
        assert await kit.backend.is_result_ready("t") is True
        assert await kit.value("t") == "done"

    # -- logstore's fields -----------------------------------------------------------------

    @case("fields")
    async def test_our_progress_round_trips(self, kit: Kit) -> None:
        progress = TaskProgress(0.25, "reading", 5, 20, {"file": "a.txt"})
        found = await _back(kit, progress)
        assert (found.progress, found.status) == (0.25, "reading")
        assert (found.current, found.total, found.meta) == (5, 20, {"file": "a.txt"})

    @case("fields")
    async def test_what_is_got_is_equal_to_our_progress(self, kit: Kit) -> None:
        progress = TaskProgress(0.25, "reading", 5, 20, {"file": "a.txt"})
        found = await _back(kit, progress)
        assert isinstance(found, TaskiqProgress)
        assert found == progress
        assert progress == found
        assert found != TaskProgress(0.25, "reading", 6, 20, {"file": "a.txt"})

    @case("fields")
    async def test_our_progress_has_the_fields_of_taskiq(self, kit: Kit) -> None:
        found = await _back(kit, TaskProgress(0.5, "reading", meta={"a": 1}))
        assert (found.state, found.meta) == ("reading", {"a": 1})

    @case("fields")
    async def test_our_defaults_round_trip(self, kit: Kit) -> None:
        found = await _back(kit, TaskProgress())
        assert (found.progress, found.status, found.state) == (0.0, "PENDING", "PENDING")
        assert (found.current, found.total, found.meta) == (None, None, None)

    @case("fields")
    async def test_taskiqs_progress_has_our_fields(self, kit: Kit) -> None:
        found = await _back(kit, TaskiqProgress(state=TaskState.RETRY, meta=[1]))
        assert (found.status, found.meta) == ("RETRY", [1])
        assert 0.0 <= found.progress <= 1.0
        assert (found.current, found.total) == (None, None)

    @case("fields")
    async def test_what_was_got_can_be_set(self, kit: Kit) -> None:
        await kit.backend.set_progress("a", TaskProgress(0.25, "reading", 5, 20, {"f": 1}))
        await kit.backend.set_progress("b", await kit.backend.get_progress("a"))
        found = await kit.backend.get_progress("b")
        assert (found.progress, found.status, found.state) == (0.25, "reading", "reading")
        assert (found.current, found.total, found.meta) == (5, 20, {"f": 1})

    @case("fields")
    async def test_both_forms_replace_each_other(self, kit: Kit) -> None:
        await kit.backend.set_progress("t", TaskProgress(0.5, "ours", 1, 2))
        assert (await _back(kit, TaskiqProgress(state="theirs", meta=None))).status == "theirs"
        assert (await _back(kit, TaskProgress(0.75, "ours"))).state == "ours"
