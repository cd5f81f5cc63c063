"""What the store promises to reach: a table of data, and how a row is judged.

A figure is the median over the rounds of what each round gave; a ratio pairs the two slices of the
same round. At concurrency 1 the figure is the median latency, above that the throughput. Only
ratios and error counts can fail a smoke run: seconds are the machine's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from .driver import Cell
from .stats import Spread, median, spread

Unit = Literal["x", "ms", "%", "errors"]
Sense = Literal["at most", "at least"]
Rivals = Literal["durable", "durable alone", "any"]

OWN = "logstore"
SMALLEST = "smallest"
# Of the variants of a workload the one in the middle, by what a target compares.
MIDDLE = "in the middle"
LARGEST = "largest"


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric of one variant of one peer. A missing part is the target's own."""

    peer: str = ""
    workload: str = ""
    variant: str = ""
    metric: str = ""


@dataclass(frozen=True, slots=True)
class Best:
    """The best of the peers of a kind: neither our own nor the bare limit.

    *durable alone* leaves out those whose concurrent writers share transactions.
    """

    rivals: Rivals


@dataclass(frozen=True, slots=True)
class Target:
    """One promise: our figure against `versus` (a ratio), less `minus` (a difference), or alone."""

    text: str
    workload: str
    variant: str
    metric: str
    sense: Sense
    bound: float
    unit: Unit = "x"
    versus: Figure | Best | None = None
    minus: Figure | None = None
    # What one of the unit is in the metric's own: microseconds per millisecond.
    scale: float = 1.0
    # Promised of each round, and not of their median.
    every: bool = False
    # A ratio of two tails is not steady enough to fail a run that is short.
    fails: bool = True


FLUSH = Figure("bare", "W1", "300B", "p50_us")
DURABLE = Best("durable")
ALONE = Best("durable alone")
ANY = Best("any")
REDIS = Figure("redis-always")

