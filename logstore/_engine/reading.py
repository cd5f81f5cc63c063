"""The reading half of an engine: the overlay first, then the table.

Rules: a read takes the view, looks into its overlay, and only on a miss into the table.  In that
order a concurrent compaction is harmless: the table has the same values before the epoch changes.
A recovery may put more into it, so a read beside one that finds its view old begins again.  The
table returns copies; nothing of a transaction outlives the call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, TypeVar

from logstore._engine.commitqueue import nested_error
from logstore._engine.counters import Counters
from logstore._engine.frames import DELETED, HAD_RESULT, RESULT, Entry
from logstore._engine.options import Options
from logstore._engine.overlay import Overlay
from logstore._engine.records import Record
from logstore._engine.table import LISTING_KEYS, Table
from logstore.errors import CorruptRecordError, StoreClosedError

T = TypeVar("T")


class LogState(NamedTuple):
    """How far the logs go."""

    epoch: int
    committed: int  # the end of what is published
    synced: int  # the end of what is on the disk
    sealed_end: int  # of the log of the epoch before, 0 if the table has that


class BaseEngine(ABC):
    """The common part of the engine and of the one for files at rest."""

    def __init__(self, path: str, options: Options, table: Table, counters: Counters) -> None:
        self.path = path
        self.options = options
        self.table = table
        self.counters = counters
        self.seed = table.seed
        self.incarnation = table.meta.incarnation
        self.closed = False
        self.forked = False

    @abstractmethod
    def view(self) -> Overlay:
        """Return an overlay that has everything published before this call."""

    @abstractmethod
    def current_view(self) -> Overlay | None:
        """Return the overlay if it is complete, without reading from the disk; otherwise None."""

    def must_look_again(self, state: int) -> bool:
        """Return whether a look into the table does not go with one at the overlay before it.

        ``state`` is that of the overlay, before it was looked into.
        """
        return False

    @abstractmethod
    def from_table(self, read: Callable[[Table], T]) -> T:
        """Run a read on the current table."""

    @abstractmethod
    def log_state(self) -> LogState:
        """Return how far the log has been published and synced."""

    @abstractmethod
    def log_file_bytes(self) -> int:
        """Return the size of the log files, 0 if there are none."""

    @abstractmethod
    def read_log(self, epoch: int, end: int) -> bytes:
        """Read the log of an epoch from the disk, up to an offset."""

    @abstractmethod
    def release(self) -> None:
        """Close all files.  No thread may be inside the engine."""

    @abstractmethod
    def after_fork_in_child(self) -> None:
        """Drop inherited handles: closed, not unlocked, because the parent has the same locks."""

    def refuse_nested(self) -> None:
        """Raise WriteError within another call of the same thread, as in a signal handler."""
        if self.table.is_read_here():
            raise nested_error()

    # -- one task ---------------------------------------------------------------------------

    def find_result(self, key: bytes) -> Entry | None:
        """Return a task's newest RESULT (expired or not), DELETED or EXPIRED record, or None."""
        while True:
            view = self.view()
            state = view.state
            entry = view.result(key)
            if entry is None:
                entry = self.from_table(lambda table: table.get_result(key))
                if self.must_look_again(state):
                    continue
            return entry

    def find_trace(self, key: bytes) -> Entry | None:
        """As :meth:`find_result`, but ignore a deletion that removed progress only."""
        entry = self.find_result(key)
        if entry is not None and entry.kind == DELETED and not entry.flags & HAD_RESULT:
            in_table = self.from_table(lambda table: table.get_result(key))
            if in_table is None or in_table.kind != RESULT:
                return in_table
        return entry

    def find_traces(self, keys: list[bytes]) -> list[Entry | CorruptRecordError | None]:
        """As :meth:`find_trace` for each key, with one read of the table for all."""
        while True:
            view = self.view()
            state = view.state
            found = self._find_results(view, keys)
            if not self.must_look_again(state):
                break
        for n, entry in enumerate(found):
            if isinstance(entry, Entry) and entry.kind == DELETED:
                try:
                    found[n] = self.find_trace(keys[n])
                except CorruptRecordError as exc:
                    found[n] = exc
        return found

    def _find_results(
        self, view: Overlay, keys: list[bytes]
    ) -> list[Entry | CorruptRecordError | None]:
        found: list[Entry | CorruptRecordError | None] = [view.result(key) for key in keys]
        absent = [n for n, entry in enumerate(found) if entry is None]
        if absent:
            wanted = [keys[n] for n in absent]
            in_table = self.from_table(lambda table: table.get_results(wanted))
            for n, entry in zip(absent, in_table, strict=True):
                found[n] = entry
        return found

    def find_progress(self, key: bytes) -> Entry | None:
        """Return the newest progress record, expired or not; or None."""
        while True:
            view = self.view()
            state = view.state
            known, progress = view.find_progress(key)
            if known:
                return progress
            progress = self.from_table(lambda table: table.get_progress(key))
            if not self.must_look_again(state):
                return progress

    # -- many tasks -------------------------------------------------------------------------

    def listing(
        self,
        name: bytes,
        *,
        newest_first: bool = True,
        first: int | None = None,
        alive_us: int = 0,
        kind: int = 0,
    ) -> Iterator[Record]:
        """Yield the records of one of the table's databases by time, in batches of short reads.

        ``first`` is how many are probably needed, and bounds the first batch.  The other arguments
        are those of :meth:`Table.listing`.
        """
        after_us: int | None = None
        size = LISTING_KEYS if first is None else min(max(first, 1), LISTING_KEYS)
        while True:
            read = partial(
                Table.listing,
                name=name,
                newest_first=newest_first,
                after_us=after_us,
                limit=size,
                alive_us=alive_us,
                kind=kind,
            )
            size = LISTING_KEYS
            batch, after_us = self.from_table(read)
            yield from batch
            if after_us is None:
                return

    # -- facts ------------------------------------------------------------------------------

    def closed_error(self) -> StoreClosedError:
        """Return the error for a call on a closed store."""
        return StoreClosedError(f"{self.path}: the store is closed")
