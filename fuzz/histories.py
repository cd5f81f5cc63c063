"""Are histories of processes, threads and tasks linearizable? `python -m fuzz.histories --help`.

Invariants: whatever results and progress four processes write, read, wait for, pop and delete, each
with threads and an event loop, while stores compact and vacuum and processes are killed, stopped
and continued: for each task there is an order of the operations that explains every answer and that
real time allows. Afterwards check() is clean and one file is left.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import logstore
from fuzz.campaign import (
    Bar,
    Findings,
    add_common,
    commit_seed,
    duration,
    end_tidily,
    undisturbed,
    workplace,
)
from fuzz.histories_worker import Worker
from fuzz.processes import Child, Talk, start, wait_for_lines
from logstore.testing.linearizability import (
    RegisterModel,
    ResultModel,
    Verdict,
    check_linearizable,
    load_history,
)

FILE = "app.db"
PROCESSES = 4
ROUND_S = 15.0
PAUSE_S = 0.15  # between two disturbances, at most
END_S = 60.0
CONFIGURATIONS_MAX = 400_000


def main(argv: list[str] | None = None) -> int:
    """Runs the campaign and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.histories")
    add_common(parser)
    parser.add_argument("--operations", type=int, default=100_000, help="how many to check")
    parser.add_argument("--round", type=int, help="only the round of that number")
    parser.add_argument("--seconds", type=float, default=ROUND_S, help="of a round")
    options = parser.parse_args(argv)
    seed = commit_seed() if options.seed is None else options.seed
    findings = Findings(options.findings, first=options.first)
    begun = time.monotonic()
    bar = Bar(options.operations, "operations")
    total = Totals()
    while total.operations < options.operations and time.monotonic() - begun < 60 * options.minutes:
        number = total.rounds if options.round is None else options.round
        again = f"python -m fuzz.histories --seed {seed} --round {number}"
        with workplace("logstore-histories-") as place:
            done = Round(seed, number, place, options.seconds)
            try:
                done.run()
                problems = [str(verdict) for verdict in done.judge(total) if not verdict.ok]
            except AssertionError as error:
                problems = [str(error)]
            finally:
                done.end()
            for problem in problems:
                kept = findings.keep(place, f"histories-{seed}-{number}")
                findings.tell(
                    f"histories, round {number}: {problem}\n  kept in {kept}", seed=seed,
                    command=again,
                )  # fmt: skip
        total.take(done)
        bar.update(total.operations, f"{findings.count} findings")
        if options.round is not None or findings.enough:
            break
    bar.close()
    print(
        f"histories: {total}, {findings.count} findings, seed {seed}, "
        f"{duration(time.monotonic() - begun)}"
    )
    return 1 if findings.count else 0


class Totals:
    """The figures of all rounds."""

    def __init__(self) -> None:
        self.rounds = self.operations = self.unknown = self.keys = self.undecided = 0
        self.killed = self.stopped = 0

    def count(self, verdict: Verdict) -> None:
        """Take in what a check found; tasks that could not be decided do not count as checked."""
        self.operations += verdict.operations
        self.unknown += verdict.unknown
        self.keys += verdict.keys
        self.undecided += len(verdict.undecided)

    def take(self, done: Round) -> None:
        """Take in what was done to a round's processes."""
        self.rounds += 1
        self.killed += done.killed
        self.stopped += done.stopped

    def __str__(self) -> str:
        return (
            f"{self.operations} operations checked ({self.unknown} of unknown outcome) on "
            f"{self.keys} tasks in {self.rounds} rounds, {self.killed} processes killed, "
            f"{self.stopped} stopped and continued, {self.undecided} tasks undecided"
        )


class Round:
    """The life of one store under all clients at once."""

    def __init__(self, seed: int, number: int, place: Path, seconds: float) -> None:
        self._rng = random.Random(f"histories {seed} {number}")
        self._seconds = seconds
        self._errors = place / "errors"
        self._home = place / "store"
        self.results = place / "results"
        self.progress = place / "progress"
        for directory in (self._errors, self._home, self.results, self.progress):
            directory.mkdir()
        self._path = os.fspath(self._home / FILE)
        self._numbers = itertools.count()
        self._children: list[Child] = []
        self.killed = self.stopped = 0

    def run(self) -> None:
        """Let them work, and disturb them. Raises AssertionError."""
        rng = self._rng
        deadline = time.monotonic() + self._seconds
        while time.monotonic() < deadline:
            while len(self._children) < PROCESSES:
                self._add()
            wait_for_lines(self._children, rng.random() * PAUSE_S)
            child = rng.choice(self._children)
            if rng.random() < 0.25:
                self._kill(child)
            else:
                self._stop(child, rng.choice((0.002, 0.02, 0.1)) * rng.random())
            self._look_for_errors()
        for child in self._children:
            child.hush()
        self._await_end()
        self._look_for_errors()
        found = sorted(os.listdir(self._home))
        assert found == [FILE], f"at rest there is {found}"

    def judge(self, total: Totals) -> list[Verdict]:
        """Check the two histories and the store."""
        verdicts: list[Verdict] = []
        for directory, model in ((self.results, ResultModel()), (self.progress, RegisterModel())):
            verdict = check_linearizable(
                load_history(directory), model, configurations_max=CONFIGURATIONS_MAX
            )
            total.count(verdict)
            verdicts.append(verdict)
        with undisturbed():
            child = start("check", lambda talk: _check(self._path), self._errors / "check")
            status = child.end()
        assert not status, child.error
        child.drain()
        shutil.rmtree(self._home)
        self._home.mkdir()
        return verdicts

    def end(self) -> None:
        """Leaves nothing running."""
        with undisturbed():
            for child in self._children:
                child.signal(signal.SIGKILL)
                child.end()

    def _add(self) -> None:
        name = f"p{next(self._numbers)}"
        seed = self._rng.randrange(1 << 32)
        compact_at = self._rng.choice((1 << 14, 1 << 16, 1 << 20))

        def work(talk: Talk) -> None:
            Worker(name, seed, self.results, self.progress).run(talk, self._path, compact_at)

        with undisturbed():
            child = start(name, work, self._errors / name, self._children)
            self._children.append(child)

    def _kill(self, child: Child) -> None:
        child.signal(signal.SIGKILL)
        code = child.end()
        self._children.remove(child)
        child.drain()
        assert code == -signal.SIGKILL, f"{child.name}, exit code {code}:\n{child.error}"
        self.killed += 1

    def _stop(self, child: Child, seconds: float) -> None:
        child.signal(signal.SIGSTOP)
        others = [other for other in self._children if other is not child]
        wait_for_lines(others, seconds)
        child.signal(signal.SIGCONT)
        self.stopped += 1

    def _look_for_errors(self) -> None:
        for file in sorted(self._errors.iterdir()):
            raise AssertionError(f"{file.name}:\n{file.read_text()}")

    def _await_end(self) -> None:
        deadline = time.monotonic() + END_S
        for child in list(self._children):
            while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
                assert time.monotonic() < deadline, f"{child.name} does not come to its end"
                time.sleep(0.001)
            code = child.end()
            self._children.remove(child)
            child.drain()
            assert code == 0, f"{child.name}, exit code {code}:\n{child.error}"


def _check(path: str) -> None:
    with logstore.open(path) as store:
        report = store.check()
        assert report.ok, report.problems
    assert os.listdir(os.path.dirname(path)) == [FILE]


if __name__ == "__main__":
    end_tidily()
    sys.exit(main())
