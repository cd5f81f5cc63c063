"""Closed loops that time one operation each, for synchronous and asynchronous peers.

The clock is read directly around the operation: what the loop itself costs is in the throughput
(the same for all) and not in the latencies.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import TypeAlias

from .stats import curve, quantile

Metrics: TypeAlias = dict[str, float | list[float]]

WARM_UP_SHARE = 0.1
WARM_UP_OPS_MAX = 50
# Long enough to open a pool of connections before the clock runs.
WARM_UP_LANES_S_MIN = 0.1


@dataclass(slots=True)
class Samples:
    """The latencies of one slice, and how long it ran."""

    latencies_ns: list[int] = field(default_factory=list)
    elapsed_ns: int = 0

    def metrics(self) -> Metrics:
        """Throughput, quantiles and the curve; raises ValueError when nothing was measured."""
        if not self.latencies_ns:
            raise ValueError("the slice ended before its first operation did")
        ordered = sorted(taken / 1000 for taken in self.latencies_ns)
        return {
            "count": len(ordered),
            "ops_per_s": len(ordered) / (self.elapsed_ns / 1e9),
            "mean_us": sum(ordered) / len(ordered),
            "p50_us": quantile(ordered, 0.5),
            "p90_us": quantile(ordered, 0.9),
            "p99_us": quantile(ordered, 0.99),
            "p999_us": quantile(ordered, 0.999),
            "max_us": ordered[-1],
            "curve_us": curve(ordered),
        }


def settle() -> None:
    """Start a slice without another one's garbage; collection itself stays on, as in use."""
    gc.collect()
    gc.freeze()


def closed_loop(operation: Callable[[], object], seconds: float) -> Samples:
    """Run `operation` again and again for `seconds` after a short warm-up."""
    settle()
    warm_until = perf_counter_ns() + int(seconds * WARM_UP_SHARE * 1e9)
    for _ in range(WARM_UP_OPS_MAX):
        operation()
        if perf_counter_ns() > warm_until:
            break
    samples = Samples()
    keep = samples.latencies_ns.append
    started = perf_counter_ns()
    until = started + int(seconds * 1e9)
    before = started
    while before < until:
        operation()
        after = perf_counter_ns()
        keep(after - before)
        before = perf_counter_ns()
    samples.elapsed_ns = before - started
    return samples


async def closed_lanes(
    operation: Callable[[], Awaitable[object]],
    lanes: int,
    seconds: float,
    watch: Ticker | None = None,
) -> Samples:
    """Run `lanes` closed loops over the coroutine `operation` at the same time.

    `watch` runs beside what is measured, and not beside the warm-up, which opens connections.
    """
    settle()
    samples = Samples()
    keep = samples.latencies_ns.append

    async def lane(until: int, kept: bool) -> None:
        before = perf_counter_ns()
        while True:  # once at least, however late its turn comes
            await operation()
            after = perf_counter_ns()
            if kept:
                keep(after - before)
            before = perf_counter_ns()
            if before >= until:
                return

    async def all_lanes(length_s: float, kept: bool) -> int:
        started = perf_counter_ns()
        until = started + int(length_s * 1e9)
        await asyncio.gather(*(lane(until, kept) for _ in range(lanes)))
        return perf_counter_ns() - started

    await all_lanes(max(seconds * WARM_UP_SHARE, WARM_UP_LANES_S_MIN), kept=False)
    async with watch or nullcontext():
        samples.elapsed_ns = await all_lanes(seconds, kept=True)
    return samples


class Ticker:
    """Measures the longest stall of the running event loop, as an async context manager.

    A task that sleeps a millisecond at a time notes by how much each sleep was longer than asked
    for. What it sees is everything that kept the loop from running: blocking calls, long
    callbacks, the interpreter lock, and the scheduler of a busy machine.
    """

    interval_s = 0.001

    def __init__(self) -> None:
        self.stalls_ms: list[float] = []
        self._task: asyncio.Task[None] | None = None

    async def _tick(self) -> None:
        before = perf_counter_ns()
        while True:
            await asyncio.sleep(self.interval_s)
            now = perf_counter_ns()
            self.stalls_ms.append((now - before) / 1e6 - self.interval_s * 1e3)
            before = now

    async def __aenter__(self) -> Ticker:
        self._task = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def metrics(self) -> Metrics:
        """The longest stall and the 99th percentile, in milliseconds."""
        ordered = sorted(self.stalls_ms)
        return {"stall_max_ms": ordered[-1], "stall_p99_ms": quantile(ordered, 0.99)}


async def each_once(
    operation: Callable[[str], Awaitable[object]],
    ids: list[str],
    lanes: int,
    seconds: float,
    samples: Samples,
) -> None:
    """Run `operation` once per id, `lanes` at a time, until the ids or the time run out."""
    pending = iter(ids)
    keep = samples.latencies_ns.append
    started = perf_counter_ns()
    until = started + int(seconds * 1e9)

    async def lane() -> None:
        for task_id in pending:
            before = perf_counter_ns()
            await operation(task_id)
            after = perf_counter_ns()
            keep(after - before)
            if after > until:
                break

    await asyncio.gather(*(lane() for _ in range(lanes)))
    samples.elapsed_ns += perf_counter_ns() - started
