from __future__ import annotations

import asyncio
import time

import pytest

from bench.measure import Samples, Ticker, closed_lanes, closed_loop, each_once


def test_a_closed_loop_times_each_operation_alone() -> None:
    calls = []
    samples = closed_loop(lambda: calls.append(1), 0.02)
    # The warm-up's calls are not among the samples.
    assert 0 < len(samples.latencies_ns) < len(calls)
    metrics = samples.metrics()
    assert metrics["count"] == len(samples.latencies_ns)
    assert samples.elapsed_ns >= 0.02e9
    assert sum(samples.latencies_ns) <= samples.elapsed_ns


def test_lanes_run_at_the_same_time() -> None:
    running = 0
    most = 0

    async def operation() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    samples = asyncio.run(closed_lanes(operation, 8, 0.02))
    assert most == 8
    assert samples.latencies_ns


def test_the_ticker_does_not_see_the_warm_up() -> None:
    calls = 0
    slow_s = 2.0  # far longer than a busy machine stalls

    async def operation() -> None:
        nonlocal calls
        calls += 1
        # Slow as a first connection is, which is what a warm-up is for.
        if calls == 1:
            time.sleep(slow_s)  # noqa: ASYNC251
        await asyncio.sleep(0.002)

    async def watched() -> list[float]:
        watch = Ticker()
        await closed_lanes(operation, 1, 0.02, watch)
        return watch.stalls_ms

    stalls = asyncio.run(watched())
    assert stalls
    assert max(stalls) < 900 * slow_s


def test_each_id_is_asked_for_once() -> None:
    asked: list[str] = []

    async def operation(task_id: str) -> None:
        asked.append(task_id)
        await asyncio.sleep(0)

    samples = Samples()
    wanted = [str(number) for number in range(100)]
    asyncio.run(each_once(operation, wanted, 8, 60.0, samples))
    assert sorted(asked) == sorted(wanted)
    assert len(samples.latencies_ns) == 100


def test_a_slice_without_a_sample_is_an_error_and_not_a_zero() -> None:
    with pytest.raises(ValueError, match="ended before its first"):
        Samples().metrics()


def test_the_ticker_sees_a_blocked_loop() -> None:
    async def blocked() -> float:
        async with Ticker() as watch:
            await asyncio.sleep(0.01)
            # The fault under test: a call that blocks the loop.
            time.sleep(0.08)  # noqa: ASYNC251
            await asyncio.sleep(0.01)
        stall = watch.metrics()["stall_max_ms"]
        assert isinstance(stall, float)
        return stall

    assert asyncio.run(blocked()) >= 70
