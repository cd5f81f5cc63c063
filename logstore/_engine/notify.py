"""Push notification of waiters for results and of watchers.

Rules: one daemon thread per engine, started by the first subscription and parked while there is
none.  It sleeps on the sequence word of the shared header, which every publication of any process
changes, so nothing polls.  Waiting for a result is level-triggered: waiters read the state itself,
so a lost notification is harmless.  Watchers get every result and deletion; of progress they may
get only the newest.

The notifier has only a weak reference to a subscription.  So none remains if an exception
interrupts its subscriber, wherever that happens.  A notification may be lost for the same reason:
subscribers recheck every half second.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Container
from time import monotonic
from typing import NamedTuple

from logstore._engine import threads
from logstore._engine.frames import KEEPS_PROGRESS, PROGRESS, Entry
from logstore._engine.header import SharedHeader
from logstore._engine.overlay import Overlay
from logstore._engine.reading import BaseEngine

TIMEOUT_S = 0.5  # the longest sleep: it bounds the cost of a lost wake-up

Change = tuple[bytes, Entry]


class Subscription:
    """A subscription to the changes of some keys, or of all (None).

    A frozenset of keys is looked up by key; another container is asked at each change and may grow
    and shrink while it is subscribed, so one subscription can serve many waiters.  The methods are
    called on the notifier's thread, and must not block.  A subscriber sets ``ended`` before it
    unsubscribes, in case unsubscribing is interrupted.
    """

    __slots__ = ("__weakref__", "ended", "keys", "since_us")

    def __init__(self, keys: Container[bytes] | None) -> None:
        self.keys = keys
        self.ended = False
        self.since_us = 0  # only newer changes are passed on

    def notify(self, changes: list[Change] | None) -> None:
        """Take changed keys and entries, in the order of their times; None: read the state."""
        raise NotImplementedError

    def recheck(self) -> None:
        """Make up for a lost call of :meth:`notify`; called every half second or so."""


class _Reference(weakref.ref[Subscription]):
    """The notifier's reference to a subscription, and the keys under which it is found."""

    __slots__ = ("keys",)

    keys: frozenset[bytes] | None

    def __new__(
        cls, subscription: Subscription, ended: Callable[[weakref.ref[Subscription]], object]
    ) -> _Reference:
        reference = super().__new__(cls, subscription, ended)
        keys = subscription.keys
        reference.keys = keys if isinstance(keys, frozenset) else None
        return reference

    def __init__(self, *_: object) -> None:
        pass


class _Position(NamedTuple):
    """How far changes have been passed on."""

    overlay: Overlay
    seen: int  # how many of the overlay's changes
    time_us: int  # of the last change before it


