"""W2: awaited durable sets of a real TaskiqResult at concurrency 1, 8, 64 and 256."""

from __future__ import annotations

import asyncio
import itertools

from ..measure import Metrics, Ticker, closed_lanes
from ..payloads import result
from ..peers.base import AsyncPeer
from .base import Metric, Slice, Workload

CONCURRENCIES = (1, 8, 64, 256)
# Made beforehand: building a pydantic model is the worker's time and not the store's.
RESULTS_READY = 256


def lanes_of(variant: str) -> int:
    """The concurrency that a variant's name ends in: ``c=64``."""
    return int(variant.rpartition("c=")[2])


async def set_slice(part: Slice, lanes: int, seconds: float, ticker: bool = False) -> Metrics:
    """One slice of sets on a fresh store; with `ticker`, the loop's stalls are measured too."""
    place = part.place()
    peer: AsyncPeer = part.peer.async_class(place)
    ids = part.ids(place)
    results = itertools.cycle([result(number) for number in range(RESULTS_READY)])
    await peer.open()
    try:

        async def operation() -> None:
            await peer.set(ids.take(), next(results))

        watch = Ticker() if ticker else None
        metrics = (await closed_lanes(operation, lanes, seconds, watch)).metrics()
        return metrics if watch is None else {**metrics, **watch.metrics()}
    finally:
        await peer.close()
        part.discard(place)


def run(part: Slice, variant: str) -> Metrics:
    return asyncio.run(set_slice(part, lanes_of(variant), part.profile.slice_s))


WORKLOAD = Workload(
    name="W2",
    title="asynchronous set_result",
    variants=lambda profile: [f"c={lanes}" for lanes in CONCURRENCIES],
    run=run,
    metrics=(
        Metric("ops_per_s", "results per second", "higher"),
        Metric("p50_us", "median latency, us", "lower"),
        Metric("p99_us", "p99 latency, us", "lower"),
    ),
)
