"""Watching a store: the iterator of events and its queue.

Rules: the notifier's thread adds changes and never waits.  The iterator takes events in the order
of their times.  An event is dropped only after it has been returned, so that an exception from a
signal handler loses no event.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NoReturn

from logstore._arguments import task_key
from logstore._engine.frames import DELETED, EXPIRED, FAILED, PROGRESS, RESULT, Entry
from logstore._engine.listing import utc
from logstore._engine.notify import Change, Subscription
from logstore._engine.threads import Signal
from logstore.types import Event, EventKind

if TYPE_CHECKING:
    from logstore._handle import Handle


class Watch:
    """The iterator of :meth:`Store.watch`.  Any thread may close it."""

    def __init__(self, handle: Handle, task_id: str | None) -> None:
        self._handle = handle
        self._ended = False
        self._returned: Event | None = None  # the last event, which may still be pending
        self._following = _Following(handle, task_id)
        handle.subscribe(self._following)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Watch can be neither pickled nor copied; start one where it is needed")

    def __iter__(self) -> Watch:
        return self

    def __next__(self) -> Event:
        pending, news = self._following.pending, self._following.news
        if self._returned is not None:
            pending.drop(self._returned)
            self._returned = None
        while True:
            event = pending.first()
            if event is not None:
                self._returned = event
                return event
            if self._ended or self._handle.closed:
                self.close()
                raise StopIteration
            news.wait()

    def close(self) -> None:
        """End the iteration; a thread that waits for an event gets StopIteration."""
        self._ended = self._following.ended = True
        self._following.news.set()
        self._handle.unsubscribe(self._following)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Waiter(Subscription):
    """The subscription of a thread that waits for changes of some tasks, or for the close."""

    __slots__ = ("_handle", "news")

    def __init__(self, handle: Handle, keys: frozenset[bytes] | None) -> None:
        super().__init__(keys)
        self._handle = handle
        self.news = Signal()

    def notify(self, changes: list[Change] | None) -> None:
        """Wake the thread."""
        self.news.set()

    def recheck(self) -> None:
        """Wake the thread if the store was closed."""
        if self._handle.closed:
            self.news.set()


class _Following(Waiter):
    """The subscription of a watch.  A separate object, so that an unused watch can be collected."""

    __slots__ = ("pending",)

    def __init__(self, handle: Handle, task_id: str | None) -> None:
        super().__init__(handle, watched_keys(task_id))
        self.pending = PendingEvents()

    def notify(self, changes: list[Change] | None) -> None:
        if changes:
            self.pending.add(changes)
        super().notify(changes)


def watched_keys(task_id: str | None) -> frozenset[bytes] | None:
    """Return the key of one task, or None for all tasks."""
    return None if task_id is None else frozenset((task_key(task_id),))


class PendingEvents:
    """Events that were not returned yet, in the order of their times.

    New progress of a task replaces its pending progress event and goes to the end of the queue.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: dict[object, Event] = {}

    def add(self, changes: list[Change]) -> None:
        """Append the events of changes."""
        with self._lock:
            for key, entry in changes:
                event = _event(key, entry)
                if event is not None:
                    slot = _slot(event)
                    self._events.pop(slot, None)
                    self._events[slot] = event

    def first(self) -> Event | None:
        """Return the oldest event, None if there is none; :meth:`drop` it after use."""
        with self._lock:
            return next(iter(self._events.values()), None)

    def drop(self, event: Event) -> None:
        """Remove an event, unless a newer one has replaced it."""
        with self._lock:
            if self._events.get(_slot(event)) is event:
                del self._events[_slot(event)]


def _slot(event: Event) -> object:
    return event.task_id if event.kind == "progress" else (event.task_id, event.time)


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
