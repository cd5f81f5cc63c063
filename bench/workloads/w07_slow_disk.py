"""W7: W2 and W5 on a modelled slow disk (see shim.c): 2 ms a flush is a consumer SSD, 20 ms an SD
card or a disk.

The delay starts when the store has been opened and ends before it is closed only in so far as
opening and closing are not measured. PostgreSQL takes no part: its server runs elsewhere and
would not be slowed.
"""

from __future__ import annotations

import asyncio

from ..measure import Metrics, closed_loop
from ..payloads import value
from ..peers import WRITE_ONLY
from ..peers.bare import Bare
from .base import Metric, Slice, Workload
from .w02_async_set import lanes_of, set_slice
from .w05_contention import METRICS as CONTENTION_METRICS
from .w05_contention import contention_slice

DELAYS_MS = (2, 20)
FLOOR = "floor"
CONTENTION = "2w+2r"


def delay_of(variant: str) -> float:
    """The delay in seconds that a variant's name starts with: ``2ms c=1``."""
    return float(variant.partition("ms")[0]) / 1000


def floor(part: Slice, seconds: float) -> Metrics:
    """Measure the bare write and flush, in one thread, at the delay that is set."""
    place = part.place()
    bare = Bare(place)
    bare.open()
    payload = value(300)
    try:
        return closed_loop(lambda: bare.set("0" * 32, payload), seconds).metrics()
    finally:
        bare.close()
        part.discard(place)


def run(part: Slice, variant: str) -> Metrics:
    assert part.control is not None
    kind = variant.partition(" ")[2]
    part.control.set_delay(delay_of(variant))
    try:
        if kind == FLOOR:
            return floor(part, part.profile.slow_slice_s)
        if kind == CONTENTION:
            return contention_slice(part)
        return asyncio.run(set_slice(part, lanes_of(kind), part.profile.slow_slice_s))
    finally:
        part.control.set_delay(0)


def takes_part(variant: str, peer: str) -> bool:
    if variant.endswith(FLOOR):
        return peer == "bare"
    if variant.endswith(CONTENTION):
        return peer not in WRITE_ONLY | {"logstore-async"}
    return True


WORKLOAD = Workload(
    name="W7",
    title="a modelled slow disk",
    variants=lambda profile: [
        f"{delay}ms {kind}" for delay in DELAYS_MS for kind in (FLOOR, "c=1", "c=64", CONTENTION)
    ],
    run=run,
    pace="slow",
    shimmed=True,
    without=frozenset({"postgres"}),
    takes_part=takes_part,
    metrics=(
        Metric("ops_per_s", "results per second", "higher"),
        Metric("p50_us", "median latency, us", "lower"),
        *CONTENTION_METRICS[:4],
        CONTENTION_METRICS[5],
        CONTENTION_METRICS[8],
    ),
)
