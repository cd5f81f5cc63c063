"""W9: the longest stall of the event loop during W2 at concurrency 64, at three flush times."""

from __future__ import annotations

import asyncio

from ..measure import Metrics
from .base import Metric, Slice, Workload
from .w02_async_set import set_slice
from .w07_slow_disk import DELAYS_MS, delay_of

LANES = 64


def run(part: Slice, variant: str) -> Metrics:
    assert part.control is not None
    part.control.set_delay(delay_of(variant))
    try:
        seconds = part.profile.slow_slice_s
        return asyncio.run(set_slice(part, LANES, seconds, ticker=True))
    finally:
        part.control.set_delay(0)


WORKLOAD = Workload(
    name="W9",
    title="longest stall of the event loop, c=64",
    variants=lambda profile: ["0ms", *(f"{delay}ms" for delay in DELAYS_MS)],
    run=run,
    pace="slow",
    shimmed=True,
    # The limit takes part: its stalls are the machine's own.
    without=frozenset({"postgres"}),
    metrics=(
        Metric("stall_max_ms", "longest stall, ms", "lower", 2),
        Metric("stall_p99_ms", "p99 of the stalls, ms", "lower", 2),
    ),
)
