"""A private copy of the package and its tests, in which faults are put and tests are run.

Rules: the working tree is never written.  A copy runs one pytest at a time and is as before when
that has ended: no process is left, no temporary file, no bytecode of a fault.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from fuzz import mutant_plugin
from fuzz.mutants import copy_tree, ensure_private, run_pytest


class Ended(NamedTuple):
    """A test that has been run."""

    node_id: str
    seconds: float
    failed: str  # what the failure was; "" if it is green
    hits: str  # what it has run, encoded; "" unless the copy is instrumented


class Run(NamedTuple):
    """What became of one pytest."""

    status: int | None  # pytest's; None if it hung
    ended: list[Ended]
    last: str  # the test that had begun and not ended; "" if there is none
    output: str


class Copy:
    """A copy of the tree at a private place."""

    def __init__(self, root: Path, place: Path) -> None:
        """Copy ``root`` to a directory that is not there yet.  Raises RuntimeError."""
        self.place = place
        copy_tree(place, root)
        shutil.copy(mutant_plugin.__file__, place / "mutant_plugin.py")
        ensure_private(place)

    @contextmanager
    def with_source(self, file: str, source: str) -> Iterator[None]:
        """Have another text in a file of the package for the time of the block."""
        path = self.place / "logstore" / file
        before = path.read_text()
        try:
            self._write(path, source)
            yield
        finally:
            self._write(path, before)

    def _write(self, path: Path, source: str) -> None:
        # Bytecode is told by size and second of the source, which two faults can have in common.
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
            compiled.unlink()
        path.write_text(source)

    def run(
        self,
        tests: Sequence[str],
        timeout_s: float,
        *,
        order: Sequence[tuple[str, float]] | None = None,
        hits: Path | None = None,
    ) -> Run:
        """Run files of tests, or of these only ``order``: node ids and their limits in seconds.

        With an order, the first red test is the last.
        """
        notes = self.place / "notes"
        notes.mkdir()
        variables = {"MUTANT_LOG": str(notes / "log"), "TMPDIR": str(notes)}
        arguments = ["-p", "mutant_plugin", *tests]
        if order is not None:
            (notes / "order").write_text(json.dumps(order))
            variables["MUTANT_ORDER"] = str(notes / "order")
            arguments.insert(0, "-x")
        if hits is not None:
            variables["MUTANT_HITS"] = str(hits)
        try:
            status, output = run_pytest(self.place, arguments, timeout_s, **variables)
            log = notes / "log"
            ended, last = _read(log.read_text() if log.exists() else "")
            return Run(status, ended, last, output)
        finally:
            shutil.rmtree(notes, ignore_errors=True)


def _read(log: str) -> tuple[list[Ended], str]:
    """What the plugin wrote; its last line may be cut off."""
    ended, last = [], ""
    for line in log.splitlines():
        try:
            what = json.loads(line)
        except ValueError:
            break
        if "begun" in what:
            last = what["begun"]
        else:
            last = ""
            hits = what.get("hits", "")
            ended.append(Ended(what["ended"], what["seconds"], what["failed"], hits))
    return ended, last
