"""Crash states of the engine: `python -m fuzz.crash_states --help`.

Rules: each plan of `fuzz.crash_plans` is run once per round under strace, with a seed of its own,
and `fuzz.crash_check` judges the disk states that a power cut could have left; for some plans also
those that a crash of the recovery, and of its recovery, could have left. One line of figures for
each plan. Exit code 1 if any state failed; recordings of failures are kept.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fuzz import version1
from fuzz.campaign import ROOT, Findings, add_common, commit_seed, duration, end_tidily, workplace
from fuzz.crash_check import FILE, check
from fuzz.crash_plans import PLANS, Plan, Run
from logstore.testing.crash import (
    Exploration,
    Recording,
    WorkloadError,
    explore_again,
    explore_recording,
    record,
)

VOLATILE = ("*-shm",)
_VIOLATIONS_MAX = 3


def main(argv: list[str] | None = None) -> int:
    """Runs the campaigns and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.crash_states")
    add_common(parser)
    parser.add_argument("--states", type=int, default=400, help="per plan and round, at most")
    parser.add_argument("--rounds", type=int, default=1, help="each with another seed")
    parser.add_argument("--workers", type=int, help="processes that check; one per processor")
    parser.add_argument("--isolation", choices=("inline", "fork"), default="inline")
    parser.add_argument("--plans", type=int, help="so many, drawn with the seed; else all")
    parser.add_argument("--only", action="append", choices=list(PLANS), help="plans to explore")
    options = parser.parse_args(argv)
    seed = commit_seed() if options.seed is None else options.seed
    findings = Findings(options.findings, first=options.first)
    names = list(options.only or PLANS)
    if options.plans is not None:
        names = random.Random(seed).sample(names, min(options.plans, len(names)))
    totals: dict[str, list[Exploration]] = {}
    deadline = time.monotonic() + 60 * options.minutes
    begun = time.monotonic()
    for round_number in range(options.rounds):
        for name in names:
            if time.monotonic() > deadline or findings.enough:
                break
            run = Run(name, seed + round_number)
            found = explore_plan(
                run, states=options.states, workers=options.workers,
                isolation=options.isolation, findings=findings,
            )  # fmt: skip
            totals.setdefault(name, []).append(found)
            print(figures(name, PLANS[name], found, run.seed), flush=True)
    states = sum(found.states for rounds in totals.values() for found in rounds)
    print(
        f"crash states: {states} distinct in {len(totals)} campaigns, {findings.count} findings, "
        f"seed {seed}, {duration(time.monotonic() - begun)}"
    )
    return 1 if findings.count else 0


def figures(name: str, plan: Plan, found: Exploration, seed: int) -> str:
    """One line for one exploration."""
    how = "all" if found.exhausted else "drawn"
    return (
        f"{name:<26} {found.states:>7} states ({how}) at {found.points:>6} points, "
        f"{found.same:>6} repeated, {len(found.violations)} violations, "
        f"{found.seconds:>6.1f} s, seed {seed}: {plan.about}"
    )


def explore_plan(
    run: Run, *, states: int, workers: int | None, isolation: str, findings: Findings
) -> Exploration:
    """Records a plan once and judges at most so many of its crash states, and as many of its
    recoveries', if the plan asks for them."""
    plan = run.plan
    again = (
        f"python -m fuzz.crash_states --only {run.name} --seed {run.seed} --states {states} "
        f"--isolation {isolation}"
    )
    states = max(1, int(states * plan.share))
    with workplace("logstore-crash-") as place:
        total = Exploration(seed=run.seed)
        try:
            recording = _record(run, place)
            total = explore_recording(
                recording, check, seed=run.seed, max_states=states, workers=workers,
                isolation=isolation, max_violations=_VIOLATIONS_MAX,
            )  # fmt: skip
            if plan.again[0] and total.ok:
                _add(total, _explore_again(run, recording, place, states, workers, isolation))
        except WorkloadError as error:
            findings.tell(f"{run.name}: {error}", seed=run.seed, command=again)
        for number, violation in enumerate(total.violations):
            kept = findings.keep(_recording_of(violation.command, place), f"{run.name}-{number}")
            violation.command = violation.command.replace(
                str(_recording_of(violation.command, place)), str(kept)
            )
            findings.tell(f"{run.name}: {violation}", seed=run.seed, command=again)
        return total


def _recording_of(command: str, place: Path) -> Path:
    """The recording that a replay's command names."""
    words = command.split()
    return Path(words[words.index("--replay") + 1])


def _record(run: Run, place: Path) -> Recording:
    store = place / "store"
    store.mkdir()
    acks = place / "acks"
    acks.write_text(run.line() + "\n")
    if run.plan.set_up:
        environ = {**os.environ, **_environment(), "LOGSTORE_CRASH_DIR": str(store)}
        environ["LOGSTORE_CRASH_ACKS"] = str(acks)
        done = subprocess.run(_command("set-up", run), env=environ, check=False)
        if done.returncode:
            raise WorkloadError(f"the set-up exited with {done.returncode}")
        if run.plan.version == version1.OLD:
            version1.make_old(str(store / FILE))
    return record(
        _command("run", run), store, place / "recording", fs=run.plan.fs, volatile=VOLATILE,
        base_acks=acks.read_bytes(), env=_environment(),
    )  # fmt: skip


def _command(part: str, run: Run) -> list[str]:
    return [sys.executable, "-m", "fuzz.crash_workload", part, run.name, str(run.seed)]


def _environment() -> dict[str, str]:
    """Workloads import the same package as this process does."""
    return {"PYTHONPATH": os.pathsep.join([str(ROOT), *(path for path in sys.path if path)])}


def _explore_again(
    run: Run, recording: Recording, place: Path, states: int, workers: int | None, isolation: str
) -> Exploration:
    count, depth = run.plan.again
    each = max(20, states // (count * depth))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = _environment()["PYTHONPATH"]
    kept_tempdir, tempfile.tempdir = tempfile.tempdir, str(place)
    try:
        return explore_again(
            recording, _command("recover", run), check, into=place / "again", states=count,
            depth=depth, max_states=each, seed=run.seed, volatile=VOLATILE, workers=workers,
            isolation=isolation, max_violations=_VIOLATIONS_MAX,
        )  # fmt: skip
    finally:
        tempfile.tempdir = kept_tempdir
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _add(total: Exploration, found: Exploration) -> None:
    total.points += found.points
    total.states += found.states
    total.same += found.same
    total.seconds += found.seconds
    total.violations += found.violations
    total.exhausted = False


if __name__ == "__main__":
    if shutil.which("strace") is None:
        sys.exit("strace is not installed")
    end_tidily()
    sys.exit(main())
