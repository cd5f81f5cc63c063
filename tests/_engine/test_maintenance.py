"""The thread that flushes, compacts and recovers when no other thread does."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import logstore
from logstore import TaskProgress
from logstore._engine import compaction, durability, identity, maintenance, retention, vacuum
from logstore._engine.header import SharedHeader
from logstore._engine.log import FIRST_OFFSET
from logstore._engine.maintenance import IDLE_S, PAUSE_RETIRING, STILL_S, Maintenance
from logstore._engine.threads import Signal

if TYPE_CHECKING:
    from tests.support.stores import Clock


def test_a_wait_that_finds_no_memory_does_not_end_the_thread(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else progress would silently not be flushed any more."""
    failed, flushed = threading.Event(), threading.Event()
    real_wait, real_sync = Signal.wait, durability.sync_data

    def wait(self: Signal, timeout_s: float | None = None) -> None:
        if threading.current_thread().name == "logstore-maintenance" and not failed.is_set():
            failed.set()
            raise MemoryError
        real_wait(self, timeout_s)

    def sync_data(fd: int) -> None:
        real_sync(fd)
        flushed.set()

    with logstore.open(path, sync_interval_s=0.02) as store:
        monkeypatch.setattr(Signal, "wait", wait)
        assert failed.wait(100)
        monkeypatch.setattr(durability, "sync_data", sync_data)
        store.set_progress("t", TaskProgress())
        assert flushed.wait(100)
        monkeypatch.undo()


@pytest.fixture
def header() -> Iterator[SharedHeader]:
    fd = os.memfd_create("header")
    yield SharedHeader(fd)
    os.close(fd)


