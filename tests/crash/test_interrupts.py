"""A signal handler that raises, as Ctrl-C does, in the middle of a write: no lock is left."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

import logstore
from tests.support.untraced import Untraced

ROUNDS, ROUNDS_MAX = 1500, 30_000


class StopError(BaseException):
    """What the handler raises."""


class Alarm:
    """Raises StopError in the main thread after a chosen time, if that is still ``armed``."""

    def __init__(self) -> None:
        self.armed = False

    def ring(self, _number: int, _frame: FrameType | None) -> None:
        """The signal's handler."""
        if self.armed:
            self.armed = False
            raise StopError


@pytest.fixture
def alarm() -> Iterator[Alarm]:
    """An alarm in place of whatever else hears SIGALRM."""
    alarm = Alarm()
    before = signal.signal(signal.SIGALRM, alarm.ring)
    remaining = signal.setitimer(signal.ITIMER_REAL, 0)  # that of a time limit on the test
    try:
        yield alarm
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *remaining)


def interrupted_write(store: logstore.Store, alarm: Alarm, key: str, value: int, us: float) -> bool:
    """Write, with an alarm after some microseconds; whether it was acked."""
    try:
        alarm.armed = True
        signal.setitimer(signal.ITIMER_REAL, us * 1e-6)
        store.set_result(key, value)
        alarm.armed = False
    except StopError:
        return False
    finally:
        alarm.armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
    return True


@pytest.mark.parametrize("others", [0, 2])
def test_interrupted_writes(
    tmp_path: Path, no_idle_compaction: None, alarm: Alarm, others: int
) -> None:
    chosen = random.Random(others)
    allowed: dict[str, set[int | None]] = {f"k{number}": {None} for number in range(7)}
    path = tmp_path / "app.db"
    stop = threading.Event()
    wrong: list[BaseException] = []
    stops = 0
    with logstore.open(path, compact_at=1 << 14, write_timeout_s=60, sync_interval_s=1e6) as store:

        def write(number: int) -> None:
            with Untraced():
                write_and_read(number)

        def write_and_read(number: int) -> None:
            count = 0
            try:
                while not stop.is_set():
                    count += 1
                    try:
                        store.set_result(f"thread {number}", count)
                    except logstore.WriteTimeoutError as exc:
                        if "interrupted" not in str(exc):  # the outcome is unknown
                            raise
                    else:
                        assert store.get_result(f"thread {number}") == count
            except BaseException as exc:
                wrong.append(exc)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(others)]
        for thread in threads:
            thread.start()
        try:
            for number in range(ROUNDS_MAX):
                if number >= ROUNDS and stops > ROUNDS // 20:
                    break  # where a write is quick, few are interrupted
                key = f"k{number % 7}"
                with Untraced():
                    acked = interrupted_write(store, alarm, key, number, chosen.uniform(5, 150))
                if acked:
                    allowed[key] = {number}
                else:
                    stops += 1
                    allowed[key].add(number)
                    store.set_progress("still", logstore.TaskProgress(current=number))
                    seen = store.get_result(key) if store.is_result_ready(key) else None
                    assert seen in allowed[key]
                    allowed[key] = {seen}
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert wrong == []
        assert stops > ROUNDS // 20
    with logstore.open(path) as store:
        for key, states in allowed.items():
            assert (store.get_result(key) if store.is_result_ready(key) else None) in states
        assert store.check().ok
