"""Handing work from event loops to a thread, a batch at a time.

Rules: what one loop asks for while its last batch is under way goes over together and comes back
together: one hand-over and one call of the loop for a batch.  There is no timer.  A job that has
been handed over is run even if its caller was cancelled; one that cannot be handed over, because
no thread can be started, is its caller's error.
"""

from __future__ import annotations

import asyncio
import math
import os
import queue
import threading
import weakref
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, Generic, TypeVar

from logstore.engine import osdep
from logstore.engine.failures import raisable, start_thread
from logstore.errors import StoreClosedError

SWITCH_S = (
    0.005  # as often as Python itself has a thread hand its lock over (sys.getswitchinterval)
)

Outcome = tuple["asyncio.Future[Any]", Any, "BaseException | None"]  # future, value, error
J = TypeVar("J", bound=tuple[Any, "asyncio.Future[Any]"])


class _Lane(Generic[J]):
    """What one loop has asked of a worker; touched on that loop only."""

    __slots__ = ("busy", "due", "jobs", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = weakref.ref(loop)
        self.jobs: list[J] = []
        self.busy = False
        self.due = 0.0  # when the batch under way, or the last, begins to be late


class Worker(Generic[J]):
    """A thread that runs batches of jobs and brings each loop its outcomes in one call.

    The thread is started by the first batch, and anew in a forked child.  With ``near`` it runs
    on the processor of the loop that asks: right for short jobs that seldom wait.
    """

    def __init__(
        self, name: str, run: Callable[[list[J]], list[Outcome]], *, near: bool = False
    ) -> None:
        self._name = name
        self._run = run
        self._lanes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Lane[J]] = (
            weakref.WeakKeyDictionary()
        )
        self._latest: _Lane[J] | None = None  # of the loop that asked last: mostly the only one
        self._near = near
        self._companion = osdep.Companion()
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self._queue: queue.SimpleQueue[
            tuple[asyncio.AbstractEventLoop, _Lane[J], list[J]] | None
        ] = queue.SimpleQueue()
        self._stopped = False

    def ask(self, loop: asyncio.AbstractEventLoop, job: J) -> asyncio.Future[Any]:
        """Have a job run; its future is resolved on ``loop``, the one that asks."""
        if self._stopped:
            raise StoreClosedError("the store is closed")
        lane = self._latest
        if lane is None or lane.loop() is not loop:
            lane = self._lane_of(loop)
        lane.jobs.append(job)
        if not lane.busy:
            lane.busy = True
            lane.due = math.inf  # nothing is late before it has been handed over
            # At the end of this turn of the loop, so that what other tasks ask comes along.
            loop.call_soon(self._hand_over, loop, lane)
        return job[1]

    def is_kept_waiting(self) -> bool:
        """Whether the loop that asked last should sleep a little, lest it keep the thread waiting.

        A loop that never sleeps gives Python's lock back only for the moments in which it looks
        for events, each too short for a thread to wake up in; nor does Python step in, as it does
        for a thread that does not give the lock back at all.  So this is true, once per
        :data:`SWITCH_S`, while a batch of that loop is under way.
        """
        lane = self._latest
        if lane is None or not lane.busy:
            return False
        now = monotonic()
        if now < lane.due:
            return False
        lane.due = now + SWITCH_S
        return True

    def _lane_of(self, loop: asyncio.AbstractEventLoop) -> _Lane[J]:
        lane = self._lanes.get(loop)
        if lane is None:
            with self._lock:
                lane = self._lanes.setdefault(loop, _Lane(loop))
        self._latest = lane
        return lane

    def _hand_over(self, loop: asyncio.AbstractEventLoop, lane: _Lane[J]) -> None:
        jobs, lane.jobs = lane.jobs, []
        if not jobs:
            lane.busy = False
            return
        if self._pid != os.getpid():
            self._begin_anew()
        try:
            with self._lock:
                thread = self._running_thread()
                if self._near:
                    self._companion.come(thread)
                self._queue.put((loop, lane, jobs))
            lane.due = monotonic() + SWITCH_S
        except Exception as exc:
            lane.busy = False  # the next job begins a batch of its own
            for job in jobs:
                if not job[1].done():
                    job[1].set_exception(raisable(exc))

    def _running_thread(self) -> threading.Thread:
        """The thread, started if need be.  Raises StoreClosedError, or what starting raises."""
        if self._stopped:
            raise StoreClosedError("the store is closed")
        if self._thread is None:
            thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            start_thread(self._name, thread)
            self._thread = thread
        return self._thread

    def _begin_anew(self) -> None:
        """In a forked child: the thread is not there, and the lock may be held for ever."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._queue = queue.SimpleQueue()
        self._companion = osdep.Companion()
        self._thread = None

    def _serve(self) -> None:
        pending = self._queue
        while (batch := pending.get()) is not None:
            loop, lane, jobs = batch
            try:
                outcomes = self._run(jobs)
            except BaseException as exc:
                outcomes = [(job[1], None, raisable(exc)) for job in jobs]
            call_soon(loop, partial(self._deliver, loop, lane, outcomes))

    def _deliver(
        self, loop: asyncio.AbstractEventLoop, lane: _Lane[J], outcomes: list[Outcome]
    ) -> None:
        for future, value, error in outcomes:
            if not future.done():
                if error is None:
                    future.set_result(value)
                else:
                    future.set_exception(error)
        # Those whose callers run now ask again in this turn: gather them into the next batch.
        loop.call_soon(self._hand_over, loop, lane)

    def stop(self) -> None:
        """Run what has been handed over, then end the thread."""
        if self._pid != os.getpid():
            self._begin_anew()
        with self._lock:
            self._stopped = True
            thread, self._thread = self._thread, None
            self._queue.put(None)
        if thread is not None:
            thread.join()


def call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """Call on a loop's thread, unless the loop has been closed: then nobody waits there."""
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        if not loop.is_closed():
            raise
