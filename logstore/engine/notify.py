"""Push notification: who waits for results or watches tasks, and who tells them.

Rules: one daemon thread per engine, started by the first waiter and parked while there is none.
It sleeps on the shared header's sequence word, which every publication of any process changes, so
nobody polls.  Waiting for a result is level-triggered: whatever was missed, the state itself is
asked again.  Watchers get every result and deletion; of progress they may get only the newest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from logstore.engine.frames import Entry
from logstore.engine.header import SharedHeader
from logstore.engine.overlay import Overlay
from logstore.engine.reading import Reading
from logstore.engine.table import Table
from logstore.errors import LogstoreError

TIMEOUT_S = 0.5  # how long a sleep lasts at most: bounds what a lost wake-up costs

Change = tuple[bytes, Entry]


class Subscription:
    """A callback for the changes of some keys, or of all.

    ``tell`` is called on the notifier's thread with the changed keys and entries, or with None
    when changes may have been missed; it must not block.
    """

    __slots__ = ("keys", "tell")

    def __init__(
        self, keys: frozenset[bytes] | None, tell: Callable[[list[Change] | None], None]
    ) -> None:
        self.keys = keys
        self.tell = tell


class Notifier:
    """The thread that sleeps on publications and tells the subscribers."""

    def __init__(self, engine: Reading, header: SharedHeader | None) -> None:
        """``header`` None: nothing ever changes, waiters only meet their time-outs."""
        self._engine = engine
        self._header = header
        self._lock = threading.Lock()
        self._by_key: dict[bytes, list[Subscription]] = {}
        self._to_all: list[Subscription] = []
        self._wanted = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._view: Overlay | None = None
        self._position = 0
        self._seen_us = 0

    def subscribe(self, subscription: Subscription) -> None:
        """Begin to tell.  Check the state after this returns: what was before is not told."""
        with self._lock:
            if subscription.keys is None:
                self._to_all.append(subscription)
            else:
                for key in subscription.keys:
                    self._by_key.setdefault(key, []).append(subscription)
            if self._thread is None and self._header is not None:
                self._view = self._engine.view()
                self._position = len(self._view.changed)
                self._seen_us = self._engine.last_time_us()
                self._thread = threading.Thread(
                    target=self._run, name="logstore-notifier", daemon=True
                )
                self._thread.start()
            self._wanted.set()

    def unsubscribe(self, subscription: Subscription) -> None:
        """Tell no more."""
        with self._lock:
            if subscription.keys is None:
                self._to_all.remove(subscription)
            else:
                for key in subscription.keys:
                    others = self._by_key[key]
                    others.remove(subscription)
                    if not others:
                        del self._by_key[key]
            if not self._to_all and not self._by_key:
                self._wanted.clear()

    def stop(self) -> None:
        """End the thread; every subscriber is told to look, and finds the store closed."""
        self._stopped = True
        self._wanted.set()
        thread = self._thread
        header = self._header
        if thread is not None and header is not None:
            header.sequence.value += 1
            header.sequence.wake()
            if thread is not threading.current_thread():
                thread.join()

    def tell_all_to_look(self) -> None:
        """After the store was closed: let every waiter find out."""
        for subscription in self._everybody():
            subscription.tell(None)

    def _everybody(self) -> list[Subscription]:
        with self._lock:
            return [*self._to_all, *(s for subs in self._by_key.values() for s in subs)]

    def _run(self) -> None:
        header = self._header
        assert header is not None
        while not self._stopped:
            if not self._wanted.is_set():
                self._wanted.wait()
                continue
            seen = header.sequence.value
            try:
                self._tell_changes()
            except LogstoreError:
                # Whoever waits meets the same error when it looks for itself.
                for subscription in self._everybody():
                    subscription.tell(None)
            if self._stopped:
                break
            header.wait_for_publication(seen, TIMEOUT_S)

    def _tell_changes(self) -> None:
        engine = self._engine
        view, old = engine.view(), self._view
        if view is old and len(view.changed) == self._position:
            return
        changes: list[Change] = []
        if old is not None:
            changes += old.changed[self._position :]  # of an old epoch: its rest
        if view is not old:
            # What came between is in the table only; waiters look for themselves.
            changes += engine.from_table(partial(Table.changes_since, time_us=self._seen_us))
            changes += view.changed
            self._tell_everybody_to_look()
        self._view = view
        # Times grow with the log, so what has not been told yet is what is newer.
        new = {entry.time_us: (key, entry) for key, entry in changes}
        times = sorted(time_us for time_us in new if time_us > self._seen_us)
        # What is appended meanwhile is told next time, as it is newer still.
        self._position = len(view.changed)
        while self._position and view.changed[self._position - 1][1].time_us > max(
            times, default=self._seen_us
        ):
            self._position -= 1
        if times:
            self._seen_us = times[-1]
            self._dispatch([new[time_us] for time_us in times])

    def _tell_everybody_to_look(self) -> None:
        with self._lock:
            waiters = {id(s): s for subs in self._by_key.values() for s in subs}
        for subscription in waiters.values():
            subscription.tell(None)

    def _dispatch(self, changes: list[Change]) -> None:
        with self._lock:
            to_all = list(self._to_all)
            by_subscription: dict[int, tuple[Subscription, list[Change]]] = {}
            if self._by_key:
                for change in changes:
                    for subscription in self._by_key.get(change[0], ()):
                        by_subscription.setdefault(id(subscription), (subscription, []))[1].append(
                            change
                        )
        for subscription in to_all:
            subscription.tell(changes)
        for subscription, own in by_subscription.values():
            subscription.tell(own)
