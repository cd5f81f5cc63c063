"""Watching a store: the iterator of events, and what stands behind it.

Rules: the notifier's thread puts changes in and never waits; whoever iterates takes events out.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NoReturn

from logstore.arguments import task_key
from logstore.engine.frames import DELETED, EXPIRED, FAILED, PROGRESS, RESULT, Entry
from logstore.engine.listing import utc
from logstore.engine.notify import Change, Subscription
from logstore.types import Event, EventKind

if TYPE_CHECKING:
    from logstore.store import Store


class Watch:
    """The iterator of :meth:`Store.watch`; may be closed from another thread."""

    def __init__(self, store: Store, task_id: str | None) -> None:
        keys = None if task_id is None else frozenset((task_key(task_id),))
        self._pending = PendingEvents()
        self._news = threading.Semaphore(0)
        self._store = store
        self._ended = False
        self._subscription = Subscription(keys, self._tell)
        store.subscribe(self._subscription)

    def _tell(self, changes: list[Change] | None) -> None:
        if changes:
            self._pending.add(changes)
        self._news.release()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Watch can be neither pickled nor copied; begin one where it is needed")

    def __iter__(self) -> Watch:
        return self

    def __next__(self) -> Event:
        while True:
            event = self._pending.take()
            if event is not None:
                return event
            if self._ended or self._store.closed:
                self.close()
                raise StopIteration
            self._news.acquire()

    def close(self) -> None:
        """End the iteration; a thread that waits in it gets StopIteration."""
        if not self._ended:
            self._ended = True
            self._store.unsubscribe(self._subscription)
        self._news.release()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PendingEvents:
    """Events not taken yet; a task's newer progress replaces the one that waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: dict[object, Event] = {}

    def add(self, changes: list[Change]) -> None:
        """Put the events of changes behind those that wait."""
        with self._lock:
            for key, entry in changes:
                event = _event(key, entry)
                if event is not None:
                    slot = key if event.kind == "progress" else (key, entry.time_us)
                    self._events[slot] = event

    def take(self) -> Event | None:
        """The oldest event, None if there is none."""
        with self._lock:
            for slot in self._events:
                return self._events.pop(slot)
        return None


_EVENT_KINDS: dict[int, EventKind] = {
    RESULT: "result",
    PROGRESS: "progress",
    DELETED: "deleted",
    EXPIRED: "expired",
}


def _event(key: bytes, entry: Entry) -> Event | None:
    kind = _EVENT_KINDS.get(entry.kind)
    if kind is None:
        return None
    return Event(key.decode(), kind, utc(entry.time_us), bool(entry.flags & FAILED))
