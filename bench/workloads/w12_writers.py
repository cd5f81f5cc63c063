"""W12: 1, 2, 4 and 8 writer processes on one store, with flushes of 0.2, 2 and 20 ms (see shim.c).

The writers of W5, without its readers: each process awaits one durable set at a time. What they
can share is the flush: where each process flushes for itself, more of them gain nothing.

A write that comes while another's flush runs waits for that flush and for its own, so the longest
latencies are shown beyond two flushes. How long a flush takes is measured before each slice.
"""

from __future__ import annotations

from collections.abc import Callable

from ..measure import Metrics
from ..profiles import Profile
from .base import Metric, Slice, Workload
from .w05_contention import METRICS as CONTENTION_METRICS
from .w05_contention import contention_slice
from .w07_slow_disk import delay_of, floor

# As long as this many delays, and a little for the flush itself.
FLOOR_FLUSHES = 10
FLOOR_S_MIN = 0.05


def writers_of(variant: str) -> int:
    """The number of processes that a variant's name ends in: ``2ms 4w``."""
    return int(variant.partition(" ")[2].removesuffix("w"))


def modelled(part: Slice, variant: str, measure: Callable[[int], Metrics]) -> Metrics:
    """Measure a variant's number of processes at its delay, beside one flush and one process.

    Raises RuntimeError if a set failed.
    """
    assert part.control is not None
    delay_s, writers = delay_of(variant), writers_of(variant)
    part.control.set_delay(delay_s)
    try:
        flush_us = floor(part, FLOOR_FLUSHES * delay_s + FLOOR_S_MIN)["p50_us"]
        metrics = measure(writers)
    finally:
        part.control.set_delay(0)
    if metrics["errors"]:
        raise RuntimeError(f"{metrics['errors']:.0f} sets failed: {part.kept['notes'][-1]}")
    rate, longest_us = metrics["set_ops_per_s"], metrics["set_p999_us"]
    assert isinstance(flush_us, float)
    assert isinstance(rate, float)
    assert isinstance(longest_us, float)
    # The one process of the same round and delay, which came before.
    alone: dict[float, tuple[int, float]] = part.kept.setdefault("alone", {})
    if writers == 1:
        alone[delay_s] = (part.round, rate)
    number, base = alone.get(delay_s, (None, 0.0))
    if number == part.round:
        metrics["over_one"] = rate / base
    metrics["flush_us"] = flush_us
    metrics["set_p999_beyond_ms"] = (longest_us - 2 * flush_us) / 1000
    return metrics


def variants(profile: Profile) -> list[str]:
    """Each number of processes at each delay, one process first."""
    return [
        f"{delay:g}ms {writers}w"
        for delay in profile.writer_delays_ms
        for writers in profile.writers
    ]


def run(part: Slice, variant: str) -> Metrics:
    return modelled(part, variant, lambda writers: contention_slice(part, writers, readers=0))


WORKLOAD = Workload(
    name="W12",
    title="writer processes on a modelled disk",
    variants=variants,
    run=run,
    pace="slow",
    shimmed=True,
    only=frozenset({"logstore", "redis-always"}),
    metrics=(
        CONTENTION_METRICS[0],
        Metric("over_one", "sets per second over one process", "higher", 2, compared=False),
        Metric("flushes_per_set", "flush calls per set", "lower", 3),
        *CONTENTION_METRICS[1:4],
        Metric(
            "set_p999_beyond_ms", "set p99.9 beyond two flushes, ms", "lower", 2, compared=False
        ),
        Metric("flush_us", "one bare write and flush, us", "lower", compared=False),
    ),
)
