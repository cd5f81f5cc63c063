"""The golden files of every format version against the package."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import logstore
from tests.support.fileformat import VERSION

if TYPE_CHECKING:
    from tests.support.stores import Stores

GOLDEN = Path(__file__).with_name("golden")
VERSIONS = sorted(path.name for path in GOLDEN.glob("v*"))


def test_there_are_golden_files_of_the_current_version() -> None:
    assert f"v{VERSION}" in VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("state", ["closed", "crashed"])
@pytest.mark.parametrize("mode", ["rw", "r"])
def test_a_golden_store_opens_with_everything_that_was_written(
    version: str, state: str, mode: str, tmp_path: Path, open_store: Stores
) -> None:
    expected = runpy.run_path(str(GOLDEN / "make_golden.py"))
    shutil.copytree(GOLDEN / version / state, tmp_path, dirs_exist_ok=True)
    store = logstore.open(tmp_path / "app.db", mode=mode)  # type: ignore[arg-type]
    for task_id, value in (expected["RESULTS"] | expected["FAILED"] | expected["MANY"]).items():
        found = store.get_result(task_id)
        assert (type(found), found) == (type(value), value)
        if not isinstance(value, frozenset):  # of str, whose order differs from run to run
            assert repr(found) == repr(value)
    assert store.get_result(expected["IN_LOG"]) == ("new" if state == "crashed" else "old")
    failed = [info.task_id for info in store.tasks(status="ready") if info.failed]
    assert failed == list(expected["FAILED"])
    assert store.get_progress(expected["RUNNING"]) == expected["PROGRESS"]
    running = [info.task_id for info in store.tasks(status="running")]
    assert running == [expected["AGAIN"], expected["RUNNING"]]
    assert store.get_progress(expected["AGAIN"]) == expected["PROGRESS"]
    assert not store.is_result_ready(expected["AGAIN"])
    assert store.get_result(expected["BOTH"]) == "both"
    assert store.get_progress(expected["BOTH"]) == expected["PROGRESS"]
    assert store.status(expected["CLEARED"]) in ("deleted", "unknown")
    assert store.status(expected["DELETED"]) in ("deleted", "unknown")  # a day later
    assert store.status(expected["EXPIRED"]) in ("expired", "unknown")
    report = store.check()
    assert report.ok, report.problems
    store.close()
    if mode == "rw":
        again = open_store(tmp_path / "app.db")
        again.set_result("new", 1)
        assert again.get_result("none") is None


def test_the_script_that_makes_golden_files_makes_what_the_tests_expect(
    tmp_path: Path, no_idle_compaction: None
) -> None:
    make = runpy.run_path(str(GOLDEN / "make_golden.py"))["make"]
    make(tmp_path)
    made = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("app.db*"))
    kept = sorted(str(path.relative_to(GOLDEN)) for path in GOLDEN.rglob("app.db*"))
    current = f"v{VERSION}/"
    assert made == [name for name in kept if name.startswith(current)]
