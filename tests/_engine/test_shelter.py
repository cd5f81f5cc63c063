"""Work that a signal handler cannot cut short: done to its end, once, and the error raised then."""

from __future__ import annotations

import _thread
import contextlib
import gc
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from logstore._engine import shelter
from logstore._engine.shelter import InterruptedWaitError, sheltered

LONG_S = 100.0


class Interrupt(BaseException):
    """What the handler raises."""


@pytest.fixture
def interrupt() -> Iterator[Callable[[], None]]:
    """Send a signal to the main thread, whose handler raises, and wait until it has run."""
    handled = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        handled.set()
        raise Interrupt

    def send() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        assert handled.wait(LONG_S)

    before = signal.signal(signal.SIGUSR1, handle)
    yield send
    signal.signal(signal.SIGUSR1, before)


def test_interrupted_work_is_done_to_its_end_and_its_value_discarded(
    interrupt: Callable[[], None],
) -> None:
    done: list[int] = []
    discarded: list[int] = []

    def work() -> int:
        interrupt()
        done.append(1)
        return 7

    with pytest.raises(Interrupt):
        sheltered(work, discarded.append)
    assert done == [1]
    assert discarded == [7]


def test_a_wait_within_interrupted_work_ends(interrupt: Callable[[], None]) -> None:
    ended: list[BaseException] = []
    lock = threading.Lock()
    lock.acquire()

    def work() -> None:
        interrupt()
        try:
            shelter.acquire(lock, LONG_S)
        except BaseException as exc:
            ended.append(exc)
            raise

    with pytest.raises(Interrupt):
        sheltered(work)
    assert [type(exc) for exc in ended] == [InterruptedWaitError]


def test_an_error_of_the_work_is_raised() -> None:
    def work() -> None:
        raise KeyError(1)

    with pytest.raises(KeyError):
        sheltered(work)


@pytest.mark.parametrize("fails", ["the work", "a handler"])
def test_an_error_that_is_forgotten_keeps_nothing_of_its_work(
    interrupt: Callable[[], None], fails: str
) -> None:
    """Not until the garbage collector comes either: it may hold files open."""

    def fail(held: threading.Event) -> None:
        if fails == "a handler":
            interrupt()
        assert held.is_set()

    def call() -> weakref.ref[threading.Event]:
        held = threading.Event()
        with contextlib.suppress(AssertionError, Interrupt):
            sheltered(lambda: fail(held))
        return weakref.ref(held)

    gc.disable()
    try:
        kept = call()
        deadline = time.monotonic() + 10.0  # the thread of the work may just be ending
        while kept() is not None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        gc.enable()


@pytest.mark.parametrize("error", [Interrupt(), RuntimeError("a handler's")])
def test_work_that_is_given_up_before_it_has_begun_is_never_done(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler runs when the thread has been made, and before that does anything."""
    made: list[Callable[[], None]] = []
    done: list[int] = []

    def start_new_thread(start: Callable[[], None], _arguments: tuple[()]) -> None:
        made.append(start)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(_thread, "start_new_thread", start_new_thread)
        with pytest.raises(type(error)) as caught:
            sheltered(lambda: done.append(1))
    assert caught.value is error
    (start,) = made
    late = threading.Thread(target=start)
    late.start()
    late.join()
    for thread in threading.enumerate():
        if thread.name == "logstore-sheltered":
            thread.join()
    assert done == []


def test_work_whose_thread_dies_before_it_begins_is_done_in_the_callers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shelter, "START_S", 0.01)
    monkeypatch.setattr(_thread, "start_new_thread", lambda *_: None)
    assert sheltered(threading.get_ident) == threading.get_ident()
