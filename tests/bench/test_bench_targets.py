"""The table of targets names what exists, and its verdicts fall on the right side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench.driver import Cell
from bench.peers import TABLE
from bench.profiles import PROFILES
from bench.stats import Spread
from bench.targets import (
    LARGEST,
    MIDDLE,
    SMALLEST,
    TARGETS,
    Best,
    Figure,
    Figures,
    Target,
    judge,
    needed,
)
from bench.workloads import WORKLOADS

PEERS: dict[str, dict[str, Any]] = {
    "logstore": {"role": "own", "durable": True, "shares_commits": False},
    "bare": {"role": "limit", "durable": True, "shares_commits": False},
    "slow": {"role": "peer", "durable": True, "shares_commits": False},
    "sharing": {"role": "peer", "durable": True, "shares_commits": True},
    "forgetful": {"role": "peer", "durable": False, "shares_commits": False},
}


def cells(metric: str, **rounds: list[float]) -> list[Cell]:
    return [
        Cell("W2", "c=1", peer, number, {metric: figure})
        for peer, figures in rounds.items()
        for number, figure in enumerate(figures)
    ]


def rate(sense: Any, bound: float, versus: Figure | Best | None) -> Target:
    return Target("test", "W2", "c=1", "ops_per_s", sense, bound, versus=versus)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.workload} {target.text}")
def test_every_target_names_a_workload_a_variant_and_peers_that_exist(target: Target) -> None:
    variants = WORKLOADS[target.workload].variants(PROFILES["quick"])
    assert target.variant in [*variants, SMALLEST, LARGEST, MIDDLE]
    assert target.metric in metrics_of(target.workload)
    for figure in (target.versus, target.minus):
        if isinstance(figure, Figure):
            assert figure.peer in TABLE
            there = WORKLOADS[figure.workload or target.workload].variants(PROFILES["quick"])
            assert (figure.variant or target.variant) in [*there, SMALLEST, LARGEST, MIDDLE]


def metrics_of(workload: str) -> set[str]:
    """The metrics that its tables show, and those that only targets use."""
    shown = {metric.key for metric in WORKLOADS[workload].metrics}
    return shown | {"errors", "bytes_ratio"} if workload in ("W5", "W6") else shown


def test_at_least_of_a_rate_is_ours_over_theirs() -> None:
    figures = Figures(cells("ops_per_s", logstore=[30.0, 90.0], slow=[10.0, 30.0]), PEERS)
    finding = judge(rate("at least", 3.0, Figure("slow")), figures)
    assert finding.measured is not None
    assert finding.measured.median == 3.0
    assert finding.met
    assert not judge(rate("at least", 3.1, Figure("slow")), figures).met


def test_at_least_of_a_latency_is_theirs_over_ours() -> None:
    figures = Figures(cells("p50_us", logstore=[10.0], slow=[20.0]), PEERS)
    target = Target("test", "W2", "c=1", "p50_us", "at least", 2.0, versus=Figure("slow"))
    finding = judge(target, figures)
    assert finding.measured is not None
    assert finding.measured.median == 2.0


def test_at_most_of_a_latency_is_ours_over_theirs() -> None:
    figures = Figures(cells("p50_us", logstore=[13.0], bare=[10.0]), PEERS)
    target = Target("test", "W2", "c=1", "p50_us", "at most", 1.3, versus=Figure("bare"))
    assert judge(target, figures).met
    worse = Target("test", "W2", "c=1", "p50_us", "at most", 1.2, versus=Figure("bare"))
    assert not judge(worse, figures).met


def test_a_flush_is_taken_off_before_the_bound_is_applied() -> None:
    found = cells("set_p999_us", logstore=[25_000.0])
    found += cells("p50_us", bare=[20_000.0])
    minus = Figure("bare", metric="p50_us")
    target = Target(
        "test", "W2", "c=1", "set_p999_us", "at most", 5.0, "ms", minus=minus, scale=1000.0
    )
    finding = judge(target, Figures(found, PEERS))
    assert finding.measured is not None
    assert finding.measured.median == 5.0


@pytest.mark.parametrize(
    ("rivals", "best"), [("any", "forgetful"), ("durable", "sharing"), ("durable alone", "slow")]
)
def test_the_best_peer_is_neither_ours_nor_the_limit(rivals: Any, best: str) -> None:
    found = cells(
        "ops_per_s", logstore=[9.0], bare=[8.0], slow=[1.0], sharing=[2.0], forgetful=[3.0]
    )
    assert judge(rate("at least", 1.0, Best(rivals)), Figures(found, PEERS)).against == best


def test_smallest_and_largest_compare_numbers_and_not_words() -> None:
    found = [
        Cell("W6", variant, "logstore", 0, {"set_p50_us": figure})
        for variant, figure in (("10000", 10.0), ("200", 5.0), ("1000", 7.0))
    ]
    target = Target(
        "test",
        "W6",
        LARGEST,
        "set_p50_us",
        "at most",
        1.5,
        versus=Figure("logstore", variant=SMALLEST),
    )
    finding = judge(target, Figures(found, PEERS))
    assert finding.measured is not None
    assert finding.measured.median == 2.0


@pytest.mark.parametrize(
    ("sense", "figure", "regressed"),
    [
        ("at least", 4.9, True),
        ("at least", 5.1, False),
        ("at most", 20.1, True),
        ("at most", 19.9, False),
    ],
)
def test_only_worse_than_half_of_the_target_is_a_regression(
    sense: Any, figure: float, regressed: bool
) -> None:
    found = Figures(cells("ops_per_s", logstore=[figure]), PEERS)
    assert judge(rate(sense, 10.0, None), found).regressed is regressed


def test_seconds_never_fail_a_run_and_errors_always_do() -> None:
    found = Figures(cells("p50_us", logstore=[1e9]) + cells("errors", logstore=[1.0]), PEERS)
    slow = Target("test", "W2", "c=1", "p50_us", "at most", 1.0, "ms")
    wrong = Target("test", "W2", "c=1", "errors", "at most", 0.0, "errors")
    assert not judge(slow, found).met
    assert not judge(slow, found).regressed
    assert judge(wrong, found).regressed


def test_what_is_promised_of_every_round_is_missed_by_one() -> None:
    found = Figures(cells("stall_max_ms", logstore=[3.0, 4.0, 11.0]), PEERS)
    target = Target("test", "W2", "c=1", "stall_max_ms", "at most", 10.0, "ms")
    assert judge(target, found).met
    assert not judge(replace(target, every=True), found).met
    rates = Figures(cells("ops_per_s", logstore=[3.0, 4.0, 1.0]), PEERS)
    least = rate("at least", 2.0, None)
    assert judge(least, rates).met
    assert not judge(replace(least, every=True), rates).met


def test_in_the_middle_is_the_median_of_the_variants_that_both_have() -> None:
    found = []
    for variant, ours in (("1w", [10.0, 30.0, 20.0]), ("2w", [40.0]), ("4w", [90.0]), ("8w", [])):
        for number, figure in enumerate(ours):
            found.append(Cell("W2", variant, "logstore", number, {"ops_per_s": figure}))
            found.append(Cell("W2", variant, "slow", number, {"ops_per_s": 10.0}))
    found.append(Cell("W2", "8w", "slow", 0, {"ops_per_s": 10.0}))
    target = replace(rate("at least", 4.0, Figure("slow")), variant=MIDDLE)
    finding = judge(target, Figures(found, PEERS))
    assert finding.measured == Spread(4.0, 2.0, 9.0, 3)
    assert (finding.met, finding.against) == (True, "slow")
    nothing = judge(target, Figures([], PEERS))
    assert (nothing.measured, nothing.met, nothing.regressed) == (None, False, False)


def test_a_ratio_of_tails_is_missed_and_fails_no_run() -> None:
    found = Figures(cells("ops_per_s", logstore=[1.0]), PEERS)
    finding = judge(replace(rate("at least", 10.0, None), fails=False), found)
    assert (finding.met, finding.regressed) == (False, False)


def test_a_target_without_figures_is_neither_met_nor_a_regression() -> None:
    finding = judge(rate("at least", 1.0, Figure("slow")), Figures([], PEERS))
    assert (finding.measured, finding.met, finding.regressed) == (None, False, False)


def test_a_smoke_run_measures_what_its_targets_compare_and_no_more() -> None:
    assert needed("W1", "300B", "logstore")
    assert needed("W1", "300B", "bare")
    assert not needed("W1", "1MiB", "logstore")
    assert needed("W2", "c=64", "lmdb")
    assert needed("W7", "2ms floor", "bare")
    assert not needed("W7", "2ms floor", "lmdb")
    assert needed("W6", "10000", "logstore")
    assert not needed("W6", "10000", "lmdb")
    assert not needed("W10", "wait", "logstore")
    assert needed("W13", "2ms 1w", "logstore")
    assert needed("W13", "2ms 4w", "logstore")
    assert needed("W14", "0ms compacting", "logstore")
    assert needed("W14", "0ms no compaction", "logstore")
    assert not needed("W14", "0ms no compaction", "bare")
    assert needed("W15", "10000", "logstore")
