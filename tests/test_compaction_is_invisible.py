"""What readers see does not depend on when compactions happen.

Two stores get the same writes, on one clock that the test sets.  One is compacted and vacuumed as
the program says, the other never: at any time both say the same of every task, and ``tasks()``
agrees with ``status()``.

Two things are not promised and left out.  Progress that is older than the end of its task's result
may be forgotten from then on; and a deletion of a task whose result has expired and that has
progress leaves "deleted" or "expired".
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import logstore
from logstore import TaskProgress
from tests.support.inside import no_idle_compaction

IDS = ("a", "b", "c")
START_NS = 1_700_000_000_000_000_000
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
LARGE = b"\xaa" * 300_000  # goes past the log
ids = st.sampled_from(IDS)
ttls_s = st.sampled_from((None, None, 0.05, 5.0))

steps = st.one_of(
    st.tuples(st.just("result"), ids, ttls_s),
    st.tuples(st.just("large"), ids, ttls_s),
    st.tuples(st.just("progress"), ids, ttls_s),
    st.tuples(st.just("delete"), ids, st.none()),
    st.tuples(st.just("pop"), ids, st.none()),
    st.tuples(st.just("wait"), st.just(""), st.sampled_from((1e-6, 1e-3, 0.03, 0.1, 6.0))),
    st.tuples(st.just("compact"), st.just(""), st.none()),
    st.tuples(st.just("compact"), st.just(""), st.none()),
    st.tuples(st.just("vacuum"), st.just(""), st.none()),
)


class Pair:
    """A store that is compacted and one that is not."""

    compacted: logstore.Store
    plain: logstore.Store

    def __init__(self) -> None:
        self.now_ns = START_NS
        self.count = 0
        self.forgettable: set[str] = set()  # ids whose progress need not be kept any longer

    def time_ns(self) -> int:
        """The clock."""
        return self.now_ns

    def open(self, path: str) -> logstore.Store:
        return logstore.open(path, sync="interval", sync_interval_s=1e6, compact_at=1 << 28)

    def both(self, call: Callable[[logstore.Store], Any], what: str) -> Any:
        """The outcome of a call, which is the same for both."""
        one, other = outcome(call, self.compacted), outcome(call, self.plain)
        assert one == other, f"{what}: compacted {one!r}, not compacted {other!r}"
        return one

    def do(self, verb: str, task_id: str, number: float | None) -> None:
        """One step of the program."""
        self.count += 1
        if verb == "wait":
            assert number is not None
            self.now_ns += int(number * 1e9)
        elif verb == "compact":
            self.compacted.compact()
        elif verb == "vacuum":
            self.compacted.vacuum()
        elif verb == "delete":
            if self.is_open_which(task_id):
                return
            self.both(lambda store: store.delete_result(task_id), "delete_result")
        elif verb == "pop":
            self.both(lambda store: store.pop_result(task_id), "pop_result")
        elif verb == "progress":
            progress = TaskProgress(current=self.count)
            self.forgettable.discard(task_id)
            self.both(lambda store: store.set_progress(task_id, progress, ttl_s=number), verb)
        else:
            value = LARGE if verb == "large" else self.count
            self.both(lambda store: store.set_result(task_id, value, ttl_s=number), verb)

    def is_open_which(self, task_id: str) -> bool:
        """Whether a deletion now would leave it open what is remembered."""
        found = outcome(lambda store: store.get_result(task_id), self.plain)
        return found is logstore.ResultExpiredError

    def compare(self) -> None:
        """Everything that a reader can ask."""
        statuses = {}
        for task_id in IDS:
            statuses[task_id] = self.both(lambda store: store.status(task_id), "status")  # noqa: B023
            if statuses[task_id] == "expired":
                self.forgettable.add(task_id)
            elif statuses[task_id] == "deleted":
                self.forgettable.discard(task_id)
            verbs = ("get_result", "is_result_ready", "get_progress")
            for verb in verbs[:2] if task_id in self.forgettable else verbs:
                self.both(lambda store: getattr(store, verb)(task_id), f"{verb} of {task_id}")  # noqa: B023
        for status in ("ready", "running", "deleted", "expired"):
            listed = self.both(
                lambda store: sorted(info.task_id for info in store.tasks(status=status)),  # noqa: B023
                f"tasks(status={status!r})",
            )
            expected = [task_id for task_id in IDS if statuses[task_id] == status]
            assert listed == expected, f"tasks(status={status!r}) lists {listed} of {statuses}"
        newest = [info.task_id for info in self.plain.tasks()]
        assert [info.task_id for info in self.compacted.tasks()] == newest


def outcome(call: Callable[[logstore.Store], Any], store: logstore.Store) -> Any:
    """What a call returned, or the type of the error."""
    try:
        return call(store)
    except logstore.ResultError as error:
        return type(error)


@settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=60,
    suppress_health_check=list(HealthCheck),
)
@given(program=st.lists(steps, max_size=30))
def test_compactions_and_vacuums_are_invisible(
    program: list[tuple[str, str, float | None]],
) -> None:
    pair = Pair()
    with (
        tempfile.TemporaryDirectory(prefix="logstore-pair-", dir=MEMORY) as directory,
        no_idle_compaction(),
        mock.patch.object(time, "time_ns", pair.time_ns),
        pair.open(f"{directory}/compacted.db") as pair.compacted,
        pair.open(f"{directory}/plain.db") as pair.plain,
    ):
        for step in program:
            pair.now_ns += 1000
            pair.do(*step)
            pair.compare()
        for store in (pair.compacted, pair.plain):
            assert store.check().ok, store.check().problems
