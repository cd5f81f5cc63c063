"""W12: writer processes that share flushes, beside one process of the same round."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bench.driver import Cell, Driver, Outcome, contenders
from bench.measure import Metrics
from bench.peers import load
from bench.profiles import PROFILES
from bench.progress import Progress
from bench.report import _cell
from bench.shim import Control
from bench.targets import Figures, needed
from bench.workloads import WORKLOADS, Slice, w12_writers

SMOKE = PROFILES["smoke"]


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_flushes_of_all_processes_are_counted_against_their_sets(tmp_path: Path) -> None:
    profile = replace(SMOKE, slow_rounds=1, contention_s=0.5, writers=(1, 4))
    rivals = contenders(["logstore"])
    outcome = Driver(profile, rivals, tmp_path, Progress(1, io.StringIO())).run(["W12"])
    assert (outcome.failed, outcome.skipped) == ([], [])
    one, four = (cell.metrics for cell in outcome.cells)
    assert [cell.variant for cell in outcome.cells] == ["2ms 1w", "2ms 4w"]
    # A compaction's two may be among them.
    assert 1.0 <= figure(one, "flushes_per_set") < 1.3
    assert figure(four, "flushes_per_set") < 0.9
    assert figure(one, "over_one") == 1.0
    assert figure(four, "over_one") == figure(four, "set_ops_per_s") / figure(one, "set_ops_per_s")
    for metrics in (one, four):
        assert figure(metrics, "flush_us") > 2000
        assert figure(metrics, "set_p50_us") > 2000
        assert figure(metrics, "set_p999_beyond_ms") == pytest.approx(
            (figure(metrics, "set_p999_us") - 2 * figure(metrics, "flush_us")) / 1000
        )


def figure(metrics: Metrics, key: str) -> float:
    found = metrics[key]
    assert isinstance(found, float)
    return found


@pytest.fixture
def part(tmp_path: Path) -> Slice:
    found = Slice(load("logstore"), SMOKE, 0, tmp_path, [])
    found.control = Control(tmp_path / "control")
    return found


def measured(monkeypatch: pytest.MonkeyPatch, part: Slice, variant: str, **found: float) -> Metrics:
    monkeypatch.setattr(w12_writers, "floor", lambda *_: {"p50_us": 2000.0})
    figures = {"set_ops_per_s": 1.0, "set_p999_us": 0.0, "errors": 0.0, **found}
    monkeypatch.setattr(w12_writers, "contention_slice", lambda *_, **__: figures)
    return w12_writers.run(part, variant)


def test_processes_are_compared_with_one_of_the_same_round_and_delay(
    part: Slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, part, "2ms 1w", set_ops_per_s=300.0)
    measured(monkeypatch, part, "20ms 1w", set_ops_per_s=50.0)
    four = measured(monkeypatch, part, "2ms 4w", set_ops_per_s=900.0, set_p999_us=9000.0)
    assert (four["over_one"], four["set_p999_beyond_ms"]) == (3.0, 5.0)
    part.round = 1
    assert "over_one" not in measured(monkeypatch, part, "2ms 4w", set_ops_per_s=900.0)


def test_sets_that_fail_make_a_slice_that_fails_and_the_delay_ends(
    part: Slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    part.kept["notes"] = ["the disk is full"]
    with pytest.raises(RuntimeError, match="2 sets failed: the disk is full"):
        measured(monkeypatch, part, "2ms 4w", errors=2.0)
    assert part.control is not None
    assert part.control.path.read_bytes()[:8] == bytes(8)


def test_a_smoke_run_has_the_cells_that_its_ratios_need() -> None:
    variants = WORKLOADS["W12"].variants(SMOKE)
    assert variants == ["2ms 1w", "2ms 4w"]
    assert all(needed("W12", variant, "logstore") for variant in variants)


def test_a_rate_is_compared_with_ours_and_a_figure_beside_one_process_is_not() -> None:
    outcome = Outcome()
    for peer, rate in (("logstore", 600.0), ("redis-always", 300.0)):
        figures: Metrics = {"set_ops_per_s": rate, "over_one": 2.0}
        outcome.cells.append(Cell("W12", "2ms 4w", peer, 0, figures))
    found = Figures(outcome.cells, {})
    workload = WORKLOADS["W12"]
    shown = {
        metric.key: _cell(workload, "2ms 4w", "redis-always", metric, found)
        for metric in workload.metrics
    }
    assert shown["set_ops_per_s"] == "300 (0.50x)"
    assert shown["over_one"] == "2.00"
