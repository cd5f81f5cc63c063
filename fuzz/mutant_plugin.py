"""A plugin of pytest, copied beside a copy of the package: which tests run, and what they ran.

Rules: it imports nothing of the project, so that the copy is the only one there is.  The variables
of the environment name files; one that is missing turns its part off.  Every line of the log is
written at once: whatever ends the process, the last test begun is known.

    MUTANT_ORDER   JSON: [node id, time limit in seconds] of the tests to run, in this order
    MUTANT_LOG     JSON, a line for each test that begins, and one when it has ended
    MUTANT_HITS    a byte for each statement of an instrumented copy, shared by all its processes
"""

from __future__ import annotations

import json
import mmap
import os
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import compress

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of the order, in it, each with its own time limit."""
    order = os.environ.get("MUTANT_ORDER")
    if order is None:
        return
    found = {item.nodeid: item for item in items}
    kept = []
    for node_id, limit_s in json.loads(Path(order).read_text()):
        if node_id in found:
            item = found[node_id]
            item.add_marker(pytest.mark.timeout(limit_s), append=False)
            kept.append(item)
    items[:] = kept


class _Log:
    """What is written while the tests run."""

    def __init__(self) -> None:
        self._path = os.environ.get("MUTANT_LOG")
        self._failed = ""
        self._hits: mmap.mmap | None = None
        path = os.environ.get("MUTANT_HITS")
        if path is not None:
            with open(path, "r+b") as file:
                self._hits = mmap.mmap(file.fileno(), 0)

    def write(self, **what: object) -> None:
        """Append a line."""
        if self._path is not None:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(what) + "\n")

    def begin(self) -> None:
        """A test begins: nothing has been run for it."""
        self._failed = ""
        if self._hits is not None:
            self._hits[:] = bytes(len(self._hits))

    def note(self, report: pytest.TestReport) -> None:
        """Keep the first failure of a test."""
        if report.failed and not self._failed:
            self._failed = report.longreprtext[-4000:] or "failed"

    def end(self, node_id: str, seconds: float) -> None:
        """A test has ended."""
        hits = {}
        if self._hits is not None:
            hits["hits"] = b64encode(compress(self._hits[:])).decode()
        self.write(ended=node_id, seconds=seconds, failed=self._failed, **hits)


_LOG = _Log()


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[Any]:
    """Tell that a test begins and how it has ended, its fixtures included."""
    _LOG.write(begun=item.nodeid)
    _LOG.begin()
    started = time.perf_counter()
    yield
    _LOG.end(item.nodeid, time.perf_counter() - started)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A part of a test has ended: its set-up, its call, or its tear-down."""
    _LOG.note(report)
