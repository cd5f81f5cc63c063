"""The broker with taskiq's own command: workers that end, and workers that are killed."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import anyio
import pytest
from taskiq import AsyncTaskiqTask

from logstore.taskiq import DeadTaskError

ROOT = Path(__file__).parents[2]
WAIT_S = 100.0

pytestmark = pytest.mark.slow


class Worker:
    """A ``taskiq worker`` in a process group of its own."""

    def __init__(self, path: str, *options: str) -> None:
        command = [sys.executable, "-m", "taskiq", "worker", "tests.taskiq.broker_app:broker"]
        self.process = subprocess.Popen(
            [*command, "--workers", "1", *options],
            cwd=ROOT,
            env={**os.environ, "BROKER_APP_PATH": path, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill(self) -> None:
        """Kill the manager and its workers at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """End it as an operator does; return its status."""
        self.process.terminate()
        return self.process.wait(WAIT_S)


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("BROKER_APP_PATH", str(tmp_path / "a.db"))
    return importlib.reload(importlib.import_module("tests.taskiq.broker_app"))


@pytest.fixture
def start(app: ModuleType) -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def start_worker(*options: str) -> Worker:
        workers.append(Worker(app.PATH, *options))
        return workers[-1]

    yield start_worker
    for worker in workers:
        if worker.process.poll() is None:
            worker.kill()


async def until(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(WAIT_S):
        while not holds():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.005)


def notes(app: ModuleType) -> list[list[str]]:
    path = Path(f"{app.PATH}.notes")
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def parent_of(process: str) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().split()[3])


async def value(task: AsyncTaskiqTask[object]) -> object:
    result = await task.wait_result(timeout=WAIT_S)
    result.raise_for_error()
    return result.return_value


@pytest.mark.parametrize(
    "options", [[], ["--use-process-pool"], ["--ack-type", "when_received"]], ids=" ".join
)
def test_taskiqs_command_runs_tasks(
    app: ModuleType, start: Callable[..., Worker], options: list[str]
) -> None:
    async def main() -> None:
        await app.broker.startup()
        worker = start(*options)
        sent = [await app.square.kiq(number) for number in range(20)]
        assert [await value(one) for one in sent] == [number**2 for number in range(20)]
        assert await value(await app.greet.kiq()) == "hello"
        await asyncio.to_thread(worker.stop)
        assert app.broker.queue()._queue.stats().leased == 0
        await app.broker.shutdown()

    asyncio.run(main())
    assert sorted(path.name for path in Path(app.PATH).parent.iterdir()) == ["a.db"]


def test_a_worker_that_is_told_to_stop_ends_what_runs_and_gives_back_the_rest(
    app: ModuleType, start: Callable[..., Worker]
) -> None:
    async def main() -> None:
        await app.broker.startup()
        first = start("--max-async-tasks", "1", "--max-prefetch", "2")
        sent = [await app.slow.kiq(number, 3 if number == 0 else 0.01) for number in range(4)]
        stats = app.broker.queue()._queue.stats
        await until(lambda: len(notes(app)) == 1 and stats().leased == 3)
        second = start()
        child = int(notes(app)[0][2])
        os.kill(child, signal.SIGTERM)
        others = [await value(one) for one in sent[1:]]
        assert child not in others
        assert len(notes(app)) == 1 + 2 * 3  # the first one is still running
        assert await value(sent[0]) == child
        await asyncio.to_thread(first.stop)
        await asyncio.to_thread(second.stop)
        await app.broker.shutdown()

    asyncio.run(main())


def test_each_task_has_one_result_when_workers_are_killed(
    app: ModuleType, start: Callable[..., Worker]
) -> None:
    async def main() -> None:
        await app.broker.startup()
        workers = [start("--max-async-tasks", "4"), start("--max-async-tasks", "4")]
        sent = [await app.slow.kiq(number, 0.02) for number in range(300)]
        for deaths in range(2):
            done = 100 * (deaths + 1)
            await until(lambda done=done: len(notes(app)) >= done)  # type: ignore[misc]
            await asyncio.to_thread(workers[deaths].kill)
            workers.append(start("--max-async-tasks", "4"))
        for one in sent:
            await value(one)
        stats = app.broker.queue()._queue.stats()
        assert (stats.ready, stats.delayed, stats.leased, stats.dead) == (0, 0, 0, 0)
        await app.broker.shutdown()

    asyncio.run(main())
    starts = Counter(words[1] for words in notes(app) if words[0] == "start")
    assert len(starts) == 300
    # At most what two workers were running when they were killed was started again.
    assert sum(starts.values()) - 300 <= 2 * 4


def test_a_task_that_breaks_the_process_pool_dies_and_others_go_on(
    app: ModuleType, start: Callable[..., Worker]
) -> None:
    async def main() -> None:
        await app.broker.startup()
        start("--use-process-pool")
        bad = await app.die.kiq()
        result = await bad.wait_result(timeout=WAIT_S)
        assert isinstance(result.error, DeadTaskError)
        [letter] = [letter async for letter in app.broker.dead_letters()]
        assert (letter.task_id, letter.attempts) == (bad.task_id, 3)
        assert await value(await app.square.kiq(5)) == 25
        await app.broker.shutdown()

    asyncio.run(main())


def test_children_of_a_killed_workers_process_pool_keep_no_message(
    app: ModuleType, start: Callable[..., Worker]
) -> None:
    async def main() -> None:
        await app.broker.startup()
        first = start("--use-process-pool", "--max-process-pool-processes", "2")
        sent = await app.busy.kiq(1, 1.0)
        await until(lambda: len(notes(app)) == 1)
        os.kill(parent_of(notes(app)[0][2]), signal.SIGKILL)  # the child goes on
        start("--use-process-pool")
        assert await value(sent) == 1
        assert len(notes(app)) == 2
        await asyncio.to_thread(first.kill)
        await app.broker.shutdown()

    asyncio.run(main())
