"""Handing work from event loops to a thread, a batch at a time, and outcomes back.

Rules: what one loop asks for while its last batch is under way goes over together and comes back
together: one hand-over and one call of the loop for a batch.  There is no timer.  A job that has
been asked for is run even if its caller was cancelled; if no thread can be started for it, that is
its caller's error.

A signal handler may raise an exception anywhere on a loop's thread, so nothing rests on a callback
that must not be lost.  Jobs and outcomes wait in queues until they are taken, and the thread, in
which no signal handler runs, decides what is under way: it looks after a loop from which it has
heard nothing for a while.  What must not be cut in two is one call of C, or an assignment and a
call of C behind it, between which Python runs no handler.
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
from logstore._engine.failures import raisable
from logstore.errors import StoreClosedError

SWITCH_S = (
    0.005  # as often as Python itself has a thread hand its lock over (sys.getswitchinterval)
)
PATIENCE_S, PATIENCE_S_MAX = 0.05, 0.5  # how long a loop may say nothing before it is looked after

Outcome = tuple["asyncio.Future[Any]", Any, "BaseException | None"]  # future, value, error
T = TypeVar("T")
J = TypeVar("J", bound=tuple[Any, "asyncio.Future[Any]"])


class Inbox:
    """Outcomes for one loop: any thread brings them, they wait until the loop has taken them."""

    __slots__ = ("__weakref__", "_called", "loop", "outcomes")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = weakref.ref(loop)
        self.outcomes: deque[list[Outcome]] = deque()
        self._called = False  # again, while the loop does not run

    def bring(self, outcomes: list[Outcome]) -> None:
        """Have the loop resolve these futures."""
        self.outcomes.append(outcomes)
        self.ring()

    def ring(self) -> None:
        """Call the loop; one that is closed needs nothing any more."""
        loop = self.loop()
        if loop is None or not call_soon(loop, self.open):
            self.outcomes.clear()

    def ring_again(self) -> None:
        """Call the loop again if it has missed that.

        One that does not run misses nothing: it is called once, and will come to that.
        """
        loop = self.loop()
        runs = loop is not None and loop.is_running()
        if self.outcomes and (runs or not self._called):
            self._called = not runs
            self.ring()

    def open(self) -> None:
        """Take what there is, on the loop.  If an exception cuts it short, the rest stays."""
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
    """What one loop asks of a worker.

    A lane is *parked* while the thread neither runs a batch of it nor has a token for it in its
    queue: who asks then puts one there.
    """

    __slots__ = ("due", "jobs", "parked", "worker")

    def __init__(self, loop: asyncio.AbstractEventLoop, worker: Worker[J]) -> None:
        super().__init__(loop)
        self.worker = worker
        self.jobs: deque[J] = deque()
        self.parked = True
        self.due = 0.0  # when the batch under way begins to be late

    def open(self) -> None:
        """Take the outcomes; when the callers that they wake have asked again, the thread goes on.

        So these, too, are gathered into one batch.
        """
        super().open()
        loop = self.loop()
        if loop is not None:
            self.worker.come(self)
            loop.call_soon(self.worker.tokens.put, self)


class Bell:
    """Resolves a waiter's future with False when its time is up; see :meth:`Worker.ring_at`.

    A waiter that goes on to another future looks afterwards whether the bell has ``rung``.
    """

    __slots__ = ("future", "lane", "rung")

    def __init__(self, future: asyncio.Future[bool]) -> None:
        self.future = future
        self.rung = False
        self.lane: _Lane[Any] | None = None


class Worker(Generic[J]):
    """A thread that runs batches of jobs and brings each loop its outcomes in one call.

    The thread is started by the first job, and anew in a forked child.  With ``near`` it runs
    on the processor of the loop that asks: right for short jobs that seldom wait.
    """

    def __init__(
        self, name: str, run: Callable[[list[J]], list[Outcome]], *, near: bool = False
    ) -> None:
        self._name = name
        self._run = run
        self._near = near
        self._stopped = False
        self.begin_anew()
        _workers.add(self)

    def begin_anew(self) -> None:
        """Have no thread and know no loop; in a forked child any lock may be held for ever."""
        self._lock = threading.Lock()
        self._lanes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Lane[J]] = (
            weakref.WeakKeyDictionary()
        )
        self._latest: _Lane[J] | None = None  # of the loop that asked last: mostly the only one
        self._companion = affinity.Companion()
        self._serving = threading.Lock()  # held by the thread while it serves
        self._thread: threading.Thread | None = None
        self.tokens: queue.SimpleQueue[_Lane[J] | Bell | None] = queue.SimpleQueue()

    def ask(self, loop: asyncio.AbstractEventLoop, job: J) -> asyncio.Future[Any]:
        """Have a job run; its future is resolved on ``loop``, the one that asks.

        Raises StoreClosedError, or what starting a thread raises.
        """
        lane = self._lane_of(loop)
        if lane.parked:
            self.come(lane)
        try:
            lane.jobs.append(job)
        finally:
            if lane.parked:
                lane.parked = False
                self.tokens.put(lane)
        if self._stopped:
            _withdraw(lane, job)
        return job[1]

    def ring_at(
        self, loop: asyncio.AbstractEventLoop, when: float, bell: Bell
    ) -> asyncio.TimerHandle:
        """Ring a bell at a time of the loop, by way of the thread, so that it is not lost."""
        bell.lane = self._lane_of(loop)
        return loop.call_at(when, self.tokens.put, bell)

    def is_kept_waiting(self) -> bool:
        """Whether the loop that asked last should sleep a little, lest it keep the thread waiting.

        A loop that never sleeps gives Python's lock back only for the moments in which it looks
        for events, each too short for a thread to wake up in; nor does Python step in, as it does
        for a thread that does not give the lock back at all.  So this is true, once per
        :data:`SWITCH_S`, while a batch of that loop is under way.
        """
        lane = self._latest
        if lane is None or lane.parked:
            return False
        now = monotonic()
        if now < lane.due:
            return False
        lane.due = now + SWITCH_S
        return True

    def come(self, lane: _Lane[J]) -> None:
        """Have the thread ready for a batch of a loop, on that loop's thread."""
        lane.due = monotonic() + SWITCH_S
        if not self._serving.locked() and not self._stopped:
            threads.start(self._serve, self._name, self._name)
        if self._near and self._thread is not None and not self._stopped:
            self._companion.come(self._thread)

    def stop(self) -> None:
        """Run what has been asked for, then end the thread."""
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
            return  # two were started at once
        away: dict[_Lane[J], tuple[float, float]] = {}  # when to look after it, and how patiently
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
        while away:  # loops that have not taken their last outcomes yet
            if (token := self._next_token(away)) is not None:
                self._take(token, away)

    def _next_token(self, away: dict[_Lane[J], tuple[float, float]]) -> _Lane[J] | Bell | None:
        """The next token, which may be one that has been lost on its loop."""
        while True:
            if not away:
                return self.tokens.get()
            lane, (at, patience_s) = min(away.items(), key=lambda item: item[1])
            try:
                return self.tokens.get(timeout=max(0.0, at - monotonic()))
            except queue.Empty:
                if not lane.outcomes:
                    return lane
            lane.ring_again()
            patience_s = min(2 * patience_s, PATIENCE_S_MAX)
            away[lane] = monotonic() + patience_s, patience_s

    def _take(self, token: _Lane[J] | Bell, away: dict[_Lane[J], tuple[float, float]]) -> None:
        outcomes: list[Outcome]
        if isinstance(token, Bell):
            assert token.lane is not None
            token.rung = True  # before the future is looked up
            lane, outcomes = token.lane, [(token.future, False, None)]
        else:
            lane = token
            outcomes = self._outcomes_of(lane)
        if outcomes:
            away[lane] = monotonic() + PATIENCE_S, PATIENCE_S
            lane.bring(outcomes)
        elif not lane.outcomes:
            away.pop(lane, None)

    def _outcomes_of(self, lane: _Lane[J]) -> list[Outcome]:
        """Run what a loop asks for until there are outcomes, or nothing is left: then park it."""
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
                    lane.parked = True  # and look once more, for what has just been asked
        except BaseException as exc:
            return [(job[1], None, raisable(exc)) for job in jobs]


