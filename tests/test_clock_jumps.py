"""A clock that is set forward and back, by seconds and by decades, against a simple model.

Invariants, under Hypothesis (derandomized; a failure prints its steps): what is ready is what was
stored last and has not expired by the clock; what a compaction has taken away does not come back
when the clock is set back; progress older than a result never makes its task run again; progress
that was set when there was no live result does.  The lists say the same as the statuses, times
only grow, and the full check finds nothing.

The model leaves open what is said of progress that was set while there was a live result, when that
has expired: if the clock was ahead once, its record time does not say on which side it was.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

import logstore
from logstore import TaskProgress
from logstore.types import Status
from tests.support.fileformat import TIME_MAX
from tests.support.inside import no_idle_compaction

SECOND_US = 1_000_000
START_US = 1_800_000_000 * SECOND_US
YEAR_S = 365 * 86400
WALL_MAX_US = TIME_MAX - 10**9 * SECOND_US  # a later clock counts as this
GONE_KEPT_US = 86400 * SECOND_US
IDS = ("a", "b")
STATUSES: tuple[Status, ...] = ("ready", "running", "deleted", "expired")
FIXED_S = {"1970": 10, "1950": -20 * YEAR_S, "9990": 8020 * YEAR_S}

ids = st.sampled_from(IDS)
ttls = st.sampled_from((None, 20, 20, 5000))
jumps = st.one_of(
    st.sampled_from((15, 30, -15)),
    st.sampled_from((15, 30, 90_000, -90_000, YEAR_S, -YEAR_S, *FIXED_S)),
)
writes = st.tuples(st.sampled_from(("result", "progress")), ids, ttls)
steps = st.one_of(
    writes,
    writes,
    st.tuples(st.just("jump"), st.just(""), jumps),
    st.tuples(st.sampled_from(("delete", "compact", "reopen")), ids, st.none()),
    # The clock is wrong for one write.
    st.tuples(st.just("blip"), ids, st.sampled_from((YEAR_S, -YEAR_S, "9990"))),
)


@dataclass
class Result:
    """What the model knows of the result of a task; times in microseconds."""

    value: int
    expires_us: float
    taken_away: bool = False


@dataclass
class Progress:
    """What it knows of its progress."""

    expires_us: float
    newer: bool = True  # than the result, if there is one
    beside_a_result: bool = False  # that was live when it was set


class Model:
    """The store as it should be."""

    def __init__(self) -> None:
        self.wall_us = START_US
        self.record_us = START_US  # at least the time of the newest record
        self.results: dict[str, Result] = {}
        self.deleted: dict[str, float] = {}  # record times
        self.gone: dict[str, float] = {}  # of the results that were taken away
        self.progress: dict[str, Progress] = {}

    def time_ns(self) -> int:
        """The system's clock."""
        return self.wall_us * 1000

    @property
    def now_us(self) -> int:
        return min(max(self.wall_us, 1), WALL_MAX_US)

    def write(self) -> float:
        self.record_us = max(self.record_us, self.now_us) + 1
        return self.record_us

    def is_live(self, task_id: str) -> bool:
        result = self.results.get(task_id)
        return result is not None and not result.taken_away and result.expires_us > self.now_us

    def runs(self, task_id: str) -> bool | None:
        """Whether a task runs; None if the model leaves that open."""
        progress = self.progress.get(task_id)
        if progress is None or progress.expires_us <= self.now_us or self.is_live(task_id):
            return False
        if task_id not in self.results:
            return True
        if not progress.newer:
            return False
        return None if progress.beside_a_result else True

    def statuses(self, task_id: str) -> set[str]:
        if self.is_live(task_id):
            return {"ready"}
        runs = self.runs(task_id)
        if runs:
            return {"running"}
        ended = "unknown"
        if task_id in self.results:
            ended = "expired"
        elif task_id in self.deleted:
            ended = "deleted"
        return {ended} if runs is False else {ended, "running"}

    def compact(self) -> None:
        for key, result in self.results.items():
            if result.expires_us <= self.now_us and not result.taken_away:
                result.taken_away = True
                self.gone[key] = self.write()
                progress = self.progress.get(key)
                if progress is not None and not progress.newer:
                    del self.progress[key]
        for key in [k for k, p in self.progress.items() if p.expires_us <= self.now_us]:
            del self.progress[key]
        oldest_us = self.now_us - GONE_KEPT_US
        for key in [k for k, at_us in self.gone.items() if at_us < oldest_us]:
            del self.gone[key], self.results[key]
        for key in [k for k, at_us in self.deleted.items() if at_us < oldest_us]:
            del self.deleted[key]


