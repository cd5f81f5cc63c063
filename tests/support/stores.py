"""Stores that are verified when a test ends, and a clock that a test sets."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

import logstore

PASSES_NS_MAX = 10_000_000


class Clock:
    """The wall clock of this process, which can be set forward and back.

    By itself it goes on for a moment only: on a slow machine nothing is late.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._real = time.time_ns
        self._set_to_ns = self._set_at_ns = self._real()
        monkeypatch.setattr(time, "time_ns", self._time_ns)

    def _time_ns(self) -> int:
        return self._set_to_ns + min(self._real() - self._set_at_ns, PASSES_NS_MAX)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._set_to_ns, self._set_at_ns = self._time_ns() + int(seconds * 1e9), self._real()


class Stores:
    """Opens stores and verifies them at the end."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._opened: list[logstore.Store] = []

    def __call__(self, path: Path | str | None = None, **options: Any) -> logstore.Store:
        """Open the store at ``path``, by default the test's own."""
        store = logstore.open(self._directory / "app.db" if path is None else path, **options)
        self._opened.append(store)
        return store

    def finish(self) -> None:
        """Verify every store, close it, and verify it again at rest."""
        paths = dict.fromkeys(store.path for store in self._opened)
        for store in self._opened:
            if not store.closed:
                report = store.check()
                assert report.ok, report.problems
        for store in self._opened:
            store.close()
        for path in paths:
            assert files_of(path) == [os.path.basename(path)]
            report = logstore.check(path)
            assert report.ok, report.problems

    def abandon(self) -> None:
        """Close whatever is still open."""
        for store in self._opened:
            try:
                store.close()
            except logstore.LogstoreError:
                continue


def names_in(directory: Path) -> list[str]:
    """Return the names of the files in a directory, sorted."""
    return sorted(os.listdir(directory))


def files_of(path: str) -> list[str]:
    """The names of a store's file and of the files beside it that belong to it."""
    directory, name = os.path.split(path)
    return sorted(entry for entry in os.listdir(directory) if entry.startswith(name))
