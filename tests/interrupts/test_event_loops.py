"""A signal handler that raises at every place of a call on an event loop: everybody goes on.

Invariants, after each interrupted call: what is still under way on the loop ends when that runs
again; the same loop, another loop and a thread write, read and wait in time; no thread, no waiter,
no subscription is left; the store closes, and leaves one file.

Left out are the places inside of asyncio itself: a handler that raises in ``call_soon`` while a
future schedules the wake-up of its task lets that task sleep for ever, whichever future it is.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from taskiq import AsyncTaskiqTask, TaskiqResult
from taskiq.exceptions import TaskiqError

import logstore
from logstore import AsyncStore, Event, TaskProgress
from logstore.taskiq import InmemoryResultBackend, LogStoreResultBackend
from tests.support import inside
from tests.support.bystanders import DEADLINE_S, OtherThread
from tests.support.interrupts import Place, find_places, interrupt

T = TypeVar("T")
Backend = LogStoreResultBackend[Any]

OPTIONS: dict[str, Any] = {"sync": "interval", "sync_interval_s": 1e6}
ASYNCIO = os.path.dirname(asyncio.__file__) + os.sep
LARGE = ["large"] * 20_000
RESULT: TaskiqResult[Any] = TaskiqResult(is_err=False, return_value=[1, "a"], execution_time=0.5)


class Alarm(TimeoutError):
    """As an alarm's handler may raise: an Exception, which an event loop logs and goes on."""


class Stop(KeyboardInterrupt):
    """As Ctrl-C: it ends the run of the loop."""


KINDS: tuple[type[BaseException], ...] = (Alarm, Stop)


class Loop:
    """An event loop of the test's thread, which may be run again after an interrupt."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # What an interrupted callback raises is logged there, and the calls' errors are ours.
        self._loop.set_exception_handler(lambda *_: None)

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in time; the calls under way meanwhile go on."""
        task = self._loop.create_task(call)
        late = self._loop.call_later(DEADLINE_S, task.cancel)
        try:
            return self._loop.run_until_complete(task)
        except asyncio.CancelledError:
            raise AssertionError(f"{task} hangs") from None
        finally:
            late.cancel()

    def settle(self, arrive: Callable[[], object]) -> None:
        """Run until every task has ended by itself; what they wait for arrives."""
        task = self._loop.create_task(self._ended(arrive))
        while not task.done():
            try:
                self._loop.run_until_complete(task)
            except Stop:  # again, in a task that has awaited the interrupted one
                continue
        task.result()

    @staticmethod
    async def _ended(arrive: Callable[[], object]) -> None:
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            end = time.monotonic() + DEADLINE_S
            while not task.done():
                assert time.monotonic() < end, f"{task} hangs"
                arrive()
                await asyncio.wait({task}, timeout=0.02)
            if not task.cancelled():
                task.exception()

    def until(self, condition: Callable[[], bool]) -> bool:
        """Run until something has come about that gives no sign; whether it has."""
        end = time.monotonic() + DEADLINE_S
        for number in itertools.count():
            if condition():
                return True
            if time.monotonic() > end:
                return False
            if number % 50 == 20:
                gc.collect()  # watches that were dropped
            self.run(asyncio.sleep(0.001))
        raise AssertionError("a count ended")

    def close(self) -> None:
        """Close it, after what is left in its queue."""
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