class Run:
    """The store and the model side by side."""

    def __init__(self, directory: Path, model: Model) -> None:
        self.model = model
        self.path = directory / "app.db"
        self.store = logstore.open(self.path)
        self.count = 0

    def do(self, verb: str, task_id: str, number: int | str | None) -> None:
        model = self.model
        self.count += 1
        expires_us = float("inf")
        if isinstance(number, int) and verb in ("result", "progress"):
            expires_us = min(model.now_us + number * SECOND_US, TIME_MAX)
        if verb == "result":
            assert not isinstance(number, str)
            self.store.set_result(task_id, self.count, ttl_s=number)
            model.write()
            model.results[task_id] = Result(self.count, expires_us)
            model.deleted.pop(task_id, None)
            model.gone.pop(task_id, None)
            if task_id in model.progress:
                model.progress[task_id].newer = False
        elif verb == "progress":
            assert not isinstance(number, str)
            self.store.set_progress(task_id, TaskProgress(current=self.count), ttl_s=number)
            model.write()
            beside = model.is_live(task_id)
            model.progress[task_id] = Progress(expires_us, beside_a_result=beside)
        elif verb == "delete":
            self.delete(task_id)
        elif verb == "blip":
            right_us = model.wall_us
            self.jump(number)
            self.do("progress", task_id, None)
            model.wall_us = right_us
        elif verb == "jump":
            self.jump(number)
        elif verb == "compact":
            self.store.compact()
            model.compact()
        else:
            self.store.close()
            model.compact()
            self.store = logstore.open(self.path)
            model.compact()
        self.learn()

    def jump(self, seconds: int | str | None) -> None:
        assert seconds is not None
        if isinstance(seconds, str):
            self.model.wall_us = FIXED_S[seconds] * SECOND_US
        else:
            self.model.wall_us += seconds * SECOND_US

    def delete(self, task_id: str) -> None:
        """What is remembered of an expired result that is deleted with its progress stays open."""
        model = self.model
        was_live = model.is_live(task_id)
        if task_id in model.results and not was_live:
            return
        assert self.store.delete_result(task_id) == was_live
        known = task_id in model.results or task_id in model.deleted
        had_progress = task_id in model.progress
        if was_live or had_progress:
            at_us = model.write()
            model.results.pop(task_id, None)
            model.progress.pop(task_id, None)
            if known:
                model.deleted[task_id] = at_us

    def learn(self) -> None:
        """Take over what the model leaves open."""
        model = self.model
        for task_id in IDS:
            progress = model.progress.get(task_id)
            result = model.results.get(task_id)
            if progress is None or result is None or not result.taken_away:
                continue
            if progress.beside_a_result and progress.expires_us > model.now_us:
                progress.beside_a_result = False
                if self.store.get_progress(task_id) is None:
                    del model.progress[task_id]

    def compare(self) -> None:
        model, store = self.model, self.store
        found: dict[str, str] = {}
        for task_id in IDS:
            found[task_id] = store.status(task_id)
            assert found[task_id] in model.statuses(task_id), task_id
            if found[task_id] == "ready":
                assert store.get_result(task_id) == model.results[task_id].value
        for status in STATUSES:
            listed = [info.task_id for info in store.tasks(status=status)]
            assert sorted(listed) == [t for t in IDS if found[t] == status], status
        times = [info.time for info in store.tasks(newest_first=False)]
        assert times == sorted(set(times))


@contextmanager
def running() -> Iterator[Run]:
    directory = Path(tempfile.mkdtemp(prefix="logstore-clock-"))
    model = Model()
    try:
        with (
            mock.patch.object(time, "time_ns", model.time_ns),
            no_idle_compaction(),
        ):
            run = Run(directory, model)
            try:
                yield run
            finally:
                run.store.close()
            assert logstore.check(run.path).ok
    finally:
        shutil.rmtree(directory)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.lists(steps, max_size=14))
def test_a_store_under_a_clock_that_jumps(
    program: list[tuple[str, str, int | str | None]],
) -> None:
    with running() as run:
        for step in program:
            run.do(*step)
            run.compare()
        assert run.store.check().ok
