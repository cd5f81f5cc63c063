"""The demo's client: sends the tasks, watches the store, kills a worker half-way.

Rules: the client reads the state only from the store: running workers, progress, results.  A result
that it has read counts as acknowledged and is kept for the comparison at the end; its task is never
sent again.  Tasks that are lost with a worker are sent again under the same id.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskiq import TaskiqResult

from logstore.demo import tasks
from logstore.demo.display import Display, Row
from logstore.demo.workers import WorkerCommand
from logstore.taskiq.outcome.reported import ReportedProgress

POLL_INTERVAL_S = 0.05
START_TIMEOUT_S = 90.0
# A running task without new progress for this time is sent again, at most SENDS_MAX times.
STALL_S = 15.0
SENDS_MAX = 5


class DemoFailedError(Exception):
    """The demo cannot go on; the message gives the reason and the log of the workers."""


@dataclass(slots=True)
class Slice:
    """One task: the files that it analyses and the state that the client has read."""

    task_id: str
    names: list[str]
    sends: int = 0
    seen_at_s: float = 0.0
    progress: ReportedProgress | None = None
    result: TaskiqResult[Any] | None = None

    @property
    def in_flight(self) -> bool:
        """Whether the task was sent and its result was not read yet."""
        return self.sends > 0 and self.result is None

    @property
    def fraction(self) -> float:
        """The progress of the task, from 0.0 to 1.0."""
        return 0.0 if self.progress is None else self.progress.progress

    @property
    def mid_way(self) -> bool:
        """Whether the task is running and not close to its end; the progress may be outdated."""
        return 0.0 < self.fraction < 0.6

    @property
    def worker_pid(self) -> int | None:
        """The process that reported the newest progress."""
        return None if self.progress is None else (self.progress.meta or {}).get("pid")

    @property
    def worker_name(self) -> str:
        """The worker command of that process."""
        return "" if self.progress is None else str((self.progress.meta or {}).get("worker", ""))


@dataclass(slots=True)
class Outcome:
    """All results that the client read, and the ids of those that it read before the kill."""

    results: dict[str, TaskiqResult[Any]] = field(default_factory=dict)
    acked_before_kill: frozenset[str] = frozenset()
    sent_again: int = 0


class Client:
    """Drives one run over started workers and a started broker."""

    def __init__(
        self,
        broker: tasks.DemoBroker,
        workers: Sequence[WorkerCommand],
        slices: Sequence[Slice],
        *,
        root: Path,
        display: Display,
    ) -> None:
        self._store = broker.store
        self._workers = {worker.name: worker for worker in workers}
        self._slices = list(slices)
        self._root = str(root)
        self._display = display
        task = broker.find_task(tasks.TASK_NAME)
        assert task is not None, "make_broker registers it"
        self._task: tasks.AnalyseTask = task
        # Last in, first out: lost tasks are sent again first.
        self._to_send: asyncio.LifoQueue[Slice] = asyncio.LifoQueue()
        self._pids: dict[str, int] = {}
        self._killed: tuple[str, int] | None = None
        self._outcome = Outcome()

    async def run(self) -> Outcome:
        """Send every slice, kill one worker half-way, and return after reading all results.

        Raises :class:`DemoFailedError` when a worker does not start or a task fails.
        """
        await self._wait_until(self._all_workers_up, "workers did not start")
        for name, pid in sorted(self._pids.items()):
            self._display.note(f"worker {name} is up: process {pid}")
        for item in reversed(self._slices):
            self._to_send.put_nowait(item)
        sender = asyncio.create_task(self._send_all())
        try:
            await self._watch(sender)
        finally:
            sender.cancel()
        if self._killed is None:
            raise DemoFailedError("all tasks ended before a worker could be killed during a task")
        await self._wait_until(self._notice_restart, "the killed worker did not come back")
        return self._outcome

    # -- sending and watching ------------------------------------------------------------------

    async def _send_all(self) -> None:
        """Send queued tasks as fast as workers ask for them; runs until cancelled."""
        while True:
            item = await self._to_send.get()
            await self._task.kicker().with_task_id(item.task_id).kiq(self._root, item.names)
            item.sends += 1
            item.seen_at_s = time.monotonic()

    async def _watch(self, sender: asyncio.Task[None]) -> None:
        """Watch all tasks in the store until every result was read."""
        while any(item.result is None for item in self._slices):
            self._check_workers()
            if sender.done():
                sender.result()
            for item in self._slices:
                if item.in_flight:
                    await self._look_at(item)
            self._show()
            if self._killed is None:
                await self._kill_half_way()
            else:
                await self._notice_restart()
            await asyncio.sleep(POLL_INTERVAL_S)

    async def _look_at(self, item: Slice) -> None:
        if await self._store.is_result_ready(item.task_id):
            result = await self._store.get_result(item.task_id)
            if result.is_err:
                raise DemoFailedError(f"{item.task_id} failed: {result.error!r}")
            item.result = self._outcome.results[item.task_id] = result
            counts = result.return_value
            done = Row(item.task_id, 1.0, f"{counts['files']} files, {counts['lines']} lines")
            if self._display.live:
                self._display.note(self._display.format(done))
            return
        progress = await self._store.get_progress(item.task_id)
        if progress != item.progress:
            item.progress = progress
            item.seen_at_s = time.monotonic()
        elif time.monotonic() - item.seen_at_s > STALL_S:
            self._send_again(item, f"no new progress for {STALL_S:.0f} s")

    def _send_again(self, item: Slice, why: str) -> None:
        self._display.note(f"{item.task_id} is sent again: {why}")
        if item.sends >= SENDS_MAX:
            raise self.failure(f"{item.task_id} was sent {item.sends} times without a result")
        item.seen_at_s = time.monotonic()
        self._outcome.sent_again += 1
        self._to_send.put_nowait(item)

    # -- workers -------------------------------------------------------------------------------

    async def _kill_half_way(self) -> None:
        results = self._outcome.results
        if 2 * len(results) < len(self._slices):
            return
        running = [item for item in self._slices if item.in_flight and item.mid_way]
        victim = max(running, key=lambda item: item.fraction, default=None)
        if victim is None or victim.worker_pid is None:
            return  # no running task is known yet; try again later
        name, pid = victim.worker_name, victim.worker_pid

        async def is_under_way() -> bool:
            await self._look_at(victim)
            return victim.in_flight and victim.worker_pid == pid

        if not await self._workers[name].kill_worker_process(pid, only_if=is_under_way):
            return  # the progress was outdated
        self._outcome.acked_before_kill = frozenset(results)
        self._killed = (name, pid)
        self._display.note(
            f"kill -9 {pid}: worker {name} is dead after {victim.fraction:.0%} of {victim.task_id};"
            f" {len(results)} of {len(self._slices)} results were acknowledged before"
        )
        self._display.note(f"taskiq's process manager will start worker {name} again")
        for item in self._slices:
            if item.in_flight:
                await self._look_at(item)
            if item.in_flight and item.worker_pid == pid:
                self._send_again(item, f"it ran in process {pid}")
            elif item.in_flight and item.progress is None:
                self._send_again(item, f"it may have been sent to process {pid}")

    async def _notice_restart(self) -> bool:
        assert self._killed is not None, "only called after the kill"
        name, killed_pid = self._killed
        if self._pids[name] == killed_pid:
            pid = await self._announced_pid(name)
            if pid in (None, killed_pid):
                return False
            assert pid is not None
            self._pids[name] = pid
            self._display.note(f"worker {name} is up again: process {pid}")
        return True

    async def _all_workers_up(self) -> bool:
        for name in self._workers:
            pid = await self._announced_pid(name)
            if pid is not None:
                self._pids[name] = pid
        return len(self._pids) == len(self._workers)

    async def _announced_pid(self, name: str) -> int | None:
        ready = await self._store.get_progress(tasks.worker_record_id(name))
        return None if ready is None else (ready.meta or {}).get("pid")

    def _check_workers(self) -> None:
        for worker in self._workers.values():
            if worker.exit_status() is not None:
                raise self.failure(f"worker {worker.name} exited ({worker.exit_status()})")

    async def _wait_until(self, condition: Any, complaint: str) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not await condition():
            self._check_workers()
            if time.monotonic() > deadline_s:
                raise self.failure(f"{complaint} within {START_TIMEOUT_S:.0f} s")
            await asyncio.sleep(POLL_INTERVAL_S)

    def failure(self, why: str) -> DemoFailedError:
        """Return an error with the reason ``why`` and the logs of the workers."""
        logs = (f"-- log of worker {w.name}\n{w.log_tail()}" for w in self._workers.values())
        return DemoFailedError("\n".join([why, *logs]))

    # -- showing -------------------------------------------------------------------------------

    def _show(self) -> None:
        done = len(self._outcome.results)
        rows = [
            Row(
                item.task_id,
                item.progress.progress,
                f"worker {item.worker_name}  {item.progress.status}",
            )
            if item.progress is not None
            else Row(item.task_id, 0.0, "sent")
            for item in self._slices
            if item.in_flight
        ]
        total = len(self._slices)
        self._display.update([*rows, Row("all tasks", done / total, f"{done} of {total} done")])