class World:
    """A store, and those that use it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.loop = Loop()
        self.thread = OtherThread()
        self._numbers = itertools.count()
        self.task = "first"  # that the call is about
        self.store = self.loop.run(_opened(path))

    def reopen(self) -> None:
        """Go on with a store whose threads have not begun."""
        self.loop.run(self.store.close())
        self.store = self.loop.run(_opened(self.path))

    def next_task(self) -> str:
        """An id that has not been used."""
        self.task = f"t{next(self._numbers)}"
        return self.task

    def use(self) -> None:
        """Write, read and wait: here, on a loop of another thread, and there without a loop."""
        self.loop.settle(lambda: self.store.store.set_result(self.task, 1))
        self.loop.run(_use(self.store, self.next_task()))
        self.thread.run(lambda: asyncio.run(_use(self.store, self.next_task())))
        self.thread.run(lambda: _use_here(self.store.store, self.next_task()))

    def assert_clean(self) -> None:
        """Nothing is left of a call."""
        assert self.loop.until(lambda: not extra_threads()), extra_threads()
        assert self.loop.until(lambda: not inside.subscriptions(self.store)), (
            "subscriptions are left"
        )
        assert not inside.waiters_in(self.store)

    def close(self) -> None:
        """End it all, in time."""
        self.loop.run(self.store.close())
        self.loop.close()
        self.thread.stop()
        assert os.listdir(self.path.parent) == [self.path.name]
        assert logstore.check(self.path).ok


async def _opened(path: Path) -> AsyncStore:
    return await logstore.open_async(path, **OPTIONS)


async def _use(store: AsyncStore, task: str) -> None:
    waiting = asyncio.ensure_future(store.wait_result(task, timeout_s=DEADLINE_S))
    await asyncio.sleep(0)
    await store.set_result(task, task)
    assert await store.get_result(task) == task
    assert await waiting == task
    assert await store.status("unknown") == "unknown"


def _use_here(store: logstore.Store, task: str) -> None:
    store.set_result(task, task)
    assert store.wait_result(task, timeout_s=DEADLINE_S) == task


def extra_threads() -> list[str]:
    """Threads of which there may be only one, but for the first of each."""
    names = sorted(name for name in threads() if "logstore" in name)
    for name in set(names):
        names.remove(name)
    return names


def threads() -> list[str]:
    """The names of the threads that there are."""
    return [thread.name for thread in threading.enumerate()]


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """What is lost is made up for soon; nothing compacts."""
    with inside.no_idle_compaction(), inside.quick_to_look_again():
        yield


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "app.db")
    yield world
    world.close()


def is_in_asyncio(place: Place) -> bool:
    """Whether a handler runs in a frame of asyncio's."""
    return place.code.co_filename.startswith(ASYNCIO)


# -- the calls ---------------------------------------------------------------------------------

Call = Callable[[AsyncStore, str], Coroutine[Any, Any, object]]
Prepare = Callable[[AsyncStore, str], Coroutine[Any, Any, object]]


async def nothing(_store: AsyncStore, _task: str) -> None:
    """There is nothing to prepare."""


async def a_result(store: AsyncStore, task: str) -> None:
    await store.set_result(task, task)


async def a_result_in_the_table(store: AsyncStore, task: str) -> None:
    await store.set_result(task, task)
    await store.compact()


async def several_at_once(store: AsyncStore, task: str) -> None:
    await asyncio.gather(*(store.set_result(f"{task}-{n}", n) for n in range(3)))
    await asyncio.gather(*(store.get_result(f"{task}-{n}") for n in range(3)))


async def wait_for_another(store: AsyncStore, task: str) -> None:
    waiting = asyncio.ensure_future(store.wait_result(task, timeout_s=DEADLINE_S))
    also = asyncio.ensure_future(store.wait_ready(task))
    await asyncio.sleep(0)
    await store.set_progress(task, TaskProgress(0.5))
    await store.set_result(task, 1)
    await waiting
    await also


async def wait_in_vain(store: AsyncStore, task: str) -> None:
    assert not await store.wait_ready(task, timeout_s=0.01)


async def follow(store: AsyncStore, task: str) -> None:
    await follow_some(store.watch(task), store, task)


async def follow_all(store: AsyncStore, task: str) -> None:
    await follow_some(store.watch(), store, task)


async def follow_some(watch: AsyncGenerator[Event, None], store: AsyncStore, task: str) -> None:
    first = asyncio.ensure_future(watch.__anext__())
    while not inside.is_followed(store) and not first.done():  # noqa: ASYNC110 - gives no sign
        await asyncio.sleep(0)
    await store.set_result(task, 1)
    assert (await first).task_id == task
    await watch.aclose()


