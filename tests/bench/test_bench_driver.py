"""A whole run in small: workers, rounds, the record and the exit status."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bench.driver import Driver, contenders, slices_of, takes_part
from bench.profiles import PROFILES
from bench.progress import Progress
from bench.workloads import WORKLOADS

TINY = replace(PROFILES["smoke"], rounds=2, slice_s=0.02, contention_s=0.1, store_sizes=(100, 200))


def test_two_rounds_of_two_peers_are_interleaved_and_nothing_is_left(tmp_path: Path) -> None:
    rivals = contenders(["bare", "sqlite-full"])
    progress = Progress(1, io.StringIO())
    outcome = Driver(TINY, rivals, tmp_path, progress).run(["W1"])
    assert outcome.failed == []
    small = [cell for cell in outcome.cells if cell.variant == "300B"]
    assert [(cell.round, cell.peer) for cell in small] == [
        (0, "bare"),
        (0, "sqlite-full"),
        (1, "sqlite-full"),
        (1, "bare"),
    ]
    assert len(outcome.cells) == slices_of(WORKLOADS["W1"], TINY, rivals)
    assert list(outcome.seconds) == ["W1"]
    assert outcome.seconds["W1"] > 0
    assert list(tmp_path.iterdir()) == []


def test_writers_and_readers_of_four_processes_agree_on_what_is_there(tmp_path: Path) -> None:
    progress = Progress(1, io.StringIO())
    profile = replace(TINY, slow_rounds=1)
    outcome = Driver(profile, contenders(["sqlite-full"]), tmp_path, progress).run(["W5"])
    assert outcome.failed == []
    (cell,) = outcome.cells
    assert cell.metrics["errors"] == 0
    assert cell.metrics["get_ops_per_s"]


def test_a_filled_store_is_measured_by_another_process(tmp_path: Path) -> None:
    progress = Progress(1, io.StringIO())
    profile = replace(TINY, slow_rounds=1)
    outcome = Driver(profile, contenders(["lmdb"]), tmp_path, progress).run(["W6"])
    assert outcome.failed == []
    assert [cell.variant for cell in outcome.cells] == ["100", "200"]
    assert all(cell.metrics["bytes_per_result"] for cell in outcome.cells)


def test_a_peer_that_cannot_start_is_skipped_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("taskiq_redis")
    monkeypatch.setenv("PATH", "")
    progress = Progress(1, io.StringIO())
    outcome = Driver(TINY, contenders(["redis-always"]), tmp_path, progress).run(["W2"])
    assert outcome.skipped == ["redis-server is not installed"]
    assert outcome.cells == []


def test_an_unknown_peer_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(KeyError, match="known: logstore"):
        contenders(["mysql"])


def test_a_synchronous_workload_has_no_asynchronous_peers() -> None:
    assert takes_part(WORKLOADS["W1"], "sqlite-full")
    assert not takes_part(WORKLOADS["W1"], "redis-always")
    assert not takes_part(WORKLOADS["W3"], "bare")


def test_what_has_no_results_takes_part_where_sets_alone_are_measured() -> None:
    part = [name for name, workload in WORKLOADS.items() if takes_part(workload, "litequeue-full")]
    assert part == ["W1", "W2", "W7", "W8", "W9"]
    variants = WORKLOADS["W7"].variants(TINY)
    slow = [one for one in variants if WORKLOADS["W7"].takes_part(one, "litequeue-full")]
    assert slow == ["2ms c=1", "2ms c=64", "20ms c=1", "20ms c=64"]


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server")
def test_a_server_is_slowed_when_the_bench_runs_in_a_relative_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("taskiq_redis")
    monkeypatch.chdir(tmp_path)
    profile = replace(TINY, slow_rounds=1, writers=(1,))
    progress = Progress(1, io.StringIO())
    outcome = Driver(profile, contenders(["redis-always"]), Path(), progress).run(["W12"])
    assert (outcome.failed, outcome.skipped) == ([], [])
    (cell,) = outcome.cells
    assert cell.metrics["flushes_per_set"] == pytest.approx(1.0, abs=0.2)
    assert list(tmp_path.iterdir()) == []
