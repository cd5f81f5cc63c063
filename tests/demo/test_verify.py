from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from taskiq import TaskiqResult

from logstore.demo.analysis import Report
from logstore.demo.client import Outcome, Slice
from logstore.demo.verify import Verdict, verify
from logstore.taskiq import LogStoreResultBackend

NAMES = [f"slice-{number:02}" for number in range(4)]
ACKED = frozenset(NAMES[:2])


def result(name: str, *, lines: int = 10, execution_time: float = 0.5) -> TaskiqResult[Any]:
    report = Report(files=2, lines=lines, functions=3)
    return TaskiqResult(
        is_err=False, return_value=report.to_dict(), execution_time=execution_time, labels={}
    )


def slices() -> list[Slice]:
    return [Slice(name, ["a.py", "b.py"]) for name in NAMES]


def stored_and_verified(
    path: Path, stored: dict[str, TaskiqResult[Any]], seen: dict[str, TaskiqResult[Any]]
) -> Verdict:
    async def run() -> Verdict:
        backend: LogStoreResultBackend[Any] = LogStoreResultBackend(str(path))
        await backend.startup()
        for name, value in stored.items():
            await backend.set_result(name, value)
        await backend.shutdown()
        return await verify(path, slices(), Outcome(results=seen, acked_before_kill=ACKED))

    return asyncio.run(run())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


def all_results() -> dict[str, TaskiqResult[Any]]:
    return {name: result(name) for name in NAMES}


def test_a_store_that_kept_everything_has_no_problems(path: Path) -> None:
    verdict = stored_and_verified(path, all_results(), all_results())
    assert verdict.problems == []
    assert (verdict.results, verdict.kept) == (4, 2)
    assert (verdict.totals.files, verdict.totals.lines) == (8, 40)
    assert verdict.file_bytes == path.stat().st_size > 0


def test_a_lost_result_is_a_problem(path: Path) -> None:
    stored = all_results()
    del stored[NAMES[1]]
    verdict = stored_and_verified(path, stored, all_results())
    assert verdict.kept == 1
    assert verdict.problems[0].startswith("slice-01: ResultIsMissingError")


def test_a_changed_value_is_a_problem(path: Path) -> None:
    stored = all_results() | {NAMES[3]: result(NAMES[3], lines=11)}
    verdict = stored_and_verified(path, stored, all_results())
    assert verdict.problems == ["slice-03: its value differs from the first reading"]


@pytest.mark.parametrize(("name", "problems"), [(NAMES[0], 1), (NAMES[3], 0)])
def test_a_result_that_ran_twice_may_differ_in_time_only_if_it_was_not_acked_before(
    path: Path, name: str, problems: int
) -> None:
    stored = all_results() | {name: result(name, execution_time=0.75)}
    verdict = stored_and_verified(path, stored, all_results())
    assert len(verdict.problems) == problems


def test_a_second_file_at_rest_is_a_problem(path: Path) -> None:
    (path.parent / "app.db-left").touch()
    verdict = stored_and_verified(path, all_results(), all_results())
    assert "expected only app.db after closing" in verdict.problems[0]
