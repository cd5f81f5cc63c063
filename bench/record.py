"""A run as JSON: what was measured, on what, and what was left out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .driver import Cell, Outcome

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Record:
    """Everything the reports and the plots are made from."""

    command: str
    profile: dict[str, Any]
    machine: dict[str, Any]
    outcome: Outcome

    @property
    def workloads(self) -> list[str]:
        """The workloads that were run."""
        names: list[str] = self.profile["workloads"]
        return names

    def save(self, path: Path) -> None:
        """Write it to `path`, creating the directory."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "format": FORMAT,
            "command": self.command,
            "profile": self.profile,
            "machine": self.machine,
            **asdict(self.outcome),
        }
        path.write_text(json.dumps(content, separators=(",", ":")) + "\n")


def load(path: Path) -> Record:
    """Read what `save` wrote; raises ValueError for another format."""
    content = json.loads(path.read_text())
    if content.get("format") != FORMAT:
        raise ValueError(f"{path}: format {content.get('format')}, expected {FORMAT}")
    outcome = Outcome(
        cells=[Cell(**cell) for cell in content["cells"]],
        skipped=content["skipped"],
        failed=content["failed"],
        peers=content["peers"],
        versions=content["versions"],
        seconds=content["seconds"],
    )
    return Record(content["command"], content["profile"], content["machine"], outcome)
