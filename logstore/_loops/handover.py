"""Passing batches of jobs from event loops to a thread, and outcomes back.

Rules: jobs that a loop submits during a batch form its next batch.  A batch takes one hand-over and
one call of the loop.  There is no timer.  A submitted job is run even if its caller was cancelled.
If its thread cannot be started, the caller gets the error.

A signal handler may raise an exception anywhere on a loop's thread, so any callback may be lost.
Jobs and outcomes therefore wait in queues until they are taken.  No signal handler runs in the
worker thread; it keeps the state and calls a loop again that has been silent for a while.  Steps
that must be atomic are one call of a C function, or an assignment followed by one: Python runs no
handler in between.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Generic, TypeVar

from logstore._engine import affinity, threads
from logstore._engine.systemerrors import raisable
from logstore.errors import StoreClosedError

PATIENCE_S, PATIENCE_S_MAX = 0.05, 0.5  # how long a loop may be silent before it is called again

Outcome = tuple["asyncio.Future[Any]", Any, "BaseException | None"]  # future, value, error
T = TypeVar("T")
J = TypeVar("J", bound=tuple[Any, "asyncio.Future[Any]"])


class Inbox:
    """The queue of outcomes for one loop.  Any thread may add outcomes."""

    __slots__ = ("__weakref__", "_called", "loop", "outcomes")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = weakref.ref(loop)
        self.outcomes: deque[list[Outcome]] = deque()
        self._called = False  # called again while the loop was not running

    def deliver(self, outcomes: list[Outcome]) -> None:
        """Let the loop resolve these futures."""
        self.outcomes.append(outcomes)
        self.call()

    def call(self) -> None:
        """Call the loop; drop the outcomes of a closed loop."""
        loop = self.loop()
        if loop is None or not call_soon(loop, self.resolve):
            self.outcomes.clear()

    def call_again(self) -> None:
        """Call the loop again if the last call was lost.

        A loop that is not running is called again only once: it will run that call later.
        """
        loop = self.loop()
        runs = loop is not None and loop.is_running()
        if self.outcomes and (runs or not self._called):
            self._called = not runs
            self.call()

    def resolve(self) -> None:
        """Resolve the futures, on the loop.  After an exception the rest stays in the queue."""
        outcomes = self.outcomes
        while outcomes:
            for future, value, error in outcomes[0]:
                if not future.done():
                    if error is None:
                        future.set_result(value)
                    else:
                        future.set_exception(error)
            outcomes.popleft()


class _Lane(Inbox, Generic[J]):
    """The jobs of one loop for a worker.

    A lane is *parked* while the thread neither runs its batch nor has a token for it in its queue.
    The next caller of :meth:`Worker.submit` then puts a token there.
    """

    __slots__ = ("jobs", "parked", "worker")

    def __init__(self, loop: asyncio.AbstractEventLoop, worker: Worker[J]) -> None:
        super().__init__(loop)
        self.worker = worker
        self.jobs: deque[J] = deque()
        self.parked = True

    def resolve(self) -> None:
        """Resolve the futures, then let the thread continue.

        The woken callers run first, so that their next jobs form one batch.
        """
        super().resolve()
        loop = self.loop()
        if loop is not None:
            self.worker.prepare()
            loop.call_soon(self.worker.tokens.put, self)


class Deadline:
    """Resolves a waiter's future with False after a time-out; see :meth:`Worker.expire_at`.

    After replacing its future, a waiter must check whether the deadline has ``expired``.
    """

    __slots__ = ("expired", "future", "lane")

    def __init__(self, future: asyncio.Future[bool]) -> None:
        self.future = future
        self.expired = False
        self.lane: _Lane[Any] | None = None


class Worker(Generic[J]):
    """A thread that runs batches of jobs and returns the outcomes of a batch in one call.

    The first job starts the thread, in a forked child too.  With ``near`` the thread runs on the
    CPU of the calling loop: good for short jobs that rarely block.
    """

    def __init__(
        self, name: str, run: Callable[[list[J]], list[Outcome]], *, near: bool = False
    ) -> None:
        self._name = name
        self._run = run
        self._near = near
        self._stopped = False
        self.reset()
        _workers.add(self)

    def reset(self) -> None:
        """Reset to no thread, no loops and new locks: a forked child may inherit held locks."""
        self._lock = threading.Lock()
        self._lanes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Lane[J]] = (
            weakref.WeakKeyDictionary()
        )
        self._latest: _Lane[J] | None = None  # of the loop that asked last, usually the only loop
        self._companion = affinity.Companion()
        self._serving = threading.Lock()  # held by the thread while it serves
        self._thread: threading.Thread | None = None
        self.tokens: queue.SimpleQueue[_Lane[J] | Deadline | None] = queue.SimpleQueue()

    def submit(self, loop: asyncio.AbstractEventLoop, job: J) -> asyncio.Future[Any]:
        """Submit a job; its future is resolved on ``loop``, the loop of the caller.

        Raises StoreClosedError, and the errors of starting a thread.
        """
        lane = self._lane_of(loop)
        if lane.parked:
            self.prepare()
        try:
            lane.jobs.append(job)
        finally:
            if lane.parked:
                lane.parked = False
                self.tokens.put(lane)
        if self._stopped:
            _withdraw(lane, job)
        return job[1]

    def expire_at(
        self, loop: asyncio.AbstractEventLoop, when: float, deadline: Deadline
    ) -> asyncio.TimerHandle:
        """Let a deadline expire at a time of the loop.  The thread does it, so it is not lost."""
        deadline.lane = self._lane_of(loop)
        return loop.call_at(when, self.tokens.put, deadline)

    def prepare(self) -> None:
        """Prepare the worker thread for a batch; call this on the loop's thread."""
        if not self._serving.locked() and not self._stopped:
            threads.start(self._serve, self._name, self._name)
        if self._near and self._thread is not None and not self._stopped:
            self._companion.bind(self._thread)

    def stop(self) -> None:
        """Run all submitted jobs, then end the thread."""
        self._stopped = True
        self.tokens.put(None)
        with self._serving:
            pass

    def _lane_of(self, loop: asyncio.AbstractEventLoop) -> _Lane[J]:
        lane = self._latest
        if lane is None or lane.loop() is not loop:
            with self._lock:
                lane = self._lanes.get(loop)
                if lane is None:
                    lane = self._lanes[loop] = _Lane(loop, self)
            self._latest = lane
        return lane

    # -- in the thread ----------------------------------------------------------------------------

    def _serve(self) -> None:
        if not self._serving.acquire(blocking=False):
            return  # two threads were started at once
        # Lanes that have not taken their outcomes: when to call the loop again, and the interval.
        away: dict[_Lane[J], tuple[float, float]] = {}
        try:
            self._thread = threading.current_thread()
            while (token := self._next_token(away)) is not None:
                self._take(token, away)
            with self._lock:
                lanes = list(self._lanes.values())
            for lane in lanes:
                self._take(lane, away)
        finally:
            self._serving.release()
        while away:  # until all loops have taken their last outcomes
            if (token := self._next_token(away)) is not None:
                self._take(token, away)

    def _next_token(self, away: dict[_Lane[J], tuple[float, float]]) -> _Lane[J] | Deadline | None:
        """Return the next token; replace a token that was lost on its loop."""
        while True:
            if not away:
                return self.tokens.get()
            lane, (at, patience_s) = min(away.items(), key=lambda item: item[1])
            try:
                return self.tokens.get(timeout=max(0.0, at - monotonic()))
            except queue.Empty:
                if not lane.outcomes:
                    return lane
            lane.call_again()
            patience_s = min(2 * patience_s, PATIENCE_S_MAX)
            away[lane] = monotonic() + patience_s, patience_s

    def _take(self, token: _Lane[J] | Deadline, away: dict[_Lane[J], tuple[float, float]]) -> None:
        outcomes: list[Outcome]
        if isinstance(token, Deadline):
            assert token.lane is not None
            token.expired = True  # before reading the future
            lane, outcomes = token.lane, [(token.future, False, None)]
        else:
            lane = token
            outcomes = self._outcomes_of(lane)
        if outcomes:
            away[lane] = monotonic() + PATIENCE_S, PATIENCE_S
            lane.deliver(outcomes)
        elif not lane.outcomes:
            away.pop(lane, None)

    def _outcomes_of(self, lane: _Lane[J]) -> list[Outcome]:
        """Run the jobs of a loop until there are outcomes; park the lane if no job is left."""
        jobs: list[J] = []
        try:
            while True:
                while lane.jobs:
                    jobs.append(lane.jobs.popleft())
                if jobs:
                    lane.parked = False
                    if outcomes := self._run(jobs):
                        return outcomes
                    jobs.clear()
                elif lane.parked:
                    return []
                else:
                    lane.parked = True  # then check again for a job that was just submitted
        except BaseException as exc:
            return [(job[1], None, raisable(exc)) for job in jobs]


