"""The writer lock: which process goes first, and for how long."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from logstore._engine.header import SharedHeader
from logstore._engine.log import FIRST_OFFSET, Log
from logstore._engine.writerlock import FAIRNESS_S_MAX, FAIRNESS_S_MIN, WriterLock

LONG_S = 100.0
UUID = bytes(range(16))


@pytest.fixture
def header(tmp_path: Path) -> Iterator[SharedHeader]:
    fd = os.open(tmp_path / "app.db-shm", os.O_RDWR | os.O_CREAT)
    header = SharedHeader(fd)
    header.log_id = 5
    yield header
    header.close()
    os.close(fd)


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[tuple[Log, Log]]:
    """Two handles of one log, as two processes have them."""
    path = str(tmp_path / "app.db-log")
    mine = Log.create(path, UUID, 5, FIRST_OFFSET)
    mine.unlock()
    theirs = Log.open(path, UUID)
    yield mine, theirs
    mine.close()
    theirs.close()


def refuse() -> Log:
    raise AssertionError("the log has not been replaced")


def take(lock: WriterLock, log: Log, wait_s: float = LONG_S) -> bool:
    return lock.acquire(log, time.monotonic() + wait_s, refuse)


def give_back(lock: WriterLock, log: Log) -> None:
    lock.about_to_release()
    log.unlock()
    lock.released()


def test_who_waits_is_woken_by_the_release(
    header: SharedHeader, logs: tuple[Log, Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logstore._engine.writerlock.RECHECK_S", 10 * LONG_S)
    mine, theirs = WriterLock(header), WriterLock(header)
    assert take(mine, logs[0])
    taken = threading.Event()

    def wait() -> None:
        assert take(theirs, logs[1], 10 * LONG_S)
        taken.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    while not header.wanted.value:
        time.sleep(0.001)
    assert not taken.is_set()
    give_back(mine, logs[0])
    assert taken.wait(LONG_S)
    thread.join()
    assert header.wanted.value == 0
    assert not take(mine, logs[0], 0.02)
    give_back(theirs, logs[1])


@pytest.mark.parametrize(
    ("held_s", "patience_s"), [(0.0, FAIRNESS_S_MIN), (0.02, 0.02), (3.0, FAIRNESS_S_MAX)]
)
def test_the_last_holder_lets_a_waiter_go_first_for_as_long_as_it_held_the_lock(
    header: SharedHeader,
    logs: tuple[Log, Log],
    monkeypatch: pytest.MonkeyPatch,
    held_s: float,
    patience_s: float,
) -> None:
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    lock = WriterLock(header)
    assert lock.acquire(logs[0], now_s + 1, refuse)
    now_s += held_s
    give_back(lock, logs[0])
    header.wanted.value = 7  # a process that is slow to wake up, or dead
    waits = []
    monkeypatch.setattr(header.wanted, "wait", lambda *asked: waits.append(asked))
    assert lock.acquire(logs[0], now_s + 1, refuse)
    assert waits == [(7, pytest.approx(patience_s))]
    assert header.wanted.value == 0  # it is not waited for again
    give_back(lock, logs[0])
    assert lock.acquire(logs[0], now_s + 1, refuse)
    give_back(lock, logs[0])
    assert len(waits) == 1


def test_who_has_its_turn_ends_the_patience_of_the_last_holder(
    header: SharedHeader, logs: tuple[Log, Log]
) -> None:
    lock = WriterLock(header)
    header.wanted.value = member = lock._member
    waiting, woken = threading.Event(), threading.Event()

    def wait() -> None:
        waiting.set()
        header.wanted.wait(member, LONG_S)
        woken.set()

    thread = threading.Thread(target=wait, daemon=True)
    begun = time.monotonic()
    thread.start()
    assert waiting.wait(LONG_S)
    assert take(lock, logs[0])
    assert woken.wait(LONG_S)
    thread.join()
    assert time.monotonic() - begun < LONG_S
    give_back(lock, logs[0])


def test_who_gives_up_leaves_no_claim_and_is_not_the_last_holder(
    header: SharedHeader, logs: tuple[Log, Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = WriterLock(header), WriterLock(header)
    assert take(mine, logs[0])
    assert not take(theirs, logs[1], 0.02)
    assert (header.wanted.value, header.last_holder) == (0, 0)
    assert not take(theirs, logs[1], 0.02)
    give_back(mine, logs[0])
    assert header.last_holder == mine._member


def test_the_patience_with_others_ends_at_the_deadline(
    header: SharedHeader, logs: tuple[Log, Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    lock = WriterLock(header)
    assert lock.acquire(logs[0], now_s + 1, refuse)
    now_s += 3
    give_back(lock, logs[0])
    header.wanted.value = 7
    waits = []
    monkeypatch.setattr(header.wanted, "wait", lambda *asked: waits.append(asked))
    assert lock.acquire(logs[0], now_s + 0.01, refuse)
    assert waits == [(7, pytest.approx(0.01))]
    give_back(lock, logs[0])


def test_who_has_not_held_the_lock_last_does_not_stand_back(
    header: SharedHeader, logs: tuple[Log, Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(*_: object) -> None:
        raise AssertionError("it goes back")

    header.wanted.value = 7
    monkeypatch.setattr(header.wanted, "wait", wait)
    lock = WriterLock(header)
    assert take(lock, logs[0])
    give_back(lock, logs[0])
