"""Tasks of one event loop that wait for results, behind one subscription.

Rules: futures are entered and left on their loop only; other threads look them up.  A waiter
enters before the state is looked at, so that nothing is missed.  A change wakes the waiters of its
task and no others.  A waiter that goes takes its future out of ``live`` first, in one call that no
signal handler can cut in two: whatever is not done behind that, a future that is not in there
counts for nothing.  The subscription ends when nobody waits any more, or with the loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from time import monotonic

from logstore._engine.failures import raisable
from logstore._engine.notify import Change, Subscription
from logstore._handle import Handle
from logstore._loops.handover import Inbox, Outcome

IDLE_S = 1.0  # how long the subscription is kept when nobody waits any more
SWEEP_MIN = 64

PENDING = frozenset(("unknown", "running"))

Woken = asyncio.Future[bool]  # True: something has changed; False: the time is up


class Waiters(Subscription):
    """The waiting tasks of a loop."""

    __slots__ = (
        *("_futures", "_idle_since", "_inbox", "_lock", "_handle", "_sweep_at"),
        *("live", "loop"),
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, handle: Handle) -> None:
        self._futures: dict[bytes, Woken | list[Woken]] = {}
        self.live: set[Woken] = set()  # the futures of those who wait
        super().__init__(self._futures)
        self.loop = loop
        self._handle = handle
        self._inbox = Inbox(loop)
        self._lock = threading.Lock()  # subscribing, and finding that nobody waits
        self._idle_since: float | None = None
        self._sweep_at = SWEEP_MIN

    # -- on the loop ------------------------------------------------------------------------------

    def enter(self, key: bytes, future: Woken) -> None:
        """Have a future resolved when a task has or had a result; then have the state looked at.

        It may be resolved too early.
        """
        self.live.add(future)
        others = self._futures.get(key)
        if others is None:
            if len(self._futures) >= self._sweep_at:
                self._sweep()
            self._futures[key] = future
        elif isinstance(others, list):
            others.append(future)
        else:
            self._futures[key] = [others, future]

    def leave(self, key: bytes, future: Woken) -> None:
        """Wait no longer."""
        self.live.discard(future)
        others = self._futures.get(key)
        if others is future:
            del self._futures[key]
        elif isinstance(others, list):
            if future in others:
                others.remove(future)
            if not others:
                del self._futures[key]

    def _sweep(self) -> None:
        """Leave for those who could not."""
        for key in list(self._futures):
            living = [future for future in self._futures_of(key) if future in self.live]
            if living:
                self._futures[key] = living
            else:
                del self._futures[key]
        self._sweep_at = max(SWEEP_MIN, 2 * len(self._futures))

    # -- in other threads -------------------------------------------------------------------------

    def look(self, waiting: list[tuple[bytes, Woken]]) -> list[Outcome]:
        """Look at the states of those who have entered: the outcomes that there are already."""
        try:
            with self._lock:
                self._idle_since = None
                self._handle.subscribe(self)
        except BaseException as exc:
            return [(future, None, raisable(exc)) for _, future in waiting]  # nobody would wake it
        return [(future, True, None) for key, future in waiting if self._is_worth_a_look(key)]

    def _is_worth_a_look(self, key: bytes) -> bool:
        """Whether there is more to say of a task than that nothing has come."""
        try:
            return self._handle.status(key) not in PENDING
        except Exception:
            return True  # its waiter meets the error itself

    def tell(self, changes: list[Change] | None) -> None:
        """Wake the waiters of changed tasks."""
        if self.loop.is_closed():
            self._leave_for_good()
            return
        keys = list(self._futures) if changes is None else [key for key, _ in changes]
        futures = [future for key in keys for future in self._futures_of(key)]
        if futures:
            self._inbox.bring([(future, True, None) for future in futures])

    def again(self) -> None:
        """Call the loop again if it has missed a call; unsubscribe if nobody has waited lately."""
        if self.loop.is_closed():
            self._leave_for_good()
            return
        self._inbox.ring_again()
        if self._lock.acquire(blocking=False):  # else somebody is just about to wait
            try:
                if self.live:
                    self._idle_since = None
                elif self._idle_since is None:
                    self._idle_since = monotonic()
                elif monotonic() - self._idle_since >= IDLE_S:
                    self._handle.unsubscribe(self)
            finally:
                self._lock.release()

    def _leave_for_good(self) -> None:
        self._handle.unsubscribe(self)
        self._futures.clear()
        self.live.clear()

    def _futures_of(self, key: bytes) -> Sequence[Woken]:
        found = self._futures.get(key, ())
        return list(found) if isinstance(found, list | tuple) else (found,)
