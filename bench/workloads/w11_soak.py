"""W11: a soak, compressed: a steady 2,000 results a second that expire; size and memory flat.

Compressed because the time to live is seconds instead of an hour: what matters is how many times
over the store's contents are replaced. Growth is the median of the last third over the median of
the middle third. Before the soak each peer is filled as fast as it goes, so that what it keeps of
expired results (logstore the last 100,000 ids) has reached its bound.
"""

from __future__ import annotations

import asyncio
from time import monotonic

from ..counters import directory_bytes, private_bytes
from ..measure import Metrics, Samples, each_once
from ..payloads import result
from ..stats import median
from .base import Metric, Slice, Workload

RATE = 2000
TICK_S = 0.02
SAMPLE_EVERY_TICKS = 25
FILL_LANES = 64
FILL_MAX = 120_000


def growth(samples: list[float]) -> float:
    """The last third's median over the middle third's."""
    third = len(samples) // 3
    return median(samples[-third:]) / median(samples[third : 2 * third])


async def soak_slice(part: Slice) -> Metrics:
    place = part.place(ttl_s=part.profile.soak_ttl_s)
    peer = part.peer.async_class(place)
    ids = part.ids(place)
    stored = result(1)
    sizes: list[float] = []
    memories: list[float] = []
    running: set[asyncio.Task[None]] = set()
    written = 0
    per_tick = int(RATE * TICK_S)
    directory = part.server_directory or place.directory
    await peer.open()
    try:
        filling = [ids.take() for _ in range(FILL_MAX)]
        seconds = part.profile.soak_fill_s
        await each_once(lambda key: peer.set(key, stored), filling, FILL_LANES, seconds, Samples())
        started = monotonic()
        ticks = int(part.profile.soak_s / TICK_S)
        for tick in range(ticks):
            for _ in range(per_tick):
                task = asyncio.create_task(peer.set(ids.take(), stored))
                running.add(task)
                task.add_done_callback(running.discard)
            written += per_tick
            if tick % SAMPLE_EVERY_TICKS == 0:
                memory = private_bytes()
                if part.server_pid is not None:
                    memory += private_bytes(part.server_pid)
                memories.append(memory)
                sizes.append(await asyncio.to_thread(directory_bytes, directory))
            # A peer that cannot keep the rate is not buried: its backlog is bounded.
            if len(running) > RATE:
                await asyncio.gather(*running)
            await asyncio.sleep(max(0.0, started + (tick + 1) * TICK_S - monotonic()))
        await asyncio.gather(*running)
        elapsed_s = monotonic() - started
    finally:
        await peer.close()
        part.discard(place)
    return {
        "ops_per_s": written / elapsed_s,
        "size_growth": growth(sizes),
        "size_max_mib": max(sizes) / (1 << 20),
        "memory_growth": growth(memories),
        "memory_max_mib": max(memories) / (1 << 20),
    }


def run(part: Slice, variant: str) -> Metrics:
    return asyncio.run(soak_slice(part))


WORKLOAD = Workload(
    name="W11",
    title="soak: 2,000 results a second with a time to live",
    variants=lambda profile: ["soak"],
    run=run,
    pace="long",
    # Those that have a time to live.
    only=frozenset({"logstore", "diskcache-full", "redis-always", "redis-everysec"}),
    metrics=(
        Metric("ops_per_s", "results per second", "higher"),
        Metric("size_growth", "size, last third / middle third", "lower", 3),
        Metric("size_max_mib", "largest size, MiB", "lower", 1),
        Metric("memory_growth", "memory, last third / middle third", "lower", 3),
        Metric("memory_max_mib", "largest private memory, MiB", "lower", 1),
    ),
)
