"""A random sample of one-point mutants: at least 95 % of those that change behaviour must die.

Rules: the seed decides the sample, for one state of the package.  A mutant meets the tests that run
its statement, the fastest first; one that turns a test red twice is killed, by a hang too.  Mutants
of ``mutant_equivalents.py`` are not run and do not count.

    python -m fuzz.mutant_sample --seed 7 --count 100
    python -m fuzz.mutant_sample --only '_engine/*' --only store.py --kind lock
    python -m fuzz.mutant_sample --replay _engine/log.py:95:15:comparison:0
"""

from __future__ import annotations

import argparse
import os
import queue
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from random import Random
from typing import NamedTuple

from fuzz.campaign import commit_seed, duration, end_tidily
from fuzz.mutant_coverage import Coverage, Recorded, measure
from fuzz.mutant_equivalents import EQUIVALENTS, Equivalent
from fuzz.mutant_finder import find
from fuzz.mutant_package import Package
from fuzz.mutant_points import KINDS, Point
from fuzz.mutant_runs import Copy, Run
from fuzz.mutants import PASSED, ROOT, end_all_of

KILLED, TIMED_OUT, SURVIVED, EQUIVALENT = "killed", "timed out", "SURVIVED", "equivalent"
FATES = (KILLED, TIMED_OUT, SURVIVED, EQUIVALENT)
DIE_MIN = 0.95
# Limits in seconds, and in multiples of what a test takes: a busy machine is no hang.
START_S, TEST_S, TIMES_SLOWER = 60.0, 20.0, 10.0
NO_TESTS_FOUND = 5  # pytest's exit status
FIRST_S = 3.0  # how long the first tests may take together: most mutants die of them
CONTROL_TESTS = 50


class Verdict(NamedTuple):
    """What became of one mutant."""

    point: Point
    fate: str
    why: str
    seconds: float


def draw(points: Sequence[Point], count: int, seed: int) -> list[Point]:
    """A sample of the points, in which each kind and each module has its part.

    Of a kind, the points are taken in equal steps over all modules.
    """
    random = Random(seed)
    by_kind: dict[str, list[Point]] = {kind: [] for kind in KINDS}
    for point in sorted(points):
        by_kind[point.kind].append(point)
    sample = []
    for kind, share in shares({kind: len(of) for kind, of in by_kind.items()}, count).items():
        modules: dict[str, list[Point]] = defaultdict(list)
        for point in by_kind[kind]:
            modules[point.file].append(point)
        names = random.sample(sorted(modules), len(modules))
        ordered = [p for name in names for p in random.sample(modules[name], len(modules[name]))]
        offset = random.random()
        sample += [ordered[int((i + offset) * len(ordered) / share)] for i in range(share)]
    random.shuffle(sample)
    return sample


def shares(sizes: dict[str, int], count: int) -> dict[str, int]:
    """How many of each kind are drawn.

    They are as the roots of how many there are, so that a rare kind is seen too: each next one is
    of the kind that lags behind most.
    """
    found = dict.fromkeys(sizes, 0)
    for _ in range(min(count, sum(sizes.values()))):
        left = [kind for kind, size in sizes.items() if found[kind] < size]
        found[max(left, key=lambda kind: sizes[kind] ** 0.5 / (found[kind] + 0.5))] += 1
    return found


def judge(point: Point, source: str, copy: Copy, tests: Sequence[Recorded]) -> tuple[str, str]:
    """Put a mutant into a copy and run tests on it: what became of it, and by which test."""
    quick = within(tests, FIRST_S)
    left, flaky = [quick, tests[len(quick) :]], []
    with copy.with_source(point.file, point.applied(source)):
        while left:
            part = left.pop(0)
            run = run_tests(copy, part)
            if run.status == PASSED:
                continue
            culprit = culprit_of(run, part)
            if culprit is None:
                return KILLED, "no test can be run"
            again = run_tests(copy, [culprit])
            if again.status != PASSED:
                hung = again.status is None or any("Timeout" in t.failed for t in again.ended)
                return TIMED_OUT if hung else KILLED, culprit.node_id
            flaky.append(culprit.node_id)
            left.insert(0, part[part.index(culprit) + 1 :])
    ran = f"{len(tests)} tests run it" if tests else "no test runs it"
    return SURVIVED, f"{ran}; red only once: {', '.join(flaky)}" if flaky else ran


