"""Is each slot sent once? `python -m fuzz.schedules --help`.

Invariants: two of taskiq's schedulers and a worker run on one store, and are killed and started
again, now and then all of them at once. Schedules are added and removed meanwhile. Each slot of a
schedule is in one message, however many schedulers have seen it, and none is missing between the
first and the last. Afterwards check() is clean.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from taskiq import ScheduledTask

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
from logstore._engine.queuetable import all_schedules
from logstore.taskiq.schedules.source import LogStoreScheduleSource

APP = "fuzz.scheduled_app"
TASKIQ = "from taskiq.__main__ import main; main()"
SCHEDULERS = 2
DRAIN_S = 60.0
LATE_S = 30.0  # how old the last slot may be at the end

Runs = dict[str, dict[str, set[str]]]  # ids of tasks by schedule and slot


def main(argv: list[str] | None = None) -> int:
    """Runs the campaign and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.schedules")
    add_common(parser)
    parser.set_defaults(minutes=60.0)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two restarts")
    parser.add_argument("--app", default=APP, help="the module with broker and scheduler")
    options = parser.parse_args(argv)
    seed = commit_seed() if options.seed is None else options.seed
    findings = Findings(options.findings, first=options.first)
    with workplace("logstore-schedules-") as place:
        run = Run(place, random.Random(seed), options.app)
        begun = time.monotonic()
        try:
            run.go_on(60 * options.minutes, options.every)
        finally:
            run.end()
        problems = run.judge()
        for problem in problems[:20]:
            kept = findings.keep(place, f"schedules-{seed}")
            again = f"python -m fuzz.schedules --seed {seed} --every {options.every}"
            findings.tell(f"schedules: {problem}\n  kept in {kept}", seed=seed, command=again)
    print(
        f"schedules: {run.slots} slots, {run.restarts} restarts, {run.all_down} times of all, "
        f"{len(problems)} findings, seed {seed}, {duration(time.monotonic() - begun)}"
    )
    return 1 if problems else 0


