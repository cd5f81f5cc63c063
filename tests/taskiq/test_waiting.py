"""taskiq's ``wait_result()`` returns with the result, and no status check ever waits."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import taskiq
import taskiq.task
from taskiq import InMemoryBroker, TaskiqResultTimeoutError
from taskiq.exceptions import ResultGetError, ResultIsReadyError
from taskiq.task import AsyncTaskiqTask

from logstore._loops.waiters import Waiters
from logstore.aio import AsyncStore
from logstore.progress import TaskProgress
from logstore.taskiq import (
    AsyncResultBackend,
    InmemoryResultBackend,
    LogStoreResultBackend,
)
from logstore.taskiq.results import waiting
from logstore.testing.conformance_cases.runner import ok

GUARD_S = 100.0  # longer than any machine is slow; a wait that should not be would have no end
LONG_S = 1e6

Backend = AsyncResultBackend[Any]
Task = AsyncTaskiqTask[Any]


@asynccontextmanager
async def opened(kind: str, path: Path) -> AsyncIterator[Backend]:
    backend: Backend = InmemoryResultBackend(-1)
    if kind == "logstore":
        backend = LogStoreResultBackend(path)
    await backend.startup()
    try:
        yield backend
    finally:
        await backend.shutdown()


@pytest.fixture(params=["logstore", "inmemory"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What ``wait_result()`` has slept between its polls; a sleep is one turn of the loop only."""
    seconds: list[float] = []

    class Asyncio:
        @staticmethod
        async def sleep(delay: float) -> None:
            seconds.append(delay)
            await asyncio.sleep(0)

    monkeypatch.setattr(taskiq.task, "asyncio", Asyncio)
    return seconds


def run(main: Coroutine[Any, Any, Any]) -> Any:
    async def guarded() -> Any:
        return await asyncio.wait_for(main, GUARD_S)

    return asyncio.run(guarded())


async def until_it_waits(backend: Backend, waiters: int = 1) -> None:
    """Return when so many polls of a backend are waiting."""
    while _waiting_in(backend) < waiters:  # noqa: ASYNC110 - the backend tells it in no other way
        await asyncio.sleep(0.001)


def _waiting_in(backend: Backend) -> int:
    futures: dict[Any, Any] = {}
    if isinstance(backend, InmemoryResultBackend):
        futures = backend._arrivals
    elif isinstance(backend, LogStoreResultBackend) and backend._store is not None:
        for one in backend._store._waiters.values():
            futures = one._futures
    return sum(max(len(found), 1) if isinstance(found, list) else 1 for found in futures.values())


# -- wait_result() -----------------------------------------------------------------------------


class TracedTask(AsyncTaskiqTask[Any]):
    async def wait_result(self, *given: Any, **named: Any) -> Any:
        return await super().wait_result(*given, **named)


async def _plainly(task: Task) -> Any:
    return await task.wait_result()


async def _with_a_time_limit(task: Task) -> Any:
    return await asyncio.wait_for(task.wait_result(), LONG_S)


async def _gathered(task: Task) -> Any:
    return (await asyncio.gather(task.wait_result(), task.wait_result()))[0]


async def _shielded(task: Task) -> Any:
    return await asyncio.shield(asyncio.ensure_future(task.wait_result()))


async def _with_a_timeout(task: Task) -> Any:
    return await task.wait_result(timeout=LONG_S)


async def _seldom_polling(task: Task) -> Any:
    return await task.wait_result(check_interval=LONG_S)


async def _often_polling(task: Task) -> Any:
    return await task.wait_result(0.01)


async def _in_a_subclass(task: Task) -> Any:
    return await TracedTask(task.task_id, task.result_backend).wait_result()


