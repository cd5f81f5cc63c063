"""A store that lives, dies and lives again, for state machines that compare it with a model."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

import logstore
from tests.support.inside import no_idle_compaction

Mode = Literal["rw", "r"]

MODEL = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=60,
    stateful_step_count=40,
    suppress_health_check=list(HealthCheck),
)


class StoreLives(RuleBasedStateMachine):
    """One store with several handles, and a clock that the machine moves."""

    modes: ClassVar[tuple[Mode, ...]] = ("rw", "rw")  # of the handles

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.quiet = no_idle_compaction()
        self.quiet.start()
        self.now = 0.0
        real = time.time_ns
        self.patch.setattr(time, "time_ns", lambda: real() + int(self.now * 1e9))
        self.directory = Path(tempfile.mkdtemp(prefix="logstore-model-"))
        self.lives = 0
        self.order = 0
        self.stores: list[logstore.Store] = []

    @property
    def path(self) -> Path:
        return self.directory / f"life-{self.lives}" / "app.db"

    def open_one(self, mode: Mode = "rw") -> logstore.Store:
        return logstore.open(self.path, mode=mode, compact_at=1 << 14)

    def open_all(self) -> None:
        for mode in self.modes:
            self.stores.append(self.open_one(mode))

    def close_all(self) -> None:
        while self.stores:
            self.stores.pop(0).close()

    @initialize()
    def start(self) -> None:
        self.path.parent.mkdir()
        self.open_all()

    @rule()
    def reopen(self) -> None:
        self.close_all()
        assert os.listdir(self.path.parent) == ["app.db"]
        self.open_all()

    @rule()
    def die_and_recover(self) -> None:
        before = self.path
        self.lives += 1
        self.path.parent.mkdir()
        for suffix in ("", "-log", "-log2", "-shm"):
            shutil.copyfile(f"{before}{suffix}", f"{self.path}{suffix}")
        self.close_all()
        self.open_all()

    def teardown(self) -> None:
        try:
            if self.stores:
                report = self.stores[0].check()
                assert report.ok, report.problems
                self.close_all()
                assert os.listdir(self.path.parent) == ["app.db"]
        finally:
            self.close_all()
            self.patch.undo()
            self.quiet.stop()
            shutil.rmtree(self.directory)
