"""The table in docs/broker.md: each cell is a test, and each row is a way of provoking it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from taskiq import Context, NoResultError, SimpleRetryMiddleware, TaskiqDepends, TaskiqMiddleware
from taskiq.receiver import Receiver

import logstore
from logstore.aio import AsyncStore
from logstore.queue import Lease
from logstore.taskiq import DeadTaskError, LogStoreBroker
from logstore.taskiq.broker import delivery
from logstore.taskiq.broker.results import BrokerResultBackend
from logstore.types import MessageInfo

ROOT = Path(__file__).parents[2]
TABLE = re.compile(r"^\| (.+?) \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
WAIT_S = 60.0


def cells() -> Iterator[tuple[str, str, str]]:
    text = (ROOT / "docs" / "broker.md").read_text()
    head, *rows = TABLE.findall(text[text.index("| what happens") :])
    types = [re.sub(r"`(\w+)`.*", r"\1", name) for name in head[1:]]
    assert types == ["when_saved", "when_executed", "when_received", "manual"]
    for row, *outcomes in rows:
        for ack_type, outcome in zip(types, outcomes, strict=True):
            yield row, ack_type, outcome


CELLS = list(cells())


def make_broker(path: str, **options: Any) -> LogStoreBroker:
    """A broker with a task that does what its first argument says."""
    broker = LogStoreBroker(path, **options)

    async def act(name: str, context: Context = TaskiqDepends()) -> str:
        if int(context.message.labels.get("_retries", 0)):
            raise AssertionError("one delivery is enough")
        await ACTS[name](context)
        return "done"

    broker.register_task(act, task_name="act")
    return broker


def raises(error: BaseException) -> Callable[[Context], Awaitable[None]]:
    async def raise_it(_: Context) -> None:
        raise error

    return raise_it


async def nothing(_: Context) -> None: ...


async def sleep(_: Context) -> None:
    await asyncio.sleep(WAIT_S)


async def reject(context: Context) -> None:
    context.reject()


async def cancel_itself(context: Context) -> None:
    assert isinstance(context.broker, LogStoreBroker)
    await context.broker.cancel(context.message.task_id)


async def kill_itself(_: Context) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


ACTS: dict[str, Callable[[Context], Awaitable[None]]] = {
    "return": nothing,
    "error": raises(ValueError("wrong")),
    "sleep": sleep,
    "reject": reject,
    "no result": raises(NoResultError()),
    "requeue": Context.requeue,
    "interrupt": raises(KeyboardInterrupt()),
    "exit": raises(SystemExit(1)),
    "cancelled": raises(asyncio.CancelledError()),
    "broken": raises(BrokenProcessPool("a process has died")),
    "cancel": cancel_itself,
    "kill": kill_itself,
}


class Row:
    """How what a row is about is provoked."""

    def __init__(
        self,
        act: str,
        *middlewares: TaskiqMiddleware,
        task: str = "act",
        patch: Callable[[pytest.MonkeyPatch], None] | None = None,
        dies: bool = False,
        max_attempts: int = 5,
        body: bytes | None = None,
        **labels: Any,
    ) -> None:
        self.act, self.middlewares, self.task, self.patch = act, middlewares, task, patch
        self.dies, self.max_attempts, self.body, self.labels = dies, max_attempts, body, labels


class Raising(TaskiqMiddleware):
    def post_execute(self, message: Any, result: Any) -> None:
        raise ValueError("a middleware")


def no_save(patch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise logstore.WriteError("it cannot be saved")

    patch.setattr(BrokerResultBackend, "_result_write", fail)


def full_disk(patch: pytest.MonkeyPatch) -> None:
    async def fail(*_: Any) -> None:
        raise logstore.DiskFullError("no space is left")

    def fail_now(*_: Any, **__: Any) -> None:
        raise logstore.DiskFullError("no space is left")

    patch.setattr(AsyncStore, "_write", fail)
    patch.setattr(Lease, "_end", fail_now)


ROWS = {
    "the task returns": Row("return"),
    "it raises an error": Row("error"),
    "it takes longer than its `timeout`": Row("sleep", timeout="0.01"),
    "it calls `Context.reject`": Row("reject"),
    "it raises `NoResultError`": Row("no result"),
    "it calls `Context.requeue`": Row("requeue"),
    "a middleware retries it": Row("error", SimpleRetryMiddleware(), retry_on_error=True),
    "it raises `KeyboardInterrupt`": Row("interrupt"),
    "it raises `SystemExit`": Row("exit"),
    "it is cancelled": Row("cancelled"),
    "its process pool breaks": Row("broken"),
    "a middleware raises after it": Row("return", Raising()),
    "its result cannot be saved": Row("return", patch=no_save),
    "the disk is full": Row("return", patch=full_disk),
    "its worker is killed": Row("kill", dies=True),
    "the same, at its last attempt": Row("kill", dies=True, max_attempts=1),
    "no worker knows the task": Row("return", task="unknown"),
    "its message cannot be parsed": Row("return", body=b"{"),
    "it has a label that cannot be read": Row("return", body=b'"max_retries":"many"'),
    "it is cancelled by `broker.cancel`": Row("cancel"),
}


@contextmanager
def worker_process(path: str, max_attempts: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", __name__, path, str(max_attempts)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


async def deliver(broker: LogStoreBroker) -> None:
    """Have a receiver handle one message."""
    receiver = Receiver(broker, run_startup=False, max_async_tasks=1, max_tasks_to_execute=1)
    listening = asyncio.create_task(receiver.listen(asyncio.Event()))
    while not listening.done():
        if (await broker.queue().stats()).dead:
            broker.stop_taking()
        await asyncio.sleep(0.005)
    await listening


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition."""
    with anyio.fail_after(WAIT_S):
        while not holds():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.005)


