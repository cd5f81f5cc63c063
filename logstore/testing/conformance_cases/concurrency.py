"""Concurrent and cancelled callers."""

from __future__ import annotations

import asyncio
from typing import Any

from taskiq.depends.progress_tracker import TaskProgress
from taskiq.exceptions import ResultGetError

from logstore.testing.conformance_cases.runner import ConformanceSuite, Kit, case, ok


async def _cancelled(coroutine: Any, turns: int) -> None:
    """Start a coroutine, cancel it after some turns of the loop, and wait for its end."""
    task = asyncio.ensure_future(coroutine)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        pass


class ConcurrencyCases(ConformanceSuite):
    """Concurrent calls and cancelled calls."""

    @case("concurrency")
    async def test_64_writers_lose_nothing(self, kit: Kit) -> None:
        await asyncio.gather(*(kit.backend.set_result(f"t{n}", ok(n)) for n in range(64)))
        results = await asyncio.gather(*(kit.backend.get_result(f"t{n}") for n in range(64)))
        assert [result.return_value for result in results] == list(range(64))

    @case("concurrency")
    async def test_writers_of_one_task_leave_one_of_their_results(self, kit: Kit) -> None:
        await asyncio.gather(*(kit.backend.set_result("t", ok([n] * 100)) for n in range(32)))
        assert await kit.value("t") in [[n] * 100 for n in range(32)]

    @case("concurrency")
    async def test_a_reader_sees_whole_results_only(self, kit: Kit) -> None:
        await kit.backend.set_result("t", ok([0] * 500))

        async def write() -> None:
            for number in range(1, 30):
                await kit.backend.set_result("t", ok([number] * 500))

        writer = asyncio.ensure_future(write())
        last = 0
        while not writer.done():
            found = await kit.value("t")
            assert found == [found[0]] * 500
            assert found[0] >= last, "an older result came back"
            last = found[0]
            await asyncio.sleep(0.001)  # a busy loop starves the threads of a backend
        await writer

    @case("concurrency")
    async def test_what_was_written_is_seen_at_once(self, kit: Kit) -> None:
        async def one(number: int) -> None:
            await kit.backend.set_result(f"t{number}", ok(number))
            assert await kit.backend.is_result_ready(f"t{number}") is True
            assert await kit.value(f"t{number}") == number

        await asyncio.gather(*(one(number) for number in range(40)))

    @case("concurrency")
    async def test_results_and_progress_at_a_time(self, kit: Kit) -> None:
        async def one(number: int) -> None:
            for step in range(5):
                await kit.backend.set_progress(f"t{number}", TaskProgress(state="S", meta=step))
            await kit.backend.set_result(f"t{number}", ok(number))

        await asyncio.gather(*(one(number) for number in range(16)))
        for number in range(16):
            assert (await kit.backend.get_progress(f"t{number}")).meta == 4
            assert await kit.value(f"t{number}") == number

    @case("concurrency")
    async def test_large_and_small_results_at_a_time(self, kit: Kit) -> None:
        sizes = [1 << (n % 20) for n in range(40)]
        await asyncio.gather(
            *(kit.backend.set_result(f"t{n}", ok("x" * size)) for n, size in enumerate(sizes))
        )
        for number, size in enumerate(sizes):
            assert len(await kit.value(f"t{number}")) == size

    @case("deletion")
    async def test_one_of_many_who_delete_is_told_so(self, kit: Kit) -> None:
        await kit.backend.set_result("t", ok(1))
        told = await asyncio.gather(*(kit.backend.delete_result("t") for _ in range(20)))
        assert told.count(True) == 1

    @case("loops")
    async def test_threads_with_loops_of_their_own(self, kit: Kit) -> None:
        async def one(name: str) -> None:
            for number in range(10):
                await kit.backend.set_result(f"{name}-{number}", ok(number))

        def in_thread(name: str) -> None:
            asyncio.run(one(name))

        await asyncio.gather(*(asyncio.to_thread(in_thread, f"w{n}") for n in range(4)))
        for name in range(4):
            for number in range(10):
                assert await kit.value(f"w{name}-{number}") == number

    @case("sharing")
    async def test_writers_of_two_backends_lose_nothing(self, kit: Kit) -> None:
        other = await kit.open()
        await asyncio.gather(
            *((kit.backend, other)[n % 2].set_result(f"t{n}", ok(n)) for n in range(40))
        )
        await kit.check_numbers(range(40), other)

    # -- cancellation ----------------------------------------------------------------------

    @case("cancellation", turns={"at-once": 0, "early": 1, "later": 3, "late": 20})
    async def test_a_cancelled_write_is_whole_or_absent(self, kit: Kit, turns: int) -> None:
        await _cancelled(kit.backend.set_result("t", ok(["whole"] * 1000)), turns)
        try:
            result = await kit.backend.get_result("t")
        except ResultGetError:
            pass
        else:
            assert result.return_value == ["whole"] * 1000
        await kit.backend.set_result("t2", ok(1))
        assert await kit.value("t2") == 1

    @case("cancellation")
    async def test_a_cancelled_writer_disturbs_no_other(self, kit: Kit) -> None:
        writers = [asyncio.ensure_future(kit.backend.set_result(f"t{n}", ok(n))) for n in range(30)]
        await asyncio.sleep(0)
        for writer in writers[::3]:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
        for number in range(30):
            if number % 3:
                assert await kit.value(f"t{number}") == number

    @case("cancellation", turns={"at-once": 0, "early": 1, "later": 3})
    async def test_a_cancelled_reader_takes_nothing_away(self, kit: Kit, turns: int) -> None:
        await kit.backend.set_result("t", ok(1))
        await _cancelled(kit.backend.get_result("t"), turns)
        await _cancelled(kit.backend.is_result_ready("t"), turns)
        await _cancelled(kit.backend.get_progress("t"), turns)
        assert await kit.value("t") == 1

    @case("cancellation")
    async def test_a_cancelled_overwrite_leaves_old_or_new(self, kit: Kit) -> None:
        await kit.backend.set_result("t", ok("old" * 100))
        for turns in (0, 1, 2, 4, 8):
            await _cancelled(kit.backend.set_result("t", ok("new" * 100)), turns)
            assert await kit.value("t") in ("old" * 100, "new" * 100)
