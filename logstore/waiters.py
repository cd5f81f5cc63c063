"""Tasks of one event loop that wait for results, behind one subscription.

Rules: everything here is touched on its loop only, but for the dictionary of futures, in which the
notifier's thread looks up keys.  A waiter enters before it looks at the state, so that nothing is
missed.  A change wakes the waiters of its task and no others.  The subscription of a loop that has
been closed is left by whoever notices.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

from logstore.engine.failures import raisable
from logstore.engine.notify import Change, Subscription
from logstore.handover import call_soon
from logstore.store import Store

T = TypeVar("T")

IDLE_S = 1.0  # how long the subscription is kept when nobody waits any more

PENDING = frozenset(("unknown", "running"))

Woken = asyncio.Future[bool]  # True: something has changed; False: the time is up


class InThread(Protocol):
    """Runs a job in a thread."""

    def __call__(self, job: Callable[[], T], /) -> Awaitable[T]:
        """What the job returns."""
        ...


class Waiters:
    """The waiting tasks of a loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, store: Store, in_thread: InThread) -> None:
        self.loop = loop
        self._store = store
        self._in_thread = in_thread
        self._futures: dict[bytes, Woken | list[Woken]] = {}
        self._subscription = Subscription(self._futures, self._tell)
        self._subscribed = False
        self._unlooked: list[bytes] = []  # entered, and their state not looked at yet
        self._looking: asyncio.Task[None] | None = None

    def enter(self, key: bytes) -> Woken:
        """A future that is resolved when a task has or had a result; :meth:`leave` is owed.

        It may be resolved too early: :meth:`renew` it, and look at the state.
        """
        self._unlooked.append(key)
        if self._looking is None:
            self._looking = self.loop.create_task(self._look())
        return self._add(key)

    def renew(self, key: bytes, future: Woken) -> Woken:
        """The next future of a waiter, who looks at the state only now: nothing is missed."""
        self.leave(key, future)
        return self._add(key)

    def leave(self, key: bytes, future: Woken) -> None:
        """Wait no longer."""
        others = self._futures.get(key)
        if others is future:
            del self._futures[key]
        elif isinstance(others, list):
            if future in others:
                others.remove(future)
            if not others:
                del self._futures[key]

    def leave_closed_loop(self) -> None:
        """Leave the subscription of a loop that is closed; from any thread, any number of times."""
        self._store.unsubscribe(self._subscription)

    async def _look(self) -> None:
        """Subscribe if need be, then look at the states of all who have entered, together."""
        woken: list[bytes] | None = None
        try:
            if not self._subscribed:
                await subscribe_in_thread(self._store, self._subscription, self._in_thread)
                self._subscribed = True
                self.loop.call_later(IDLE_S, self._leave_if_idle)
            while self._unlooked:
                keys, self._unlooked = self._unlooked, []
                woken = await self._in_thread(partial(self._settled, keys))
                self._wake(woken)
        except Exception as exc:
            if self._subscribed:
                self._wake(None)  # each waiter meets the error itself
            else:
                self._fail(exc)  # nobody would ever wake them
        finally:
            self._looking = None

    def _settled(self, keys: list[bytes]) -> list[bytes]:
        """Those of whom there is more to say than that nothing has come; runs in a thread."""
        return [key for key in keys if self._store.status(key.decode()) not in PENDING]

    def _add(self, key: bytes) -> Woken:
        future: Woken = self.loop.create_future()
        others = self._futures.get(key)
        if others is None:
            self._futures[key] = future
        elif isinstance(others, list):
            others.append(future)
        else:
            self._futures[key] = [others, future]
        return future

    def _leave_if_idle(self) -> None:
        # While states are looked at, others may have entered who count on the subscription.
        if self._looking is not None or (self._futures and not self._store.closed):
            self.loop.call_later(IDLE_S, self._leave_if_idle)
        else:
            self._subscribed = False
            self._store.unsubscribe(self._subscription)

    def _tell(self, changes: list[Change] | None) -> None:
        if self.loop.is_closed():
            self.leave_closed_loop()
            return
        keys = None if changes is None else [key for key, _ in changes]
        call_soon(self.loop, lambda: self._wake(keys))

    def _wake(self, keys: list[bytes] | None) -> None:
        for key in list(self._futures) if keys is None else keys:
            for future in self._futures_of(key):
                set_once(future, True)

    def _fail(self, error: Exception) -> None:
        self._unlooked.clear()
        for key in list(self._futures):
            for future in self._futures_of(key):
                if not future.done():
                    future.set_exception(raisable(error))

    def _futures_of(self, key: bytes) -> Sequence[Woken]:
        found = self._futures.get(key, ())
        return found if isinstance(found, list | tuple) else (found,)


def set_once(future: Woken, value: bool) -> None:
    """Resolve a future that may be resolved or cancelled already."""
    if not future.done():
        future.set_result(value)


async def subscribe_in_thread(
    store: Store, subscription: Subscription, in_thread: InThread
) -> None:
    """Subscribe in a thread; neither a cancelled caller nor a loop that is closed stays told."""
    loop = asyncio.get_running_loop()

    def subscribe() -> None:
        store.subscribe(subscription)
        if loop.is_closed():
            store.unsubscribe(subscription)

    def leave(entered: asyncio.Future[None]) -> None:
        if not entered.cancelled() and entered.exception() is None:
            store.unsubscribe(subscription)

    entering = asyncio.ensure_future(in_thread(subscribe))
    try:
        await asyncio.shield(entering)
    except asyncio.CancelledError:
        entering.add_done_callback(leave)
        raise