class Notifier:
    """The thread that sleeps until a publication and notifies the subscribers."""

    def __init__(self, engine: BaseEngine, header: SharedHeader | None) -> None:
        """Make a notifier; without a ``header`` nothing changes, and waits only time out."""
        self._engine = engine
        self._header = header
        self._lock = threading.Lock()
        self._by_key: dict[bytes, list[_Reference]] = {}
        self._to_all: list[_Reference] = []
        self._collected: deque[weakref.ref[Subscription]] = deque()  # whose subscriptions are gone
        self._position: _Position | None = None  # None while there are no subscriptions
        self._serving = threading.Lock()  # held by the thread while it runs
        self._thread: threading.Thread | None = None
        self._wanted = threads.Signal()
        self._stopped = False

    def subscribe(self, subscription: Subscription) -> None:
        """Begin to notify.  Read the state after this returns: earlier changes are not passed on.

        May read from the disk.  Has no effect if it is subscribed already.
        """
        with self._lock:
            if self._has(subscription):
                return
        now = self._newest_position()
        subscription.since_us = now.time_us
        if not self._serving.locked() and not self._stopped:
            threads.start(self._serve, "logstore-notifier", self._engine.path)
        with self._lock:
            reference = _Reference(subscription, self._collected.append)
            if reference.keys is None:
                self._to_all.append(reference)
            else:
                for key in reference.keys:
                    self._by_key[key] = [*self._by_key.get(key, ()), reference]
            if self._position is None:
                self._position = now
        self._wanted.set()

    def _has(self, subscription: Subscription) -> bool:
        keys = subscription.keys
        if not isinstance(keys, frozenset):
            return weakref.ref(subscription) in self._to_all
        reference = weakref.ref(subscription)
        return any(reference in self._by_key.get(key, ()) for key in keys)

    def _newest_position(self) -> _Position:
        """Return the position after everything published before this call."""
        while True:
            overlay = self._engine.view()
            index = len(overlay.changed)
            if index:
                return _Position(overlay, index, overlay.changed[index - 1][1].time_us)
            sealed_us = overlay.last_time_us()
            if sealed_us:
                return _Position(overlay, 0, sealed_us)
            time_us = self._engine.from_table(lambda table: table.newest_time_us())
            if self._engine.view() is overlay:
                return _Position(overlay, 0, time_us)

    def unsubscribe(self, subscription: Subscription) -> None:
        """End notifications; without effect if it is not subscribed."""
        if self._engine.forked:
            return  # there is no thread in a forked child, and the lock may be held forever
        keys = subscription.keys
        with self._lock:
            self._forget(weakref.ref(subscription), keys if isinstance(keys, frozenset) else None)

    def _forget(self, reference: weakref.ref[Subscription], keys: frozenset[bytes] | None) -> None:
        """Remove a subscription; references to the same live subscription are equal.

        Wherever this is interrupted, no empty list remains.
        """
        if keys is None:
            self._to_all = [other for other in self._to_all if other != reference]
        else:
            for key in keys:
                rest = [other for other in self._by_key.get(key, ()) if other != reference]
                if rest:
                    self._by_key[key] = rest
                elif key in self._by_key:
                    del self._by_key[key]
        if not self._to_all and not self._by_key:
            self._position = None

    def stop(self) -> None:
        """End the thread and wait for it, unless it is the caller."""
        self._stopped = True
        self._wanted.set()
        if self._header is not None:
            self._header.sequence.add_one()
            self._header.sequence.wake()
        if self._thread is None or self._thread.ident != threading.get_ident():
            with self._serving:
                pass

    def notify_all(self) -> None:
        """Have every subscriber read the state."""
        for subscription in self._subscribers():
            _call(subscription.notify, None)

    def _subscribers(self) -> list[Subscription]:
        with self._lock:
            references = list(self._to_all)
            for others in self._by_key.values():
                references += others
        living = [subscription for reference in references if (subscription := reference())]
        return list({id(subscription): subscription for subscription in living}.values())

    # -- in the thread ----------------------------------------------------------------------------

    def _serve(self) -> None:
        if not self._serving.acquire(blocking=False):
            return  # two threads were started at the same time
        try:
            self._thread = threading.current_thread()
            self._work()
        finally:
            self._serving.release()
            self.notify_all()

    def _work(self) -> None:
        looked_at = monotonic()
        while not self._stopped and not self._engine.closed:
            try:
                if not self._is_wanted():
                    self._wanted.wait()
                    continue
                seen = 0 if self._header is None else self._header.sequence.value
                try:
                    self._notify_changes()
                except Exception:
                    # Waiters get the same error when they read the state.
                    self.notify_all()
                if monotonic() - looked_at >= TIMEOUT_S:
                    self._recheck()
                    looked_at = monotonic()
                if self._header is None:
                    self._wanted.wait(TIMEOUT_S)
                elif not self._stopped:
                    self._header.wait_for_publication(seen, TIMEOUT_S)
            except Exception:
                self._wanted.wait(TIMEOUT_S)  # such as a lack of memory, which may be temporary

    def _recheck(self) -> None:
        for subscription in self._subscribers():
            if subscription.ended:
                self.unsubscribe(subscription)
            else:
                _call(subscription.recheck)

    def _is_wanted(self) -> bool:
        """Return whether there are subscriptions; forget those that were collected."""
        with self._lock:
            while self._collected:
                reference = self._collected.popleft()
                assert isinstance(reference, _Reference)
                self._forget(reference, reference.keys)
            return bool(self._to_all or self._by_key)

    def _notify_changes(self) -> None:
        with self._lock:
            before = self._position
        if before is None:
            return
        overlay = self._engine.view()
        if overlay is before.overlay:
            end = len(overlay.changed)
            new = overlay.changed[before.seen : end]
            if not new:
                return
        else:
            overlay, end, new = self._across_epochs(before)
        after = _Position(overlay, end, new[-1][1].time_us if new else before.time_us)
        with self._lock:
            if self._position is before:
                self._position = after
        self._dispatch(_with_running_again(new))

    def _across_epochs(self, before: _Position) -> tuple[Overlay, int, list[Change]]:
        """Return the new overlay, how many of its changes count, and all changes up to there.

        They are the rest of the old epoch, changes that are in the table only, and those of the
        new overlay and what is sealed behind it.  Times only grow, so each change is passed on
        once.  Changes that are in both the table and an overlay come from the overlay, which has
        more than the newest of each task.
        """
        while True:
            overlay = self._engine.view()
            sealed = overlay.sealed
            in_table = self._engine.from_table(lambda table: table.changes_since(before.time_us))
            if self._engine.view() is overlay:
                break
        end = len(overlay.changed)
        in_memory = [*(sealed.changed if sealed else ()), *overlay.changed[:end]]
        if in_memory:
            first_us = in_memory[0][1].time_us
            in_table = [change for change in in_table if change[1].time_us < first_us]
        changes = [*before.overlay.changed[before.seen :], *in_table, *in_memory]
        new = {
            (entry.time_us, entry.kind): (key, entry)
            for key, entry in changes
            if entry.time_us > before.time_us
        }
        return overlay, end, sorted(new.values(), key=lambda change: change[1].time_us)

    def _dispatch(self, changes: list[Change]) -> None:
        with self._lock:
            to_all = list(self._to_all)
            own: dict[int, tuple[Subscription, list[Change]]] = {}
            if self._by_key:
                for change in changes:
                    for reference in self._by_key.get(change[0], ()):
                        subscription = reference()
                        if subscription is not None:
                            own.setdefault(id(subscription), (subscription, []))[1].append(change)
        for reference in to_all:
            subscription = reference()
            if subscription is not None:
                keys = subscription.keys
                wanted = changes if keys is None else [c for c in changes if c[0] in keys]
                _notify(subscription, wanted)
        for subscription, wanted in own.values():
            _notify(subscription, wanted)


def _with_running_again(changes: list[Change]) -> list[Change]:
    """Add progress behind the end of a result whose task runs again.

    Its own progress is older than the removal of the expired result.
    """
    found: list[Change] = []
    for key, entry in changes:
        found.append((key, entry))
        if entry.flags & KEEPS_PROGRESS:
            found.append((key, Entry(PROGRESS, 0, entry.time_us, 0, b"")))
    return found


def _notify(subscription: Subscription, changes: list[Change]) -> None:
    newer = [change for change in changes if change[1].time_us > subscription.since_us]
    if newer:
        _call(subscription.notify, newer)


def _call(call: Callable[..., None], *args: object) -> None:
    """Call a subscriber; log its error, so that the others are still called."""
    try:
        call(*args)
    except Exception:
        import logging  # rarely needed, and not quickly imported

        logging.getLogger(__name__).exception("a subscriber of the store failed")
