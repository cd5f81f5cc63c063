"""W1: sequential, synchronous, durable sets of 300 B, 4 KiB and 1 MiB."""

from __future__ import annotations

from ..measure import Metrics, closed_loop
from ..payloads import SIZES, value
from .base import Metric, Slice, Workload


def run(part: Slice, variant: str) -> Metrics:
    size = SIZES[variant]
    place = part.place(value_bytes=size)
    assert part.peer.sync_class is not None
    peer = part.peer.sync_class(place)
    ids = part.ids(place, 20_000 if size < 100_000 else 1_000)
    payload = value(size)
    peer.open()
    try:
        return closed_loop(lambda: peer.set(ids.take(), payload), part.profile.slice_s).metrics()
    finally:
        peer.close()
        part.discard(place)


WORKLOAD = Workload(
    name="W1",
    title="sequential synchronous set",
    variants=lambda profile: list(SIZES),
    run=run,
    side="sync",
    metrics=(
        Metric("p50_us", "median latency, us", "lower", 1),
        Metric("p99_us", "p99 latency, us", "lower", 1),
    ),
)
