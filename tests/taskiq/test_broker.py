"""The broker in one process, with taskiq's receiver: sending, settling, dead letters, stopping."""

from __future__ import annotations

import asyncio
import gc
import pickle
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from taskiq import (
    AckableMessage,
    Context,
    InMemoryBroker,
    SendTaskError,
    SimpleRetryMiddleware,
    SmartRetryMiddleware,
    TaskiqDepends,
    TaskiqEvents,
    TaskiqMiddleware,
)
from taskiq.receiver import Receiver
from taskiq.result import TaskiqResult

import logstore
from logstore.aio import AsyncStore
from logstore.queue import Lease
from logstore.taskiq import (
    DeadTaskError,
    LabelError,
    LogStoreBroker,
    LogStoreResultBackend,
    TaskCancelledError,
)
from logstore.taskiq.broker import delivery

WAIT_S = 60.0


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "a.db")


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


@asynccontextmanager
async def started(broker: LogStoreBroker) -> AsyncIterator[LogStoreBroker]:
    await broker.startup()
    try:
        yield broker
    finally:
        await broker.shutdown()


@asynccontextmanager
async def receiving(broker: LogStoreBroker, **options: Any) -> AsyncIterator[Receiver]:
    """A receiver that runs the broker's tasks."""
    options = {"max_async_tasks": 4, "run_startup": False, **options}
    receiver, finish = Receiver(broker, **options), asyncio.Event()
    listening = asyncio.create_task(receiver.listen(finish))
    try:
        yield receiver
    finally:
        finish.set()
        await listening


async def until(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(WAIT_S):
        while not holds():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.005)


def counts(broker: LogStoreBroker) -> tuple[int, int, int, int]:
    """How many messages are ready, delayed, leased, dead."""
    stats = broker.queue()._queue.stats()
    return stats.ready, stats.delayed, stats.leased, stats.dead


async def nothing() -> None: ...


# -- sending -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "value", "said"),
    [
        ("delay", "soon", "the label delay must be a number of seconds from 0 to 1e"),
        ("delay", -1, "not '-1'"),
        ("delay", "inf", "not 'inf'"),
        ("delay", True, "not 'True'"),
        ("priority", 256, "a whole number from 0 to 255"),
        ("priority", "1.5", "not '1.5'"),
        ("queue_name", "", "a text of 1 to 200 bytes"),
        ("timeout", "x", "the label timeout"),
        ("max_retries", "many", "the label max_retries"),
        ("retry_on_error", "perhaps", "true or false"),
        ("ack_type", "never", "AcknowledgeType"),
    ],
)
def test_a_label_that_cannot_be_read_is_an_error_of_the_kick(
    path: str, label: str, value: Any, said: str
) -> None:
    async def main() -> None:
        async with started(LogStoreBroker(path)) as broker:
            task = broker.register_task(nothing, task_name="t")
            with pytest.raises(SendTaskError) as caught:
                await task.kicker().with_labels(**{label: value}).kiq()
            assert isinstance(caught.value.__cause__, LabelError)
            assert said in str(caught.value.__cause__)
            with pytest.raises(LabelError, match=label):
                broker.put(task.kicker().with_labels(**{label: value}))
            assert counts(broker) == (0, 0, 0, 0)

    run(main)


@pytest.mark.parametrize("as_text", [False, True])
def test_labels_may_be_numbers_or_their_text(path: str, as_text: bool) -> None:
    async def main() -> None:
        async with started(LogStoreBroker(path)) as broker:
            labels = {"delay": 1000.5, "priority": 7, "timeout": 3, "max_retries": 2}
            given: dict[str, Any] = {
                name: str(value) if as_text else value for name, value in labels.items()
            }
            task = broker.register_task(nothing, task_name="t")
            given["ack_type"] = None  # as if there were none
            await task.kicker().with_labels(**given, queue_name="other").kiq()
            [info] = [info async for info in broker.queue("other").messages()]
            assert info.priority == 7
            assert info.due is not None
            assert 999 < (info.due - info.enqueued).total_seconds() <= 1000.5

    run(main)


def test_a_worker_takes_from_its_queues_in_their_order_and_by_priority(path: str) -> None:
    async def main() -> None:
        ran: list[str] = []
        async with started(LogStoreBroker(path, queues=["a", "b"])) as broker:

            @broker.task(task_name="t")
            async def task(name: str) -> None:
                ran.append(name)

            sent = [
                await task.kicker().with_labels(queue_name=queue, priority=priority).kiq(name)
                for name, queue, priority in [("1", "b", 9), ("2", "a", 0), ("3", "a", 5)]
            ]
            sent.append(await task.kiq("4"))
            async with receiving(broker, max_async_tasks=1):
                for one in sent:
                    await one.wait_result(timeout=WAIT_S)
        assert ran == ["3", "2", "4", "1"]

    run(main)


