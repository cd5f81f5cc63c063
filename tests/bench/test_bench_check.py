"""What makes a smoke run fail: a ratio below half of its target, twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as command
from bench import plots, report
from bench.driver import Cell, Outcome
from bench.profiles import PROFILES


def outcome_of(p50_us: float) -> Outcome:
    about = {"durable": True, "shares_commits": False, "title": "", "why": ""}
    outcome = Outcome(
        peers={"logstore": {**about, "role": "own"}, "bare": {**about, "role": "limit"}}
    )
    for number in range(3):
        outcome.cells.append(Cell("W1", "300B", "logstore", number, {"p50_us": p50_us}))
        outcome.cells.append(Cell("W1", "300B", "bare", number, {"p50_us": 100.0}))
    return outcome


@pytest.mark.parametrize(
    ("first", "second", "code", "runs"),
    [(120.0, 120.0, 0, 1), (900.0, 120.0, 0, 2), (900.0, 900.0, 1, 2)],
    ids=["met", "noise", "regressed"],
)
def test_a_regression_is_what_is_measured_twice(
    first: float,
    second: float,
    code: int,
    runs: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcomes = [outcome_of(first), outcome_of(second)]
    measured: list[tuple[str, ...]] = []

    def measure(profile: Any, *_: object) -> tuple[Outcome, dict[str, Any]]:
        measured.append(tuple(profile.workloads))
        return outcomes.pop(0), {}

    monkeypatch.setattr(command, "measure", measure)
    monkeypatch.setattr(report, "render", lambda *_, **__: "")
    monkeypatch.setattr(plots, "draw_all", lambda *_: [])
    words = ["run", "--profile", "smoke", "--check", "--out", str(tmp_path)]
    assert command.main(words) == code
    assert measured == [PROFILES["smoke"].workloads, ("W1",)][:runs]


@pytest.mark.parametrize("run", [1, 2])
def test_a_slice_of_our_own_that_fails_is_a_failure(
    run: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = [outcome_of(120.0)] if run == 1 else [outcome_of(900.0), outcome_of(120.0)]
    outcomes[-1].failed.append("W1 300B logstore: it is broken")
    monkeypatch.setattr(command, "measure", lambda *_: (outcomes.pop(0), {}))
    monkeypatch.setattr(report, "render", lambda *_, **__: "")
    monkeypatch.setattr(plots, "draw_all", lambda *_: [])
    assert command.main(["run", "--profile", "smoke", "--check", "--out", str(tmp_path)]) == 1
