"""The waiters for results on one event loop, with one shared subscription.

Rules: only the loop adds and removes futures; other threads look them up.  A waiter enters before
it reads the state, so that no change is missed.  A change wakes only the waiters of its task.  A
waiter that leaves first removes its future from ``live``, in one call that no signal handler can
interrupt.  A future that is not in ``live`` is ignored, even if an exception prevents the rest of
the clean-up.  The subscription ends when there are no more waiters, or with the loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from time import monotonic

from logstore._engine.notify import Change, Subscription
from logstore._engine.systemerrors import raisable
from logstore._handle import Handle
from logstore._loops.handover import Inbox, Outcome

IDLE_S = 1.0  # how long the subscription is kept without waiters
SWEEP_MIN = 64

PENDING = frozenset(("unknown", "running"))

Woken = asyncio.Future[bool]  # True: a change; False: the time-out


class Waiters(Subscription):
    """The waiting tasks of a loop."""

    __slots__ = (
        *("_futures", "_idle_since", "_inbox", "_lock", "_handle", "_sweep_at"),
        *("live", "loop"),
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, handle: Handle) -> None:
        self._futures: dict[bytes, Woken | list[Woken]] = {}
        self.live: set[Woken] = set()  # the futures of the current waiters
        super().__init__(self._futures)
        self.loop = loop
        self._handle = handle
        self._inbox = Inbox(loop)
        self._lock = threading.Lock()  # for subscribing, and for checking that there are no waiters
        self._idle_since: float | None = None
        self._sweep_at = SWEEP_MIN

    # -- on the loop ------------------------------------------------------------------------------

    def add(self, key: bytes, future: Woken) -> None:
        """Add a waiter: a change of the task resolves its future.  Read the state afterwards.

        The future may be resolved too early.
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

    def remove(self, key: bytes, future: Woken) -> None:
        """Remove a waiter."""
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
        """Remove the waiters that are no longer live: their clean-up was interrupted."""
        for key in list(self._futures):
            live = [future for future in self._futures_of(key) if future in self.live]
            if live:
                self._futures[key] = live
            else:
                del self._futures[key]
        self._sweep_at = max(SWEEP_MIN, 2 * len(self._futures))

    # -- in other threads -------------------------------------------------------------------------

    def check(self, waiting: list[tuple[bytes, Woken]]) -> list[Outcome]:
        """Read the states of new waiters; return the outcomes that are known already."""
        try:
            with self._lock:
                self._idle_since = None
                self._handle.subscribe(self)
        except BaseException as exc:
            # Without a subscription nothing would wake the waiters.
            return [(future, None, raisable(exc)) for _, future in waiting]
        return [(future, True, None) for key, future in waiting if self._is_settled(key)]

    def _is_settled(self, key: bytes) -> bool:
        """Return whether the task of a key is no longer pending."""
        try:
            return self._handle.status(key) not in PENDING
        except Exception:
            return True  # the waiter gets the same error

    def notify(self, changes: list[Change] | None) -> None:
        """Wake the waiters of changed tasks."""
        if self.loop.is_closed():
            self._end()
            return
        keys = list(self._futures) if changes is None else [key for key, _ in changes]
        futures = [future for key in keys for future in self._futures_of(key)]
        if futures:
            self._inbox.deliver([(future, True, None) for future in futures])

    def recheck(self) -> None:
        """Call the loop again if a call was lost; unsubscribe if there are no recent waiters."""
        if self.loop.is_closed():
            self._end()
            return
        self._inbox.call_again()
        if self._lock.acquire(blocking=False):  # otherwise a new waiter is just subscribing
            try:
                if self.live:
                    self._idle_since = None
                elif self._idle_since is None:
                    self._idle_since = monotonic()
                elif monotonic() - self._idle_since >= IDLE_S:
                    self._handle.unsubscribe(self)
            finally:
                self._lock.release()

    def _end(self) -> None:
        self._handle.unsubscribe(self)
        self._futures.clear()
        self.live.clear()

    def _futures_of(self, key: bytes) -> Sequence[Woken]:
        found = self._futures.get(key, ())
        return list(found) if isinstance(found, list | tuple) else (found,)
