"""W14: the tail of a set and the stalls of the event loop, in a large store that is compacted.

One process sets results, 64 at a time, in a store that already holds `large_results`. *compacting*:
every option at its default. *no compaction*: the same with a log that is larger than what a slice
writes, so that the log is never folded meanwhile. The difference is what compactions cost a caller.

The store is filled once, and anew when the sets have made it half as large again. The floor takes
part as *no compaction*: its stalls are the machine's own.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace

from ..measure import Metrics, Ticker, closed_lanes
from ..payloads import Ids, pairs, result
from ..peers.base import AsyncPeer, Place
from .base import Metric, Slice, Workload
from .w02_async_set import RESULTS_READY
from .w07_slow_disk import delay_of, floor
from .w12_writers import FLOOR_FLUSHES, FLOOR_S_MIN

LANES = 64
COMPACTING = "compacting"
NO_COMPACTION = "no compaction"
# More than a slice of any profile writes; the file is filled with zeros before the clock runs.
LOG_BYTES = 128 << 20
VALUE_BYTES = 300
GROWTH_MAX = 1.5


def _store(part: Slice) -> Place:
    """Return the filled store; it is made again when it has grown too much."""
    wanted = part.profile.large_results
    place: Place | None = part.kept.get("store")
    if place is not None and part.kept["results"] > GROWTH_MAX * wanted:
        part.discard(place)
        place = None
    if place is None:
        place = part.place()
        if part.peer.sync_class is not None and part.peer.about.role == "own":
            peer = part.peer.sync_class(place)
            peer.open()
            peer.preload(pairs(place.space, wanted, VALUE_BYTES))
            peer.close()
        part.kept |= {"store": place, "results": wanted}
    return place


async def tail_slice(part: Slice, place: Place, seconds: float) -> Metrics:
    """Set fresh ids, 64 at a time, beside a task that sees the stalls of the loop."""
    peer: AsyncPeer = part.peer.async_class(place)
    # A space of its own: the ids of the place's space are in the store.
    ids = Ids(f"{place.space}+{next(part.counter)}")
    ids.fill(int(seconds * 50_000))
    results = itertools.cycle([result(number) for number in range(RESULTS_READY)])
    await peer.open()
    try:

        async def operation() -> None:
            await peer.set(ids.take(), next(results))

        watch = Ticker()
        metrics = (await closed_lanes(operation, LANES, seconds, watch)).metrics()
        compactions = peer.compactions()
    finally:
        await peer.close()
    if compactions is not None:
        metrics["compactions"] = compactions
    return metrics | watch.metrics()


def run(part: Slice, variant: str) -> Metrics:
    assert part.control is not None
    delay_s = delay_of(variant)
    place = _store(part)
    if variant.endswith(NO_COMPACTION):
        place = replace(place, log_bytes=LOG_BYTES)
    part.control.set_delay(delay_s)
    try:
        flush_us = floor(part, FLOOR_FLUSHES * delay_s + FLOOR_S_MIN)["p50_us"]
        metrics = asyncio.run(tail_slice(part, place, part.profile.tail_s))
    finally:
        part.control.set_delay(0)
    count, tail_us = metrics["count"], metrics["p999_us"]
    assert not isinstance(flush_us, list)
    assert not isinstance(count, list)
    assert not isinstance(tail_us, list)
    if part.peer.about.role == "own":
        metrics["results"] = part.kept["results"]
        part.kept["results"] += count
    metrics["flush_us"] = flush_us
    metrics["p999_beyond_ms"] = (tail_us - flush_us) / 1000
    return metrics


WORKLOAD = Workload(
    name="W14",
    title="tail of a set and stalls of the loop in a large store, c=64",
    variants=lambda profile: [
        f"{delay:g}ms {kind}"
        for delay in profile.tail_delays_ms
        for kind in (COMPACTING, NO_COMPACTION)
    ],
    run=run,
    pace="tail",
    shimmed=True,
    only=frozenset({"logstore", "bare"}),
    takes_part=lambda variant, peer: peer != "bare" or variant.endswith(NO_COMPACTION),
    metrics=(
        Metric("ops_per_s", "results per second", "higher"),
        Metric("p50_us", "set p50, us", "lower"),
        Metric("p99_us", "set p99, us", "lower"),
        Metric("p999_us", "set p99.9, us", "lower"),
        Metric("max_us", "longest set, us", "lower"),
        Metric("p999_beyond_ms", "set p99.9 beyond its flush, ms", "lower", 2, compared=False),
        Metric("stall_max_ms", "longest stall of the loop, ms", "lower", 2),
        Metric("stall_p99_ms", "p99 of the stalls, ms", "lower", 2),
        Metric("compactions", "compactions in the slice", "lower", compared=False),
        Metric("results", "results in the store before it", "lower", compared=False),
        Metric("flush_us", "one bare write and flush, us", "lower", compared=False),
    ),
)
