"""The campaign finds what was wrong when signal handlers could cut the store's work in two.

Each fault is put back as it was: a context manager of Python's own around the lock of a process's
writers, and opening, closing and vacuuming in the main thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from logstore._engine import shelter
from logstore._engine.engine import Engine
from tests.interrupts.campaign import run
from tests.interrupts.scenarios import SCENARIOS


class _Turn:
    """The lock of the process's writers, given back by a call that a handler can come before."""

    def __init__(self, engine: Engine, timeout_s: float) -> None:
        self._engine = engine
        self._timeout_s = timeout_s

    def __enter__(self) -> None:
        if not self._engine.commit_lock.acquire(timeout=self._timeout_s):
            raise self._engine._timeout_error()

    def __exit__(self, *_: object) -> None:
        self._engine.commit_lock.release()


def in_turn(engine: Engine, work: Callable[[float], Any], timeout_s: float | None = None) -> Any:
    timeout_s = engine.options.write_timeout_s if timeout_s is None else timeout_s
    deadline = time.monotonic() + timeout_s
    with _Turn(engine, timeout_s):
        if engine.closed:
            raise engine.closed_error()
        return work(deadline)


def put_a_context_manager_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "in_turn", in_turn)


def shelter_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelter, "is_exposed", lambda: False)


FAULTS = {
    "set": put_a_context_manager_back,
    "close": shelter_nothing,
    "open, at rest": shelter_nothing,
    "vacuum": shelter_nothing,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.usefixtures("no_idle_compaction")
def test_what_was_wrong_is_found_when_the_old_code_is_put_back(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    FAULTS[name](monkeypatch)
    report = run(SCENARIOS[name], failures_max=1)
    assert report.failures