class _Parcel(Inbox):
    """The outcome of one job, which has a thread of its own."""

    __slots__ = ("taken",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.taken = threads.Signal()

    def open(self) -> None:
        super().open()
        self.taken.set()


def in_thread(job: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Run a long job in a thread of its own; the future is the running loop's.

    Not in the loop's executor, whose locks are Python's, and which other jobs may keep busy.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    parcel = _Parcel(loop)

    def run() -> None:
        try:
            outcome: Outcome = future, job(), None
        except BaseException as exc:
            outcome = future, None, exc
        parcel.bring([outcome])
        patience_s = PATIENCE_S
        while parcel.outcomes:
            parcel.taken.wait(patience_s)
            parcel.ring_again()
            patience_s = min(2 * patience_s, PATIENCE_S_MAX)

    threads.start(run, name, name)
    return future


def _withdraw(lane: _Lane[J], job: J) -> None:
    """Raise StoreClosedError, unless the thread has taken the job all the same."""
    try:
        lane.jobs.remove(job)
    except ValueError:
        return
    raise StoreClosedError("the store is closed")


def call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> bool:
    """Call on a loop's thread; False if the loop has been closed: then nobody waits there."""
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        if not loop.is_closed():
            raise
        return False
    return True


_workers: weakref.WeakSet[Worker[Any]] = weakref.WeakSet()


def _begin_anew_in_child() -> None:
    for worker in list(_workers):
        worker.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew_in_child)
