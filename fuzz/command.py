"""The command line that all fuzzers share.

Rules: exit status 1 if an invariant was broken, and a command to replay is printed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from fuzz.campaign import commit_seed
from fuzz.loop import Report, replay, run_loop
from fuzz.target import HERE, Target, load

SECONDS = 30.0


def targets() -> dict[str, Target]:
    """All fuzzers by name."""
    names = sorted(path.stem for path in HERE.glob("fuzz_*.py"))
    found = [import_module(f"fuzz.{name}").TARGET for name in names]
    return {target.name: target for target in found}


def main(only: Target | None = None) -> None:
    """Run from the command line, and exit."""
    known = targets() if only is None else {only.name: only}
    options = _parser(known).parse_args()
    if options.replay:
        sys.exit(_replay(known, options.replay))
    chosen = options.target or list(known)
    seconds = options.seconds
    if seconds is None and options.executions is None:
        seconds = SECONDS
    reports = []
    for name in chosen:
        report = run_loop(
            known[name],
            options.seed,
            executions=options.executions,
            seconds=seconds,
            save_in=options.save_in,
            keep_in=options.keep_in,
        )
        print(report.line(), flush=True)
        for cause, count in report.causes.most_common():
            print(f"  {count} x {cause}")
        if options.outcomes:
            for label, count in report.labels.most_common():
                print(f"  {count:8} {label}")
        reports.append(report)
    sys.exit(_sum_up(reports))


def _sum_up(reports: Sequence[Report]) -> int:
    executions = sum(report.executions for report in reports)
    findings = sum(len(report.causes) for report in reports)
    seed = reports[0].seed
    print(f"all: {executions} executions, {findings} findings, seed {seed}")
    return 1 if findings else 0


def _parser(known: dict[str, Target]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("target", nargs="*", choices=[*known, []], help=", ".join(known))
    parser.add_argument("--seed", type=int, default=commit_seed(), help="else the commit's")
    parser.add_argument("--executions", type=int, help="of each target, besides its corpus")
    parser.add_argument("--seconds", type=float, help=f"of each target; default {SECONDS:.0f}")
    parser.add_argument("--replay", nargs="+", type=Path, metavar="FILE", help="run inputs again")
    parser.add_argument("--outcomes", action="store_true", help="print how often each was seen")
    parser.add_argument("--keep-in", type=Path, help="where inputs that do something new are put")
    parser.add_argument(
        "--save-in", type=Path, default=Path("build/findings"), help="where findings are put"
    )
    return parser


def _replay(known: dict[str, Target], paths: Sequence[Path]) -> int:
    broken = 0
    for path in paths:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        name = path.name if path.is_dir() else path.resolve().parent.name
        if name not in known:
            sys.exit(f"{path}: in no directory with a fuzzer's name: {', '.join(known)}")
        outcomes = replay(known[name], list(map(load, files)))
        for file, outcome in zip(files, outcomes, strict=True):
            print(f"{file}: {outcome.problem or 'holds'} ({outcome.label})")
            if outcome.problem:
                print(outcome.detail)
                broken += 1
    return 1 if broken else 0
