"""Exploration: selection of states, when to stop, and the report.

Rules:
- States with the same content and the same acknowledged lines are equal; each is judged once.
- A point with at most `bound` states is enumerated; other points get the fixed family and then
  seeded random states. The budget is spread over all points in rounds, so that a small budget
  reaches every point.
- The same recording, seed and options give the same states in the same order.
- The explorer's process only generates and counts; workers build and judge.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from logstore.testing.crash.call import command_of, python_path
from logstore.testing.crash.checking import Check, in_shell, name_of
from logstore.testing.crash.materialise import state_root, write_state
from logstore.testing.crash.pool import Pool, Settings, judge
from logstore.testing.crash.progressline import Progress
from logstore.testing.crash.recording import Recording, record
from logstore.testing.crash.states import Builder, candidates, describe, parse_name

__all__ = [
    "Exploration",
    "Violation",
    "Workload",
    "explore",
    "explore_recording",
    "replay",
    "sample_states",
]

Workload: TypeAlias = Sequence[str] | Callable[[Path], object]

_STALE_ROUNDS_MAX = 3


@dataclass(slots=True)
class Violation:
    """A state that failed the check: name, reason, replay command and description."""

    state: str
    message: str
    command: str
    described: list[str]
    kept: Path | None = None

    def __str__(self) -> str:
        lines = [f"state {self.state}: {self.message.rstrip()}"]
        lines += [f"    {line}" for line in self.described]
        if self.kept is not None:
            lines.append(f"  kept in {self.kept}")
        lines.append(f"  replay: {self.command}")
        return "\n".join(lines)


@dataclass(slots=True)
class Exploration:
    """The result of a run.

    `states` different states were judged; `same` more were repeated and not judged again.
    """

    points: int = 0
    states: int = 0
    same: int = 0
    exhausted: bool = False
    seconds: float = 0.0
    seed: int = 0
    recording: Path | None = None
    violations: list[Violation] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every state passed."""
        return not self.violations

    def __str__(self) -> str:
        how = "complete" if self.exhausted else f"seed {self.seed}"
        lines = [
            f"{self.states} crash states at {self.points} points ({how}), {self.same} repeated, "
            f"{len(self.violations)} violations, {self.seconds:.1f} s"
        ]
        lines += [f"warning: {text}" for text in self.warnings]
        lines += [str(violation) for violation in self.violations]
        return "\n".join(lines)


def explore(
    workload: Workload,
    check: Check,
    directory: str | os.PathLike[str] | None = None,
    *,
    recording: str | os.PathLike[str] | None = None,
    fs: str = "posix",
    volatile: Sequence[str] = (),
    base_acks: bytes = b"",
    env: Mapping[str, str] | None = None,
    workload_timeout_s: float = 600.0,
    acks_from_stdout: bool = False,
    exit_codes: Sequence[int] = (0,),
    seed: int = 0,
    bound: int = 256,
    max_states: int = 10_000,
    max_seconds: float | None = None,
    max_violations: int = 10,
    workers: int | None = None,
    isolation: str = "fork",
    state_timeout_s: float = 30.0,
    keep: bool = False,
    shown: bool | None = None,
) -> Exploration:
    """Run a workload once and judge the disk states that a power cut could have left.

    `workload` is a command, or a function of the directory that another process can import (it runs
    in a new interpreter). `directory` is watched; its existing contents count as on the disk.
    Without one, a temporary directory is used. See `record` for the other arguments of the run and
    `explore_recording` for those of the judging. The recording is made in `recording`, or in a
    temporary directory that is kept only if there are violations.

    Raise WorkloadError and TraceError. Violations do not raise; they are in the result.
    """
    own_directory = directory is None
    watched = Path(tempfile.mkdtemp(prefix="crash-watched-") if directory is None else directory)
    own_recording = recording is None
    place = Path(
        tempfile.mkdtemp(prefix="crash-") + "/recording" if recording is None else recording
    )
    command, environ = _command_of(workload, watched)
    result: Exploration | None = None
    try:
        recorded = record(
            command, watched, place, fs=fs, volatile=volatile, base_acks=base_acks,
            env={**environ, **(env or {})}, timeout_s=workload_timeout_s,
            acks_from_stdout=acks_from_stdout, exit_codes=exit_codes,
        )  # fmt: skip
        result = explore_recording(
            recorded, check, seed=seed, bound=bound, max_states=max_states,
            max_seconds=max_seconds, max_violations=max_violations, workers=workers,
            isolation=isolation, state_timeout_s=state_timeout_s, keep=keep, shown=shown,
        )  # fmt: skip
    finally:
        if own_directory:
            shutil.rmtree(watched, ignore_errors=True)
        if own_recording and (result is None or result.ok):
            shutil.rmtree(place.parent, ignore_errors=True)
    return result


def _command_of(workload: Workload, directory: Path) -> tuple[list[str], dict[str, str]]:
    if not callable(workload):
        return list(workload), {}
    name = name_of(workload)
    if name is None:
        raise ValueError(f"{workload!r} cannot be imported by its name in another process")
    return command_of(name, directory), python_path()