class _Parcel(Inbox):
    """The outcome of a job that runs in its own thread."""

    __slots__ = ("taken",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.taken = threads.Signal()

    def resolve(self) -> None:
        super().resolve()
        self.taken.set()


def in_thread(job: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Run a long job in a new thread; return a future of the running loop.

    The loop's executor is not used: it has Python locks, and other jobs may keep it busy.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    parcel = _Parcel(loop)

    def run() -> None:
        try:
            outcome: Outcome = future, job(), None
        except BaseException as exc:
            outcome = future, None, exc
        parcel.deliver([outcome])
        patience_s = PATIENCE_S
        while parcel.outcomes:
            parcel.taken.wait(patience_s)
            parcel.call_again()
            patience_s = min(2 * patience_s, PATIENCE_S_MAX)

    threads.start(run, name, name)
    return future


def _withdraw(lane: _Lane[J], job: J) -> None:
    """Raise StoreClosedError, unless the thread has already taken the job."""
    try:
        lane.jobs.remove(job)
    except ValueError:
        return
    raise StoreClosedError("the store is closed")


def call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> bool:
    """Run a call on a loop's thread; return False if the loop is closed."""
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        if not loop.is_closed():
            raise
        return False
    return True


_workers: weakref.WeakSet[Worker[Any]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for worker in list(_workers):
        worker.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
