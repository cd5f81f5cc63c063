"""The store of a result backend or a schedule source: opened on first use.

Rules:

- One object may be used from several event loops and threads.  Concurrent openings are harmless:
  all handles of a process on one file share a reference-counted engine.
- A forked child opens the store again.  An unpickled object is closed.
- A store that was opened is closed later even if a signal handler raises at any moment.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import logstore
from logstore.aio import AsyncStore

if TYPE_CHECKING:
    from logstore._handle import OpenOptions


class OpensStore:
    """Opens the store at ``path`` when it is needed.  Subclasses begin with :meth:`_forget`."""

    path: str
    _options: OpenOptions
    _pid: int
    _lock: threading.Lock
    _store: AsyncStore | None
    _leaving: set[AsyncStore]  # stores to close

    def _forget(self) -> None:
        """Reset to no store; a forked child must not use the parent's objects."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._store = None
        self._leaving = set()

    def __getstate__(self) -> dict[str, Any]:
        left_out = ("_lock", "_store", "_leaving")
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _open_here(self) -> AsyncStore | None:
        """Return the store if it is open in this process."""
        if self._pid != os.getpid():
            self._forget()
        return self._store

    async def _opened(self) -> AsyncStore:
        """Return the store; opened first if it is not open.  Raises OpenError."""
        store = self._open_here()
        if store is not None:
            return store
        opened = await logstore.open_async(self.path, **self._options)
        self._leaving.add(opened)
        store = self._first(opened)
        if store is not opened:
            await opened.close()
        self._leaving.discard(opened)
        return store

    def _opened_now(self) -> AsyncStore:
        """As :meth:`_opened`, in this thread."""
        store = self._open_here()
        if store is not None:
            return store
        opened = AsyncStore(logstore.open(self.path, **self._options))
        self._leaving.add(opened)
        store = self._first(opened)
        if store is not opened:
            opened._close()
        self._leaving.discard(opened)
        return store

    def _first(self, opened: AsyncStore) -> AsyncStore:
        """Return the store that was opened first, by this or another task or thread."""
        with self._lock:
            if self._store is None or self._store.closed:
                self._store = opened
            return self._store

    async def _close(self) -> None:
        """Close the store; no effect if it is closed."""
        self._open_here()
        with self._lock:
            if self._store is not None:
                self._leaving.add(self._store)
                self._store = None
        for store in list(self._leaving):
            await store.close()
            self._leaving.discard(store)
