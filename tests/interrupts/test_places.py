"""The places that the other tests go to: all at which this interpreter runs handlers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from tests.support import interrupts
from tests.support.interrupts import SIGNAL, Interrupt, find_places, interrupt

ROUNDS_MAX = 300_000


class Sample:
    """One of each: calls of and from C, generators, contexts, loops, exceptions."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.log: list[str] = []

    @property
    def size(self) -> int:
        return len(self.log)

    @contextlib.contextmanager
    def block(self) -> Iterator[None]:
        self.lock.acquire()
        try:
            yield
        finally:
            self.lock.release()

    def numbers(self, end: int) -> Iterator[int]:
        for number in range(end):
            yield max(number, self.size)

    @staticmethod
    def rank(number: int) -> int:
        return -number

    def run(self) -> int:
        self.log.clear()  # one call a line
        with self.lock:
            self.log.append("a")
        with self.block():
            self.log.append("b")
        try:
            raise ValueError("none")
        except ValueError:
            self.log.append("c")
        finally:
            self.log.append("d")
        count = 0
        while count < 3:
            count += 1
        squares = [
            number * number
            for number in self.numbers(count)
        ]  # fmt: skip
        squares.sort(key=self.rank)
        return sum(squares, *(self.size,))


@pytest.fixture
def sample(monkeypatch: pytest.MonkeyPatch) -> Sample:
    """A sample whose frames count, as those of the package do."""
    monkeypatch.setattr(interrupts, "PACKAGE", __file__)
    monkeypatch.setattr(interrupts, "TESTS", interrupts.__file__)
    monkeypatch.setattr(interrupts, "NOT_COUNTED", (interrupts.__file__,))
    return Sample()


def test_places_are_where_signals_from_outside_are_handled(sample: Sample) -> None:
    """Another process sends signals, and nothing is traced: the handler runs at no other place.

    Told apart by lines: where nothing is traced, instructions run that do the work of several.
    """
    seen: set[tuple[str, int]] = set()

    def call() -> None:
        sample.run()

    def note(_number: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code.co_filename in (__file__, contextlib.__file__):
            seen.add((frame.f_code.co_name, frame.f_lineno))

    places = {(place.code.co_name, place.line) for place in find_places(call)}
    code = f"import os, time\nwhile True: time.sleep(1e-5); os.kill({os.getpid()}, {int(SIGNAL)})"
    before = signal.signal(SIGNAL, note)
    sender = subprocess.Popen([sys.executable, "-c", code])
    try:
        for _ in range(ROUNDS_MAX):
            call()
            if len(seen) > 0.9 * len(places):
                break
    finally:
        sender.kill()
        sender.wait()
        signal.signal(SIGNAL, before)
    inside = {"call", "note", test_places_are_where_signals_from_outside_are_handled.__name__}
    found = {place for place in seen if place[0] not in inside}
    assert found <= places
    assert len(found) > 0.7 * len(places)


def test_every_place_is_reached_and_what_is_raised_there_ends_the_call(sample: Sample) -> None:
    def call() -> None:
        Sample().run()

    places = find_places(call)
    assert len(places) > 30
    for place in places:
        error = Interrupt()
        outcome = interrupt(call, place, error)
        assert (outcome.fired, outcome.raised) == (True, error), place


def test_the_end_of_a_with_statement_is_a_place_and_leaves_the_lock_free(sample: Sample) -> None:
    """Because the interpreter looks when ``__exit__`` has returned, and not before it is called."""

    def call() -> None:
        with sample.lock:
            sample.log.append("a")

    for place in find_places(call):
        assert interrupt(call, place, Interrupt()).fired
        assert not sample.lock.locked(), place


def test_a_lock_taken_by_a_call_before_the_try_is_kept_by_one_place(sample: Sample) -> None:
    """The mistake that the tests of the store are there to find."""

    def call() -> None:
        sample.lock.acquire()
        try:
            sample.log.append("a")
        finally:
            sample.lock.release()

    kept = 0
    for place in find_places(call):
        assert interrupt(call, place, Interrupt()).fired
        if sample.lock.locked():
            kept += 1
            sample.lock.release()
    assert kept == 1
