"""The demo's taskiq application: a broker, the result backend and one task.

Workers are started as ``taskiq worker logstore.demo.tasks:broker``.  The paths of the store and the
socket come from the environment, because the command line has no options for a broker's arguments.

Rules: a task is idempotent, so the client may send it again: it only reads files, and its result
depends only on its arguments.  Files are analysed in a thread, so that the event loop is not
blocked.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any, cast

from taskiq import AsyncTaskiqDecoratedTask, Context, TaskiqDepends

from logstore.demo.analysis import Report, analyse_file
from logstore.demo.broker import OnDemandBroker
from logstore.progress import TaskProgress
from logstore.taskiq import LogStoreResultBackend

# The environment of a worker.
STORE_VARIABLE = "LOGSTORE_DEMO_STORE"
ADDRESS_VARIABLE = "LOGSTORE_DEMO_ADDRESS"
WORKER_VARIABLE = "LOGSTORE_DEMO_WORKER"
LIFELINE_VARIABLE = "LOGSTORE_DEMO_LIFELINE"

TASK_NAME = "logstore.demo:analyse"
PROGRESS_INTERVAL_S = 0.1


def worker_record_id(worker: str) -> str:
    """Return the id of the record with which a worker announces its start and its pid."""
    return f"worker-{worker}"


class DemoBroker(OnDemandBroker):
    """A broker whose workers write a record to the store when they are ready."""

    @property
    def store(self) -> LogStoreResultBackend[Any]:
        """The result backend."""
        return cast("LogStoreResultBackend[Any]", self.result_backend)

    async def startup(self) -> None:
        """Start the broker and, in a worker, write the record that the client waits for."""
        await super().startup()
        if self.is_worker_process:
            ready = TaskProgress(status="READY", meta={"pid": os.getpid()})
            await self.store.set_progress(worker_record_id(os.environ[WORKER_VARIABLE]), ready)


async def analyse(
    root: str,
    names: list[str],
    context: Context = TaskiqDepends(),
) -> dict[str, Any]:
    """Analyse the files, store progress meanwhile, and return the report as data."""
    backend = cast(DemoBroker, context.broker).store
    meta = {"pid": os.getpid(), "worker": os.environ.get(WORKER_VARIABLE, "")}
    report = Report()
    told_at_s = float("-inf")
    for position, name in enumerate(names):
        if time.monotonic() - told_at_s >= PROGRESS_INTERVAL_S:
            told_at_s = time.monotonic()
            progress = TaskProgress(
                progress=position / len(names),
                status=name,
                current=position,
                total=len(names),
                meta=meta,
            )
            await backend.set_progress(context.message.task_id, progress)
        report.add(await asyncio.to_thread(analyse_file, Path(root), name))
    return report.to_dict()


AnalyseTask = AsyncTaskiqDecoratedTask[[str, list[str]], Any]


def make_broker(store_path: str, address: str) -> DemoBroker:
    """Return a broker with its backend and task; it is not started yet."""
    made = DemoBroker(address)
    made.with_result_backend(LogStoreResultBackend(store_path))
    made.register_task(analyse, task_name=TASK_NAME)
    return made


def _end_with_the_demo(lifeline: int) -> None:
    """Wait until the other end of the pipe closes, then kill this command and its manager."""
    try:
        while os.read(lifeline, 1):
            pass
    except OSError:
        return  # the pipe is not inherited if taskiq does not fork its workers
    os.killpg(0, signal.SIGKILL)


def broker() -> DemoBroker:
    """Return the broker of a worker for taskiq's command line; uses the environment."""
    try:
        lifeline = int(os.environ[LIFELINE_VARIABLE])
        threading.Thread(target=_end_with_the_demo, args=(lifeline,), daemon=True).start()
        return make_broker(os.environ[STORE_VARIABLE], os.environ[ADDRESS_VARIABLE])
    except KeyError as missing:
        raise RuntimeError(
            f"{missing} is not set; workers are started by `python -m logstore.demo`"
        ) from None