async def list_tasks(store: AsyncStore, _task: str) -> None:
    tasks = store.tasks(limit=3)
    assert isinstance(tasks, AsyncIterator)
    async for _ in tasks:
        pass


CALLS: dict[str, tuple[Call, Prepare]] = {
    "set_result": (lambda store, task: store.set_result(task, 1), nothing),
    "set_result, large": (lambda store, task: store.set_result(task, LARGE), nothing),
    "set_progress": (lambda store, task: store.set_progress(task, TaskProgress(0.5)), nothing),
    "get_result": (lambda store, task: store.get_result(task), a_result),
    "get_result, of the table": (lambda store, task: store.get_result(task), a_result_in_the_table),
    "is_result_ready": (lambda store, task: store.is_result_ready(task), nothing),
    "get_progress": (lambda store, task: store.get_progress(task), nothing),
    "status": (lambda store, task: store.status(task), nothing),
    "pop_result": (lambda store, task: store.pop_result(task), a_result),
    "delete_result": (lambda store, task: store.delete_result(task), a_result),
    "sync": (lambda store, _task: store.sync(), nothing),
    "stats": (lambda store, _task: store.stats(), nothing),
    "compact": (lambda store, _task: store.compact(), nothing),
    "tasks": (list_tasks, a_result),
    "several at once": (several_at_once, nothing),
    "wait_result": (wait_for_another, nothing),
    "wait_ready, in vain": (wait_in_vain, nothing),
    "watch": (follow, nothing),
    "watch of all": (follow_all, nothing),
}


# -- the tests ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_is_interrupted_anywhere_leaves_nothing_behind(world: World, name: str) -> None:
    call, prepare = CALLS[name]

    def begin() -> Callable[[], object]:
        task = world.next_task()
        world.loop.run(prepare(world.store, task))
        return lambda: world.loop.run(call(world.store, task))

    world.use()
    interrupt_everywhere(begin, lambda raised: check(world, raised))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["set_result", "get_result, of the table", "wait_result"])
def test_a_first_call_that_is_interrupted_anywhere_leaves_nothing_behind(
    world: World, name: str
) -> None:
    def begin() -> Callable[[], object]:
        world.reopen()
        task = world.next_task()
        world.store.store.set_result(task, task)
        world.store.store.compact()
        return lambda: world.loop.run(CALLS[name][0](world.store, task))

    interrupt_everywhere(begin, lambda raised: check(world, raised))


@pytest.mark.slow
def test_opening_and_closing_interrupted_anywhere_leave_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    loop, thread = Loop(), OtherThread()
    opened: list[AsyncStore] = []

    async def open_and_close() -> None:
        async with logstore.open_async(path, **OPTIONS) as store:
            opened.append(store)
            await store.set_result("a", 1)
        store = await logstore.open_async(path, **OPTIONS)
        opened.append(store)
        await store.close()

    def use() -> None:
        with logstore.open(path) as store:
            store.set_result("b", 2)

    def check_closed(raised: BaseException | None) -> None:
        is_the_interrupt(raised)
        for store in opened:
            loop.run(store.close())
        opened.clear()
        thread.run(use)
        assert loop.until(lambda: os.listdir(tmp_path) == [path.name])
        assert loop.until(lambda: not [name for name in threads() if "logstore" in name])

    interrupt_everywhere(lambda: lambda: loop.run(open_and_close()), check_closed)
    loop.close()
    thread.stop()
    assert logstore.check(path).ok


BACKEND_CALLS: dict[str, Callable[[Backend, str], Coroutine[Any, Any, object]]] = {
    "set_result": lambda backend, task: backend.set_result(task, RESULT),
    "get_result": lambda backend, task: backend.get_result(task),
    "is_result_ready": lambda backend, task: backend.is_result_ready(task),
    "delete_result": lambda backend, task: backend.delete_result(task),
    "set_progress": lambda backend, task: backend.set_progress(task, TaskProgress(0.5)),
    "get_progress": lambda backend, task: backend.get_progress(task),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*BACKEND_CALLS, "startup and shutdown"])
