"""Which tests run which statements of the package, and how long they take.

Rules: what is run is recorded by an instrumented copy, so threads, children, and killed processes
count too.  A record is of one file of tests and is kept in ``build/mutants``; it holds as long as
that file and the modules that it has run are as they were.  A test that is red on the code as it is
says nothing about mutants and is left out.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple
from zlib import compress, decompress

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

    @property
    def file(self) -> str:
        """The file of tests that it is in."""
        return self.node_id.partition("::")[0]


class Coverage:
    """What each test has run."""

    def __init__(self, package: Package, root: Path, tests: Iterable[Recorded]) -> None:
        self._package = package
        self.tests = sorted(tests, key=lambda test: (CRASHES in test.node_id, test.seconds))
        self._texts = {name: (root / name).read_text() for name in {t.file for t in self.tests}}

    def covering(self, point: Point) -> list[Recorded]:
        """The tests that may notice a point, the fastest first, those of crashes last.

        They run what is near to it, or their file names what it defines.
        """
        near = self._package.near(point)
        names = [re.compile(rf"\b{name}\b") for name in self._package.names(point)]
        naming = {
            file for file, text in self._texts.items() if any(name.search(text) for name in names)
        }
        return [
            test
            for test in self.tests
            if test.file in naming or any(test.hits[number] for number in near)
        ]


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
    directory = root / RECORDS
    directory.mkdir(parents=True, exist_ok=True)
    shared = [
        path
        for path in sorted((root / "tests").rglob("*.*"))
        if path.is_file() and path.suffix != ".pyc" and not path.name.startswith("test_")
    ]

    def recorded(path: Path) -> list[Recorded]:
        name = str(path.relative_to(root))
        record = directory / f"{path.stem}-{_digest([name.encode(), *_needed(path, shared)])}.json"
        if not _holds(package, record):
            tell(f"recording what {name} runs")
            with tempfile.TemporaryDirectory(dir=place) as own:
                tests, red = run_twice(package, Copy(root, Path(own) / "copy"), name)
            for node_id in red:
                tell(f"red on the code as it is, and left out: {node_id}")
            _write(package, record, tests)
        return _read(package, record)

    with ThreadPoolExecutor(jobs) as pool:
        tests = pool.map(recorded, files_of_tests(root))
        return Coverage(package, root, [test for of_file in tests for test in of_file])


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


def _write(package: Package, record: Path, tests: Iterable[Ended]) -> None:
    parts = [(test, package.split(decompress(b64decode(test.hits)))) for test in tests]
    modules = {name for _, part in parts for name in part}
    content = {
        "modules": {name: _digest([package.sources[name].encode()]) for name in sorted(modules)},
        "tests": [
            (test.node_id, test.seconds, {n: b64encode(compress(h)).decode() for n, h in p.items()})
            for test, p in parts
        ],
    }
    unfinished = record.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps(content))
    unfinished.rename(record)


def _holds(package: Package, record: Path) -> bool:
    """Whether there is a record, and the modules that it speaks of have not changed."""
    if not record.exists():
        return False
    return all(
        name in package.sources and _digest([package.sources[name].encode()]) == digest
        for name, digest in json.loads(record.read_text())["modules"].items()
    )


def _read(package: Package, record: Path) -> list[Recorded]:
    return [
        Recorded(
            node_id,
            seconds,
            package.joined({name: decompress(b64decode(h)) for name, h in hits.items()}),
        )
        for node_id, seconds, hits in json.loads(record.read_text())["tests"]
    ]


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:16]
