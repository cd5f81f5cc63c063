"""Fuzzer of ``logstore.check()``: any bytes as ``app.db``.

Invariants: the check of a file at rest ends with a report or an OpenError, never with a signal,
however damaged the pages are; it writes nothing and leaves no file; a store that it finds whole can
be opened, read, written and closed, without a signal either.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import logstore
from fuzz import stores
from fuzz.command import main
from fuzz.fuzz_table import MUTATIONS, seeds
from fuzz.target import Run, Target, expect


class Checks:
    """Checks of tables at one path."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / stores.NAME

    def run(self, data: bytes) -> str:
        """Check, and use what is found whole."""
        self.path.write_bytes(data)
        try:
            report = logstore.check(self.path)
        except logstore.OpenError as error:
            return type(error).__name__
        finally:
            expect(self.path.read_bytes() == data, "the check changed the table")
            expect(len(list(self.path.parent.iterdir())) == 1, "the check left a file")
        if not report.ok:
            return f"{len(report.problems) > 1} {report.results > 0}"
        with logstore.open(self.path) as store:
            stores.expect_versions(stores.read_everything(store))
            stores.use(store)
        return "whole"


@contextmanager
def session() -> Iterator[Run]:
    """An empty directory."""
    with stores.place() as directory:
        yield Checks(directory).run


TARGET = Target(
    "check",
    seeds,
    session,
    batch=10,
    bytes_max=1 << 17,
    memory_base_bytes=64 << 20,
    mutations=MUTATIONS,
)

if __name__ == "__main__":
    main(TARGET)