def explore_recording(
    recording: Recording,
    check: Check,
    *,
    seed: int = 0,
    bound: int = 256,
    max_states: int = 10_000,
    max_seconds: float | None = None,
    max_violations: int = 10,
    workers: int | None = None,
    isolation: str = "fork",
    state_timeout_s: float = 30.0,
    keep: bool = False,
    shown: bool | None = None,
) -> Exploration:
    """Judge the crash states of a recording.

    Points with at most `bound` states are enumerated. The run ends after `max_states` different
    states, `max_seconds` or `max_violations`, or when there are no new states. `workers` processes
    (one per CPU by default) are forked from this process. They inherit its open files, and a fork
    is not safe with threads, so call this function early. `isolation` ("fork" or "inline") and
    `state_timeout_s` are explained in `checking`. With `keep`, the directories of violating states
    are kept in the recording. `shown` forces or disables the progress line.

    Return the result. Raise ValueError for an unknown isolation and OSError if a state cannot be
    written.
    """
    if isolation not in ("fork", "inline"):
        raise ValueError(f"isolation is {isolation!r}, expected 'fork' or 'inline'")
    begun = time.monotonic()
    deadline = begun + (math.inf if max_seconds is None else max_seconds)
    builder = Builder(recording.history, journaled=recording.journaled, seed=seed)
    result = Exploration(seed=seed, recording=recording.path)
    result.warnings = list(recording.history.warnings)
    failed: dict[str, str] = {}
    with state_root() as root:
        settings = Settings(check, Path(root), isolation, state_timeout_s, recording.base_acks)
        workers = workers or os.cpu_count() or 1
        with (
            Progress(max_states, shown=shown) as progress,
            Pool(builder, settings, workers) as pool,
        ):
            names = _distinct(builder, result, bound=bound, max_states=max_states)
            more = True
            while (more or pool.waiting) and len(failed) < max_violations:
                more = more and time.monotonic() <= deadline
                while more and pool.hungry:
                    name = next(names, None)
                    if name is None:
                        more = False
                    else:
                        pool.give(name)
                for name, message in pool.verdicts(patient=not (more and pool.hungry)):
                    result.states += 1
                    if message is not None:
                        failed[name] = message
                progress.update(result.states, f"{len(failed)} violations")
    for name, message in sorted(failed.items(), key=lambda item: parse_name(item[0])):
        kept = _keep(builder, recording, name) if keep else None
        command = _replay_command(builder, recording, check, name)
        described = describe(builder, name)
        result.violations.append(Violation(name, message, command, described, kept))
    result.seconds = time.monotonic() - begun
    return result


def _distinct(
    builder: Builder, result: Exploration, *, bound: int, max_states: int
) -> Iterator[str]:
    """Yield names of different states, spread over all points, until the budget is used."""
    points = builder.cursor.points()
    result.points = len(points)
    seen: set[bytes] = set()
    taken = dict.fromkeys(points, 0)
    stale = dict.fromkeys(points, 0)
    counted = True
    while points and len(seen) < max_states:
        share = max(1, (max_states - len(seen)) // len(points))
        left: list[int] = []
        for point in points:
            space = builder.space(point)
            names = candidates(space, seed=builder.seed, bound=bound)
            start = taken[point]
            chunk = list(islice(names, start, start + share))
            taken[point] += len(chunk)
            acks = hashlib.blake2b(builder.acks(), digest_size=8).digest()
            fresh = 0
            for name in chunk:
                digest = builder.state(name).digest + acks
                if digest in seen:
                    result.same += 1
                    continue
                seen.add(digest)
                fresh += 1
                yield name
                if len(seen) >= max_states:
                    return
            # A point without new states for some rounds counts as exhausted.
            stale[point] = 0 if fresh else stale[point] + 1
            if len(chunk) == share and stale[point] < _STALE_ROUNDS_MAX:
                left.append(point)
            elif len(chunk) == share:
                counted = False
        points = left
    result.exhausted = counted and not points


def sample_states(recording: Recording, count: int, *, seed: int = 0) -> list[str]:
    """Return names of at most `count` different states, drawn from all points of a recording."""
    builder = Builder(recording.history, journaled=recording.journaled, seed=seed)
    names = list(_distinct(builder, Exploration(), bound=256, max_states=10 * count))
    return random.Random(f"sample:{seed}").sample(names, min(count, len(names)))


def _replay_command(builder: Builder, recording: Recording, check: Check, name: str) -> str:
    path, seed, shell = str(recording.path), builder.seed, in_shell(check)
    if shell is None:
        return f"logstore.testing.crash.replay({path!r}, {name!r}, check, seed={seed})"
    return shlex.join(
        ["python", "-m", "logstore.testing.crash", "--replay", path, "--state", name,
         "--seed", str(seed), "--check", shell]
    )  # fmt: skip


def _keep(builder: Builder, recording: Recording, name: str) -> Path:
    place = recording.path / "states" / name
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(exist_ok=True)
    write_state(builder.state(name), place)
    place.with_name(name + ".acks").write_bytes(recording.base_acks + builder.acks())
    return place


def replay(
    recording: str | os.PathLike[str],
    state: str,
    check: Check | None = None,
    *,
    seed: int = 0,
    into: str | os.PathLike[str] | None = None,
    timeout_s: float = 30.0,
) -> str | None:
    """Rebuild one state of a recording, in `into` or a temporary directory, and judge it.

    Return None if it passes (or there is no check), else the reason. Raise StateError for an
    invalid name. `into` must not exist; it is not removed after the check.
    """
    recorded = Recording.load(recording)
    builder = Builder(recorded.history, journaled=recorded.journaled, seed=seed)
    with state_root() as root:
        target = Path(root, "state") if into is None else Path(into)
        if check is None:
            write_state(builder.state(state), target)
            return None
        settings = Settings(check, Path(root), "fork", timeout_s, recorded.base_acks)
        return judge(builder, state, settings, target)
