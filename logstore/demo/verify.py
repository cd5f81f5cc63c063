"""The demo's last part: the store is opened afresh and compared with what the client had read.

Rules: runs after every process of the run has stopped and the client has closed the store, so all
it sees comes from the one file.  Nothing is repaired or written.
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
    """What the file holds; ``problems`` is empty if nothing was lost."""

    totals: Report = field(default_factory=Report)
    results: int = 0
    kept: int = 0
    file_bytes: int = 0
    problems: list[str] = field(default_factory=list)


async def verify(store_path: Path, slices: Sequence[Slice], outcome: Outcome) -> Verdict:
    """Read every result from the file and compare it with what the client had read before."""
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
                verdict.problems.append(f"{item.task_id}: another value than was read before")
            elif item.task_id in outcome.acked_before_kill:
                # Not sent again since, so that all of it must be as it was, its time included.
                if stored.model_dump() == seen.model_dump():
                    verdict.kept += 1
                else:
                    verdict.problems.append(f"{item.task_id}: changed since it was acked")
    finally:
        await backend.shutdown()
    files = sum(len(item.names) for item in slices)
    if verdict.totals.files != files:
        verdict.problems.append(f"{files} files were given out, {verdict.totals.files} counted")
    report = await asyncio.to_thread(logstore.check, store_path)
    verdict.problems.extend(report.problems)
    _check_at_rest(store_path, verdict)
    return verdict


def _check_at_rest(store_path: Path, verdict: Verdict) -> None:
    """Note a problem unless the store's directory holds the one file and nothing else."""
    names = sorted(path.name for path in store_path.parent.iterdir())
    if names != [store_path.name]:
        verdict.problems.append(f"at rest there should be just {store_path.name}, found {names}")
    verdict.file_bytes = store_path.stat().st_size if store_path.name in names else 0
