"""The documented examples run as they stand, as scripts of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def run(name: str, directory: Path, *arguments: str) -> list[str]:
    """Run the example in an empty directory; return the lines it printed."""
    search_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-W", "error", str(HERE / name), *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": search_path},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_tasks_that_wait_for_tasks_with_results_in_memory(tmp_path: Path) -> None:
    assert run("fibonacci.py", tmp_path) == ["fibonacci(10) is 55"]
    assert list(tmp_path.iterdir()) == []


def test_a_client_sees_the_progress_that_a_task_reports(tmp_path: Path) -> None:
    *reports, total = run("reported_progress.py", tmp_path)
    assert total == f"the total is {sum(range(200))}"
    assert reports
    seen = []
    for report in reports:
        found = re.fullmatch(
            r"adding item (\d+): (\d+)%, (\d+)/200 items, \{'so_far': (\d+)\}", report
        )
        assert found, report
        item, percent, current, so_far = map(int, found.groups())
        assert item == current == 2 * percent
        assert so_far == sum(range(current))
        seen.append(current)
    assert seen == sorted(seen)
    assert all(current % 10 == 0 for current in seen)


def test_tasks_that_wait_for_tasks_with_results_in_files(tmp_path: Path) -> None:
    printed = run("file_results.py", tmp_path)
    assert printed[0] == "fibonacci(7) is 13"
    file = tmp_path / "task_results" / "fibonacci-7.result.json"
    assert json.loads(file.read_text())["content"]["return_value"] == 13


@pytest.mark.slow
def test_results_of_two_workers_reach_a_client_that_comes_later(tmp_path: Path) -> None:
    printed = run("zeromq_workers.py", tmp_path)
    assert printed[:2] == ["sent 10 tasks", "the workers are gone; now comes the client"]
    assert printed[2:-1] == [f"square-{n} is {n * n}" for n in range(10)]
    assert printed[-1] == "at rest there is one file: ['app.db']"
