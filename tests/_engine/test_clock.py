"""The store's two times, and what a clock that is set forward and back does to them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

import logstore
from logstore import TaskProgress
from logstore._engine import clock
from logstore._engine.frames import DELETED, EXPIRED, RESULT, TIME_MAX, Entry
from logstore._engine.taskstatus import is_running
from logstore.types import Status
from tests.support.inside import live

if TYPE_CHECKING:
    from tests.support.stores import Clock, Stores

STATUSES: tuple[Status, ...] = ("ready", "expired", "running")
YEAR_S = 365 * 86400
END_OF_TIME_S = 253_402_300_800


def now_s() -> float:
    return time.time_ns() / 1e9


@pytest.mark.parametrize(
    ("clock_us", "now_us"),
    [
        (-(10**15), 1),
        (0, 1),
        (10**15, 10**15),
        (TIME_MAX, clock.WALL_MAX),
        (TIME_MAX + 10**15, clock.WALL_MAX),
    ],
)
def test_a_clock_that_cannot_be_right_is_held_within_what_can_be_stored(
    clock_us: int, now_us: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: clock_us * 1000)
    assert clock.now_us() == now_us
    assert clock.expiry_us(None) == 0
    assert clock.expiry_us(1e-9) == now_us + 1
    assert clock.expiry_us(20) == min(now_us + 20_000_000, TIME_MAX)
    assert clock.expiry_us(9e9) <= TIME_MAX


def test_a_clock_is_believed_for_as_long_as_there_are_times_for_later_records() -> None:
    assert TIME_MAX - clock.WALL_MAX >= 10**15
    assert time.gmtime(clock.WALL_MAX / 1e6).tm_year == 9968


@pytest.mark.parametrize("early_us", [1, 0])
def test_a_record_has_expired_at_the_microsecond_of_its_expiry_everywhere(
    early_us: int, open_store: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_us = time.time_ns() // 1000
    monkeypatch.setattr(time, "time_ns", lambda: at_us * 1000)
    store = open_store(result_ttl_s=10, progress_ttl_s=10)
    store.set_result("folded", 1)
    store.set_progress("folded progress", TaskProgress())
    store.compact()
    store.set_result("logged", 1)
    store.set_progress("logged progress", TaskProgress())
    at_us += 10_000_000 - early_us
    alive = bool(early_us)
    for where in ("folded", "logged"):
        assert store.is_result_ready(where) is alive
        assert store.status(where) == ("ready" if alive else "expired")
        assert (store.get_progress(f"{where} progress") is not None) is alive
        assert (store.status(f"{where} progress") == "running") is alive
    found = {status: {info.task_id for info in store.tasks(status=status)} for status in STATUSES}
    assert found["ready"] == ({"folded", "logged"} if alive else set())
    assert found["expired"] == (set() if alive else {"folded", "logged"})
    assert found["running"] == ({"folded progress", "logged progress"} if alive else set())
    assert live(store).expiry_due() is not alive
    store.compact()
    assert store.stats().results == (2 if alive else 0)


def test_progress_runs_again_if_it_is_newer_than_the_end_and_than_the_result_itself() -> None:
    def result(time_us: int, expires_us: int, kind: int = RESULT) -> Entry:
        return Entry(kind, 0, time_us, expires_us, b"")

    def runs(found: Entry, progress_us: int) -> bool:
        return is_running(found, Entry(2, 0, progress_us, 0, b""), 1000)

    assert not runs(result(10, 0), 11)  # it never ends
    assert not runs(result(10, 2000), 3000)  # it has not ended
    assert not runs(result(10, 100), 50)
    assert not runs(result(10, 100), 100)
    assert runs(result(10, 100), 101)
    assert not runs(result(500, 100), 400)  # record times ran ahead of the clock
    assert runs(result(500, 100), 501)
    assert runs(result(700, 100, EXPIRED), 101)  # taken away later
    assert not runs(result(700, 100, EXPIRED), 100)
    assert runs(result(700, 0, DELETED), 1)


@pytest.mark.parametrize("compacts", [True, False])
def test_a_task_does_not_run_for_ever_because_the_clock_was_ahead_once(
    store: logstore.Store, clock: Clock, compacts: bool
) -> None:
    clock.advance(YEAR_S)
    store.set_result("seed", 1)
    clock.advance(-YEAR_S)
    store.set_progress("task", TaskProgress(0.5))
    if compacts:
        store.compact()
    store.set_result("task", 1, ttl_s=10)
    clock.advance(20)
    for _ in range(2):
        assert store.status("task") == "expired"
        assert list(store.tasks(status="running")) == []
        assert [info.task_id for info in store.tasks(status="expired")] == ["task"]
        with pytest.raises(logstore.ResultExpiredError):
            store.wait_result("task", timeout_s=100)
        store.compact()
    store.set_progress("task", TaskProgress(0.1))
    for _ in range(2):
        assert store.status("task") == "running"
        assert [info.task_id for info in store.tasks()][-1] == "seed"
        assert [info.task_id for info in store.tasks(status="running")] == ["task"]
        store.compact()


def test_a_result_that_outlives_the_calendar_can_be_read_after_a_crash(
    open_store: Stores, clock: Clock
) -> None:
    """Else its frame would be none that a reader takes, and with it go all behind it."""
    store = open_store()
    clock.advance(END_OF_TIME_S - now_s() - YEAR_S)
    store.set_result("a", 1, ttl_s=9e9)
    store.set_result("b", 2)
    with logstore.open(store.path) as again:
        assert (again.get_result("a"), again.get_result("b")) == (1, 2)
    assert store.check().ok
    store.compact()
    assert store.get_result("a") == 1


def test_a_clock_at_the_end_of_the_calendar_for_a_moment_leaves_times_for_later(
    open_store: Stores, clock: Clock
) -> None:
    store = open_store()
    ahead_s = END_OF_TIME_S - now_s() - 0.001
    for _ in range(2):
        clock.advance(ahead_s)
        store.set_result("end", 1)
        clock.advance(-ahead_s)
        ahead_s *= 2
    store._handle.commit([store._handle.result_write(f"task-{i}", i) for i in range(3000)])
    assert store.get_result("task-2999") == 2999


def test_a_clock_before_1970_stores_what_expires(open_store: Stores, clock: Clock) -> None:
    store = open_store()
    clock.advance(-now_s() - YEAR_S)
    store.set_result("a", 1, ttl_s=10)
    store.set_progress("b", TaskProgress(0.5), ttl_s=10)
    store.compact()
    assert store.get_result("a") == 1
    assert store.status("b") == "running"
