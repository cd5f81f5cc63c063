"""The one module through which tests outside of ``tests/_engine`` reach into the package.

Rule: a function is here if no public name and no system call can do the same: it decides what the
store does by itself and when, or which writes form one group.  It judges nothing: a test whose
assertions are about private state is in ``tests/_engine``, the only place that uses ``live``.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

from logstore import aio
from logstore._engine import frames, maintenance, notify, pages, sealing
from logstore._engine.engine import Engine
from logstore._engine.frames import Entry, encode_frame
from logstore._engine.log import Log
from logstore._engine.logview import LogView
from logstore._loops import waiters

if TYPE_CHECKING:
    import logstore
    from logstore.taskiq import InmemoryResultBackend

NEVER_S = 1e6


def live(store: logstore.Store) -> Engine:
    """Return the engine of a store that is open for writing."""
    engine = store._handle.engine
    assert isinstance(engine, Engine)
    return engine


def folded(store: logstore.Store, wait_s: float = NEVER_S) -> bool:
    """Wait until no sealed log is left, and fold it if nobody does; return whether that is done."""
    engine, deadline = live(store), time.monotonic() + wait_s
    while not sealing.fold_sealed(engine, deadline):
        if not engine.deferral.applies() or engine.deferral.is_held():
            return False
        time.sleep(0.01)  # a reader was slow, and the fold is tried again after a moment
    return True


def has_queues(store: logstore.Store) -> bool:
    """Return whether the table has the databases of queues."""
    return live(store).table.has_queues()


def no_background_fold() -> mock._patch[Any]:
    """Leave a log that is sealed as it is, until a compaction folds both."""
    return mock.patch.object(sealing, "fold_sealed", return_value=False)


def is_log_sealed(store: logstore.Store) -> bool:
    """Return whether there is a sealed log that is not in the table yet."""
    return bool(live(store).header.sealed)


def no_idle_compaction() -> mock._patch[float]:
    """Compact only on request, when the log is full, and at the end."""
    return mock.patch.object(maintenance, "IDLE_S", NEVER_S)


def files_looked_at_every(seconds: float) -> mock._patch[Any]:
    """Change how often a store looks whether its files are still its own."""
    return mock.patch.multiple(maintenance, IDLE_S=seconds, FILES_S=seconds)


@contextmanager
def quick_to_look_again() -> Iterator[None]:
    """Let waiters find soon what no wake-up has told them, and leave at once when idle."""
    with mock.patch.object(notify, "TIMEOUT_S", 0.005), mock.patch.object(waiters, "IDLE_S", 0.0):
        yield


def copy_page_by_page() -> mock._patch[int]:
    """Let a copy of the table read one page at a time."""
    return mock.patch.object(pages, "SLICE_BYTES", mmap.PAGESIZE)


def in_one_group(store: logstore.Store, *calls: tuple[Any, ...]) -> list[BaseException | None]:
    """Commit writes as those are that have queued behind a flush; return the error of each.

    A call is ``("result", task_id, value)``, ``("delete", task_id)`` or ``("pop", task_id)``.
    """
    handle = store._handle
    writes = [getattr(handle, f"{verb}_write")(*arguments) for verb, *arguments in calls]
    handle.writable_engine.commit_queue.run(writes)
    return [write.error for write in writes]


@contextmanager
def chained_to_the_next(*task_ids: str) -> Iterator[None]:
    """Write the frames of some tasks as parts of a chain, which goes on behind each of them."""
    keys = {task_id.encode() for task_id in task_ids}

    def encode(seed: int, epoch: int, synced: int, key: bytes, entry: Entry) -> bytes:
        return encode_frame(seed, epoch, synced, key, entry, more=key in keys)

    with mock.patch.object(frames, "encode_frame", encode):
        yield


def between_system_calls(point: Callable[[], object]) -> None:
    """Call ``point`` around the steps of a store that are no system calls, in this process."""

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            point()
            result = function(*arguments)
            point()
            return result

        return wrapped

    for owner, name in ((LogView, "_publish"), (Log, "close"), (Engine, "begin_epoch")):
        setattr(owner, name, around(getattr(owner, name)))


def subscriptions(store: logstore.AsyncStore) -> list[object]:
    """Return what changes are reported to; None for what has gone and is still listed."""
    notifier = store.store._handle._lease.notifier
    references = [*notifier._to_all, *(r for found in notifier._by_key.values() for r in found)]
    return [reference() for reference in references]


def is_followed(store: logstore.AsyncStore) -> bool:
    """Return whether a watch has begun to follow changes."""
    return any(isinstance(found, aio._Following) for found in subscriptions(store))


def waiters_in(store: logstore.AsyncStore) -> bool:
    """Return whether a call on a loop waits for a change."""
    return any(waiting.live for waiting in store._waiters.values())


def waiters_in_memory(backend: InmemoryResultBackend[Any]) -> bool:
    """Return whether a call waits for a result of a backend in memory."""
    return bool(backend._arrivals)