def test_a_call_of_the_backend_interrupted_anywhere_leaves_nothing_behind(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / "app.db"
    backend: Backend = LogStoreResultBackend(path, **OPTIONS)
    loop, thread = Loop(), OtherThread()

    async def start_and_stop(*_: object) -> None:
        await backend.startup()
        await backend.shutdown()

    async def use() -> None:
        await backend.set_result("used", RESULT)
        assert (await backend.get_result("used")).return_value == RESULT.return_value

    def begin() -> Callable[[], object]:
        if name in BACKEND_CALLS:
            loop.run(backend.set_result("task", RESULT))
        call = BACKEND_CALLS.get(name, start_and_stop)
        return lambda: loop.run(call(backend, "task"))

    def check_backend(raised: BaseException | None) -> None:
        is_the_interrupt(raised)
        loop.run(use())
        thread.run(lambda: asyncio.run(use()))
        if name not in BACKEND_CALLS:
            loop.run(backend.shutdown())
            assert loop.until(lambda: os.listdir(tmp_path) == [path.name])
        assert loop.until(lambda: not extra_threads()), extra_threads()

    try:
        begin()()  # so that all threads that are needed have begun
        interrupt_everywhere(begin, check_backend)
    finally:
        loop.run(backend.shutdown())
        loop.close()
        thread.stop()
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.slow
def test_a_wait_for_a_result_in_memory_interrupted_anywhere_leaves_no_waiter() -> None:
    backend: InmemoryResultBackend[Any] = InmemoryResultBackend()
    loop = Loop()
    tasks = [""]  # the last is what the call is about

    async def wait_for_another() -> None:
        task = AsyncTaskiqTask(tasks[-1], backend)
        waiting = asyncio.ensure_future(task.wait_result(check_interval=0.01, timeout=DEADLINE_S))
        await asyncio.sleep(0)
        await backend.set_result(tasks[-1], RESULT)
        await waiting

    def begin() -> Callable[[], object]:
        tasks.append(f"task {len(tasks)}")
        return lambda: loop.run(wait_for_another())

    def check_backend(raised: BaseException | None) -> None:
        is_the_interrupt(raised)
        loop.settle(lambda: asyncio.ensure_future(backend.set_result(tasks[-1], RESULT)))
        assert loop.run(backend.get_result(tasks[-1])).return_value == RESULT.return_value
        assert not inside.waiters_in_memory(backend)

    interrupt_everywhere(begin, check_backend)
    loop.close()


def interrupt_everywhere(
    begin: Callable[[], Callable[[], object]], look: Callable[[BaseException | None], None]
) -> None:
    """Make a call, interrupted at one place after the other, and look at what is left then."""
    places = [place for place in find_places(begin()) if not is_in_asyncio(place)]
    assert len(places) > 10
    look(None)
    fired = 0
    for place, kind in itertools.product(places, KINDS):
        outcome = interrupt(begin(), place, kind("interrupted"))
        fired += outcome.fired
        try:
            look(outcome.raised)
        except BaseException as exc:
            raise AssertionError(f"after {kind.__name__} at {place}") from exc
    assert fired > len(places)


def check(world: World, raised: BaseException | None) -> None:
    """Look at everything; ``raised`` is what came out of the call."""
    is_the_interrupt(raised)
    world.use()
    is_the_interrupt(raised)
    world.assert_clean()


def is_the_interrupt(raised: BaseException | None) -> None:
    """What a call has raised must be what the handler has raised, or caused by that.

    The conversion of values says of whatever is raised in it that it cannot go on, and why; so does
    taskiq of a backend.  The frames, which keep the call's watches, are given up.
    """
    found = raised
    while isinstance(found, logstore.LogstoreError | TaskiqError):
        found.__traceback__ = None
        found = found.__cause__
    assert found is None or isinstance(found, KINDS), repr(raised)
    if found is not None:
        found.__traceback__ = None
