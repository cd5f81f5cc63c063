"""W8: flushes and bytes that reach the device per durable result.

Two counts that check each other: the shim counts the calls that make data durable, in the peer's
process and its server's; the block device counts what it was told to write and to flush, which
includes the file system's journal and whatever else the machine was doing meanwhile (so nothing
else should be). Closing the store, with a last checkpoint or compaction, is part of the price.

Not used: `write_bytes` of `/proc/*/io`. It is charged when a page becomes dirty, and where the file
system has large folios a whole folio at a time: 1 MiB for an append of 300 bytes was seen.
"""

from __future__ import annotations

import asyncio
import os

from ..counters import DeviceCount, device_count, device_stat_path
from ..measure import Metrics
from ..payloads import result
from ..peers.base import AsyncPeer
from .base import Metric, Slice, Workload
from .w02_async_set import lanes_of


class Counters:
    """All the counters at one moment."""

    def __init__(self, part: Slice) -> None:
        assert part.control is not None
        self.flushes = part.control.flushes().total
        self.device: DeviceCount | None = device_count(device_stat_path(part.base))


async def count_slice(part: Slice, lanes: int) -> Metrics:
    place = part.place()
    peer: AsyncPeer = part.peer.async_class(place)
    count = part.profile.device_results
    pending = iter(range(count))
    ids = part.ids(place, count)
    stored = result(1)

    async def lane() -> None:
        for _ in pending:
            await peer.set(ids.take(), stored)

    # What earlier slices left dirty would be charged to this one.
    os.sync()
    await peer.open()
    groups_before = peer.commit_groups()
    before = Counters(part)
    await asyncio.gather(*(lane() for _ in range(lanes)))
    groups_after = peer.commit_groups()
    at_last_ack = Counters(part)
    await peer.close()
    after = Counters(part)
    part.discard(place)

    metrics: Metrics = {}
    remote = part.peer.about.server == "postgres"
    if not remote:
        metrics["flushes_per_result"] = (after.flushes - before.flushes) / count
    if after.device is not None and before.device is not None:
        written = after.device.written_bytes - before.device.written_bytes
        metrics["device_written_per_result"] = written / count
        metrics["device_flushes_per_result"] = (
            after.device.flushes - before.device.flushes
        ) / count
    if groups_before is not None and groups_after is not None and groups_after > groups_before:
        groups = groups_after - groups_before
        metrics["flushes_per_group"] = (at_last_ack.flushes - before.flushes) / groups
        metrics["results_per_group"] = count / groups
    return metrics


def run(part: Slice, variant: str) -> Metrics:
    return asyncio.run(count_slice(part, lanes_of(variant)))


WORKLOAD = Workload(
    name="W8",
    title="what reaches the device, per durable result",
    variants=lambda profile: ["c=1", "c=64"],
    run=run,
    pace="slow",
    shimmed=True,
    metrics=(
        Metric("flushes_per_result", "flush calls per result", "lower", 3),
        Metric("flushes_per_group", "flush calls per commit group", "lower", 3),
        Metric("device_written_per_result", "bytes per result, at the device", "lower"),
        Metric("device_flushes_per_result", "flushes per result, at the device", "lower", 3),
    ),
)
