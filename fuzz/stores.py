"""Stores for the fuzzers to damage: always the same bytes, so that an input keeps its meaning.

Rules: UUID, log id and clock are fixed while a store is made; what was written is known, version by
version.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import logstore
from fuzz.target import Violation, expect
from logstore import TaskProgress
from logstore._engine import maintenance, sealing
from logstore._engine.engine import Engine
from logstore._engine.header import split
from logstore._engine.log import log_path

NAME = "app.db"
LOG_TAIL_BYTES = 256  # of the arena's zeros behind the last frame
NOT_THERE = "(nothing)"
WRITE_TIMEOUT_S = 5.0

# What is written to each id, in order; an Exception class means a deletion.
IN_TABLE: tuple[tuple[str, Any], ...] = (
    *((f"table-{i}", {"n": i, "text": "x" * (20 * i)}) for i in range(12)),
    *(("both", 1), ("gone", 1), ("gone", None)),
)
IN_SEALED: tuple[tuple[str, Any], ...] = (
    *(("log-1", [1, "two"]), ("both", 2), ("log-2", b"y" * 900), ("log-1", "again")),
    *(("sealed", 1), ("table-4", None)),
)
IN_OPEN: tuple[tuple[str, Any], ...] = (
    *(("table-3", None), ("e\u00e9", {1, 2}), ("both", None), ("both", 3), ("last", 4)),
)
IN_LOG = IN_SEALED + IN_OPEN
RUNNING = ("table-5", "running-1", "running-2")
IDS = sorted({task_id for task_id, _ in IN_TABLE + IN_LOG} | set(RUNNING))
PROGRESS = TaskProgress(0.5, "at work", 1, 2, {"a": [1]})
START_NS = 1_700_000_000_000_000_000


def versions(task_id: str) -> list[Any]:
    """What a reader may see of an id's result: every value it ever had, or nothing."""
    written = [value for name, value in IN_TABLE + IN_LOG if name == task_id]
    return [NOT_THERE, *(value for value in written if value is not None)]


@contextmanager
def place() -> Iterator[Path]:
    """An empty directory."""
    with tempfile.TemporaryDirectory(prefix="logstore-fuzz-") as directory:
        yield Path(directory)


def make(directory: Path, *, crashed: bool) -> Path:
    """A store with everything in it: closed well, or as a sudden death leaves it.

    Then one log is sealed and not in the table, and the other one is open.
    """
    path = directory / NAME
    with ExitStack() as patches:
        ticks = iter(range(START_NS, START_NS + 10**12, 1_000_000))
        patches.enter_context(mock.patch.object(time, "time_ns", ticks.__next__))
        patches.enter_context(mock.patch.object(os, "urandom", lambda size: bytes(range(size))))
        patches.enter_context(mock.patch.object(maintenance, "IDLE_S", 1e6))
        patches.enter_context(mock.patch.object(sealing, "fold_sealed", return_value=False))
        live = directory / "live"
        live.mkdir()
        with logstore.open(live / NAME, compact_at=1 << 14) as store:
            for task_id, value in IN_TABLE:
                write(store, task_id, value)
            store.set_progress(RUNNING[1], PROGRESS)
            store.compact()
            for task_id, value in IN_SEALED:
                write(store, task_id, value)
            seal(store)
            for task_id, value in IN_OPEN:
                write(store, task_id, value)
            store.set_progress(RUNNING[0], PROGRESS)
            store.set_progress(RUNNING[2], PROGRESS, ttl_s=1e9)
            store.sync()
            if crashed:
                header = engine_of(store).header
                for suffix in ("", "-log", "-log2", "-shm"):
                    shutil.copyfile(f"{live / NAME}{suffix}", f"{path}{suffix}")
                for epoch, end in map(split, (header.sealed, header.state)):
                    os.truncate(log_path(str(path), epoch), end + LOG_TAIL_BYTES)
        if not crashed:
            shutil.copyfile(live / NAME, path)
        shutil.rmtree(live)
    return path


def engine_of(store: logstore.Store) -> Engine:
    """What a store is made of."""
    engine = store._handle.engine
    assert isinstance(engine, Engine)
    return engine


def seal(store: logstore.Store) -> None:
    """Seal the open log, as if the last write had filled it."""
    engine = engine_of(store)
    options = engine.options
    engine.options = options._replace(compact_at=1)
    with engine.commit_lock:
        sealing.compact_if_due(engine)
    engine.options = options
    expect(engine.header.sealed > 0, "the log is not sealed")


def write(store: logstore.Store, task_id: str, value: Any) -> None:
    """One step of what is written."""
    if value is None:
        store.delete_result(task_id)
    else:
        store.set_result(task_id, value)


def contents(store: logstore.Store, ids: Sequence[str] = IDS) -> dict[str, Any]:
    """What a store says of each id; typed errors stand for themselves."""
    return {task_id: _result(store, task_id) for task_id in ids}


def _result(store: logstore.Store, task_id: str) -> Any:
    try:
        return store.get_result(task_id)
    except logstore.ResultError:
        return NOT_THERE
    except logstore.LogstoreError as error:
        return type(error)


def read_everything(store: logstore.Store, *, genuine: bool = True) -> dict[str, Any]:
    """Call every method that reads; anything but an answer or a typed error is a violation."""
    found = contents(store)
    for task_id in IDS:
        for read in (store.status, store.is_result_ready, store.get_progress):
            try:
                answer = read(task_id)
            except logstore.LogstoreError:
                continue
            if read == store.get_progress:
                expect(answer in (None, PROGRESS) or not genuine, f"progress {answer}")
    for status in (None, "ready", "running", "deleted", "expired"):
        try:
            for info in store.tasks(status=status):
                expect(isinstance(info.task_id, str), "a task without an id")
        except logstore.LogstoreError:
            continue
    try:
        store.stats()
    except logstore.LogstoreError:
        pass
    return found


def expect_versions(found: dict[str, Any]) -> None:
    """Every value is one that was written under its id."""
    for task_id, value in found.items():
        if isinstance(value, type):
            continue
        if not any(type(value) is type(known) and value == known for known in versions(task_id)):
            raise Violation(f"{task_id!r} has the value {value!r}, which was never written")


def use(store: logstore.Store) -> None:
    """A store that could be opened for writing can be written, read and checked."""
    store.set_result("new", "value")
    expect(store.get_result("new") == "value", "what was written is not there")
    store.compact()
    expect(store.get_result("new") == "value", "what was written is gone after a compaction")
