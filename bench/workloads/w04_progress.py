"""W4: progress updates of one task and of a thousand tasks, at concurrency 1 and 64.

logstore does not flush progress: a power cut may cost up to a second of it. For the peers an update
is a write like any other, as durable as their results.
"""

from __future__ import annotations

import asyncio
import itertools

from ..measure import Metrics, closed_lanes
from ..payloads import progress, task_id
from ..peers import WRITE_ONLY
from ..peers.base import AsyncPeer
from .base import Metric, Slice, Workload
from .w02_async_set import lanes_of

TASKS = {"one": 1, "thousand": 1000}


async def progress_slice(part: Slice, tasks: int, lanes: int) -> Metrics:
    place = part.place()
    peer: AsyncPeer = part.peer.async_class(place)
    ids = itertools.cycle([task_id(place.space, number) for number in range(tasks)])
    reports = itertools.cycle([progress(number) for number in range(256)])
    await peer.open()
    try:

        async def operation() -> None:
            await peer.set_progress(next(ids), next(reports))

        return (await closed_lanes(operation, lanes, part.profile.slice_s)).metrics()
    finally:
        await peer.close()
        part.discard(place)


def run(part: Slice, variant: str) -> Metrics:
    tasks = TASKS[variant.partition(" ")[0]]
    return asyncio.run(progress_slice(part, tasks, lanes_of(variant)))


WORKLOAD = Workload(
    name="W4",
    title="progress updates",
    variants=lambda profile: [f"{tasks} c={lanes}" for tasks in TASKS for lanes in (1, 64)],
    run=run,
    without=WRITE_ONLY,
    not_durable=frozenset({"logstore", "logstore-async"}),
    metrics=(
        Metric("ops_per_s", "updates per second", "higher"),
        Metric("p99_us", "p99 latency, us", "lower"),
    ),
)
