"""Several processes on one store: killed at random moments, stopped, coming and going."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import logstore
from tests.support.victims import Allowed, Outcome, Step, Victims, verify

ALARMED = -signal.SIGALRM


def hammer(worker: int, workers: int, *, prefix: str = "k", **spec: Any) -> list[Step]:
    """The steps of one process among several."""
    spec = {"worker": worker, "workers": workers, "prefix": prefix, "threads": 2, **spec}
    return [["open", {"compact_at": 1 << 15}], ["hammer", spec], ["close"]]


def take_all(allowed: Allowed, outcomes: list[Outcome], ends: set[int]) -> None:
    """No process has seen anything wrong; take in what their journals say."""
    for outcome in outcomes:
        assert outcome.status in ends, outcome.journal[-5:]
        assert outcome.errors == []
        wrong = [line[1] for line in outcome.journal if line[0] == "wrong"]
        assert wrong == [], "\n".join(wrong)
        allowed.take(outcome.journal)


def killed_at_random(victims: Victims, seed: int, rounds: int) -> int:
    """Kill writers of one store at random moments, beside one that lives; how many died."""
    chosen = random.Random(seed)
    path = victims.new_path()
    allowed = Allowed()
    kills = 0
    for number in range(rounds):
        prefix = f"r{number}"
        started = [
            victims.start(
                path,
                [
                    ["alarm", chosen.uniform(0.002, 0.12)],
                    *hammer(worker, 3, prefix=prefix, seed=seed),
                ],
            )
            for worker in range(2)
        ]
        if chosen.random() < 0.7:
            steps = hammer(2, 3, prefix=prefix, seed=seed, steps=150)
            started.append(victims.start(path, steps))
        outcomes = [victims.wait(process) for process in started]
        take_all(allowed, outcomes, {0, ALARMED})
        kills += sum(outcome.status == ALARMED for outcome in outcomes)
        with logstore.open(path) as store:
            allowed.observe(store)
            assert store.check().problems == ()
        assert os.listdir(os.path.dirname(path)) == ["app.db"]
    verify(path, allowed)
    return kills


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_moments(victims: Victims, seed: int) -> None:
    assert killed_at_random(victims, seed, 12) == 24


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_kills(victims: Victims) -> None:
    assert sum(killed_at_random(victims, seed, 25) for seed in range(100, 120)) == 1000


def all_at_once(victims: Victims, seed: int, seconds: float, steps: int) -> int:
    """Four processes of four threads do everything to one store; how many writes were acked.

    For so long, and each thread so many steps, of which half are writes.
    """
    path = victims.new_path()
    started = [
        victims.start(
            path, hammer(worker, 4, seed=seed, threads=4, seconds=seconds, steps_min=steps)
        )
        for worker in range(4)
    ]
    outcomes = [victims.wait(process) for process in started]
    allowed = Allowed()
    take_all(allowed, outcomes, {0})
    assert os.listdir(os.path.dirname(path)) == ["app.db"]
    verify(path, allowed)
    return sum(line[0] == "ack" for outcome in outcomes for line in outcome.journal)


def test_four_processes_do_everything(victims: Victims) -> None:
    assert all_at_once(victims, 1, 3.0, 200) > 1000


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_four_processes_do_everything_for_a_minute(victims: Victims) -> None:
    assert all_at_once(victims, 2, 60.0, 3000) > 20_000


def test_opening_and_closing_in_a_loop(victims: Victims) -> None:
    """The last to close tidies up while others open: nothing acked is lost, no one is refused."""
    path = victims.new_path()
    started = [
        victims.start(path, [["cycle", {"rounds": 150, "prefix": f"p{n}"}]]) for n in range(3)
    ]
    outcomes = [victims.wait(process) for process in started]
    allowed = Allowed()
    take_all(allowed, outcomes, {0})
    assert len(allowed.results) == 450
    assert os.listdir(os.path.dirname(path)) == ["app.db"]
    verify(path, allowed)


def test_killed_while_opening_and_closing(victims: Victims) -> None:
    path = victims.new_path()
    allowed = Allowed()
    chosen = random.Random(5)
    for number in range(12):
        started = [
            victims.start(
                path,
                [
                    ["alarm", chosen.uniform(0.001, 0.06)],
                    ["cycle", {"rounds": 1000, "prefix": f"{number} {worker}"}],
                ],
            )
            for worker in range(2)
        ]
        steps: list[Step] = [["cycle", {"rounds": 8, "prefix": f"{number} lives"}]]
        started.append(victims.start(path, steps))
        take_all(allowed, [victims.wait(process) for process in started], {0, ALARMED})
        with logstore.open(path) as store:
            allowed.observe(store)
    verify(path, allowed)


def test_threads_that_use_a_store_while_it_is_closed(tmp_path: Path) -> None:
    """A thread that comes too late gets the error for it, and no other."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    acked: list[str] = []
    wrong: list[BaseException] = []
    try:
        for round_number in range(25):
            store = logstore.open(tmp_path / "app.db")
            store.set_result("a", 1)
            started, busy = threading.Barrier(7), threading.Semaphore(0)

            def use(
                number: int,
                store: logstore.Store,
                name: str,
                started: threading.Barrier,
                busy: threading.Semaphore,
            ) -> None:
                started.wait()
                try:
                    for count in range(10_000):
                        key = f"{name} {number} {count}"
                        if number < 2:
                            store.set_result(key, 1)
                            acked.append(key)
                            busy.release()
                        elif number < 4:
                            assert store.get_result("a") == 1
                            assert store.status("b") == "unknown"
                        elif number == 4:
                            store.compact()
                        else:
                            store.stats()
                            list(store.tasks(limit=3))
                except logstore.StoreClosedError:
                    pass
                except BaseException as exc:
                    wrong.append(exc)

            threads = [
                threading.Thread(target=use, args=(n, store, str(round_number), started, busy))
                for n in range(6)
            ]
            for thread in threads:
                thread.start()
            started.wait()
            for _ in range(5):
                busy.acquire()
            store.close()
            for thread in threads:
                thread.join()
            assert wrong == []
            assert os.listdir(tmp_path) == ["app.db"]
    finally:
        sys.setswitchinterval(interval)
    with logstore.open(tmp_path / "app.db") as store:
        assert len(acked) > 50
        assert all(store.is_result_ready(key) for key in acked)
        assert store.check().ok