@pytest.mark.parametrize(
    "wait",
    [
        _plainly,
        _with_a_time_limit,
        _gathered,
        _shielded,
        _with_a_timeout,
        _seldom_polling,
        _often_polling,
        _in_a_subclass,
    ],
)
def test_wait_result_returns_with_the_result_and_not_at_a_poll(
    kind: str, path: Path, slept: list[float], wait: Callable[[Task], Awaitable[Any]]
) -> None:
    async def main() -> None:
        async with opened(kind, path) as backend:
            waiter = asyncio.ensure_future(wait(AsyncTaskiqTask("t", backend)))
            await until_it_waits(backend)
            await backend.set_result("t", ok(5))
            assert (await waiter).return_value == 5
            assert slept == []
            assert _waiting_in(backend) == 0

    run(main())


def test_wait_result_of_a_brokers_task_returns_with_the_result(
    kind: str, path: Path, slept: list[float]
) -> None:
    async def main() -> None:
        async with opened(kind, path) as backend:
            broker = InMemoryBroker().with_result_backend(backend)
            let_go = asyncio.Event()

            @broker.task(task_name="slow")
            async def slow() -> int:
                await let_go.wait()
                return 7

            task = await slow.kiq()
            waiter = asyncio.ensure_future(task.wait_result())
            await until_it_waits(backend)
            let_go.set()
            assert (await waiter).return_value == 7
            assert slept == []

    run(main())


