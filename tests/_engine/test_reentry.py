"""Calls of a store within a call of the same thread: of a signal handler, of a finalizer."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import logstore
from logstore._engine import durability
from logstore._engine.logview import LogView
from logstore._engine.table import Table
from logstore._engine.writerlock import WriterLock


@pytest.mark.parametrize("verb", ["set_result", "compact"])
@pytest.mark.parametrize("at", ["flush", "publication", "compaction", "lock"])
def test_a_handler_that_writes_during_a_write_is_refused_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, verb: str
) -> None:
    """It would give back the locks of the write that it interrupts, and that one what it wrote."""
    called: list[str] = []
    refused: list[logstore.WriteError] = []
    path = tmp_path / "app.db"
    with logstore.open(path) as store:
        store.set_result("before", 0)

        def handler(_number: int, _frame: FrameType | None) -> None:
            try:
                store.compact() if verb == "compact" else store.set_result("handler", 1)
            except logstore.WriteError as exc:
                refused.append(exc)

        def interrupted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any) -> Any:
                if not called:
                    called.append(name)
                    signal.raise_signal(signal.SIGUSR1)
                return real(*args)

            return call

        owner, name = {
            "flush": (durability, "sync_data"),
            "publication": (LogView, "_publish"),
            "compaction": (Table, "read_meta"),
            "lock": (WriterLock, "acquire"),
        }[at]
        before = signal.signal(signal.SIGUSR1, handler)
        try:
            with monkeypatch.context() as patched:
                patched.setattr(owner, name, interrupted(getattr(owner, name)))
                if at == "compaction":
                    store.compact()
                else:
                    store.set_result("main", 2)
        finally:
            signal.signal(signal.SIGUSR1, before)
        # The compaction is in another thread: the handler's call waits for its end.
        assert [exc.errno for exc in refused] == [errno.EDEADLK] * (at != "compaction")
        assert store.stats().recoveries == 0
        store.set_result("after", 3)
        store.compact()
    with logstore.open(path) as store:
        held = {"before": 0, "after": 3}
        if at != "compaction":
            held["main"] = 2
        elif verb == "set_result":
            held["handler"] = 1
        assert {info.task_id: store.get_result(info.task_id) for info in store.tasks()} == held


def test_a_handler_may_write_to_another_store(tmp_path: Path) -> None:
    with logstore.open(tmp_path / "a.db") as one, logstore.open(tmp_path / "b.db") as other:
        real = durability.sync_data
        calls: list[int] = []

        def sync(fd: int) -> None:
            if not calls:
                calls.append(fd)
                other.set_result("t", 1)
            real(fd)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(durability, "sync_data", sync)
            one.set_result("t", 2)
        assert (one.get_result("t"), other.get_result("t")) == (2, 1)
