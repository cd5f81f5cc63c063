"""Runs the rounds: every peer's worker takes its turn before any has its next.

The order of the peers is turned by one from round to round, so that none is always measured
right after the same neighbour.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from .children import ROOT, Child, ChildFailedError
from .measure import Metrics
from .peers import TABLE
from .profiles import Profile
from .progress import Progress
from .shim import Control, ShimUnavailableError, build
from .workloads import WORKLOADS, Workload

# (workload, variant, peer) -> whether to measure it.
Wanted: TypeAlias = Callable[[str, str, str], bool]

START_TIMEOUT_S = 60.0
# Filling a store of 10^7 results is part of its first slice.
SLICE_TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True)
class Contender:
    """One column of a comparison: a peer, and where its libraries are imported from.

    `label` is the peer's name unless the same peer takes part twice, in two revisions.
    """

    label: str
    peer: str
    search_path: tuple[str, ...] = (str(ROOT),)


@dataclass(frozen=True, slots=True)
class Cell:
    """What one slice measured."""

    workload: str
    variant: str
    peer: str
    round: int
    metrics: Metrics


@dataclass(slots=True)
class Outcome:
    """Everything a run found out."""

    cells: list[Cell] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    peers: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)  # what each workload took


def contenders(names: Sequence[str] | None) -> list[Contender]:
    """The peers called `names`, all of them for None; raises KeyError for an unknown name."""
    for name in names or ():
        if name not in TABLE:
            raise KeyError(f"unknown peer {name!r}; known: {', '.join(TABLE)}")
    return [Contender(name, name) for name in TABLE if names is None or name in names]


def takes_part(workload: Workload, peer: str) -> bool:
    """Whether `peer` has a place in `workload`, as far as names tell."""
    if workload.only is not None and peer not in workload.only:
        return False
    if workload.side == "sync" and TABLE[peer][1] is None:
        return False
    return peer not in workload.without


def everything(workload: str, variant: str, peer: str) -> bool:
    """Measure every peer in every variant."""
    return True


class Driver:
    """A run of several workloads below one directory, which it creates and removes."""

    def __init__(
        self,
        profile: Profile,
        rivals: Sequence[Contender],
        parent: Path,
        progress: Progress,
        wanted: Wanted = everything,
    ) -> None:
        self._profile = profile
        self._wanted = wanted
        self._rivals = list(rivals)
        self._progress = progress
        # Absolute: a server runs in a directory of its own, and must find the shim.
        self._directory = Path(tempfile.mkdtemp(prefix="bench-", dir=parent.resolve()))
        self.outcome = Outcome()
        self._shim: Path | None = None
        self._shim_missing = ""
        try:
            self._shim = build(self._directory)
        except ShimUnavailableError as reason:
            self._shim_missing = str(reason)

    def run(self, names: Sequence[str]) -> Outcome:
        """Run the workloads `names` and return what was found."""
        try:
            for name in names:
                before = time.monotonic()
                self._run_workload(WORKLOADS[name])
                self.outcome.seconds[name] = round(time.monotonic() - before, 1)
        finally:
            shutil.rmtree(self._directory, ignore_errors=True)
        return self.outcome

    def _variants(self, workload: Workload) -> list[str]:
        return workload.variants(self._profile)

    def _has_slice(self, workload: Workload, variant: str, peer: str) -> bool:
        return has_slice(workload, variant, peer, self._wanted)

    def _skip(self, text: str) -> None:
        if text not in self.outcome.skipped:
            self.outcome.skipped.append(text)
            self._progress.note(f"skipped: {text}")

    def _start(self, workload: Workload, rival: Contender) -> Child:
        base = self._directory / f"{workload.name}-{rival.label}"
        base.mkdir()
        environment: dict[str, str] = {}
        if workload.shimmed:
            assert self._shim is not None
            control = Control(self._directory / f"{base.name}.control")
            environment = control.environment(self._shim)
            control.close()
        child = Child(
            "bench.worker:serve",
            search_path=list(rival.search_path),
            environment=environment,
            errors=self._directory / f"{base.name}.errors",
            own_session=True,
        )
        child.send(
            {
                "peer": rival.peer,
                "workload": workload.name,
                "directory": str(base),
                "profile": asdict(self._profile),
            }
        )
        return child

    def _start_all(self, workload: Workload) -> dict[str, tuple[Contender, Child]]:
        started: dict[str, tuple[Contender, Child]] = {}
        for rival in self._rivals:
            if any(self._has_slice(workload, one, rival.peer) for one in self._variants(workload)):
                started[rival.label] = (rival, self._start(workload, rival))
        for label, (_, child) in list(started.items()):
            try:
                reply = child.receive(START_TIMEOUT_S)
            except ChildFailedError as error:
                reply = {"skip": f"{label}: {error}"}
            if "skip" in reply:
                self._skip(reply["skip"])
                child.close()
                del started[label]
            else:
                self.outcome.peers[label] = reply["about"]
                self.outcome.versions.update(reply["versions"])
        return started

    def _run_workload(self, workload: Workload) -> None:
        if workload.shimmed and self._shim is None:
            self._skip(f"{workload.name}: {self._shim_missing}")
            self._progress.step(slices_of(workload, self._profile, self._rivals, self._wanted))
            return
        headline = f"{workload.name} {workload.title}"
        self._progress.show(headline, "starting")
        started = self._start_all(workload)
        lost: set[tuple[str, str]] = set()
        try:
            for number in range(rounds_of(workload, self._profile)):
                for variant in self._variants(workload):
                    labels = list(started)
                    turn = number % max(len(labels), 1)
                    for label in labels[turn:] + labels[:turn]:
                        rival, child = started[label]
                        if not self._has_slice(workload, variant, rival.peer):
                            continue
                        if (label, variant) not in lost:
                            self._progress.show(headline, f"{variant} {label} #{number + 1}")
                            if not self._slice(workload, variant, label, number, child):
                                lost.add((label, variant))
                        self._progress.step()
        except BaseException:
            # Interrupted: a worker may be in the middle of a slice, and no one waits for it.
            for _, child in started.values():
                child.kill()
            raise
        for _, child in started.values():
            child.close()

    def _slice(
        self, workload: Workload, variant: str, label: str, number: int, child: Child
    ) -> bool:
        try:
            child.send({"variant": variant, "round": number})
            reply: dict[str, Any] = child.receive(SLICE_TIMEOUT_S)
        except ChildFailedError as error:
            reply = {"failed": str(error)}
            child.kill()
        if "failed" in reply:
            text = f"{workload.name} {variant} {label}: {reply['failed']}"
            self.outcome.failed.append(text)
            self._progress.note(f"failed: {text}")
            return False
        for note in reply["notes"]:
            self._progress.note(f"{workload.name} {variant} {label}: {note}")
        cell = Cell(workload.name, variant, label, number, reply["metrics"])
        self.outcome.cells.append(cell)
        return True


def rounds_of(workload: Workload, profile: Profile) -> int:
    """How many rounds a workload has in a profile."""
    rounds = {
        "short": profile.rounds,
        "slow": profile.slow_rounds,
        "long": profile.long_rounds,
        "tail": profile.tail_rounds,
    }
    return rounds[workload.pace]


def has_slice(workload: Workload, variant: str, peer: str, wanted: Wanted) -> bool:
    """Whether `peer` is measured in `variant`."""
    return (
        takes_part(workload, peer)
        and workload.takes_part(variant, peer)
        and wanted(workload.name, variant, peer)
    )


def slices_of(
    workload: Workload,
    profile: Profile,
    rivals: Sequence[Contender],
    wanted: Wanted = everything,
) -> int:
    """How many slices there will be at most: the length of the progress bar."""
    per_round = sum(
        1
        for variant in workload.variants(profile)
        for rival in rivals
        if has_slice(workload, variant, rival.peer, wanted)
    )
    return per_round * rounds_of(workload, profile)
