"""Push notification: who waits for results or watches tasks, and who tells them.

Rules: one daemon thread per engine, started by the first waiter and parked while there is none.
It sleeps on the shared header's sequence word, which every publication of any process changes, so
nobody polls.  Waiting for a result is level-triggered: whatever was missed, the state itself is
asked again.  Watchers get every result and deletion; of progress they may get only the newest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container
from typing import NamedTuple

from logstore.engine import osdep
from logstore.engine.failures import start_thread
from logstore.engine.frames import Entry
from logstore.engine.header import SEQUENCE, SharedHeader
from logstore.engine.overlay import Overlay
from logstore.engine.reading import Reading

TIMEOUT_S = 0.5  # how long a sleep lasts at most: bounds what a lost wake-up costs

Change = tuple[bytes, Entry]


class Subscription:
    """A callback for the changes of some keys, or of all (None).

    ``tell`` is called on the notifier's thread with changed keys and entries, in the order of
    their times, or with None when the state is to be looked at; it must not block.  A frozenset
    of keys is looked up by key; another container is asked at each change and may grow and
    shrink while it is subscribed, so one subscription can serve many waiters.
    """

    __slots__ = ("keys", "since_us", "tell")

    def __init__(
        self, keys: Container[bytes] | None, tell: Callable[[list[Change] | None], None]
    ) -> None:
        self.keys = keys
        self.tell = tell
        self.since_us = 0  # only what is newer is told


class _Position(NamedTuple):
    """How far changes have been told."""

    overlay: Overlay
    told: int  # of the overlay's changes
    time_us: int  # of the last change before it


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
        self._position: _Position | None = None  # None while nobody subscribes
        self._processors: set[int] | None = None

    def subscribe(self, subscription: Subscription) -> None:
        """Begin to tell.  Check the state after this returns: what was before is not told.

        May read from the disk.
        """
        now = self._newest_position()
        subscription.since_us = now.time_us
        self._processors = osdep.unbound()
        with self._lock:
            if self._thread is None and self._header is not None and not self._stopped:
                thread = threading.Thread(
                    target=self._run, args=(self._header,), name="logstore-notifier", daemon=True
                )
                start_thread(self._engine.path, thread)  # if it cannot be, nothing has been changed
                self._thread = thread
            if not isinstance(subscription.keys, frozenset):
                self._to_all.append(subscription)
            else:
                for key in subscription.keys:
                    self._by_key.setdefault(key, []).append(subscription)
            if self._position is None:
                self._position = now
            self._wanted.set()

    def _newest_position(self) -> _Position:
        """Behind everything published before this call."""
        while True:
            overlay = self._engine.view()
            index = len(overlay.changed)
            if index:
                return _Position(overlay, index, overlay.changed[index - 1][1].time_us)
            time_us = self._engine.from_table(lambda table: table.newest_time_us())
            if self._engine.view() is overlay:
                return _Position(overlay, 0, time_us)

    def unsubscribe(self, subscription: Subscription) -> None:
        """Tell no more; no effect if it is not told."""
        if self._engine.forked:
            return  # the thread is not there, and the lock may be held for ever
        with self._lock:
            if not isinstance(subscription.keys, frozenset):
                if subscription in self._to_all:
                    self._to_all.remove(subscription)
            else:
                for key in subscription.keys:
                    others = self._by_key.get(key, [])
                    if subscription in others:
                        others.remove(subscription)
                        if not others:
                            del self._by_key[key]
            if not self._to_all and not self._by_key:
                self._wanted.clear()
                self._position = None

    def stop(self) -> None:
        """End the thread."""
        with self._lock:
            self._stopped = True
            self._wanted.set()
            thread, header = self._thread, self._header
        if thread is not None and header is not None:
            header.count(SEQUENCE)
            header.publications.wake()
            if thread.ident != threading.get_ident():
                thread.join()

    def tell_all_to_look(self) -> None:
        """Have every waiter look at the state for itself."""
        with self._lock:
            everybody = {id(s): s for subs in self._by_key.values() for s in subs}
            everybody.update((id(s), s) for s in self._to_all)
        for subscription in everybody.values():
            _tell(subscription, None)

    def _run(self, header: SharedHeader) -> None:
        osdep.run_on(self._processors)
        while not self._stopped:
            if not self._wanted.is_set():
                self._wanted.wait()
                continue
            seen = header.words32[SEQUENCE]
            try:
                self._tell_changes()
            except Exception:
                # Whoever waits meets the same error when it looks for itself.
                self.tell_all_to_look()
            if not self._stopped:
                header.wait_for_publication(seen, TIMEOUT_S)

    def _tell_changes(self) -> None:
        with self._lock:
            before = self._position
        if before is None:
            return
        overlay = self._engine.view()
        end = len(overlay.changed)
        if overlay is before.overlay:
            if end == before.told:
                return
            new = overlay.changed[before.told : end]
        else:
            new = self._across_epochs(before, overlay, end)
        after = _Position(overlay, end, new[-1][1].time_us if new else before.time_us)
        with self._lock:
            if self._position is before:
                self._position = after
        self._dispatch(new)

    def _across_epochs(self, before: _Position, overlay: Overlay, end: int) -> list[Change]:
        """The rest of the old epoch, what came between and is in the table only, the new epoch.

        Times grow with the log, so each change is told once.
        """
        changes = [
            *before.overlay.changed[before.told :],
            *self._engine.from_table(lambda table: table.changes_since(before.time_us)),
            *overlay.changed[:end],
        ]
        new = {entry.time_us: (key, entry) for key, entry in changes}
        return [new[time_us] for time_us in sorted(new) if time_us > before.time_us]

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
            keys, since_us = subscription.keys, subscription.since_us
            newer = [
                change
                for change in changes
                if change[1].time_us > since_us and (keys is None or change[0] in keys)
            ]
            if newer:
                _tell(subscription, newer)
        for subscription, own in by_subscription.values():
            _tell(subscription, [c for c in own if c[1].time_us > subscription.since_us])


def _tell(subscription: Subscription, changes: list[Change] | None) -> None:
    """Call a subscriber; an error of one is not the others' business."""
    try:
        subscription.tell(changes)
    except Exception:
        import logging  # rarely needed, and not quickly imported

        logging.getLogger(__name__).exception("a subscriber of the store failed")