@pytest.mark.parametrize("queues", [[], [""], ["x" * 201]])
def test_a_broker_needs_queues_with_names(path: str, queues: list[str]) -> None:
    with pytest.raises(ValueError, match="queue"):
        LogStoreBroker(path, queues=queues)


def test_a_broker_checks_its_options(path: str) -> None:
    with pytest.raises(ValueError, match="max_attempts"):
        LogStoreBroker(path, max_attempts=-1)
    with pytest.raises(TypeError, match="there is no option 'colour'"):
        LogStoreBroker(path, colour=1)
    assert not Path(path).exists()


class Sending(TaskiqMiddleware):
    """Notes what is sent; its methods await nothing, or something."""

    def __init__(self, *, waits: bool = False) -> None:
        self.waits = waits
        self.noted: list[str] = []

    async def pre_send(self, message: Any) -> Any:
        if self.waits:
            await asyncio.sleep(0)
        message.labels["marked"] = "yes"
        return message

    def post_send(self, message: Any) -> None:
        self.noted.append(message.task_id)


def test_put_enqueues_without_an_event_loop(path: str) -> None:
    broker = LogStoreBroker(path)
    middleware = Sending()
    broker.add_middlewares(middleware)

    @broker.task(task_name="add", priority=3)
    def add(a: int, b: int) -> int:
        return a + b

    sent = [broker.put(add, 1, b=2), broker.put(add.kicker().with_task_id("mine"), 3, 4)]
    assert sent[1].task_id == "mine"
    assert middleware.noted == [one.task_id for one in sent]
    assert counts(broker) == (2, 0, 0, 0)

    async def main() -> None:
        async with started(broker), receiving(broker):
            results = [await one.wait_result(timeout=WAIT_S) for one in sent]
        assert [result.return_value for result in results] == [3, 7]
        assert results[0].labels == {"priority": 3, "marked": "yes"}

    run(main)


def test_put_says_which_middleware_it_cannot_call(path: str) -> None:
    broker = LogStoreBroker(path)
    broker.add_middlewares(Sending(waits=True))
    task = broker.register_task(nothing, task_name="t")
    with pytest.raises(RuntimeError, match=r"Sending waits for something.*await task.kiq"):
        broker.put(task)
    assert counts(broker) == (0, 0, 0, 0)
    broker._home._opened_now()._close()


# -- settling ------------------------------------------------------------------------------------


