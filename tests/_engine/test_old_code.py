"""The campaign finds what was wrong when signal handlers could cut the store's work in two.

Each fault is put back as it was: a context manager of Python's own around the writer lock, and
opening, closing and vacuuming in the main thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from logstore._engine import locks, shelter
from logstore._engine.engine import Engine
from tests.interrupts.campaign import run
from tests.interrupts.scenarios import SCENARIOS


class _Held:
    """The writer lock, given back by a call of Python's that a handler can come before."""

    def __init__(self, engine: Engine, deadline: float) -> None:
        self._engine = engine
        self._deadline = deadline

    def __enter__(self) -> None:
        if not self._engine._writer_lock.acquire(self._deadline):
            raise self._engine.timeout_error()

    def __exit__(self, *_: object) -> None:
        locks.fcntl_call(self._engine.presence_fd, locks.SETLK, locks.WRITER.unlocked)
        self._engine._writer_lock.released()


def with_writer_lock(
    engine: Engine,
    work: Callable[[], Any],
    deadline: float,
    prepare: Callable[[], object],
) -> Any:
    with _Held(engine, deadline):
        prepare()
        value = work()
        engine._writer_lock.about_to_release()
    return value


def put_a_context_manager_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "_with_writer_lock", with_writer_lock)


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
