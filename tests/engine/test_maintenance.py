"""The thread that flushes, compacts and recovers when nobody else does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import logstore
from logstore import TaskProgress
from logstore.engine import identity, osdep
from logstore.engine.header import LOG_FAILED, REPLACED, STATE, SYNCED, VACUUM, WRITING
from logstore.engine.log import FIRST_OFFSET
from logstore.engine.maintenance import IDLE_S, STILL_S, Maintenance


def test_a_wait_that_finds_no_memory_does_not_end_the_thread(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else progress would not be flushed any more, and nobody would know."""
    failed, flushed = threading.Event(), threading.Event()
    real_wait, real_sync = threading.Event.wait, osdep.sync_data

    def wait(self: threading.Event, timeout: float | None = None) -> bool:
        if threading.current_thread().name == "logstore-maintenance" and not failed.is_set():
            failed.set()
            raise MemoryError
        return real_wait(self, timeout)

    def sync_data(fd: int) -> None:
        real_sync(fd)
        flushed.set()

    with logstore.open(path, sync_interval_s=0.02) as store:
        monkeypatch.setattr(threading.Event, "wait", wait)
        assert real_wait(failed, 100)
        monkeypatch.setattr(osdep, "sync_data", sync_data)
        store.set_progress("t", TaskProgress())
        assert real_wait(flushed, 100)
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("word", "states", "recoveries"),
    [
        (WRITING, (1, 2, 3, 4, 5), 0),  # writers get on: the lock is theirs
        (WRITING, (1, 2, 2, 2, 2), 2),  # one has died
        (LOG_FAILED, (1, 2, 3, 4, 5), 5),
    ],
)
def test_a_write_that_is_under_way_is_left_alone_and_one_that_stands_still_recovered(
    word: int, states: tuple[int, ...], recoveries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    words = dict.fromkeys((STATE, SYNCED, VACUUM, WRITING, LOG_FAILED, REPLACED), 0)
    monkeypatch.setattr(identity, "is_suspect", lambda engine: False)
    words[word] = 1
    words[SYNCED] = FIRST_OFFSET + 10  # nothing waits for a flush
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
            words[STATE] = FIRST_OFFSET + state
        return state is None

    engine: Any = SimpleNamespace(
        header=SimpleNamespace(words=words),
        options=SimpleNamespace(sync_interval_s=IDLE_S, write_timeout_s=1.0),
        close_retired=lambda: None,
        exclusively=exclusively,
    )
    maintenance: Any = Maintenance.__new__(Maintenance)
    maintenance._engine, maintenance._processors = engine, None
    maintenance._stop = SimpleNamespace(is_set=lambda: False, wait=wait)
    maintenance._run()
    assert calls == ["exclusive"] * recoveries
