"""What a peer is: one interface for the synchronous side, one for the asynchronous side.

A peer's class says in `about.why` why it is configured as it is. The rule for all: the
configuration its own documentation recommends for the durability named, nothing switched on that
its users would not have, nothing switched off that costs it speed.
"""

from __future__ import annotations

import asyncio
import importlib.util
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

if TYPE_CHECKING:
    from taskiq import TaskiqResult
    from taskiq.depends.progress_tracker import TaskProgress

T = TypeVar("T")

Role = Literal["own", "peer", "limit"]
Server = Literal["redis-always", "redis-everysec", "postgres"]

# taskiq's own default of AsyncTaskiqTask.wait_result.
POLL_INTERVAL_S = 0.2


@dataclass(frozen=True, slots=True)
class About:
    """What the reports need to know about a peer.

    `durable`: an acknowledged result survives the loss of power. `processes`: several processes
    may use it at once. `modules`: what must be importable, in the peer's own process.
    """

    name: str
    title: str
    durable: bool
    why: str
    role: Role = "peer"
    modules: tuple[str, ...] = ()
    server: Server | None = None
    processes: bool = True
    # Concurrent writers share a transaction: one's failure is another's.
    shares_commits: bool = False

    def missing(self) -> str | None:
        """The first module that is not installed, or None."""
        for module in self.modules:
            if not _installed(module):
                return module
        return None


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer keeps its data: a directory of its own, and its server's address if any."""

    directory: Path
    url: str = ""
    space: str = "bench"
    value_bytes: int = 300
    ttl_s: int | None = None
    # Of logstore, the size of the log that starts a compaction; None: its default.
    log_bytes: int | None = None


class SyncPeer(ABC):
    """A store that is called from the thread that wants the answer."""

    about: ClassVar[About]
    # How many threads call it at once when an event loop offloads to it; of 1, 2 and 6 what did
    # best with 64 sets at a time.
    threads: ClassVar[int] = 6
    # How many others read, where they have something of their own to read by.
    reading_threads: ClassVar[int] = 0

    def __init__(self, place: Place) -> None:
        self.place = place

    @abstractmethod
    def open(self) -> None:
        """Open or create the store."""

    @abstractmethod
    def close(self) -> None:
        """Close it; everything written stays."""

    @abstractmethod
    def set(self, task_id: str, value: bytes) -> None:
        """Store a result at the durability named; returns when it is."""

    @abstractmethod
    def get(self, task_id: str) -> bytes | None:
        """The stored bytes, or None."""

    @abstractmethod
    def ready(self, task_id: str) -> bool:
        """Whether there is a result."""

    def set_progress(self, task_id: str, value: bytes) -> None:
        """Store progress; where there is no such notion, as a result under another key."""
        self.set("progress:" + task_id, value)

    def newest(self, count: int) -> int | None:
        """Walk the newest `count` results and say how many; None: the peer cannot."""
        return None

    def preload(self, items: Iterable[tuple[str, bytes]]) -> None:
        """Store many, by whatever bulk way the peer has. Not measured."""
        for task_id, value in items:
            self.set(task_id, value)


class AsyncPeer(ABC):
    """A store that is awaited; what it is given and gives are taskiq's own classes."""

    about: ClassVar[About]

    def __init__(self, place: Place) -> None:
        self.place = place

    @abstractmethod
    async def open(self) -> None:
        """Open or create the store."""

    @abstractmethod
    async def close(self) -> None:
        """Close it; everything written stays."""

    @abstractmethod
    async def set(self, task_id: str, result: TaskiqResult[Any]) -> None:
        """Store a result at the durability named; returns when it is."""

    @abstractmethod
    async def get(self, task_id: str) -> TaskiqResult[Any]:
        """The stored result; raises if there is none."""

    @abstractmethod
    async def ready(self, task_id: str) -> bool:
        """Whether there is a result."""

    @abstractmethod
    async def set_progress(self, task_id: str, progress: TaskProgress[Any]) -> None:
        """Store progress."""

    async def wait(self, task_id: str) -> None:
        """Return when there is a result. Only backends and those that push are asked."""
        raise NotImplementedError(f"{self.about.name} has nothing to wait with")

    async def preload(self, items: Iterable[tuple[str, TaskiqResult[Any]]]) -> None:
        """Store many. Not measured; 128 at a time unless the peer has a bulk way."""
        pending = iter(items)

        async def lane() -> None:
            for task_id, result in pending:
                await self.set(task_id, result)

        await asyncio.gather(*(lane() for _ in range(128)))

    def commit_groups(self) -> int | None:
        """How many commit groups there have been; None: the peer does not count them."""
        return None

    def compactions(self) -> int | None:
        """How many compactions there have been; None: the peer does not count them."""
        return None


class Offloaded(AsyncPeer):
    """A synchronous peer used from an event loop, the way its users do: by a thread pool.

    Results are pickled, as taskiq's Redis and PostgreSQL backends do by default.
    """

    sync_class: ClassVar[type[SyncPeer]]

    async def open(self) -> None:
        self._sync = self.sync_class(self.place)
        self._pool = ThreadPoolExecutor(self._sync.threads)
        reading = self._sync.reading_threads
        self._reading_pool = ThreadPoolExecutor(reading) if reading else self._pool
        await self._run(self._sync.open)

    async def close(self) -> None:
        if self._reading_pool is not self._pool:
            self._reading_pool.shutdown()
        await self._run(self._sync.close)
        self._pool.shutdown()

    async def _run(self, call: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call, *args)

    async def _read(self, call: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._reading_pool, call, *args)

    async def set(self, task_id: str, result: TaskiqResult[Any]) -> None:
        await self._run(self._sync.set, task_id, pickle.dumps(result.model_dump(mode="json")))

    async def get(self, task_id: str) -> TaskiqResult[Any]:
        from taskiq import TaskiqResult

        stored = await self._read(self._sync.get, task_id)
        if stored is None:
            raise KeyError(task_id)
        return TaskiqResult[Any].model_validate(pickle.loads(stored))

    async def ready(self, task_id: str) -> bool:
        return await self._read(self._sync.ready, task_id)

    async def set_progress(self, task_id: str, progress: TaskProgress[Any]) -> None:
        value = pickle.dumps(progress.model_dump(mode="json"))
        await self._run(self._sync.set_progress, task_id, value)

    async def preload(self, items: Iterable[tuple[str, TaskiqResult[Any]]]) -> None:
        pickled = [(key, pickle.dumps(result.model_dump(mode="json"))) for key, result in items]
        await self._run(self._sync.preload, pickled)


def offloaded(sync_class: type[SyncPeer]) -> type[Offloaded]:
    """The asynchronous side of a synchronous peer."""
    names = {"sync_class": sync_class, "about": sync_class.about}
    return type("Offloaded" + sync_class.__name__, (Offloaded,), names)
