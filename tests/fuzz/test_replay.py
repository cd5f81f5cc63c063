"""Replays of real processes against the rules: the engine keeps them, and planted faults do not."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fuzz.model import replay
from fuzz.model.replay import Run, WrongStepError, check
from logstore._engine import durability, sealing, vacuum
from logstore._engine.append import begin_after
from logstore._engine.engine import Engine
from logstore._engine.frames import Entry
from logstore._engine.header import SharedHeader
from logstore._engine.log import FIRST_OFFSET, Log
from logstore._engine.logview import LogView
from logstore._engine.overlay import Overlay
from logstore._engine.publishing import Publisher
from logstore._engine.table import Table
from logstore._engine.vacuum import Folded

pytestmark = pytest.mark.timeout(600)  # a busy machine is no hang

SEED = 1


def trace_of(
    place: Path, rounds: int, plant: Callable[[], None] | None = None, seed: int = SEED
) -> Run:
    place.mkdir(exist_ok=True)
    run = Run(place, seed, plant)
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
    for what in (
        *("kill", "recovery", "seal", "sealed log folded", "fold of everything", "acked"),
        *("renamed", "large", "flush failed", "failure", "refused"),
    ):
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


# -- vacuums, large records and failed flushes ---------------------------------------------------


def leave_the_last_round_of_a_vacuum_out() -> None:
    fold_changes = vars(vacuum)["_fold_changes"]

    def planted(copy: Table, view: Overlay, folded: Folded, *more: int) -> None:
        kept, view.changed = view.changed, view.changed[:-1]
        fold_changes(copy, view, folded, *more)
        view.changed = kept

    vars(vacuum)["_fold_changes"] = planted


def publish_a_table_before_its_name_is_on_the_disk() -> None:
    vars(vacuum)["durability"] = SimpleNamespace(
        sync_directory=lambda directory: None, sync_file=durability.sync_file
    )


def keep_the_epoch_of_a_vacuumed_table() -> None:
    fold_changes = vars(vacuum)["_fold_changes"]

    def planted(*arguments: Any) -> None:
        *known, epoch, incarnation = arguments
        fold_changes(*known, epoch - 1, incarnation)

    vars(vacuum)["_fold_changes"] = planted


def put_a_large_record_behind_an_older_one_in_the_log() -> None:
    def planted(self: Engine, key: bytes, entry: Entry) -> None:
        self.fold(extra=({key: entry}, {}))

    setattr(Engine, "fold_large", planted)  # noqa: B010


def forget_a_large_record() -> None:
    setattr(Engine, "fold_large", lambda self, key, entry: self.fold())  # noqa: B010


def go_on_behind_a_failed_flush() -> None:
    sync = Log.sync

    def planted(self: Log) -> None:
        with suppress(OSError):
            sync(self)

    setattr(Log, "sync", planted)  # noqa: B010


def keep_a_log_whose_flush_has_failed() -> None:
    def planted(self: Engine) -> None:
        self.header.log_failed = 0

    setattr(Engine, "_replace_logs", planted)  # noqa: B010


def fold_what_a_failed_flush_has_not_put_on_the_disk() -> None:
    fold_unverified = Engine.fold_unverified

    def planted(self: Engine, **options: Any) -> None:
        unpublished = self.logview.unpublished.index()
        if self.header.log_failed and self.overlay.epoch == self.header.epoch:
            self.overlay.results.update(unpublished.results)
        fold_unverified(self, **options)

    setattr(Engine, "fold_unverified", planted)  # noqa: B010


def note_no_failure() -> None:
    setattr(SharedHeader, "add_failure", lambda self: None)  # noqa: B010


def take_a_failed_flush_for_a_good_one() -> None:
    setattr(SharedHeader, "published_before", lambda self, epoch: None)  # noqa: B010


@pytest.mark.parametrize(
    ("plant", "rule"),
    [
        (publish_before_the_flush, "published before the flush"),
        (store_state_before_sealed, "an epoch begins without the fold lock or a sealed log"),
        (give_up_a_sealed_log_before_it_is_folded, "SEALED is cleared before the table has"),
        (leave_the_last_round_of_a_vacuum_out, "a copy lacks the newest records"),
        (publish_a_table_before_its_name_is_on_the_disk, "before its name is on the disk"),
        (keep_the_epoch_of_a_vacuumed_table, "a copy has no new epoch"),
        (put_a_large_record_behind_an_older_one_in_the_log, "a log hides a large result"),
        (forget_a_large_record, "a large record is acked, and is nowhere"),
        (go_on_behind_a_failed_flush, "SYNCED is stored behind a failed flush"),
        (keep_a_log_whose_flush_has_failed, "LOG_FAILED is cleared before the logs are replaced"),
        (fold_what_a_failed_flush_has_not_put_on_the_disk, "a fold of something else than"),
        (note_no_failure, "a fold behind a failed flush that is not noted"),
        (take_a_failed_flush_for_a_good_one, "acked although its flush has failed"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_replay_finds(tmp_path: Path, plant: Callable[[], None], rule: str) -> None:
    def look() -> None:
        for number in range(20):  # a fault shows when two processes meet
            counts_of(trace_of(tmp_path / str(number), 2, plant, SEED + number))

    with pytest.raises(WrongStepError, match=rule):
        look()


def test_a_trace_in_another_order_is_refused(tmp_path: Path) -> None:
    run = trace_of(tmp_path, rounds=1)
    lines = run.trace.read_text().splitlines()
    check(lines)
    appended = [at for at, line in enumerate(lines) if '"store", "appended"' in line]
    at = random.Random(SEED).choice(appended[2:])
    lines.insert(at - 3, lines.pop(at))
    with pytest.raises(WrongStepError):
        check(lines)
