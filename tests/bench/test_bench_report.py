from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from bench import record, report
from bench.driver import Cell, Outcome
from bench.profiles import ALL, PROFILES
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
            rate: dict[str, float | list[float]] = {"ops_per_s": figure}
            outcome.cells.append(Cell("W4", "thousand c=64", peer, number, rate))
    machine = {
        "date": "2025-01-01",
        "processor": "a processor",
        "cpus": 2,
        "memory_bytes": 8 << 30,
        "kernel": "6.1",
        "file_system": {"device": "/dev/vda", "type": "ext4"},
        "versions": {"python": "3.11"},
    }
    small = replace(
        PROFILES["quick"],
        workloads=["W1", "W4"],
        store_sizes=[],
        writers=[],
        writer_delays_ms=[],
        tail_delays_ms=[],
        log_sizes_kib=[],
    )
    return record.Record("bench", asdict(small), machine, outcome)


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


def test_the_summary_has_a_row_for_each_peer_and_the_targets(sample: record.Record) -> None:
    lines = report.summary(sample).splitlines()
    assert "2025-01-01, `bench`, 3 rounds" in lines[0]
    shown = {"W1": "10", "W4": "5"}
    cells = [shown.get(column.workload, "-") for column in report.SUMMARY]
    assert f"| sqlite3 WAL NORMAL * | {' | '.join(cells)} |" in lines
    assert any("faster than sqlite3 FULL" in line and "met" in line for line in lines)


def test_what_a_workload_does_not_make_durable_has_a_star(sample: record.Record) -> None:
    text = report.render(sample, markdown=False)
    sets, updates = text.partition("W4 progress updates: updates per second")[::2]
    assert "logstore *" not in sets
    assert "logstore *  " in updates
    assert "sqlite3 WAL FULL *" not in text
    row = next(line for line in report.summary(sample).splitlines() if "| logstore |" in line)
    assert " 10 * |" in row


@pytest.mark.parametrize(
    ("workloads", "line"),
    [
        (("W1",), "3 rounds"),
        (("W5", "W6"), "2 rounds"),
        (("W10",), "1 round"),
        (("W1", "W5", "W6"), "3 rounds, W5 and W6 2"),
        (("W1", "W5", "W6", "W7"), "3 rounds, W5 to W7 2"),
        (("W1", "W5", "W7", "W8", "W11"), "3 rounds, W5, W7 and W8 2, W11 1"),
        (ALL, "3 rounds, W5, W6, W7, W8, W9, W12 and W13 2, W10 and W11 1"),
    ],
)
def test_the_rounds_of_each_pace_are_told(workloads: tuple[str, ...], line: str) -> None:
    assert report.rounds_line(replace(PROFILES["quick"], workloads=workloads)) == line


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
