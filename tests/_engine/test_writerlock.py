"""The writer lock: which process goes first, and for how long."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from logstore._engine import locks
from logstore._engine.header import SharedHeader
from logstore._engine.writerlock import FAIRNESS_S_MAX, FAIRNESS_S_MIN, WriterLock

LONG_S = 100.0


@pytest.fixture
def lock_path(tmp_path: Path) -> str:
    return str(tmp_path / "app.db-shm")


@pytest.fixture
def header(lock_path: str) -> Iterator[SharedHeader]:
    fd = os.open(lock_path, os.O_RDWR | os.O_CREAT)
    header = SharedHeader(fd)
    yield header
    header.close()
    os.close(fd)


@pytest.fixture
def fds(header: SharedHeader, lock_path: str) -> Iterator[tuple[int, int]]:
    """Two open files, as two processes have them."""
    mine, theirs = (os.open(lock_path, os.O_RDWR) for _ in range(2))
    yield mine, theirs
    os.close(mine)
    os.close(theirs)


def take(lock: WriterLock, wait_s: float = LONG_S) -> bool:
    return lock.acquire(time.monotonic() + wait_s)


def give_back(lock: WriterLock) -> None:
    lock.about_to_release()
    locks.fcntl_call(lock._lock_fd, locks.SETLK, locks.WRITER.unlocked)
    lock.released()


def test_who_waits_is_woken_by_the_release(
    header: SharedHeader, fds: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logstore._engine.writerlock.RECHECK_S", 10 * LONG_S)
    mine, theirs = (WriterLock(header, fd) for fd in fds)
    assert take(mine)
    taken = threading.Event()

    def wait() -> None:
        assert take(theirs, 10 * LONG_S)
        taken.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    while not header.wanted.value:
        time.sleep(0.001)
    assert not taken.is_set()
    give_back(mine)
    assert taken.wait(LONG_S)
    thread.join()
    assert header.wanted.value == 0
    assert not take(mine, 0.02)
    give_back(theirs)


@pytest.mark.parametrize(
    ("held_s", "patience_s"), [(0.0, FAIRNESS_S_MIN), (0.02, 0.02), (3.0, FAIRNESS_S_MAX)]
)
def test_the_last_holder_lets_a_waiter_go_first_for_as_long_as_it_held_the_lock(
    header: SharedHeader,
    fds: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
    held_s: float,
    patience_s: float,
) -> None:
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    lock = WriterLock(header, fds[0])
    assert lock.acquire(now_s + 1)
    now_s += held_s
    give_back(lock)
    header.wanted.value = 7  # a process that is slow to wake up, or dead
    waits = []
    monkeypatch.setattr(header.wanted, "wait", lambda *asked: waits.append(asked))
    assert lock.acquire(now_s + 1)
    assert waits == [(7, pytest.approx(patience_s))]
    assert header.wanted.value == 0  # it is not waited for again
    give_back(lock)
    assert lock.acquire(now_s + 1)
    give_back(lock)
    assert len(waits) == 1


def test_who_has_its_turn_ends_the_patience_of_the_last_holder(
    header: SharedHeader, fds: tuple[int, int]
) -> None:
    lock = WriterLock(header, fds[0])
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
    assert take(lock)
    assert woken.wait(LONG_S)
    thread.join()
    assert time.monotonic() - begun < LONG_S
    give_back(lock)


def test_who_gives_up_leaves_no_claim_and_is_not_the_last_holder(
    header: SharedHeader, fds: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = (WriterLock(header, fd) for fd in fds)
    assert take(mine)
    assert not take(theirs, 0.02)
    assert (header.wanted.value, header.last_holder) == (0, 0)
    assert not take(theirs, 0.02)
    give_back(mine)
    assert header.last_holder == mine._member


def test_the_patience_with_others_ends_at_the_deadline(
    header: SharedHeader, fds: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    lock = WriterLock(header, fds[0])
    assert lock.acquire(now_s + 1)
    now_s += 3
    give_back(lock)
    header.wanted.value = 7
    waits = []
    monkeypatch.setattr(header.wanted, "wait", lambda *asked: waits.append(asked))
    assert lock.acquire(now_s + 0.01)
    assert waits == [(7, pytest.approx(0.01))]
    give_back(lock)


def test_who_has_not_held_the_lock_last_does_not_stand_back(
    header: SharedHeader, fds: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(*_: object) -> None:
        raise AssertionError("it goes back")

    header.wanted.value = 7
    monkeypatch.setattr(header.wanted, "wait", wait)
    lock = WriterLock(header, fds[0])
    assert take(lock)
    give_back(lock)
