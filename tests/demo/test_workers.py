from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from logstore.demo import tasks
from logstore.demo.workers import WorkerCommand

TIME_LIMIT_S = 100.0


@pytest.fixture
def store_path(short_path: Path) -> Path:
    path = short_path / "store" / "app.db"
    path.parent.mkdir()
    return path


@pytest.fixture
def command(short_path: Path, store_path: Path) -> Iterator[WorkerCommand]:
    address = f"ipc://{short_path}/s"
    command = WorkerCommand("1", directory=short_path, store_path=store_path, address=address)
    yield command
    command.kill_group()


@pytest.fixture
def foreign() -> Iterator[subprocess.Popen[bytes]]:
    """A process of somebody else, which ends well unless it is killed."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process


async def pid_other_than(broker: tasks.DemoBroker, pid: int | None) -> int:
    """Wait for the worker to announce a process that is not ``pid``."""
    deadline_s = time.monotonic() + TIME_LIMIT_S
    while time.monotonic() < deadline_s:
        ready = await broker.store.get_progress(tasks.worker_record_id("1"))
        if ready is not None and ready.meta is not None and ready.meta["pid"] != pid:
            return int(ready.meta["pid"])
        await asyncio.sleep(0.05)
    raise TimeoutError("no worker announced itself")


@pytest.mark.slow
def test_a_killed_worker_process_is_replaced_and_stop_leaves_no_process(
    short_path: Path, store_path: Path, command: WorkerCommand, foreign: subprocess.Popen[bytes]
) -> None:
    async def run() -> None:
        broker = tasks.make_broker(str(store_path), f"ipc://{short_path}/s")
        await broker.startup()
        try:
            first = await pid_other_than(broker, None)
            assert os.getpgid(first) == command.manager_pid != first
            with pytest.raises(ValueError, match="not a process of worker 1"):
                await command.kill_worker_process(foreign.pid)
            foreign.communicate(b"end")
            assert foreign.returncode == 0
            await command.kill_worker_process(first)
            second = await pid_other_than(broker, first)
            assert os.getpgid(second) == command.manager_pid
            assert await command.stop(timeout_s=TIME_LIMIT_S), command.log_tail()
        finally:
            await broker.shutdown()

    asyncio.run(run())
    with pytest.raises(ProcessLookupError):
        os.killpg(command.manager_pid, 0)
    assert [path.name for path in store_path.parent.iterdir()] == ["app.db"]


@pytest.mark.slow
def test_a_worker_that_cannot_open_its_store_gives_up_and_logs_why(
    short_path: Path, store_path: Path, command: WorkerCommand
) -> None:
    command.kill_group()
    store_path.mkdir()
    broken = WorkerCommand("2", directory=short_path, store_path=store_path, address="ipc://unused")

    try:
        assert broken.wait(TIME_LIMIT_S) != 0
        assert "NotAStoreError" in broken.log_tail()
    finally:
        broken.kill_group()
