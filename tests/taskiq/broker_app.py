"""An application for workers that tests start; its file is named by the environment."""

from __future__ import annotations

import asyncio
import os
import time

from taskiq import Context, TaskiqDepends, TaskiqEvents, TaskiqState

from logstore.taskiq import LogStoreBroker

PATH = os.environ.get("BROKER_APP_PATH", "unset.db")

broker = LogStoreBroker(PATH, max_attempts=3)


def note(*words: object) -> None:
    """Append a line to the file that tells what has run."""
    descriptor = os.open(f"{PATH}.notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, (" ".join(map(str, words)) + "\n").encode())
    os.close(descriptor)


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def start(state: TaskiqState) -> None:
    state.greeting = "hello"


@broker.task(task_name="greet")
async def greet(context: Context = TaskiqDepends()) -> str:
    return str(context.state.greeting)


@broker.task(task_name="square")
def square(number: int) -> int:
    return number * number


@broker.task(task_name="slow")
async def slow(number: int, seconds: float) -> int:
    note("start", number, os.getpid())
    await asyncio.sleep(seconds)
    note("end", number, os.getpid())
    return os.getpid()


@broker.task(task_name="busy")
def busy(number: int, seconds: float) -> int:
    note("start", number, os.getpid())
    time.sleep(seconds)
    return number


@broker.task(task_name="die")
def die() -> None:
    os._exit(3)