def test_a_result_and_its_settlement_are_one_write(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with started(LogStoreBroker(path)) as broker:
            task = broker.register_task(nothing, task_name="t")
            sent = await task.kiq()
            writes: list[Any] = []
            store = broker._home._opened_now()
            write = store._write

            async def noted(one: Any) -> None:
                writes.append(one)
                await write(one)

            monkeypatch.setattr(store, "_write", noted)
            async with receiving(broker):
                await sent.wait_result(timeout=WAIT_S)
            [one] = writes
            assert len(one.parts) == 2

    run(main)


@pytest.mark.parametrize("prefix", [None, "app"])
def test_a_task_may_set_results_of_other_tasks_and_its_own(path: str, prefix: str | None) -> None:
    async def main() -> None:
        async with started(LogStoreBroker(path, prefix_str=prefix)) as broker:

            @broker.task(task_name="t")
            async def task(context: Context = TaskiqDepends()) -> str:
                early: TaskiqResult[Any] = TaskiqResult(
                    is_err=False, return_value="early", execution_time=0
                )
                for task_id in ("other", context.message.task_id):
                    await broker.result_backend.set_result(task_id, early)
                assert counts(broker) == (0, 1, 1, 0)  # this one is not settled yet
                return "own"

            await task.kicker().with_task_id("other").with_labels(delay=1000).kiq()
            sent = await task.kiq()
            async with receiving(broker):
                await until(lambda: counts(broker) == (0, 1, 0, 0))
            assert (await sent.get_result()).return_value == "own"
            assert (await broker.result_backend.get_result("other")).return_value == "early"

    run(main)


def test_two_messages_of_one_id_are_settled_each_with_its_own_result(path: str) -> None:
    async def main() -> None:
        async with started(LogStoreBroker(path)) as broker:
            gate, begun = asyncio.Event(), []

            @broker.task(task_name="t")
            async def task(name: str) -> str:
                begun.append(name)
                if name == "slow":
                    await gate.wait()
                return name

            slow = await task.kicker().with_task_id("t").kiq("slow")
            await task.kicker().with_task_id("t").kiq("fast")
            async with receiving(broker):
                await until(lambda: counts(broker) == (0, 0, 1, 0))
                assert (await slow.wait_result(timeout=WAIT_S)).return_value == "fast"
                gate.set()
                await until(lambda: counts(broker) == (0, 0, 0, 0))
            assert (await slow.get_result()).return_value == "slow"
            assert sorted(begun) == ["fast", "slow"]

    run(main)


def test_with_another_result_backend_the_acknowledgement_settles(path: str) -> None:
    async def main() -> None:
        elsewhere = InMemoryBroker().result_backend
        for ack_type in ("when_saved", "when_executed", "when_received"):
            broker = LogStoreBroker(path).with_result_backend(elsewhere)
            async with started(broker):
                task = broker.register_task(nothing, task_name="t", ack_type=ack_type)
                sent = await task.kiq()
                async with receiving(broker):
                    await sent.wait_result(timeout=WAIT_S)
                    await until(lambda broker=broker: counts(broker) == (0, 0, 0, 0))  # type: ignore[misc]

    run(main)


@pytest.mark.parametrize("ack_type", ["when_saved", "when_executed"])
def test_a_settlement_that_fails_is_made_up_for_by_another_delivery(
    path: str, monkeypatch: pytest.MonkeyPatch, ack_type: str
) -> None:
    monkeypatch.setattr(delivery, "COMES_BACK_S", 0.01)

    async def main() -> None:
        ran: list[int] = []
        elsewhere = InMemoryBroker().result_backend
        async with started(LogStoreBroker(path).with_result_backend(elsewhere)) as broker:

            @broker.task(task_name="t", ack_type=ack_type)
            async def task() -> None:
                ran.append(1)

            await task.kiq()
            with monkeypatch.context() as patch:

                async def fail(*_: Any) -> None:
                    raise logstore.DiskFullError("no space is left")

                patch.setattr(AsyncStore, "_write", fail)
                patch.setattr(Lease, "_end", lambda *_, **__: fail().send(None))
                async with receiving(broker):
                    await until(lambda: len(ran) > 1)
            async with receiving(broker):
                await until(lambda: counts(broker) == (0, 0, 0, 0))

    run(main)


def test_a_burial_that_fails_is_tried_again(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "COMES_BACK_S", 0.01)

    async def main() -> None:
        async with started(LogStoreBroker(path)) as broker:
            failures: list[int] = []
            end = Lease._end

            def fail_once(*given: Any, **named: Any) -> None:
                if not failures:
                    failures.append(1)
                    raise logstore.DiskFullError("no space is left")
                end(*given, **named)

            monkeypatch.setattr(Lease, "_end", fail_once)
            await broker.queue().put("no task")
            async with receiving(broker):
                await until(lambda: counts(broker) == (0, 0, 0, 1))
            [letter] = [letter async for letter in broker.dead_letters()]
            assert (failures, letter.attempts) == ([1], 1)

    run(main)


def test_a_task_that_acknowledges_itself_is_settled_then(path: str) -> None:
    async def main() -> None:
        for ack_type in ("manual", "when_executed", "when_saved"):
            seen: list[Any] = []
            async with started(LogStoreBroker(path)) as broker:

                @broker.task(task_name="t", ack_type=ack_type)
                async def task(context: Context = TaskiqDepends(), seen: list[Any] = seen) -> None:
                    seen.append(counts(context.broker))  # type: ignore[arg-type]
                    await context.ack()
                    seen.append(counts(context.broker))  # type: ignore[arg-type]

                sent = await task.kiq()
                async with receiving(broker):
                    await sent.wait_result(timeout=WAIT_S)
                assert seen == [(0, 0, 1, 0), (0, 0, 0, 0)]
                assert counts(broker) == (0, 0, 0, 0)

    run(main)


@pytest.mark.parametrize(
    "middleware", [SimpleRetryMiddleware(), SmartRetryMiddleware(default_delay=0.01)]
)
def test_a_retried_task_has_one_message_at_any_time_and_one_result(
    path: str, middleware: TaskiqMiddleware
) -> None:
    async def main() -> None:
        async with started(LogStoreBroker(path)) as broker:
            broker.add_middlewares(middleware)
            seen: list[int] = []

            @broker.task(task_name="t", retry_on_error="true", max_retries="4")
            async def task(context: Context = TaskiqDepends()) -> int:
                retries = int(context.message.labels.get("_retries", 0))
                seen.append(sum(counts(broker)))
                if retries < 3:
                    raise ValueError("not yet")
                return retries

            sent = await task.kiq()
            async with receiving(broker):
                assert (await sent.wait_result(timeout=WAIT_S)).return_value == 3
            assert seen == [1, 1, 1, 1]
            assert counts(broker) == (0, 0, 0, 0)

    run(main)


def test_a_retry_that_keeps_the_result_stores_it_and_runs_again(path: str) -> None:
    async def main() -> None:
        ran: list[str] = []
        async with started(LogStoreBroker(path)) as broker:
            broker.add_middlewares(SimpleRetryMiddleware(no_result_on_retry=False))

            @broker.task(task_name="t", retry_on_error=True)
            async def task(context: Context = TaskiqDepends()) -> None:
                ran.append(str(context.message.labels.get("_retries", 0)))
                raise ValueError(ran[-1])

            sent = await task.kiq()
            async with receiving(broker, max_async_tasks=1):
                await until(lambda: len(ran) == 3 and counts(broker) == (0, 0, 0, 0))
            assert str((await sent.get_result()).error) == "2"

    run(main)


def test_a_kick_of_the_same_id_into_another_broker_supersedes_nothing(
    path: str, tmp_path: Path
) -> None:
    async def main() -> None:
        elsewhere = LogStoreBroker(tmp_path / "b.db")
        other = elsewhere.register_task(nothing, task_name="t")
        async with started(LogStoreBroker(path, outbox=True)) as broker, started(elsewhere):

            @broker.task(task_name="t")
            async def task(context: Context = TaskiqDepends()) -> Any:
                await other.kicker().with_task_id(context.message.task_id).kiq()
                return counts(broker), counts(elsewhere)

            sent = await task.kiq()
            async with receiving(broker):
                result = await sent.wait_result(timeout=WAIT_S)
            assert result.return_value == ((0, 0, 1, 0), (1, 0, 0, 0))

    run(main)


def test_a_synchronous_task_can_put_its_own_id_and_others(path: str) -> None:
    async def main() -> None:
        async with started(LogStoreBroker(path)) as broker:

            @broker.task(task_name="t")
            def task(first: bool, context: Context = TaskiqDepends()) -> str:
                if first:
                    broker.put(other.kicker().with_labels(delay=1000))
                    broker.put(task.kicker().with_task_id(context.message.task_id), False)
                    assert sum(counts(broker)) == 2
                return "first" if first else "second"

            other = broker.register_task(nothing, task_name="other")
            sent = await task.kiq(True)
            async with receiving(broker):
                await until(lambda: counts(broker) == (0, 1, 0, 0))
            assert (await sent.get_result()).return_value in ("first", "second")

    run(main)


# -- the outbox ----------------------------------------------------------------------------------


def test_with_an_outbox_kicks_are_enqueued_together_with_the_result(path: str) -> None:
    async def main() -> None:
        async with started(LogStoreBroker(path, outbox=True)) as broker:
            other = broker.register_task(nothing, task_name="other", queue_name="later")

            @broker.task(task_name="t")
            async def task() -> int:
                await other.kiq()
                await asyncio.to_thread(broker.put, other)
                return (await broker.queue("later").stats()).ready

            sent = await task.kiq()
            async with receiving(broker):
                assert (await sent.wait_result(timeout=WAIT_S)).return_value == 0
            assert (await broker.queue("later").stats()).ready == 2
            await other.kiq()  # outside of a task: at once
            assert (await broker.queue("later").stats()).ready == 3

    run(main)


def test_with_an_outbox_kicks_of_a_try_that_has_no_result_are_dropped(path: str) -> None:
    async def main() -> None:
        async with started(LogStoreBroker(path, outbox=True)) as broker:
            broker.add_middlewares(SimpleRetryMiddleware())
            other = broker.register_task(nothing, task_name="other", queue_name="later")

            @broker.task(task_name="t", retry_on_error=True)
            async def task(context: Context = TaskiqDepends()) -> None:
                await other.kiq()
                if "_retries" not in context.message.labels:
                    raise ValueError("once")

            sent = await task.kiq()
            async with receiving(broker):
                await sent.wait_result(timeout=WAIT_S)
            assert (await broker.queue("later").stats()).ready == 1

    run(main)


# -- dead letters, cancelling, pausing -----------------------------------------------------------


def test_dead_letters_are_listed_and_requeued_by_name_and_id(path: str) -> None:
    async def main() -> None:
        client = LogStoreBroker(path)
        tasks = [client.register_task(nothing, task_name=name) for name in ("a", "b", "b")]
        async with started(client), started(LogStoreBroker(path)) as worker:
            sent = [await task.kiq() for task in tasks]
            async with receiving(worker):
                for one in sent:
                    result = await one.wait_result(timeout=WAIT_S)
                    assert isinstance(result.error, DeadTaskError)
            letters = [letter async for letter in client.dead_letters()]
            assert [letter.task_id for letter in letters] == [one.task_id for one in sent]
            for letter, name in zip(letters, "abb", strict=True):
                assert letter.task is not None
                assert letter.task.task_name == name
                assert f"the task '{name}' is unknown" in letter.reason
                assert (letter.attempts, letter.queue) == (1, "default")
            named = [letter.task_id async for letter in client.dead_letters(task_name="b")]
            assert named == [one.task_id for one in sent[1:]]

            assert await client.requeue_dead(task_id=sent[1].task_id) == 1
            assert await client.requeue_dead(task_name="a") == 1
            assert not await sent[0].is_ready()
            assert counts(client) == (2, 0, 0, 1)
            assert await client.requeue_dead() == 1
            assert await client.requeue_dead() == 0
            for name in ("a", "b"):
                worker.register_task(nothing, task_name=name)
            worker.stopping.clear()
            async with receiving(worker):
                for one in sent:
                    assert not (await one.wait_result(timeout=WAIT_S)).is_err

    run(main)


def test_a_message_that_is_no_task_is_a_dead_letter_without_one(path: str) -> None:
    async def main() -> None:
        async with started(LogStoreBroker(path)) as broker:
            await broker.queue().put("no task", task_id="x")
            async with receiving(broker):
                await until(lambda: counts(broker) == (0, 0, 0, 1))
            [letter] = [letter async for letter in broker.dead_letters()]
            assert letter.task is None
            assert "cannot be parsed" in letter.reason
            assert await broker.requeue_dead(task_name="x") == 0

    run(main)


def test_a_cancelled_task_is_not_run_and_has_an_error_result(path: str) -> None:
    async def main() -> None:
        async with started(LogStoreBroker(path)) as broker:
            task = broker.register_task(nothing, task_name="t")
            sent = await task.kiq()
            assert await broker.cancel(sent.task_id)
            assert not await broker.cancel(sent.task_id)
            assert not await broker.cancel("unknown")
            assert isinstance((await sent.get_result()).error, TaskCancelledError)
            assert counts(broker) == (0, 0, 0, 0)

    run(main)


def test_a_task_that_ends_while_it_is_cancelled_keeps_its_result(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with started(LogStoreBroker(path)) as broker:
            sent = await broker.register_task(nothing, task_name="t").kiq()
            lease = broker.queue()._queue.take(0)
            assert lease is not None
            taker = broker._home._opened_now()._handle.taker
            found = taker.messages_of(sent.task_id.encode())

            def ended_meanwhile(_: bytes) -> Any:
                lease.ack()
                return found

            monkeypatch.setattr(taker, "messages_of", ended_meanwhile)
            assert not await broker.cancel(sent.task_id)
            assert not await sent.is_ready()

    run(main)


def test_a_paused_queue_delivers_nothing_until_it_is_resumed(path: str) -> None:
    async def main() -> None:
        async with started(LogStoreBroker(path)) as broker:
            task = broker.register_task(nothing, task_name="t")
            await broker.queue().pause()
            sent = await task.kiq()
            async with receiving(broker):
                assert not await sent.is_ready()
                assert counts(broker) == (1, 0, 0, 0)
                await broker.queue().resume()
                await sent.wait_result(timeout=WAIT_S)

    run(main)


# -- starting and stopping -----------------------------------------------------------------------


def test_what_was_prefetched_goes_back_when_the_worker_is_told_to_stop(path: str) -> None:
    async def main() -> None:
        gate, begun = asyncio.Event(), []
        broker = LogStoreBroker(path)
        broker.is_worker_process = True
        finish = asyncio.Event()
        before = signal.signal(signal.SIGTERM, lambda *_: finish.set())
        try:
            async with started(broker):

                @broker.task(task_name="t")
                async def task(number: int) -> None:
                    begun.append(number)
                    await gate.wait()

                for number in range(4):
                    await task.kiq(number)
                receiver = Receiver(broker, run_startup=False, max_async_tasks=1, max_prefetch=2)
                listening = asyncio.create_task(receiver.listen(finish))
                await until(lambda: counts(broker) == (1, 0, 3, 0))
                signal.raise_signal(signal.SIGTERM)
                await until(lambda: counts(broker) == (3, 0, 1, 0))
                gate.set()
                await listening
                assert counts(broker) == (3, 0, 0, 0)
                assert begun == [0]
                found = [info.attempts async for info in broker.queue().messages()]
                assert found == [0, 0, 0]
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        finally:
            signal.signal(signal.SIGTERM, before)

    run(main)


def test_a_worker_with_a_limit_of_tasks_runs_what_it_has_taken(path: str) -> None:
    async def main() -> None:
        async with started(LogStoreBroker(path)) as broker:
            task = broker.register_task(nothing, task_name="t")
            sent = [await task.kiq() for _ in range(5)]
            receiver = Receiver(
                broker, run_startup=False, max_async_tasks=1, max_prefetch=3, max_tasks_to_execute=3
            )
            await receiver.listen(asyncio.Event())
            assert [await one.is_ready() for one in sent] == [True] * 3 + [False] * 2
            assert counts(broker) == (2, 0, 0, 0)

    run(main)


def test_a_message_that_the_receiver_drops_comes_back(path: str) -> None:
    async def main() -> None:
        async with started(LogStoreBroker(path)) as broker:
            task = broker.register_task(nothing, task_name="t")
            await task.kiq()
            listening = broker.listen()
            message: AckableMessage | None = await anext(listening)
            assert counts(broker) == (0, 0, 1, 0)
            assert message is not None
            del message
            await listening.aclose()
            gc.collect()
            await until(lambda: counts(broker) == (1, 0, 0, 0))

    run(main)


def test_a_shutdown_gives_back_what_still_runs(path: str) -> None:
    async def main() -> None:
        broker = LogStoreBroker(path)
        await broker.startup()

        @broker.task(task_name="t")
        async def task() -> None:
            await asyncio.sleep(WAIT_S)

        await task.kiq()
        async with started(LogStoreBroker(path)) as other:  # keeps the store open here
            async with receiving(broker, wait_tasks_timeout=0.01):
                await until(lambda: counts(broker) == (0, 0, 1, 0))
            await broker.shutdown()
            assert counts(other) == (1, 0, 0, 0)

    run(main)


def test_events_and_middlewares_can_kick_at_startup_and_shutdown(path: str) -> None:
    async def main() -> None:
        broker = LogStoreBroker(path)
        task = broker.register_task(nothing, task_name="t")
        for event in (TaskiqEvents.CLIENT_STARTUP, TaskiqEvents.CLIENT_SHUTDOWN):

            @broker.on_event(event)
            async def kick(_: Any) -> None:
                await task.kiq()

        async with started(broker):
            assert counts(broker) == (1, 0, 0, 0)
        async with started(broker):
            assert counts(broker) == (3, 0, 0, 0)

    run(main)


def test_an_unpickled_broker_is_closed_and_uses_the_same_file(path: str) -> None:
    async def main() -> None:
        async with started(LogStoreBroker(path, queues=["q"], outbox=True)) as broker:
            other = pickle.loads(pickle.dumps(broker))
            assert (other.queues, other.outbox, other.path) == (("q",), True, path)
            assert other._home._store is None
            assert other.result_backend is other._home
            async with started(other):
                other.put(other.register_task(nothing, task_name="t"))
            assert (await broker.queue().stats()).ready == 1

    run(main)


def test_the_result_backend_has_the_options_of_the_broker(path: str) -> None:
    broker = LogStoreBroker(path, keep_results=False, max_results=10)
    assert isinstance(broker.result_backend, LogStoreResultBackend)
    assert not broker.result_backend.keep_results
    assert broker.store_options == {"max_results": 10}


def test_a_store_in_use_by_a_program_without_taskiq_shows_the_tasks(path: str) -> None:
    broker = LogStoreBroker(path)
    task = broker.register_task(nothing, task_name="t")
    broker.put(task.kicker().with_task_id("x"))
    with logstore.open(path) as store:
        [info] = store.queue().messages()
        assert info.task_id == "x"
    broker._home._opened_now()._close()