def run_tests(copy: Copy, tests: Sequence[Recorded]) -> Run:
    """Run tests until one is red."""
    if not tests:
        return Run(PASSED, [], "", "")
    order = [(test.node_id, TEST_S + TIMES_SLOWER * test.seconds) for test in tests]
    files = list(dict.fromkeys(test.file for test in tests))
    limit_s = START_S + TEST_S + TIMES_SLOWER * sum(test.seconds for test in tests)
    return copy.run(files, limit_s, order=order)


def culprit_of(run: Run, tests: Sequence[Recorded]) -> Recorded | None:
    """The test that was red, never ended, or was the last before pytest itself failed.

    None if no test could be run.  Raises RuntimeError if that is not the mutant's doing.
    """
    red = [test.node_id for test in run.ended if test.failed]
    names = [*red, run.last, *(test.node_id for test in reversed(run.ended))]
    name = next((name for name in names if name), None)
    if name is None and run.status in (None, NO_TESTS_FOUND):
        raise RuntimeError(f"pytest ended with {run.status}:\n{run.output}")
    return next((test for test in tests if test.node_id == name), None)


class Campaign:
    """One run of the sampler."""

    def __init__(self, package: Package, coverage: Coverage, copies: Iterable[Copy]) -> None:
        self._package = package
        self._coverage = coverage
        self._copies: queue.Queue[Copy] = queue.Queue()
        for copy in copies:
            self._copies.put(copy)

    def control(self) -> str:
        """Run some tests on a copy as it is; what pytest wrote if they are not green."""
        copy = self._copies.get()
        run = run_tests(copy, self._coverage.tests[:CONTROL_TESTS])
        self._copies.put(copy)
        return "" if run.status == PASSED else run.output or "it hung"

    def attempt(self, point: Point, budget_s: float) -> Verdict:
        """Judge one mutant with as many tests as the budget allows."""
        started = time.perf_counter()
        source = self._package.sources[point.file]
        entry = equivalent(point, source)
        if entry is not None:
            return Verdict(point, EQUIVALENT, entry.why, 0.0)
        covering = self._coverage.covering(point)
        tests = within(covering, budget_s)
        copy = self._copies.get()
        try:
            fate, why = judge(point, source, copy, tests)
        finally:
            self._copies.put(copy)
        if fate == SURVIVED and len(tests) < len(covering):
            why += f"; {len(covering) - len(tests)} slow ones are left out"
        return Verdict(point, fate, why, time.perf_counter() - started)


def within(tests: Sequence[Recorded], budget_s: float) -> Sequence[Recorded]:
    """The first tests that take no longer than the budget together."""
    seconds = 0.0
    for number, test in enumerate(tests):
        seconds += test.seconds
        if seconds > budget_s:
            return tests[:number]
    return tests


def equivalent(point: Point, source: str) -> Equivalent | None:
    """The entry that says why a mutant changes nothing."""
    return next((entry for entry in EQUIVALENTS if entry.fits(point, source)), None)


