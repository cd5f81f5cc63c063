"""Replays of real processes against the rules: the engine keeps them, and planted faults do not."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from fuzz.model import replay
from fuzz.model.replay import Run, WrongStepError, check
from logstore._engine import sealing
from logstore._engine.append import begin_after
from logstore._engine.engine import Engine
from logstore._engine.log import FIRST_OFFSET
from logstore._engine.logview import LogView
from logstore._engine.overlay import Overlay
from logstore._engine.publishing import Publisher

pytestmark = pytest.mark.timeout(600)  # a busy machine is no hang

SEED = 1


def trace_of(place: Path, rounds: int, plant: Callable[[], None] | None = None) -> Run:
    run = Run(place, SEED, plant)
    try:
        run.make(rounds, 15)
    except RuntimeError:
        if plant is None:
            raise
    return run


def counts_of(run: Run) -> Counter[str]:
    with run.trace.open() as lines:
        return check(lines)


def test_the_steps_of_processes_that_are_killed_are_those_of_the_model(tmp_path: Path) -> None:
    run = trace_of(tmp_path, rounds=8)
    counts = counts_of(run)
    assert run.writes == 8 * 15 * replay.WORKERS
    assert counts["kill"] == run.kills
    for what in ("kill", "recovery", "seal", "sealed log folded", "fold of everything"):
        assert counts[what] > 0, counts


def publish_before_the_flush() -> None:
    publish_all = Publisher.publish_all

    def planted(self: Publisher, synced_to: int = 0) -> bool:
        header = self._header
        if header.state < header.appended and not header.flushing:
            self._view.publish(header.appended)
        return publish_all(self, synced_to)

    setattr(Publisher, "publish_all", planted)  # noqa: B010 -- mypy knows a method


def store_state_before_sealed() -> None:
    def planted(self: LogView) -> None:
        header, sealed = self._header, self.overlay
        start = begin_after(self.logs, header, self._seed, sealed.state)
        with self.lock:
            header.begin_epoch(sealed.epoch + 1, FIRST_OFFSET, start)
            header.sealed = sealed.state
            self.unpublished.clear()
            self.overlay = Overlay(sealed.epoch + 1, sealed)
            self.overlay.apply([], start)
        header.writing = 0

    setattr(LogView, "seal", planted)  # noqa: B010


def give_up_a_sealed_log_before_it_is_folded() -> None:
    def planted(engine: Engine, view: Overlay) -> bool:
        engine.header.sealed = 0
        return True

    setattr(sealing, "_fold_sealed", planted)  # noqa: B010


@pytest.mark.parametrize(
    ("plant", "rule"),
    [
        (publish_before_the_flush, "published before the flush"),
        (store_state_before_sealed, "an epoch begins without the fold lock or a sealed log"),
        (give_up_a_sealed_log_before_it_is_folded, "SEALED is cleared before the table has"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_replay_finds(tmp_path: Path, plant: Callable[[], None], rule: str) -> None:
    run = trace_of(tmp_path, rounds=1, plant=plant)
    with pytest.raises(WrongStepError, match=rule):
        counts_of(run)


def test_a_trace_in_another_order_is_refused(tmp_path: Path) -> None:
    run = trace_of(tmp_path, rounds=1)
    lines = run.trace.read_text().splitlines()
    check(lines)
    appended = [at for at, line in enumerate(lines) if '"store", "appended"' in line]
    at = random.Random(SEED).choice(appended[2:])
    lines.insert(at - 3, lines.pop(at))
    with pytest.raises(WrongStepError):
        check(lines)
