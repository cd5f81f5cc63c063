"""The thread behind an event loop: jobs that come late, and deadlines."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import logstore
from logstore import TaskProgress, aio
from logstore._loops.handover import Deadline, Inbox, Outcome, Worker
from tests.support.guarded import touched_without

LONG_S = 100.0
Job = tuple[str, "asyncio.Future[Any]"]


def test_a_job_for_a_worker_that_stops_is_refused_and_never_run() -> None:
    ran: list[str] = []

    def run(jobs: list[Job]) -> list[Outcome]:
        ran.extend(name for name, _ in jobs)
        return [(future, None, None) for _, future in jobs]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        worker = Worker[Job]("test-worker", run)
        await worker.submit(loop, ("a", loop.create_future()))
        worker._stopped = True  # as by another thread that is about to tell the worker's
        with pytest.raises(logstore.StoreClosedError):
            worker.submit(loop, ("b", loop.create_future()))
        worker.stop()

    asyncio.run(main())
    assert ran == ["a"]


def test_the_lanes_of_a_worker_are_looked_up_and_listed_under_its_lock() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        worker = Worker[Job]("test-worker", lambda jobs: [(job[1], None, None) for job in jobs])
        found = touched_without(worker._lock, worker, "_lanes")
        await worker.submit(loop, ("a", loop.create_future()))
        worker.stop()
        assert found == []

    asyncio.run(main())


@pytest.mark.parametrize("get", [True, False])
def test_a_deadline_that_passes_while_a_change_wakes_its_waiter_ends_the_wait(
    get: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline has resolved the future that the waiter has just replaced."""

    class Passed(Deadline):
        def __init__(self, future: asyncio.Future[bool]) -> None:
            super().__init__(future)
            self.expired = True

    monkeypatch.setattr(aio, "Deadline", Passed)

    async def main() -> None:
        async with logstore.open_async(path) as store:
            wait = store.wait_result if get else store.wait_ready
            waiting = asyncio.ensure_future(wait("a", timeout_s=LONG_S))
            for _ in range(1000):
                await store.set_progress("a", TaskProgress())
                if (await asyncio.wait({waiting}, timeout=0.01))[0]:
                    break
            assert waiting.done()
            if get:
                with pytest.raises(logstore.WaitTimeoutError):
                    await waiting
            else:
                assert await waiting is False

    asyncio.run(main())


def test_a_worker_that_is_stopped_has_run_its_jobs() -> None:
    ran: list[str] = []

    begun = asyncio.Event()

    def run(jobs: list[Job]) -> list[Outcome]:
        jobs[0][1].get_loop().call_soon_threadsafe(begun.set)
        time.sleep(0.05)
        ran.extend(name for name, _ in jobs)
        return [(future, None, None) for _, future in jobs]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        worker = Worker[Job]("test-worker", run)
        submitted = worker.submit(loop, ("a", loop.create_future()))
        await begun.wait()
        worker.stop()
        assert ran == ["a"]
        await submitted

    asyncio.run(main())


def test_while_the_thread_has_a_batch_of_a_loop_it_gets_no_token_for_more() -> None:
    """Else it would take the next jobs one by one, before the callers of this batch go on."""
    running, go_on = threading.Event(), threading.Event()
    batches: list[int] = []

    def run(jobs: list[Job]) -> list[Outcome]:
        running.set()
        assert go_on.wait(LONG_S)
        batches.append(len(jobs))
        return [(future, None, None) for _, future in jobs]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        worker = Worker[Job]("test-worker", run)
        first = worker.submit(loop, ("first", loop.create_future()))
        assert await asyncio.to_thread(running.wait, LONG_S)
        others = [worker.submit(loop, (str(n), loop.create_future())) for n in range(3)]
        assert worker.tokens.qsize() == 0
        go_on.set()
        await asyncio.gather(first, *others)
        worker.stop()

    asyncio.run(main())
    assert batches == [1, 3]


def test_jobs_that_wait_for_the_thread_share_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        worker = Worker[Job]("test-worker", lambda jobs: [])
        monkeypatch.setattr(worker, "prepare", lambda: None)  # there is no thread yet
        for name in "abc":
            worker.submit(loop, (name, loop.create_future()))
        assert worker.tokens.qsize() == 1

    asyncio.run(main())


def test_a_loop_that_does_not_run_is_called_again_only_once() -> None:
    """It keeps its calls until it runs, so that more of them would only take memory."""

    class Loop:
        running = False
        calls = 0

        def is_running(self) -> bool:
            return self.running

        def call_soon_threadsafe(self, call: object) -> None:
            self.calls += 1

    loop: Any = Loop()
    inbox = Inbox(loop)
    inbox.call_again()
    assert loop.calls == 0  # nothing is to be delivered
    inbox.deliver([])
    assert loop.calls == 1
    for _ in range(3):
        inbox.call_again()
    assert loop.calls == 2
    loop.running = True
    for _ in range(2):
        inbox.call_again()
    assert loop.calls == 4
    loop.running = False
    for _ in range(2):
        inbox.call_again()
    assert loop.calls == 5