TARGETS: tuple[Target, ...] = (
    Target("set latency over bare write and flush", "W1", "300B", "p50_us", "at most", 1.3,
           versus=Figure("bare")),
    Target("faster than sqlite3 FULL", "W1", "300B", "p50_us", "at least", 1.5,
           versus=Figure("sqlite-full")),
    Target("faster than the best durable peer", "W2", "c=1", "p50_us", "at least", 1.3,
           versus=DURABLE),
    Target("faster than the best durable peer", "W2", "c=64", "ops_per_s", "at least", 5.0,
           versus=DURABLE),
    Target("the same, of those with a transaction per result", "W2", "c=64", "ops_per_s",
           "at least", 5.0, versus=ALONE),
    Target("faster than aiosqlite NORMAL, not durable", "W2", "c=64", "ops_per_s", "at least",
           1.0, versus=Figure("aiosqlite-normal")),
    Target("get just written over the best peer", "W3", "new c=1", "p50_us", "at least", 5.0,
           versus=ANY),
    Target("missing id over the best peer", "W3", "missing c=1", "p50_us", "at least", 1.0,
           versus=ANY),
    Target("missing id over the best peer", "W3", "missing c=64", "ops_per_s", "at least", 2.0,
           versus=ANY),
    Target("get from the table over the best peer", "W3", "table c=1", "p50_us", "at least",
           1.0, versus=ANY),
    Target("get from the table over the best peer", "W3", "table c=64", "ops_per_s", "at least",
           2.0, versus=ANY),
    Target("progress of one task over the best peer", "W4", "one c=64", "ops_per_s", "at least",
           3.0, versus=ANY),
    Target("progress of a thousand tasks over the best peer", "W4", "thousand c=64", "ops_per_s",
           "at least", 3.0, versus=ANY),
    Target("reader and writer errors", "W5", "2w+2r", "errors", "at most", 0.0, unit="errors"),
    Target("p99.9 of a set beyond its flush", "W5", "2w+2r", "set_p999_us", "at most", 30.0,
           unit="ms", minus=FLUSH, scale=1000.0),
    Target("set, largest store over smallest", "W6", LARGEST, "set_p50_us", "at most", 1.5,
           versus=Figure(OWN, variant=SMALLEST)),
    Target("get, largest store over smallest", "W6", LARGEST, "get_p50_us", "at most", 1.5,
           versus=Figure(OWN, variant=SMALLEST)),
    Target("open of the largest store", "W6", LARGEST, "open_ms", "at most", 50.0, unit="ms"),
    Target("bytes over the bytes of the data", "W6", LARGEST, "bytes_ratio", "at most", 1.5),
    Target("faster than aiosqlite FULL, 2 ms a flush", "W7", "2ms c=64", "ops_per_s", "at least",
           30.0, versus=Figure("aiosqlite-full")),
    Target("set latency over one flush of 2 ms", "W7", "2ms c=1", "p50_us", "at most", 1.1,
           versus=Figure("bare", variant="2ms floor")),
    Target("reader and writer errors, 2 ms a flush", "W7", "2ms 2w+2r", "errors", "at most", 0.0,
           unit="errors"),
    Target("reader and writer errors, 20 ms a flush", "W7", "20ms 2w+2r", "errors", "at most",
           0.0, unit="errors"),
    Target("p99.9 of a set beyond its flush, 2 ms", "W7", "2ms 2w+2r", "set_p999_us", "at most",
           30.0, unit="ms", minus=Figure("bare", variant="2ms floor", metric="p50_us"),
           scale=1000.0),
    Target("p99.9 of a set beyond its flush, 20 ms", "W7", "20ms 2w+2r", "set_p999_us",
           "at most", 30.0, unit="ms",
           minus=Figure("bare", variant="20ms floor", metric="p50_us"), scale=1000.0),
    Target("flushes per commit group", "W8", "c=1", "flushes_per_group", "at most", 1.02),
    Target("flushes per commit group", "W8", "c=64", "flushes_per_group", "at most", 1.02),
    Target("bytes at the device over py-lmdb's", "W8", "c=1", "device_written_per_result",
           "at most", 1 / 3, versus=Figure("lmdb")),
    *(Target("longest stall of the loop, in every round", "W9", f"{delay}ms", "stall_max_ms",
             "at most", 10.0, unit="ms", every=True)
      for delay in ("0", "2", "20")),
    Target("acknowledgement to wake-up", "W10", "wait", "wake_p50_ms", "at most", 5.0, unit="ms"),
    Target("CPU of waiting on 1,000 ids", "W10", "wait", "waiting_cpu_percent", "at most", 1.0,
           unit="%"),
    Target("size, last third over middle third", "W11", "soak", "size_growth", "at most", 1.1),
    Target("memory, last third over middle third", "W11", "soak", "memory_growth", "at most",
           1.1),
    Target("4 writer processes over one, 0.2 ms a flush", "W12", "0.2ms 4w", "over_one",
           "at least", 2.2),
    Target("8 writer processes over one, 0.2 ms a flush", "W12", "0.2ms 8w", "over_one",
           "at least", 3.5),
    Target("4 writer processes over one, 2 ms a flush", "W12", "2ms 4w", "over_one", "at least",
           2.5),
    Target("8 writer processes over one, 2 ms a flush", "W12", "2ms 8w", "over_one", "at least",
           4.0),
    *(Target("flushes per set", "W12", f"2ms {writers}w", "flushes_per_set", "at most", bound)
      for writers, bound in ((1, 1.02), (4, 0.45), (8, 0.3))),
    *(Target("p99.9 of a set beyond two flushes", "W12", f"2ms {writers}w", "set_p999_beyond_ms",
             "at most", 10.0, unit="ms")
      for writers in (1, 2, 4, 8)),
    *(Target("4 taskiq workers over one", "W13", f"{delay}ms 4w", "over_one", "at least", 1.5)
      for delay in ("0.2", "2", "20")),
    *(Target("faster than taskiq-redis, always", workload, f"{delay}ms {writers}w",
             "set_ops_per_s", "at least", 1.0, versus=REDIS)
      for workload in ("W12", "W13") for delay in ("0.2", "2", "20") for writers in (1, 2, 4, 8)),
    *(Target("faster than taskiq-redis, always", workload, MIDDLE, "set_ops_per_s", "at least",
             2.0, versus=REDIS)
      for workload in ("W12", "W13")),
    Target("p99.9 of a set over the same without compactions", "W14", "0ms compacting", "p999_us",
           "at most", 1.0, versus=Figure(OWN, variant="0ms no compaction"), fails=False),
    Target("p99.9 of a set beyond its flush", "W14", "0ms compacting", "p999_beyond_ms",
           "at most", 8.0, unit="ms"),
    *(Target("longest stall of the loop, in every round", "W14", f"{delay}ms compacting",
             "stall_max_ms", "at most", 10.0, unit="ms", every=True)
      for delay in ("0", "2", "20")),
    Target("recovery after a kill with a full log", "W15", LARGEST, "recovery_ms", "at most",
           150.0, unit="ms"),
    Target("acknowledged results that are missing", "W15", LARGEST, "errors", "at most", 0.0,
           unit="errors", every=True),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """A target with what was measured; `measured` is None when there is nothing to go by."""

    target: Target
    measured: Spread | None
    against: str = ""

    @property
    def met(self) -> bool:
        """Whether the median is within the bound; of some targets, each round."""
        if self.measured is None:
            return False
        if self.target.sense == "at most":
            worst = self.measured.high if self.target.every else self.measured.median
            return worst <= self.target.bound
        worst = self.measured.low if self.target.every else self.measured.median
        return worst >= self.target.bound

    @property
    def regressed(self) -> bool:
        """Whether it is so far off that it is not noise: worse than half of the target."""
        if self.measured is None or self.target.unit in ("ms", "%") or not self.target.fails:
            return False
        if self.target.unit == "errors":
            return not self.met
        if self.target.sense == "at most":
            return self.measured.median > 2 * self.target.bound
        return self.measured.median < self.target.bound / 2


def needed(workload: str, variant: str, peer: str) -> bool:
    """Whether a target that can fail a smoke run needs this peer in this variant."""
    return any(
        _needs(target, variant, peer)
        for target in TARGETS
        if target.workload == workload and target.unit in ("x", "errors")
    )


def _needs(target: Target, variant: str, peer: str) -> bool:
    sizes = target.variant in (SMALLEST, LARGEST)
    if peer == OWN and (sizes or target.variant == variant):
        return True
    if isinstance(target.versus, Best):
        return target.variant == variant
    if target.versus is None or target.versus.peer != peer:
        return False
    return variant == (target.versus.variant or target.variant)


class Figures:
    """The cells of a run, looked up by what a target names."""

    def __init__(self, cells: Sequence[Cell], peers: dict[str, dict[str, Any]]) -> None:
        self._peers = peers
        self._values: dict[tuple[str, str, str, str], dict[int, float]] = {}
        self._variants: dict[str, list[str]] = {}
        for cell in cells:
            variants = self._variants.setdefault(cell.workload, [])
            if cell.variant not in variants:
                variants.append(cell.variant)
            for metric, figure in cell.metrics.items():
                if not isinstance(figure, list):
                    key = (cell.workload, cell.variant, cell.peer, metric)
                    self._values.setdefault(key, {})[cell.round] = figure

    def rounds(self, workload: str, variant: str, peer: str, metric: str) -> dict[int, float]:
        """The figure of each round; `smallest` and `largest` name variants that are numbers."""
        if variant in (SMALLEST, LARGEST):
            numbers = [int(one) for one in self._variants.get(workload, ()) if one.isdigit()]
            numbers = [one for one in numbers if (workload, str(one), peer, metric) in self._values]
            if not numbers:
                return {}
            variant = str(min(numbers) if variant == SMALLEST else max(numbers))
        return self._values.get((workload, variant, peer, metric), {})

    def variants(self, workload: str) -> list[str]:
        """The variants of `workload` that were measured."""
        return list(self._variants.get(workload, ()))

    def best(self, target: Target, rivals: Rivals) -> str | None:
        """The peer with the best median of the target's metric; None when there is none."""
        ranked = []
        for name, about in self._peers.items():
            if about["role"] != "peer" or (rivals != "any" and not about["durable"]):
                continue
            if rivals == "durable alone" and about["shares_commits"]:
                continue
            figures = self.rounds(target.workload, target.variant, name, target.metric)
            if figures:
                ranked.append((median(list(figures.values())), name))
        if not ranked:
            return None
        return (min(ranked) if is_latency(target.metric) else max(ranked))[1]


def is_latency(metric: str) -> bool:
    """Whether less of `metric` is better; otherwise it is a rate."""
    return not metric.endswith("ops_per_s")


def judge(target: Target, figures: Figures, own: str = OWN) -> Finding:
    """What was measured of `target`."""
    if target.variant == MIDDLE:
        return _judge_middle(target, figures, own)
    ours = figures.rounds(target.workload, target.variant, own, target.metric)
    if target.minus is not None:
        floor = _figure(target, target.minus, figures)
        if not floor:
            return Finding(target, None, target.minus.peer)
        base = median(list(floor.values()))
        ours = {number: figure - base for number, figure in ours.items()}
    against = ""
    if target.versus is not None:
        if isinstance(target.versus, Best):
            against = figures.best(target, target.versus.rivals) or ""
            theirs = figures.rounds(target.workload, target.variant, against, target.metric)
        else:
            against = target.versus.peer
            theirs = _figure(target, target.versus, figures)
        # A speed-up is "at least"; of a latency it is theirs over ours.
        turned = target.sense == "at least" and is_latency(target.metric)
        pairs = [(figure, theirs[number]) for number, figure in ours.items() if number in theirs]
        if turned:
            pairs = [(their, our) for our, their in pairs]
        values = [above / below for above, below in pairs if below]
    else:
        values = [figure / target.scale for figure in ours.values()]
    if target.minus is not None:
        against = target.minus.peer
    return Finding(target, spread(values) if values else None, against)


def _judge_middle(target: Target, figures: Figures, own: str) -> Finding:
    """Take the median over the variants; each gives the median of its rounds."""
    found = [
        judge(replace(target, variant=variant), figures, own)
        for variant in figures.variants(target.workload)
    ]
    medians = [finding.measured.median for finding in found if finding.measured is not None]
    against = found[0].against if found else ""
    return Finding(target, spread(medians) if medians else None, against)


def _figure(target: Target, figure: Figure, figures: Figures) -> dict[int, float]:
    return figures.rounds(
        figure.workload or target.workload,
        figure.variant or target.variant,
        figure.peer,
        figure.metric or target.metric,
    )


def judge_all(figures: Figures, workloads: Sequence[str], own: str = OWN) -> list[Finding]:
    """The findings of every target of `workloads`, in the table's order."""
    return [judge(target, figures, own) for target in TARGETS if target.workload in workloads]