@pytest.mark.parametrize(
    ("field", "states", "recoveries"),
    [
        ("writing", (1, 2, 3, 4, 5), 0),  # writers get on: the lock is theirs
        ("writing", (1, 2, 2, 2, 2), 2),  # one has died
        ("log_failed", (1, 2, 3, 4, 5), 5),
    ],
)
def test_a_write_that_is_under_way_is_left_alone_and_one_that_makes_no_progress_recovered(
    header: SharedHeader,
    field: str,
    states: tuple[int, ...],
    recoveries: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    monkeypatch.setattr(identity, "is_suspect", lambda engine: False)
    setattr(header, field, 1)
    header.synced = FIRST_OFFSET + 10  # nothing waits for a flush
    calls: list[str] = []

    def exclusively(work: Callable[[], None], timeout_s: float) -> None:
        calls.append("exclusive")
        work()

    ticks = iter(states)

    def wait(timeout: float) -> bool:
        nonlocal now_s
        now_s += 0.6 * STILL_S
        state = next(ticks, None)
        if state is not None:
            header.state = FIRST_OFFSET + state
            header.appended = header.state
        return state is None

    engine: Any = SimpleNamespace(
        header=header,
        overlay=SimpleNamespace(sealed=None),
        options=SimpleNamespace(sync_interval_s=IDLE_S, write_timeout_s=1.0),
        close_retired=lambda: None,
        exclusively=exclusively,
        deferral=SimpleNamespace(applies=lambda: False),
    )
    maintenance: Any = Maintenance.__new__(Maintenance)
    maintenance._engine, maintenance._processors = engine, None
    maintenance._wait = wait
    maintenance._run()
    assert calls == ["exclusive"] * recoveries


class Tidied:
    """Takes the place of an engine from which something has to be taken away in steps."""

    def __init__(self, header: SharedHeader, steps: int) -> None:
        self.left = steps
        self.now_s = 100.0
        self.waits: list[float] = []
        self.retired_at: list[float] = []
        self.synced_at: list[float] = []
        self.step_s = 0.025
        self.header = header
        header.begin_epoch(1, FIRST_OFFSET, FIRST_OFFSET)
        self.overlay = SimpleNamespace(sealed=None)
        self.options = SimpleNamespace(sync_interval_s=IDLE_S, write_timeout_s=1.0)
        self.copies = False
        self.deferral = SimpleNamespace(applies=lambda: self.copies)
        self.on_wait: Callable[[], None] = lambda: None

    def close_retired(self) -> None:
        pass

    def expiry_due(self) -> bool:
        return self.left > 0

    def compact(self, *, timeout_s: float) -> None:
        self.left -= 1
        self.now_s += 0.025
        self.header.begin_epoch(self.header.epoch + 1, FIRST_OFFSET, FIRST_OFFSET)

    def retire(self, *_: object, **__: object) -> bool:
        if not self.left:
            return False
        self.left -= 1
        self.retired_at.append(self.now_s)
        self.now_s += self.step_s
        return True

    def sync(self, *, timeout_s: float) -> None:
        self.synced_at.append(self.now_s)
        self.header.synced = self.header.committed

    def write(self) -> None:
        self.header.state += 40
        self.header.appended = self.header.state
        self.header.synced = self.header.committed

    def wait(self, timeout: float) -> bool:
        self.now_s += timeout
        self.waits.append(timeout)
        self.on_wait()
        return len(self.waits) == 200

    def run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(vacuum, "is_due", lambda _: False)
        monkeypatch.setattr(identity, "is_suspect", lambda _: False)
        monkeypatch.setattr(maintenance, "remove_due", self.retire)
        thread: Any = Maintenance.__new__(Maintenance)
        thread._engine, thread._processors = self, None
        thread._wait = self.wait
        thread._run()


def test_what_has_expired_goes_in_steps_while_idle_half_of_the_time_left_to_others(
    header: SharedHeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Tidied(header, 100)
    engine.run(monkeypatch)
    assert engine.left == 0
    first = next(i for i, wait in enumerate(engine.waits) if wait == pytest.approx(0.025))
    assert engine.waits[first : first + 100] == pytest.approx([0.025] * 100)
    assert set(engine.waits[first + 101 :]) == {IDLE_S}


def test_beside_writers_each_step_is_followed_by_a_pause(
    header: SharedHeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Tidied(header, 100)
    engine.on_wait = engine.write
    engine.run(monkeypatch)
    assert engine.left == 0
    steps = [b - a for a, b in zip(engine.retired_at, engine.retired_at[1:], strict=False)]
    assert steps == pytest.approx([(1 + PAUSE_RETIRING) * 0.025] * 99)
    assert set(engine.waits[-50:]) == {IDLE_S}


@pytest.mark.parametrize("step_s", [0.01, 1.0])
def test_what_is_taken_away_changes_nothing_in_when_the_log_is_synced(
    header: SharedHeader, monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    """Neither oftener, if the steps are short, nor later, if they and their pauses are long."""
    engine = Tidied(header, 1000)
    engine.step_s = step_s

    def append() -> None:
        engine.header.state += 40
        engine.header.appended = engine.header.state

    engine.on_wait = append
    engine.run(monkeypatch)
    between = [b - a for a, b in zip(engine.synced_at, engine.synced_at[1:], strict=False)]
    while_retiring = [s for s, at in zip(between, engine.synced_at, strict=False) if at > 106]
    assert len(while_retiring) > 3
    assert min(while_retiring) >= IDLE_S - 0.001
    assert max(while_retiring) <= IDLE_S + step_s + 0.001


def test_one_process_that_takes_away_is_enough(
    header: SharedHeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Tidied(header, 100)

    def compact_elsewhere() -> None:
        engine.header.begin_epoch(engine.header.epoch + 1, FIRST_OFFSET, FIRST_OFFSET)

    engine.on_wait = compact_elsewhere
    engine.run(monkeypatch)
    assert engine.left == 100


@pytest.mark.parametrize("writes", [False, True])
def test_nothing_is_taken_away_while_a_copy_is_made(
    header: SharedHeader, monkeypatch: pytest.MonkeyPatch, writes: bool
) -> None:
    engine = Tidied(header, 100)
    engine.copies = True
    if writes:
        engine.on_wait = engine.write
    engine.run(monkeypatch)
    assert engine.left == 100


def test_a_store_at_rest_takes_away_what_has_expired_by_itself(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Far more than one step, and each step is made without a look at the clock."""
    monkeypatch.setattr(maintenance, "IDLE_S", 0.01)
    monkeypatch.setattr(maintenance, "CHECK_S", 0.01)
    monkeypatch.setattr(compaction, "PURGE_MIN", 50)
    monkeypatch.setattr(compaction, "PURGE_S", 0.0)
    monkeypatch.setattr(retention, "due", lambda _: iter(()))  # used on a slow machine
    with logstore.open(path) as store:
        store._handle.commit(
            [store._handle.result_write(f"task-{i}", i, ttl_s=10) for i in range(2000)]
        )
        store.set_result("kept", 1)
        store.compact()
        clock.advance(20)
        deadline = time.monotonic() + 100
        while store.stats().results > 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert store.stats().results == 1
        assert store.stats().compactions >= 2000 / 50
        assert store.check().ok
