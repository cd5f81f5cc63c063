"""W3: gets of what was just written and from a table, and is_result_ready on a missing id.

*new*: the result was set by the same process a moment ago. *table*: the store was filled, closed
and opened again, and no id is asked for twice; what the file system has cached stays cached, for
all alike. *missing*: the id was never set; the store holds the same table.
"""

from __future__ import annotations

import asyncio
import random

from ..measure import (
    WARM_UP_LANES_S_MIN,
    Metrics,
    Samples,
    closed_lanes,
    each_once,
    settle,
)
from ..payloads import result, task_id
from ..peers import WRITE_ONLY
from ..peers.base import AsyncPeer, Place
from .base import Metric, Slice, Workload
from .w02_async_set import lanes_of

KINDS = ("new", "table", "missing")
BATCH = 256
# One id in so many of the table is left to the warm-up.
WARM_UP_IDS_SHARE = 5


async def new_slice(part: Slice, lanes: int) -> Metrics:
    """Set a batch, then time the gets of it, until the gets have had their time."""
    place = part.place()
    peer: AsyncPeer = part.peer.async_class(place)
    ids = part.ids(place)
    stored = result(1)
    samples = Samples()
    await peer.open()
    try:
        settle()
        budget_s = part.profile.slice_s
        deadline = asyncio.get_running_loop().time() + 4 * budget_s
        while samples.elapsed_ns < budget_s * 1e9:
            batch = [ids.take() for _ in range(BATCH)]
            await asyncio.gather(*(peer.set(one, stored) for one in batch))
            await each_once(peer.get, batch, lanes, budget_s, samples)
            # A peer whose sets are slow gets fewer gets, and not a longer slice.
            if asyncio.get_running_loop().time() > deadline:
                break
        return samples.metrics()
    finally:
        await peer.close()
        part.discard(place)


async def _filled(part: Slice) -> Place:
    place: Place | None = part.kept.get("table")
    if place is None:
        place = part.place()
        peer: AsyncPeer = part.peer.async_class(place)
        await peer.open()
        stored = result(1)
        count = part.profile.table_results
        await peer.preload((task_id(place.space, number), stored) for number in range(count))
        await peer.close()
        part.kept["table"] = place
    return place


async def table_slice(part: Slice, kind: str, lanes: int) -> Metrics:
    """Time gets from, or questions about ids missing from, a store opened for this slice."""
    place = await _filled(part)
    peer: AsyncPeer = part.peer.async_class(place)
    await peer.open()
    try:
        if kind == "table":
            order = list(range(part.profile.table_results))
            random.Random(part.round).shuffle(order)
            wanted = [task_id(place.space, number) for number in order]
            # Ids of the warm-up, which opens connections, are not asked for again.
            first = len(wanted) // WARM_UP_IDS_SHARE
            await each_once(peer.get, wanted[:first], lanes, WARM_UP_LANES_S_MIN, Samples())
            samples = Samples()
            settle()
            await each_once(peer.get, wanted[first:], lanes, part.profile.slice_s, samples)
            return samples.metrics()
        absent = part.ids(Place(place.directory, space=f"absent{part.round}"))

        async def operation() -> None:
            if await peer.ready(absent.take()):
                raise AssertionError("an id that was never set is ready")

        return (await closed_lanes(operation, lanes, part.profile.slice_s)).metrics()
    finally:
        await peer.close()


def run(part: Slice, variant: str) -> Metrics:
    kind, _, _ = variant.partition(" ")
    lanes = lanes_of(variant)
    if kind == "new":
        return asyncio.run(new_slice(part, lanes))
    return asyncio.run(table_slice(part, kind, lanes))


WORKLOAD = Workload(
    name="W3",
    title="get_result and is_result_ready",
    variants=lambda profile: [f"{kind} c={lanes}" for kind in KINDS for lanes in (1, 64)],
    run=run,
    without=WRITE_ONLY,
    metrics=(
        Metric("ops_per_s", "reads per second", "higher"),
        Metric("p50_us", "median latency, us", "lower", 1),
    ),
)
