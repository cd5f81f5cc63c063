"""The campaign finds what was wrong when signal handlers could cut the store's work in two.

Each fault is put back as it was: a context manager of Python's own around the writer lock, and
opening, closing and vacuuming in the main thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from logstore._engine import locks, shelter
from logstore._engine.engine import Engine
from tests.interrupts.campaign import run
from tests.interrupts.scenarios import SCENARIOS


class _Exclusive:
    """Both locks, given back by calls of Python's that a handler can come before."""

    def __init__(self, engine: Engine, timeout_s: float) -> None:
        self._engine = engine
        self._timeout_s = timeout_s

    def __enter__(self) -> None:
        engine = self._engine
        if not engine.commit_lock.acquire(timeout=self._timeout_s):
            raise engine._timeout_error(self._timeout_s)
        deadline = time.monotonic() + self._timeout_s
        if not engine._writer_lock.acquire(engine.log, deadline, engine._reopen_log_sheltered):
            raise engine._timeout_error(self._timeout_s)

    def __exit__(self, *_: object) -> None:
        engine = self._engine
        locks.unlock(engine.log.fd)
        engine.commit_lock.release()


def exclusively(
    engine: Engine,
    work: Callable[[], Any],
    *,
    recover: bool = True,
    timeout_s: float | None = None,
) -> Any:
    with _Exclusive(engine, engine.options.write_timeout_s if timeout_s is None else timeout_s):
        if engine.closed:
            raise engine.closed_error()
        engine._prepare(recover=recover)
        value = work()
        engine._writer_lock.about_to_release()
    engine._writer_lock.released()
    engine.header.announce()
    return value


def put_a_context_manager_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "exclusively", exclusively)


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
