"""The last part of the demo: open the store again and compare it with the results of the client.

Rules: this runs after all processes have stopped and the client has closed the store, so all data
comes from the single file.  Nothing is repaired or written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskiq.exceptions import ResultGetError

import logstore
from logstore.demo.analysis import Report
from logstore.demo.client import Outcome, Slice
from logstore.errors import LogstoreError
from logstore.taskiq import LogStoreResultBackend


@dataclass(slots=True)
class Verdict:
    """The contents of the file; ``problems`` is empty if nothing was lost."""

    totals: Report = field(default_factory=Report)
    results: int = 0
    kept: int = 0
    file_bytes: int = 0
    problems: list[str] = field(default_factory=list)


async def verify(store_path: Path, slices: Sequence[Slice], outcome: Outcome) -> Verdict:
    """Read every result from the file and compare it with the result that the client read."""
    verdict = Verdict()
    _check_at_rest(store_path, verdict)
    backend: LogStoreResultBackend[Any] = LogStoreResultBackend(str(store_path))
    await backend.startup()
    try:
        for item in slices:
            try:
                stored = await backend.get_result(item.task_id)
            except (ResultGetError, LogstoreError) as error:
                verdict.problems.append(f"{item.task_id}: {type(error).__name__}: {error}")
                continue
            verdict.results += 1
            verdict.totals.add(Report.from_dict(stored.return_value))
            seen = outcome.results[item.task_id]
            if stored.return_value != seen.return_value:
                verdict.problems.append(f"{item.task_id}: its value differs from the first reading")
            elif item.task_id in outcome.acked_before_kill:
                # The task was not sent again, so every field must be equal, including the time.
                if stored.model_dump() == seen.model_dump():
                    verdict.kept += 1
                else:
                    verdict.problems.append(f"{item.task_id}: changed since it was acknowledged")
    finally:
        await backend.shutdown()
    files = sum(len(item.names) for item in slices)
    if verdict.totals.files != files:
        verdict.problems.append(f"{files} files were sent, {verdict.totals.files} were counted")
    report = await asyncio.to_thread(logstore.check, store_path)
    verdict.problems.extend(report.problems)
    _check_at_rest(store_path, verdict)
    return verdict


def _check_at_rest(store_path: Path, verdict: Verdict) -> None:
    """Add a problem unless the store's directory contains exactly one file."""
    names = sorted(path.name for path in store_path.parent.iterdir())
    if names != [store_path.name]:
        verdict.problems.append(f"expected only {store_path.name} after closing, found {names}")
    verdict.file_bytes = store_path.stat().st_size if store_path.name in names else 0