async def send(broker: LogStoreBroker, row: Row, ack_type: str) -> None:
    """Enqueue the task of a row; one that a broker would refuse by other means."""
    labels = {"ack_type": ack_type, **row.labels}
    kicker = broker.find_task("act").kicker()  # type: ignore[union-attr]
    kicker.task_name = row.task
    message = broker.formatter.dumps(
        kicker.with_labels(**labels).with_task_id("t")._prepare_message(row.act)
    )
    if row.body == b"{":
        message.message = row.body
    elif row.body:
        message.message = message.message.replace(b'"labels": {', b'"labels": {' + row.body + b",")
        assert row.body in message.message
    await broker.kick(message)


async def left(broker: LogStoreBroker) -> tuple[list[MessageInfo], Any]:
    """The messages and the result that are left."""
    queue = broker.queue()
    found = [info async for info in queue.messages()]
    if not await broker.result_backend.is_result_ready("t"):
        return found, None
    return found, await broker.result_backend.get_result("t")


@pytest.mark.parametrize(("name", "ack_type", "outcome"), CELLS)
def test_what_becomes_of_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, ack_type: str, outcome: str
) -> None:
    row = ROWS[name]
    monkeypatch.setattr(delivery, "COMES_BACK_S", 0.01)

    async def main() -> tuple[MessageInfo, list[MessageInfo], Any]:
        broker = make_broker(str(tmp_path / "a.db"), max_attempts=row.max_attempts)
        broker.add_middlewares(*row.middlewares)
        await broker.startup()
        try:
            await send(broker, row, ack_type)
            queue = broker.queue()
            sync_queue = queue._queue
            [before] = [info async for info in queue.messages()]
            with monkeypatch.context() as patch:
                if row.patch:
                    row.patch(patch)
                if row.dies:
                    broker._guard(broker._home._opened_now()._handle)
                    with worker_process(broker.path, row.max_attempts) as process:
                        await asyncio.to_thread(process.wait, WAIT_S)
                else:
                    await deliver(broker)
                await until(lambda: not broker._later)
                await until(lambda: not sync_queue.stats().leased)
            return before, *await left(broker)
        finally:
            await broker.shutdown()

    before, found, result = asyncio.run(main())
    words = outcome.split(", ")
    if words[0].endswith("result"):
        kind = words.pop(0)
        assert result.is_err == (kind == "error result")
        assert not isinstance(result.error, DeadTaskError)
    elif outcome == "dead":
        assert isinstance(result.error, DeadTaskError)
    else:
        assert result is None
    assert len(words) <= 1
    match words or ["settled"]:
        case ["settled"]:
            assert not found
        case ["returned"]:
            [info] = found
            assert (info.status != "dead", info.attempts) == (True, 1)
            assert info.enqueued == before.enqueued
        case ["kept"]:
            [info] = found
            assert (info.status, info.attempts) == ("ready", 0)
            assert info.enqueued == before.enqueued
        case ["sent again"]:
            [info] = found
            assert (info.status, info.attempts) == ("ready", 0)
            assert info.enqueued > before.enqueued
        case ["dead"]:
            [info] = found
            assert info.status == "dead"
            assert info.reason
        case _:
            raise AssertionError(f"what is {outcome!r}?")


def test_every_row_of_the_table_is_provoked() -> None:
    assert list(ROWS) == list(dict.fromkeys(name for name, _, _ in CELLS))


if __name__ == "__main__":
    _, its_path, attempts = sys.argv

    async def work() -> None:
        broker = make_broker(its_path, max_attempts=int(attempts))
        await broker.startup()
        await deliver(broker)

    asyncio.run(work())
