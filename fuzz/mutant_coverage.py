"""Which tests run which statements of the package, and how long they take.

Rules: what is run is recorded by an instrumented copy, so threads, children, and killed processes
count too.  A record belongs to one state of the package and of one file of tests, and is kept in
``build/mutants``: what has not changed is not run again.  A test that is red on the code as it is
says nothing about mutants and is left out.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from base64 import b64decode
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple
from zlib import decompress

from fuzz.mutant_package import Package
from fuzz.mutant_points import Point
from fuzz.mutant_runs import Copy, Ended
from fuzz.mutants import FAILED, PASSED

RECORDS = Path("build") / "mutants"
FILE_S = 900.0  # to run one file of tests
# Tests of other things than the product, and those that edit its text themselves.
NO_TESTS = (
    *("bench/*", "demo/*", "examples/*", "fuzz/*", "fuzz_replay/test_fuzz_header.py"),
    *("fuzz_replay/test_fuzz_loop.py", "testing/test_crash_*.py"),
    "testing/test_linearizability.py",
)
# Tests that start many processes and kill them: for what nothing quicker notices.
CRASHES = "tests/crash/"


class Recorded(NamedTuple):
    """One test and what it has run."""

    node_id: str
    seconds: float
    hits: bytes  # a byte for each statement of the package


class Coverage:
    """What each test has run."""

    def __init__(self, package: Package, tests: Iterable[Recorded]) -> None:
        self._package = package
        self.tests = sorted(tests, key=lambda test: (CRASHES in test.node_id, test.seconds))

    def covering(self, point: Point) -> list[Recorded]:
        """The tests that may notice a point, the fastest first, those of crashes last."""
        near = self._package.near(point)
        return [test for test in self.tests if any(test.hits[number] for number in near)]


def files_of_tests(root: Path) -> list[Path]:
    """The files of tests of the product."""
    tests = root / "tests"
    return [
        path
        for path in sorted(tests.rglob("test_*.py"))
        if not any(fnmatch(str(path.relative_to(tests)), glob) for glob in NO_TESTS)
    ]


def measure(
    package: Package, root: Path, place: Path, jobs: int, tell: Callable[[str], None]
) -> Coverage:
    """Run what has no record yet, in copies of ``root`` below ``place``; return all records."""
    directory = root / RECORDS / _digest(package.sources.values())
    directory.mkdir(parents=True, exist_ok=True)
    shared = [
        path
        for path in sorted((root / "tests").rglob("*.*"))
        if path.is_file() and path.suffix != ".pyc" and not path.name.startswith("test_")
    ]

    def recorded(path: Path) -> list[Recorded]:
        record = directory / f"{path.stem}-{_digest(_needed(path, shared))}.json"
        name = str(path.relative_to(root))
        if not record.exists():
            tell(f"recording what {name} runs")
            with tempfile.TemporaryDirectory(dir=place) as own:
                tests, red = run_twice(package, Copy(root, Path(own) / "copy"), name)
            for node_id in red:
                tell(f"red on the code as it is, and left out: {node_id}")
            unfinished = record.with_suffix(f".{os.getpid()}")
            unfinished.write_text(json.dumps(tests))
            unfinished.rename(record)
        tests = [Ended(*fields) for fields in json.loads(record.read_text())]
        return [Recorded(t.node_id, t.seconds, decompress(b64decode(t.hits))) for t in tests]

    with ThreadPoolExecutor(jobs) as pool:
        tests = pool.map(recorded, files_of_tests(root))
        return Coverage(package, [test for of_file in tests for test in of_file])


def _needed(path: Path, shared: Iterable[Path]) -> list[bytes]:
    """The contents of a file of tests and of those others that it names: helpers, golden files.

    A golden file is named by its directory; the fixtures above a test need no naming.
    """
    left = list(shared)
    needed = [path.read_bytes()]
    for content in needed:
        for other in list(left):
            if other.stem == "conftest":
                is_needed = other.parent in path.parents
            else:
                name = other.stem if other.suffix == ".py" else other.parent.name
                is_needed = name.encode() in content
            if is_needed:
                left.remove(other)
                needed.append(other.read_bytes())
    return needed


def run_twice(package: Package, copy: Copy, name: str) -> tuple[list[Ended], list[str]]:
    """The tests in a file that are green, with what they run, and those that are not.

    They run on the code as it is, which says how long they take and whether they are green, and on
    an instrumented copy, where an interrupted or a traced test may well be red.
    """
    plain = copy.run([name], FILE_S)
    hits = copy.place / "hits"
    hits.write_bytes(bytes(package.size))
    package.instrument(copy.place / "logstore")
    noted = copy.run([name], FILE_S, hits=hits)
    for run in (plain, noted):
        if run.status not in (PASSED, FAILED):
            raise RuntimeError(f"{name} cannot be run:\n{run.output}")
    seconds = {test.node_id: test.seconds for test in plain.ended if not test.failed}
    green = [
        test._replace(seconds=seconds[test.node_id], failed="")
        for test in noted.ended
        if test.node_id in seconds
    ]
    return green, [test.node_id for test in plain.ended if test.failed]


def _digest(parts: Iterable[str | bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]