def test_a_result_that_is_there_is_returned_at_once(
    kind: str, path: Path, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with opened(kind, path) as backend:
            await backend.set_result("t", ok(5))
            monkeypatch.setattr(Waiters, "add", pytest.fail)
            assert (await Task("t", backend).wait_result()).return_value == 5
            assert slept == []

    run(main())


def test_results_that_another_thread_sets_reach_every_loop(
    kind: str, path: Path, slept: list[float]
) -> None:
    async def main() -> None:
        async with opened(kind, path) as backend:

            def in_a_thread() -> Any:
                return asyncio.run(Task("there", backend).wait_result())

            elsewhere = asyncio.ensure_future(asyncio.to_thread(in_a_thread))
            here = asyncio.ensure_future(Task("here", backend).wait_result())
            await until_it_waits(backend)
            await asyncio.to_thread(asyncio.run, backend.set_result("here", ok(1)))
            await backend.set_result("there", ok(2))
            assert (await here).return_value == 1
            assert (await elsewhere).return_value == 2
            assert slept == []

    run(main())


@pytest.mark.parametrize("check_interval", [0.2, LONG_S])
def test_a_timeout_is_met_whatever_the_interval(
    kind: str, path: Path, slept: list[float], check_interval: float
) -> None:
    async def main() -> None:
        async with opened(kind, path) as backend:
            with pytest.raises(TaskiqResultTimeoutError):
                await Task("t", backend).wait_result(check_interval, timeout=0.05)
            # The first versions of 0.12 sleep before they look at the clock.
            assert len(slept) <= 1
            assert _waiting_in(backend) == 0

    run(main())


def test_a_cancelled_wait_leaves_nothing_behind(kind: str, path: Path) -> None:
    async def main() -> None:
        async with opened(kind, path) as backend:
            waiters = [asyncio.ensure_future(Task("t", backend).wait_result()) for _ in range(3)]
            await until_it_waits(backend, 3)
            waiters[0].cancel()
            waiters[1].cancel()
            await asyncio.wait(waiters[:2])
            assert _waiting_in(backend) == 1
            await backend.set_result("t", ok(5))
            assert (await waiters[2]).return_value == 5
            assert [waiter.cancelled() for waiter in waiters[:2]] == [True, True]

    run(main())


def test_a_result_that_is_evicted_before_its_waiter_wakes_is_an_error() -> None:
    async def main() -> None:
        backend: Backend = InmemoryResultBackend(1)
        waiter = asyncio.ensure_future(Task("t", backend).wait_result())
        await until_it_waits(backend)
        await backend.set_result("t", ok(1))
        await backend.set_result("other", ok(2))
        with pytest.raises(ResultGetError):
            await waiter

    run(main())


def test_a_thousand_waits_ask_once_each_and_have_no_threads_of_their_own(
    path: Path, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    is_result_ready = AsyncStore.is_result_ready

    async def counting(store: AsyncStore, task_id: str) -> bool:
        asked.append(task_id)
        return await is_result_ready(store, task_id)

    monkeypatch.setattr(AsyncStore, "is_result_ready", counting)

    async def main() -> None:
        async with opened("logstore", path) as backend:
            before = set(threading.enumerate())
            waiters = [
                asyncio.ensure_future(Task(f"t{n}", backend).wait_result()) for n in range(1000)
            ]
            await until_it_waits(backend, 1000)
            started = [thread.name for thread in set(threading.enumerate()) - before]
            assert len(started) == len(set(started))
            assert set(started) <= {"logstore-reader", "logstore-notifier", "logstore-maintenance"}
            await asyncio.gather(*(backend.set_result(f"t{n}", ok(n)) for n in range(1000)))
            results = await asyncio.gather(*waiters)
            assert [result.return_value for result in results] == list(range(1000))
            assert sorted(asked) == sorted(f"t{n}" for n in range(1000))
            assert slept == []

    run(main())


# -- what has gone -----------------------------------------------------------------------------


def test_waiting_without_a_timeout_for_what_has_gone_is_an_error(path: Path) -> None:
    async def main() -> None:
        async with opened("logstore", path) as backend:
            await backend.set_result("t", ok(1))
            await backend.delete_result("t")
            with pytest.raises(ResultIsReadyError) as caught:
                await Task("t", backend).wait_result()
            assert "'t' has been deleted" in str(caught.value.__cause__)
            assert "give wait_result() a timeout" in str(caught.value.__cause__)

    run(main())


def test_what_goes_while_it_is_waited_for_is_an_error(path: Path) -> None:
    async def main() -> None:
        async with opened("logstore", path) as backend:
            waiter = asyncio.ensure_future(Task("t", backend).wait_result())
            await until_it_waits(backend)
            store = await backend._opened()  # type: ignore[attr-defined]
            writes = (
                store.store._handle.result_write("t", 1),
                store.store._handle.delete_write("t"),
            )
            await asyncio.to_thread(store.store._handle.commit, list(writes))
            with pytest.raises(ResultIsReadyError):
                await waiter

    run(main())


def test_with_a_timeout_a_task_that_is_sent_again_under_its_old_id_is_waited_for(
    path: Path, slept: list[float]
) -> None:
    async def main() -> None:
        async with opened("logstore", path) as backend:
            await backend.set_result("t", ok("old"))
            await backend.delete_result("t")
            waiter = asyncio.ensure_future(Task("t", backend).wait_result(timeout=LONG_S))
            while len(slept) < 3:  # noqa: ASYNC110 - each is one turn of the loop
                await asyncio.sleep(0)
            await backend.set_result("t", ok("new"))
            assert (await waiter).return_value == "new"

    run(main())


def test_a_shutdown_ends_the_waits(path: Path) -> None:
    async def main() -> None:
        async with opened("logstore", path) as backend:
            waiter = asyncio.ensure_future(Task("t", backend).wait_result())
            await until_it_waits(backend)
            await backend.shutdown()
            with pytest.raises(ResultIsReadyError) as caught:
                await waiter
            assert "closed" in str(caught.value.__cause__)

    run(main())


# -- everything else ---------------------------------------------------------------------------


async def _through_the_task(backend: Backend, task_id: str) -> bool:
    return await Task(task_id, backend).is_ready()


async def _of_the_backend(backend: Backend, task_id: str) -> bool:
    return await backend.is_result_ready(task_id)


async def _in_a_loop(backend: Backend, task_id: str) -> bool:
    """As ``wait_result()`` asks, but for an application that shows something in between."""
    task: Task = AsyncTaskiqTask(task_id, backend)
    for _ in range(5):
        if await task.is_ready():
            return True
        await asyncio.sleep(0.001)
    return False


async def _with_a_limit(backend: Backend, task_id: str) -> bool:
    return await asyncio.wait_for(Task(task_id, backend).is_ready(), LONG_S)


async def _by_many_at_once(backend: Backend, task_id: str) -> bool:
    return any(await asyncio.gather(*(Task(task_id, backend).is_ready() for _ in range(100))))


async def _beside_a_wait(backend: Backend, task_id: str) -> bool:
    waiter = asyncio.ensure_future(Task(task_id, backend).wait_result(timeout=LONG_S))
    await asyncio.sleep(0)
    ready = await Task(task_id, backend).is_ready()
    waiter.cancel()
    return ready


class Monitored(AsyncTaskiqTask[Any]):
    """Its method has the name, and the variables, of taskiq's, and waits for nothing."""

    async def wait_result(
        self, check_interval: float = 0.2, timeout: float = -1.0, with_logs: bool = False
    ) -> Any:
        start_time = time.time()
        assert start_time
        return await self.is_ready()


async def _by_a_method_of_the_same_name(backend: Backend, task_id: str) -> bool:
    return bool(await Monitored(task_id, backend).wait_result())


@pytest.mark.parametrize("state", ["unknown", "running", "deleted"])
@pytest.mark.parametrize(
    "check",
    [
        _through_the_task,
        _of_the_backend,
        _in_a_loop,
        _with_a_limit,
        _by_many_at_once,
        _beside_a_wait,
        _by_a_method_of_the_same_name,
    ],
)
def test_a_status_check_never_waits(
    kind: str, path: Path, check: Callable[[Backend, str], Awaitable[bool]], state: str
) -> None:
    async def main() -> None:
        async with opened(kind, path) as backend:
            if state == "running":
                await backend.set_progress("t", TaskProgress(0.5))
            if state == "deleted":
                await backend.set_result("t", ok(1))
                await backend.delete_result("t")
            assert await check(backend, "t") is False

    run(main())


def test_a_status_page_over_a_hundred_ids_waits_for_none(kind: str, path: Path) -> None:
    async def main() -> None:
        async with opened(kind, path) as backend:
            await backend.set_result("t50", ok(1))
            for _ in range(3):
                checks = (Task(f"t{n}", backend).is_ready() for n in range(100))
                assert [await check for check in checks].count(True) == 1
                assert _waiting_in(backend) == 0

    run(main())


def test_taskiqs_gather_polls(kind: str, path: Path) -> None:
    async def main() -> None:
        async with opened(kind, path) as backend:
            tasks: list[Task] = [AsyncTaskiqTask(f"t{n}", backend) for n in range(3)]
            gathering = asyncio.ensure_future(taskiq.gather(*tasks, periodicity=0.01))
            for number in range(3):
                await asyncio.sleep(0)
                await backend.set_result(f"t{number}", ok(number))
            assert [result.return_value for result in await gathering] == [0, 1, 2]
            with pytest.raises(TaskiqResultTimeoutError):
                await taskiq.gather(Task("never", backend), timeout=0.02, periodicity=0.01)

    run(main())


# -- others between wait_result() and the backend -----------------------------------------------


def test_a_backend_that_asks_an_older_one_next_gets_its_answer(path: Path) -> None:
    older: Backend = InmemoryResultBackend()

    class Migrating(LogStoreResultBackend[Any]):
        async def is_result_ready(self, task_id: str) -> bool:
            return await super().is_result_ready(task_id) or await older.is_result_ready(task_id)

        async def get_result(self, task_id: str, with_logs: bool = True) -> Any:
            return await older.get_result(task_id, with_logs)

    async def main() -> None:
        backend = Migrating(path)
        await older.set_result("t", ok("old"))
        assert (await Task("t", backend).wait_result()).return_value == "old"
        await backend.shutdown()

    run(main())


def test_a_backend_around_another_gets_its_answer(path: Path) -> None:
    class Around:
        def __init__(self, inner: Backend) -> None:
            self.inner = inner

        def is_result_ready(self, task_id: str) -> Coroutine[Any, Any, bool]:
            return self.inner.is_result_ready(task_id)

        def get_result(self, task_id: str, with_logs: bool = True) -> Coroutine[Any, Any, Any]:
            return self.inner.get_result(task_id, with_logs)

    async def main() -> None:
        async with opened("logstore", path) as backend:
            around: Any = Around(backend)
            with pytest.raises(TaskiqResultTimeoutError):
                await Task("t", around).wait_result(0.001, timeout=0.01)
            waiter = asyncio.ensure_future(Task("t", around).wait_result(0.001))
            await asyncio.sleep(0.01)
            assert _waiting_in(backend) == 0
            await backend.set_result("t", ok(1))
            assert (await waiter).return_value == 1

    run(main())


class _CountingTask(AsyncTaskiqTask[Any]):
    polls = 0

    async def is_ready(self) -> bool:
        self.polls += 1
        return await super().is_ready()


class _CountingTaskOfItsOwn(_CountingTask):
    async def is_ready(self) -> bool:
        self.polls += 1
        return await self.result_backend.is_result_ready(self.task_id)


@pytest.mark.parametrize("counting", [_CountingTask, _CountingTaskOfItsOwn])
def test_a_task_that_counts_its_polls_is_polled(
    kind: str, path: Path, slept: list[float], counting: type[_CountingTask]
) -> None:
    async def main() -> None:
        async with opened(kind, path) as backend:
            task = counting("t", backend)
            waiter = asyncio.ensure_future(task.wait_result())
            while task.polls < 10:  # noqa: ASYNC110 - each is one turn of the loop
                await asyncio.sleep(0)
            await backend.set_result("t", ok(1))
            assert (await waiter).return_value == 1

    run(main())


# -- what is read of wait_result() -------------------------------------------------------------


class Probe:
    """A backend that notes what it sees of the wait that asks it."""

    def __init__(self) -> None:
        self.seen: list[waiting.Wait | None] = []

    async def is_result_ready(self, task_id: str) -> bool:
        self.seen.append(waiting.current_wait(self))
        await asyncio.sleep(0)  # a coroutine that was resumed has its callers behind it as well
        self.seen.append(waiting.current_wait(self))
        return True

    async def get_result(self, task_id: str, with_logs: bool = True) -> Any:
        return ok(1)


async def _seen_by_a_probe(timeout: Any) -> list[waiting.Wait | None]:
    probe: Any = Probe()
    await Task("t", probe).wait_result(timeout=timeout)
    return list(probe.seen)


@pytest.mark.parametrize("timeout", [-1.0, 0, float("nan"), float("inf")])
def test_a_wait_without_a_timeout_has_no_end(timeout: float) -> None:
    assert run(_seen_by_a_probe(timeout)) == [waiting.Wait(None), waiting.Wait(None)]


def test_a_wait_ends_with_its_timeout() -> None:
    for wait in run(_seen_by_a_probe(1000)):
        assert 1000 - GUARD_S < wait.timeout_s <= 1000.001


@pytest.mark.parametrize("timeout", ["5", None])
def test_a_timeout_that_is_no_number_is_left_to_taskiq(timeout: Any) -> None:
    assert run(_seen_by_a_probe(timeout)) == [None, None]


def test_at_its_timeout_a_wait_is_answered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "time", lambda: time.time() + 10)
    assert run(_seen_by_a_probe(10)) == [None, None]


def test_the_wait_for_another_backends_task_is_none_of_ours() -> None:
    class Between(Probe):
        def is_result_ready(self, task_id: str) -> Coroutine[Any, Any, bool]:
            return inner.is_result_ready(task_id)

    inner, outer = Probe(), Between()

    async def main() -> None:
        other: Any = outer
        await Task("t", other).wait_result()

    run(main())
    assert inner.seen == [None, None]


def test_an_unknown_wait_result_is_answered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait_otherwise(task: Task) -> bool:
        return await task.is_ready()

    monkeypatch.setattr(waiting, "_WAIT_RESULT", wait_otherwise.__code__)
    probe: Any = Probe()
    assert run(wait_otherwise(Task("t", probe))) is True
    assert probe.seen == [None, None]


def test_the_code_of_a_wrapped_function_is_found() -> None:
    @functools.wraps(AsyncTaskiqTask.wait_result)
    async def traced(*given: Any, **named: Any) -> Any:
        return await AsyncTaskiqTask.wait_result(*given, **named)

    assert waiting._code(traced) is AsyncTaskiqTask.wait_result.__code__
    assert waiting._code(len) is None
