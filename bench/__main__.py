"""The command line: ``python -m bench run | compare | report | plot | peers``."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from . import compare, machine, plots, record, report
from .driver import Contender, Driver, Outcome, Wanted, contenders, everything, slices_of
from .profiles import ALL, PROFILES, Profile
from .progress import Progress
from .targets import OWN, Figures, Target, judge_all, needed
from .workloads import WORKLOADS

DEFAULT_OUT = Path("bench/results")
COMPARED = ("logstore", "logstore-async")
COMPARED_WORKLOADS = (*compare.NO_WORSE, "W5")


def names(text: str) -> list[str]:
    """Split a list given as one argument: ``W1,W2``."""
    return [word for word in text.replace(",", " ").split() if word]


def parser() -> argparse.ArgumentParser:
    """The arguments of all the commands."""
    top = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure everything side by side")
    other = commands.add_parser("compare", help="measure two revisions side by side")
    other.add_argument("reference", help="what to compare the working tree with: a git revision")
    for command in (run, other):
        command.add_argument("--profile", choices=PROFILES, default="quick")
        command.add_argument("--workloads", type=names, help="such as W1,W2; default: all")
        command.add_argument("--rounds", type=int, help="instead of the profile's")
        command.add_argument(
            "--dir", type=Path, default=Path(), help="where the stores are made: on a real disk"
        )
    run.add_argument("--peers", type=names, help="such as logstore,bare; default: all")
    run.add_argument("--out", type=Path, default=DEFAULT_OUT, help="for JSON, tables and plots")
    run.add_argument(
        "--check", action="store_true", help="fail when a ratio is below half of its target"
    )
    again = commands.add_parser("report", help="print the tables of an earlier run")
    again.add_argument("path", type=Path, nargs="?", default=DEFAULT_OUT / "bench.json")
    again.add_argument("--markdown", action="store_true")
    again.add_argument("--summary", action="store_true", help="one figure each, as Markdown")
    draw = commands.add_parser("plot", help="draw the plots of an earlier run")
    draw.add_argument("path", type=Path, nargs="?", default=DEFAULT_OUT / "bench.json")
    commands.add_parser("peers", help="say how each peer is configured, and why")
    return top


def chosen_profile(options: argparse.Namespace, default: Sequence[str] | None = None) -> Profile:
    """The profile with what the command line changes in it."""
    profile = PROFILES[options.profile]
    wanted = options.workloads or default or profile.workloads
    unknown = [name for name in wanted if name not in ALL]
    if unknown:
        raise SystemExit(f"unknown workload {unknown[0]!r}; known: {', '.join(ALL)}")
    profile = replace(profile, workloads=tuple(wanted))
    if options.rounds:
        rounds = options.rounds
        profile = replace(
            profile,
            rounds=rounds,
            slow_rounds=rounds,
            long_rounds=rounds,
            tail_rounds=rounds,
        )
    return profile


def measure(
    profile: Profile, rivals: list[Contender], directory: Path, wanted: Wanted = everything
) -> tuple[Outcome, dict[str, object]]:
    """Run `profile` and describe the machine it ran on."""
    described = machine.describe(directory)
    kind = described["file_system"]["type"]
    if kind in machine.NOT_DISKS:
        print(
            f"{directory.resolve()} is on {kind}, where a flush costs nothing: "
            "give a directory on a disk with --dir (or DIR= to make)",
            file=sys.stderr,
        )
    total = sum(slices_of(WORKLOADS[name], profile, rivals, wanted) for name in profile.workloads)
    progress = Progress(total)
    try:
        outcome = Driver(profile, rivals, directory, progress, wanted).run(profile.workloads)
    finally:
        progress.close()
    described["versions"].update(outcome.versions)
    return outcome, described


def command_run(options: argparse.Namespace) -> int:
    """Measure, write JSON and plots, print the tables."""
    profile = chosen_profile(options)
    rivals = contenders(options.peers or profile.peers)
    # Who names workloads wants them whole.
    wanted = needed if profile.targets_only and not options.workloads else everything
    outcome, described = measure(profile, rivals, options.dir, wanted)
    command = "python -m bench " + " ".join(sys.argv[1:])
    found = record.Record(command, asdict(profile), described, outcome)
    found.save(options.out / "bench.json")
    (options.out / "tables.md").write_text(report.render(found, markdown=True))
    print(report.render(found, markdown=False))
    try:
        drawn = plots.draw_all(found, options.out)
    except ImportError as error:
        print(f"no plots: {error}", file=sys.stderr)
    else:
        print("plots: " + ", ".join(str(path) for path in drawn))
    if not options.check:
        return 0
    bad = regressions(found)
    outcomes = [outcome]
    if bad:  # measured once more: noise passes, a regression does not
        again = tuple(dict.fromkeys(target.workload for target in bad))
        print(f"once more: {', '.join(again)}")
        outcome, described = measure(replace(profile, workloads=again), rivals, options.dir, wanted)
        outcomes.append(outcome)
        second = record.Record(command, {**asdict(profile), "workloads": again}, described, outcome)
        still = regressions(second)
        bad = [target for target in bad if target in still]
    lost = [text for run in outcomes for text in (*run.failed, *run.skipped) if OWN in text]
    for text in lost:
        print(f"failed: {text}")
    return 1 if bad or lost else 0


def regressions(found: record.Record) -> list[Target]:
    """The targets of which a ratio is worse than half; tells them."""
    figures = Figures(found.outcome.cells, found.outcome.peers)
    bad = [finding for finding in judge_all(figures, found.workloads) if finding.regressed]
    for finding in bad:
        target, measured = finding.target, finding.measured
        assert measured is not None
        print(
            f"regression: {target.workload} {target.variant}, {target.text}: "
            f"{measured.median:.2f}, target {target.sense} {target.bound:.2f}"
        )
    return [finding.target for finding in bad]


def command_compare(options: argparse.Namespace) -> int:
    """Measure the working tree and another revision, print both."""
    profile = chosen_profile(options, COMPARED_WORKLOADS)
    try:
        exported = compare.export(options.reference, options.dir)
    except compare.RevisionUnavailableError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        rivals = compare.contenders(exported, list(COMPARED))
        outcome, _ = measure(profile, rivals, options.dir)
    finally:
        exported.remove()
    tables = (compare.table, compare.no_worse)
    print("\n\n".join(make(outcome.cells, exported, [*COMPARED]).text() for make in tables))
    return 1 if outcome.failed else 0


def command_report(options: argparse.Namespace) -> int:
    """Print the tables of an earlier run."""
    found = record.load(options.path)
    print(
        report.summary(found)
        if options.summary
        else report.render(found, markdown=options.markdown)
    )
    return 0


def command_plot(options: argparse.Namespace) -> int:
    """Draw the plots of an earlier run beside its JSON."""
    for path in plots.draw_all(record.load(options.path), options.path.parent):
        print(path)
    return 0


def command_peers(_: argparse.Namespace) -> int:
    """Print every peer's configuration and the reason for it."""
    from .peers import TABLE, PeerUnavailableError, load

    for name in TABLE:
        try:
            about = load(name).about
        except PeerUnavailableError as reason:
            print(f"{name}: not here: {reason}\n")
            continue
        promise = "durable" if about.durable else "not durable"
        print(f"{name}: {about.title} ({promise})\n  {about.why}\n")
    return 0


COMMANDS = {
    "run": command_run,
    "compare": command_compare,
    "report": command_report,
    "plot": command_plot,
    "peers": command_peers,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that was asked for; returns the exit status."""
    options = parser().parse_args(arguments)
    # Ended by a signal, the workers and their servers must be ended and the stores removed too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    return COMMANDS[options.command](options)


if __name__ == "__main__":
    sys.exit(main())
