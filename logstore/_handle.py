"""The private handle below :class:`~logstore.store.Store` and ``AsyncStore``.

Rules: this module has the private code that both classes share: checking options, encoding values,
building and committing writes, finding entries, subscriptions.  All handles of one process on one
file share an engine.  Every method may be called from any thread.  After a fork, the child's
handles reopen the file on their first use.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Collection
from typing import Any, Literal, TypedDict, TypeVar

from logstore._arguments import positive, task_key
from logstore._codec.hooks import DecHook, EncHook
from logstore._codec.values import decode_value, encode_value
from logstore._codec.weight import Limit
from logstore._engine import registry
from logstore._engine.clock import expiry_us, now_us
from logstore._engine.engine import Engine
from logstore._engine.frames import DELETED, FAILED, PROGRESS, RESULT, Entry
from logstore._engine.messages import Message
from logstore._engine.notify import Subscription
from logstore._engine.overlay import Overlay
from logstore._engine.reading import BaseEngine
from logstore._engine.shelter import sheltered
from logstore._engine.systemerrors import raisable
from logstore._engine.taking import Taker
from logstore._engine.taskstatus import is_known, is_live_result, is_running, missing_result
from logstore._engine.writes import Delete, Pop, Write
from logstore.errors import ReadOnlyError, StoreClosedError
from logstore.progress import TaskProgress, encode_progress
from logstore.types import Status

T = TypeVar("T")

Mode = Literal["rw", "r"]
Sync = Literal["always", "interval"]


class OpenOptions(TypedDict, total=False):
    """The options of :func:`logstore.open`, for functions that pass them on."""

    mode: Mode
    sync: Sync
    sync_interval_s: float
    compact_at: int
    write_timeout_s: float
    result_ttl_s: float | None
    failure_ttl_s: float | None
    progress_ttl_s: float | None
    max_results: int | None
    max_bytes: int | None
    max_value_bytes: int
    accept_log_loss: bool
    force: bool
    enc_hook: EncHook | None
    dec_hook: DecHook | None


class Handle:
    """One user of an engine, with its own options."""

    def __init__(
        self,
        path: str,
        open_lease: Callable[[], registry.Lease],
        *,
        writable: bool,
        sync: bool,
        ttls_s: tuple[float | None, float | None, float | None],
        max_value_bytes: int,
        enc_hook: EncHook | None,
        dec_hook: DecHook | None,
    ) -> None:
        self.path = path
        self._open_lease = open_lease
        self._writable = writable
        self._sync = sync
        self._result_ttl_s, self._failure_ttl_s, self._progress_ttl_s = ttls_s
        self._max_value_bytes = max_value_bytes
        self.enc_hook, self.dec_hook = enc_hook, dec_hook
        self._closing = threading.Lock()  # held while the handle is opened again or closed
        self._lease = open_lease()
        self._engine = self._lease.engine
        _handles.add(self)

    def __del__(self) -> None:
        lease: registry.Lease | None = self.__dict__.get("_lease")  # None: opening has failed
        if lease is not None:
            lease.abandon()

    @property
    def closed(self) -> bool:
        """Whether the handle has been closed."""
        return self._lease.released

    def close(self) -> None:
        """Close the handle as :meth:`Store.close` documents."""
        if not self._lease.released:
            self._engine.refuse_nested()
            sheltered(self._close)

    def _close(self) -> None:
        with self._closing:
            self._lease.release()

    @property
    def engine(self) -> BaseEngine:
        """The engine; reopened in a forked child.  Raises StoreClosedError."""
        engine = self._engine
        if engine.closed or self._lease.released:
            return self._revive()
        return engine

    def current_view(self) -> Overlay | None:
        """Return the data in memory if it is complete; None if a thread must read it.

        Never accesses the disk.  Raises StoreClosedError.
        """
        engine = self._engine
        if not engine.closed and not self._lease.released:
            return engine.current_view()
        if engine.forked and not self._lease.released:
            return None  # :attr:`engine` reopens the file, which must not run on an event loop
        raise engine.closed_error()

    @property
    def writable_engine(self) -> Engine:
        """The engine, if this handle may write.  Raises ReadOnlyError."""
        if not self._writable:
            raise ReadOnlyError(f"{self.path}: opened with mode='r'")
        engine = self.engine
        assert isinstance(engine, Engine)
        return engine

    def _revive(self) -> BaseEngine:
        """Reopen the store in a forked child.  Raises StoreClosedError if it was closed."""
        return sheltered(self._open_again)

    def _open_again(self) -> BaseEngine:
        with self._closing:
            engine = self._engine
            if self._lease.released or (engine.closed and not engine.forked):
                raise StoreClosedError(f"{self.path}: the store is closed")
            if engine.forked:
                self._lease = self._open_lease()
                self._engine = self._lease.engine
            return self._engine

    def result_write(
        self,
        task_id: str,
        value: object,
        ttl_s: float | None = None,
        failed: bool = False,
        limit: Limit = "any",
    ) -> Write:
        """Encode a result; return its write, not yet committed.

        Raises :class:`BudgetExceededError` for a value beyond the ``limit``.
        """
        key = task_key(task_id)
        payload = encode_value(
            value, max_bytes=self._max_value_bytes, enc_hook=self.enc_hook, limit=limit
        )
        default = self._result_ttl_s
        if failed and self._failure_ttl_s is not None:
            default = self._failure_ttl_s
        flags, expires_us = FAILED if failed else 0, _expires_us(ttl_s, default)
        return Write(key, Entry(RESULT, flags, 0, expires_us, payload), sync=self._sync)

    def progress_write(
        self,
        task_id: str,
        progress: TaskProgress,
        ttl_s: float | None = None,
        limit: Limit = "any",
    ) -> Write:
        """Encode progress; return its write, not yet committed; ``limit`` as above."""
        key = task_key(task_id)
        if not isinstance(progress, TaskProgress):
            raise TypeError(f"progress must be a TaskProgress, not {type(progress).__name__}")
        payload = encode_progress(
            progress, max_bytes=self._max_value_bytes, enc_hook=self.enc_hook, limit=limit
        )
        expires_us = _expires_us(ttl_s, self._progress_ttl_s)
        return Write(key, Entry(PROGRESS, 0, 0, expires_us, payload), sync=False)

    def delete_write(self, task_id: str) -> Write:
        """Return the write of a deletion, not yet committed."""
        return Delete(task_key(task_id), Entry(DELETED, 0, 0, 0, b""), sync=True)

    def pop_write(self, task_id: str) -> Write:
        """Return the write of a pop, not yet committed."""
        return Pop(task_key(task_id), Entry(DELETED, 0, 0, 0, b""), sync=True)

    def popped_value(self, write: Write) -> Any:
        """Return the value that a committed pop removed."""
        assert isinstance(write.outcome, Entry)
        return decode_value(write.outcome.payload, self.dec_hook)

    @property
    def taker(self) -> Taker:
        """What takes messages for this process.  Raises as :attr:`writable_engine`."""
        self.writable_engine  # noqa: B018 - reopens the file after a fork
        taker = self._lease.taker
        assert taker is not None
        return taker

    def guard(self) -> None:
        """Begin to look for dead workers in this process."""
        self._lease.guard()

    def take(self, queues: Collection[bytes], make: Callable[[Message], T]) -> T | None:
        """Lease the first message in line of some queues; see :meth:`Taker.take`.

        The lease ends when this handle is closed.  Raises as :attr:`writable_engine`.
        """
        taker = self.taker
        self.guard()
        return taker.take(queues, make, self._lease)

    def encoded(self, value: object, limit: Limit = "any") -> bytes:
        """Encode a value as that of a result; ``limit`` as above."""
        return encode_value(
            value, max_bytes=self._max_value_bytes, enc_hook=self.enc_hook, limit=limit
        )

    def decoded(self, payload: bytes) -> Any:
        """Decode a value as that of a result."""
        return decode_value(payload, self.dec_hook)

    def commit(self, writes: list[Write]) -> None:
        """Commit writes together; raise the first error among them."""
        self.writable_engine.commit_queue.run(writes)
        for write in writes:
            if write.error is not None:
                raise raisable(write.error)

    def result_entry(self, key: bytes) -> Entry:
        """Return the live result of a key.  Raises the errors of :meth:`Store.get_result`."""
        entry = self.engine.find_trace(key)
        if entry is not None and is_live_result(entry, now_us()):
            return entry
        raise missing_result(key, entry)

    def result_entries(self, keys: list[bytes]) -> list[Entry | BaseException]:
        """Return the live result of each key, or the error that :meth:`result_entry` raises."""
        found: list[Entry | BaseException] = []
        at_us = now_us()
        for key, entry in zip(keys, self.engine.find_traces(keys), strict=True):
            if isinstance(entry, Exception) or (entry and is_live_result(entry, at_us)):
                found.append(entry)
            else:
                found.append(missing_result(key, entry))
        return found

    def subscribe(self, subscription: Subscription) -> None:
        """Start to report changes to a subscription; may access the disk."""
        self.engine  # noqa: B018 - reopens the file after a fork
        self._lease.notifier.subscribe(subscription)

    def unsubscribe(self, subscription: Subscription) -> None:
        """Stop reporting changes; no effect if it is not subscribed."""
        self._lease.notifier.unsubscribe(subscription)

    # -- states ---------------------------------------------------------------------------------

    def status(self, key: bytes) -> Status:
        """Return the status of a key; see :meth:`Store.status`."""
        now = now_us()
        entry = self.engine.find_trace(key)
        if is_live_result(entry, now):
            return "ready"
        if is_running(entry, self.engine.find_progress(key), now):
            return "running"
        if not is_known(entry):
            return "unknown"
        return "deleted" if entry is not None and entry.kind == DELETED else "expired"

    def is_settled(self, key: bytes) -> bool:
        """Return whether there is a result.  Raises ResultIsMissingError if it was removed."""
        status = self.status(key)
        if status in ("deleted", "expired"):
            self.result_entry(key)
        return status == "ready"


def _expires_us(ttl_s: float | None, default_s: float | None) -> int:
    if ttl_s is None:
        return expiry_us(default_s)
    positive("ttl_s", ttl_s)
    return expiry_us(ttl_s)


_handles: weakref.WeakSet[Handle] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for handle in _handles:
        handle._closing = threading.Lock()  # a thread of the parent may have held the old one


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