# -- stopped processes -------------------------------------------------------------------------

STOP_WITH_LOCK = """
import fcntl, struct
with open(store.path + "-shm", "r+b") as file:
    byte = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 1, 0)
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, byte)
    signal.raise_signal(signal.SIGSTOP)
"""
STOP_IN_WRITE = """
real = os.pwrite
def stop(fd, data, at):
    os.pwrite = real
    signal.raise_signal(signal.SIGSTOP)
    return real(fd, data, at)
os.pwrite = stop
store.set_result("stopped", 1)
"""
SEE_TRANSACTIONS = """
at_next_write = []
lmdb.open = boundary.transactions_seen_by(
    lambda write: write and at_next_write and at_next_write.pop()()
)
"""
STOP_IN_COMPACTION = """
store.set_result("stopped", 1)
at_next_write.append(lambda: signal.raise_signal(signal.SIGSTOP))
store.compact()
"""


@pytest.mark.parametrize("code", [STOP_WITH_LOCK, STOP_IN_WRITE, STOP_IN_COMPACTION])
def test_a_stopped_lock_holder(tmp_path: Path, start_peer: Callable[..., Any], code: str) -> None:
    path = tmp_path / "app.db"
    with logstore.open(path, write_timeout_s=0.3, sync_interval_s=1e6) as store:
        store.set_result("a", 1)
        store.compact()
        peer = start_peer()
        peer.run(SEE_TRANSACTIONS)
        peer.open(path, sync_interval_s=1e6)
        peer.begin(code)
        peer.wait_until_stopped()
        for attempt in range(2):
            with pytest.raises(logstore.WriteTimeoutError, match="outcome of this write is unk"):
                store.set_result("late", attempt)
        assert store.get_result("a") == 1
        assert store.status("stopped") in ("unknown", "ready")
        peer.resume()
        peer.end()
        store.set_result("b", 2)
        assert store.get_result("b") == 2
        assert peer.run("store.get_result('b')") == 2
        assert store.status("late") == "unknown"
        assert peer.run("store.close()") is None
        assert store.check().ok
    assert os.listdir(tmp_path) == ["app.db"]
