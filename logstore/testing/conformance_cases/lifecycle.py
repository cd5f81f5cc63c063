"""Start, shutdown and restart; several backends and event loops on one storage."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from taskiq.depends.progress_tracker import TaskProgress
from taskiq.exceptions import ResultGetError

from logstore.testing.conformance_cases.runner import ConformanceSuite, Kit, case, failed, ok


class LifecycleCases(ConformanceSuite):
    """The life cycle of a backend."""

    @case("lifecycle")
    async def test_starting_twice_is_harmless(self, kit: Kit) -> None:
        await kit.backend.set_result("t", ok(1))
        await kit.backend.startup()
        assert await kit.value("t") == 1

    @case("lifecycle")
    async def test_shutting_down_twice_is_harmless(self, kit: Kit) -> None:
        backend = await kit.open()
        await kit.close(backend)
        await backend.shutdown()

    @case("lifecycle")
    async def test_a_backend_that_never_started_can_be_shut_down(self, kit: Kit) -> None:
        backend = await self.make_backend(kit.place)
        await backend.shutdown()

    @case("lifecycle")
    async def test_a_backend_can_be_started_again(self, kit: Kit) -> None:
        await kit.backend.shutdown()
        await kit.backend.startup()
        assert (await kit.stored(ok(1))).return_value == 1

    @case("lifecycle")
    async def test_two_places_share_nothing(self, kit: Kit) -> None:
        elsewhere = kit.place.with_name("elsewhere")
        elsewhere.mkdir()
        try:
            other = await kit.open(elsewhere)
            await kit.backend.set_result("t", ok(1))
            assert await other.is_result_ready("t") is False
        finally:
            await self.clean_up(elsewhere)

    @case("loops")
    async def test_another_event_loop_can_use_the_backend(self, kit: Kit) -> None:
        await kit.backend.set_result("t", ok(1))

        async def use() -> Any:
            await kit.backend.set_result("from-there", ok(2))
            return await kit.value("t")

        assert await asyncio.to_thread(lambda: asyncio.run(use())) == 1
        assert await kit.value("from-there") == 2

    # -- a second backend ------------------------------------------------------------------

    @case("sharing")
    async def test_a_second_backend_sees_results_and_progress(self, kit: Kit) -> None:
        other = await kit.open()
        await kit.backend.set_result("t", ok(1))
        await kit.backend.set_progress("t", TaskProgress(state="S", meta=2))
        assert await other.is_result_ready("t") is True
        assert (await other.get_result("t")).return_value == 1
        assert (await other.get_progress("t")).meta == 2

    @case("sharing")
    async def test_a_second_backend_sees_what_replaced_a_result(self, kit: Kit) -> None:
        other = await kit.open()
        for number in range(5):
            await kit.backend.set_result("t", ok(number))
            assert (await other.get_result("t")).return_value == number

    @case("sharing")
    async def test_a_second_backend_may_write(self, kit: Kit) -> None:
        other = await kit.open()
        await other.set_result("t", ok("theirs"))
        assert await kit.value("t") == "theirs"

    @case("sharing")
    async def test_a_second_backend_outlives_the_first(self, kit: Kit) -> None:
        other = await kit.open()
        await kit.backend.set_result("t", ok(1))
        await kit.close(kit.backend)
        assert (await other.get_result("t")).return_value == 1
        await other.set_result("t2", ok(2))
        assert (await other.get_result("t2")).return_value == 2

    # -- restarts --------------------------------------------------------------------------

    @case("durability")
    async def test_a_result_is_there_after_a_restart(self, kit: Kit) -> None:
        await kit.backend.set_result("t", ok({"a": [1]}, log="log", labels={"x": 1}))
        backend = await kit.restart()
        assert await backend.is_result_ready("t") is True
        result = await backend.get_result("t", with_logs=True)
        assert (result.return_value, result.log, result.labels) == ({"a": [1]}, "log", {"x": 1})

    @case("durability")
    async def test_a_failure_is_there_after_a_restart(self, kit: Kit) -> None:
        await kit.backend.set_result("t", failed(KeyError("k")))
        backend = await kit.restart()
        result = await backend.get_result("t")
        with pytest.raises(KeyError, match="k"):
            result.raise_for_error()

    @case("durability")
    async def test_progress_is_there_after_a_restart(self, kit: Kit) -> None:
        await kit.backend.set_progress("t", TaskProgress(state="S", meta={"n": 1}))
        backend = await kit.restart()
        found = await backend.get_progress("t")
        assert (found.state, found.meta) == ("S", {"n": 1})

    @case("durability")
    async def test_the_last_result_counts_after_a_restart(self, kit: Kit) -> None:
        for number in range(30):
            await kit.backend.set_result("t", ok(number))
        backend = await kit.restart()
        assert (await backend.get_result("t")).return_value == 29

    @case("durability")
    async def test_many_results_are_there_after_a_restart(self, kit: Kit) -> None:
        for number in range(50):
            await kit.backend.set_result(f"t{number}", ok(number))
        await kit.restart()
        await kit.check_numbers(range(50))

    @case("durability")
    async def test_a_large_result_is_there_after_a_restart(self, kit: Kit) -> None:
        await kit.backend.set_result("t", ok(b"x" * (1 << 20)))
        backend = await kit.restart()
        assert (await backend.get_result("t")).return_value == b"x" * (1 << 20)

    @case("deletion")
    async def test_what_was_deleted_stays_so_after_a_restart(self, kit: Kit) -> None:
        await kit.backend.set_result("t", ok(1))
        await kit.backend.set_result("kept", ok(2))
        await kit.backend.delete_result("t")
        backend = await kit.restart()
        assert await backend.is_result_ready("t") is False
        with pytest.raises(ResultGetError):
            await backend.get_result("t")

    @case("durability")
    async def test_restarts_lose_nothing(self, kit: Kit) -> None:
        for number in range(4):
            await kit.backend.set_result(f"t{number}", ok(number))
            await kit.restart()
        await kit.check_numbers(range(4))
