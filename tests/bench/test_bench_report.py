from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import record, report
from bench.driver import Cell, Outcome
from bench.progress import Progress
from bench.stats import Spread


def about(title: str, role: str = "peer", durable: bool = True) -> dict[str, Any]:
    return {"title": title, "role": role, "durable": durable, "shares_commits": False, "why": ""}


@pytest.fixture
def sample() -> record.Record:
    outcome = Outcome(skipped=["postgres: no server"])
    outcome.peers = {
        "logstore": about("logstore", "own"),
        "sqlite-full": about("sqlite3 WAL FULL"),
        "sqlite-normal": about("sqlite3 WAL NORMAL", durable=False),
    }
    for number, drift in enumerate((1.0, 2.0, 4.0)):
        for peer, figure in (("logstore", 10.0), ("sqlite-full", 40.0), ("sqlite-normal", 5.0)):
            metrics: dict[str, float | list[float]] = {"p50_us": figure * drift, "curve_us": [1.0]}
            outcome.cells.append(Cell("W1", "300B", peer, number, metrics))
    machine = {
        "date": "2025-01-01",
        "processor": "a processor",
        "cpus": 2,
        "memory_bytes": 8 << 30,
        "kernel": "6.1",
        "file_system": {"device": "/dev/vda", "type": "ext4"},
        "versions": {"python": "3.11"},
    }
    return record.Record("bench", {"rounds": 3, "workloads": ["W1"]}, machine, outcome)


def test_a_record_survives_saving_and_loading(sample: record.Record, tmp_path: Path) -> None:
    path = tmp_path / "new" / "bench.json"
    sample.save(path)
    assert record.load(path) == sample


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text('{"format": 99}')
    with pytest.raises(ValueError, match="format 99, expected 1"):
        record.load(path)


def test_a_cell_shows_the_median_the_spread_and_how_good_it_is_beside_ours(
    sample: record.Record,
) -> None:
    text = report.render(sample, markdown=False)
    row = next(line for line in text.splitlines() if line.startswith("sqlite3 WAL FULL"))
    # Rounds that drift by four do not touch the ratio of slices of one round.
    assert "80.0 ±100% (0.25x)" in row
    assert "sqlite3 WAL NORMAL *" in text
    assert "postgres: no server" in text


def test_targets_are_beside_what_was_measured(sample: record.Record) -> None:
    text = report.render(sample, markdown=True)
    row = next(line for line in text.splitlines() if "faster than sqlite3 FULL" in line)
    assert "at least 1.50x" in row
    assert "4.00x (4.00x to 4.00x)" in row
    assert row.endswith("| met |")
    missing = next(line for line in text.splitlines() if "bare write and flush" in line)
    assert missing.endswith("| not measured |")


def test_markdown_rows_have_as_many_cells_as_the_header(sample: record.Record) -> None:
    lines = [
        line for line in report.render(sample, markdown=True).splitlines() if line.startswith("|")
    ]
    assert lines
    assert {line.count("|") for line in lines if "300B" in line or "sqlite3 WAL" in line}


def test_one_round_has_no_spread() -> None:
    assert report.with_spread(Spread(1234.5, 1234.5, 1234.5, 1)) == "1,234"


def test_progress_without_a_terminal_is_a_line_per_workload() -> None:
    import io

    stream = io.StringIO()
    progress = Progress(4, stream)
    progress.show("W1", "one")
    progress.step(2)
    progress.show("W1", "two")
    progress.show("W2", "three")
    progress.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert " 50% " in lines[1]