class Run:
    """The processes of a campaign, what is done to them, and what they have sent."""

    def __init__(self, place: Path, rng: random.Random, app: str) -> None:
        self._path, self._runs = place / "app.db", place / "runs"
        self._rng = rng
        self._app = app
        self._environment = {
            **os.environ,
            "SCHEDULES_DB": str(self._path),
            "SCHEDULES_RUNS": str(self._runs),
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._log = (place / "log").open("ab")
        self._ended_s = 0.0
        self.slots = self.restarts = self.all_down = 0
        self._added: list[str] = []

    # -- what is done -----------------------------------------------------------------------

    def go_on(self, seconds: float, every_s: float) -> None:
        """Kill and start processes for a time, and let them work on what is left."""
        begun = time.monotonic()
        for name in self._names():
            self._start(name)
        bar = Bar(seconds, "seconds")
        for number in itertools.count():
            left = seconds - (time.monotonic() - begun)
            bar.update(seconds - left, f"{self.restarts} restarts")
            if left <= 0:
                break
            time.sleep(min(left, every_s * self._rng.uniform(0.5, 1.5)))
            self._disturb(number)
            asyncio.run(self._change(number))
        bar.close()

    def _names(self) -> list[str]:
        return [*(f"scheduler {number}" for number in range(SCHEDULERS)), "worker"]

    def _disturb(self, number: int) -> None:
        names = self._names()
        together = self._rng.random() < 0.2
        chosen = names if together else [names[number % len(names)]]
        self.all_down += together
        for name in chosen:
            number = signal.SIGKILL if self._rng.random() < 0.7 else signal.SIGTERM
            self._stop(name, signal.SIGKILL if name == "worker" else number)
        if together:
            time.sleep(self._rng.uniform(0.0, 3.0))
        for name in chosen:
            self._start(name)
            self.restarts += 1

    async def _change(self, number: int) -> None:
        """Add, change or remove a schedule at run time."""
        source = LogStoreScheduleSource(self._path)
        if len(self._added) > 3:
            await source.delete_schedule(self._added.pop(self._rng.randrange(4)))
        elif self._added and self._rng.random() < 0.5:
            await source.add_schedule(_schedule(self._rng.choice(self._added), number))
        else:
            self._added.append(f"added interval 2 #{number}")
            await source.add_schedule(_schedule(self._added[-1], number))
        await source.shutdown()

    def _start(self, name: str) -> None:
        what = f"{self._app}:{'broker' if name == 'worker' else 'scheduler'}"
        command = ["worker", what, "--workers", "1"] if name == "worker" else ["scheduler", what]
        with undisturbed():
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-c", TASKIQ, *command],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,
            )

    def _stop(self, name: str, number: int) -> None:
        """End a process, and those that it has started."""
        process = self._processes.pop(name)
        if number == signal.SIGTERM:
            process.terminate()
            try:
                process.wait(DRAIN_S)
            except subprocess.TimeoutExpired:
                pass
        with undisturbed():
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()

    def end(self) -> None:
        """Let the worker do what was sent, and end everything."""
        self._ended_s = time.time()
        for name in list(self._processes):
            if name != "worker":
                self._stop(name, signal.SIGKILL)
        deadline = time.monotonic() + DRAIN_S
        while "worker" in self._processes and self._waiting() and time.monotonic() < deadline:
            time.sleep(0.1)
        for name in list(self._processes):
            self._stop(name, signal.SIGKILL)
        self._log.close()

    def _waiting(self) -> int:
        with logstore.open(self._path) as store:
            stats = store.queue().stats()
        return stats.ready + stats.leased

    # -- what has come of it ----------------------------------------------------------------

    def judge(self) -> list[str]:
        """Return what is wrong."""
        problems = list(self._judge_slots(self._read()))
        if left := self._waiting():
            problems.append(f"{left} messages were not worked on")
        report = logstore.check(self._path)
        return problems + list(report.problems)

    def _read(self) -> Runs:
        runs: Runs = defaultdict(lambda: defaultdict(set))
        for line in self._runs.read_text().splitlines() if self._runs.exists() else []:
            schedule_id, slot, task_id = line.split("\t")
            runs[schedule_id][slot].add(task_id)
        return runs

    def _judge_slots(self, runs: Runs) -> Iterator[str]:
        with logstore.open(self._path) as store:
            known = {one.key.decode(): one for one in all_schedules(store._handle.engine)}
        if not known:
            yield "there are no schedules"
        for schedule_id, sent in runs.items():
            self.slots += len(sent)
            for slot, tasks in sent.items():
                if len(tasks) > 1:
                    yield f"slot {slot} of {schedule_id} was sent {len(tasks)} times"
        for schedule_id, schedule in known.items():
            slots = runs.get(schedule_id, {})
            words = schedule_id.split()
            step = timedelta(seconds=int(words[2]) if words[1] == "interval" else 60)
            times = sorted(map(datetime.fromisoformat, slots))
            for one, other in itertools.pairwise(times):
                if other - one != step:
                    yield f"{schedule_id} has no slot between {one} and {other}"
            last_us = schedule.last_us
            if times and int(times[-1].timestamp() * 1e6) != last_us:
                yield f"{schedule_id} was sent up to {times[-1]}, and is claimed up to {last_us}"
            if self._ended_s - last_us / 1e6 > LATE_S + step.total_seconds():
                yield f"{schedule_id} was not sent lately: {times[-1:]}"


def _schedule(schedule_id: str, number: int) -> ScheduledTask:
    return ScheduledTask(
        task_name="fuzz.scheduled_app:note",
        schedule_id=schedule_id,
        labels={},
        args=[number],
        kwargs={},
        interval=2,
    )


if __name__ == "__main__":
    end_tidily()
    sys.exit(main())