def report(verdicts: Sequence[Verdict], sources: dict[str, str], seed: int) -> int:
    """Print the table and the survivors; 1 if too few have died."""
    print(f"\n{'':12}" + "".join(f"{fate:>12}" for fate in FATES))
    for kind in (*KINDS, "all"):
        of_kind = [v.fate for v in verdicts if kind in (v.point.kind, "all")]
        print(f"{kind:12}" + "".join(f"{of_kind.count(fate):12}" for fate in FATES))
    fates = [verdict.fate for verdict in verdicts]
    died = fates.count(KILLED) + fates.count(TIMED_OUT)
    counted = len(fates) - fates.count(EQUIVALENT)
    for verdict in verdicts:
        if verdict.fate == SURVIVED:
            point = verdict.point
            print(f"\nSURVIVED: logstore/{point.file}:{point.line}, {point.kind}: {verdict.why}")
            print(point.diff(sources[point.file]))
            print(f"  again: python -m fuzz.mutant_sample --replay {point.name}")
    share = died / counted if counted else 1.0
    print(f"\nseed {seed}: {died} of {counted} mutants that change behaviour died: {share:.1%}")
    return 0 if share >= DIE_MIN else 1


def chosen(package: Package, options: argparse.Namespace) -> list[Point]:
    """The points that the options select, before any is drawn."""
    points = [p for file, source in package.sources.items() for p in find(file, source)]
    return [
        point
        for point in points
        if (not options.only or any(fnmatch(point.file, glob) for glob in options.only))
        and (not options.kind or point.kind in options.kind)
        and (not options.replay or point.name in options.replay)
    ]


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m fuzz.mutant_sample",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, help="of the sample; else the commit's")
    parser.add_argument("--count", type=int, default=100, help="how many are drawn")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="side by side")
    parser.add_argument("--only", action="append", metavar="GLOB", help="files below logstore/")
    parser.add_argument("--kind", action="append", choices=KINDS)
    parser.add_argument("--replay", action="append", metavar="NAME", help="these, and no sample")
    parser.add_argument(
        "--budget", type=float, default=120.0, metavar="SECONDS", help="of tests for one mutant"
    )
    parser.add_argument("--list", action="store_true", help="show the sample, run nothing")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Run the campaign on a tree; 0 if enough mutants have died, 2 if it could not be run."""
    options = parsed(arguments)
    seed = commit_seed() if options.seed is None else options.seed
    package = Package(root / "logstore")
    points = chosen(package, options)
    sample = points if options.replay else draw(points, options.count, seed)
    print(f"{len(sample)} of {len(points)} mutants, seed {seed}", flush=True)
    if options.list or not sample:
        for point in sample:
            print(f"\n{point.name}\n{point.diff(package.sources[point.file])}")
        return 0 if sample else 2
    started = time.perf_counter()
    with own_place() as place:
        coverage = measure(package, root, place, options.jobs, tell)
        copies = [Copy(root, place / f"copy-{number}") for number in range(options.jobs)]
        campaign = Campaign(package, coverage, copies)
        if output := campaign.control():
            print(f"the tests are not green on the code as it is:\n{output}")
            return 2
        verdicts = all_verdicts(sample, options.jobs, lambda p: campaign.attempt(p, options.budget))
    print(f"{duration(time.perf_counter() - started)}")
    return report(verdicts, package.sources, seed)


@contextmanager
def own_place() -> Iterator[Path]:
    """A directory for copies, which goes with the block, as does what runs in them."""
    # Threads of a campaign that is ended may still write there for a moment.
    with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as directory:
        try:
            yield Path(directory)
        finally:
            end_all_of(Path(directory))


def all_verdicts(
    sample: Sequence[Point], jobs: int, attempt: Callable[[Point], Verdict]
) -> list[Verdict]:
    """Judge the mutants side by side, and tell of each as it ends."""
    verdicts = []
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for verdict in pool.map(attempt, sample):
                verdicts.append(verdict)
                tell(
                    f"{len(verdicts):4} {verdict.fate:10} {verdict.seconds:6.1f} s  "
                    f"{verdict.point.name}  {verdict.why}"
                )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return verdicts


def tell(what: str) -> None:
    """Print a line at once."""
    print(what, flush=True)


if __name__ == "__main__":
    end_tidily()
    sys.exit(main())
