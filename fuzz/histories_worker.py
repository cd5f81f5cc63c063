"""One process of the histories campaign: threads, an event loop with tasks, and a housekeeper.

Rules: every client draws what it does from its own seed and records it under its own name. All
clients use the same few task ids at a time, so that they contend, and others after a moment, so
that no task's history grows beyond what can be checked. Results and progress have task ids of
their own, for a deletion ends both.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import logstore
from fuzz.processes import Talk
from logstore.testing.linearizability import MISSING, Recorder, Recording

__all__ = ["Worker"]

THREADS = 4
TASKS = 4
KEYS = 10  # task ids in use at a time
SLICE_NS = 250_000_000  # and for how long
WAIT_S = 0.002
PAUSE_S = 0.08  # of the housekeeper, at most


class Verb(NamedTuple):
    """Something a client can do: how often, what the model calls it, and the call, which on an
    AsyncStore gives a coroutine."""

    weight: int
    operation: str
    call: Callable[[Any, str, str], Any]
    writes: bool = False
    of_progress: bool = False


VERBS = (
    Verb(30, "set", lambda store, key, value: store.set_result(key, value), writes=True),
    Verb(40, "get", lambda store, key, _: store.get_result(key)),
    Verb(6, "delete", lambda store, key, _: store.delete_result(key)),
    Verb(10, "pop", lambda store, key, _: store.pop_result(key)),
    Verb(8, "ready", lambda store, key, _: store.is_result_ready(key)),
    Verb(2, "get", lambda store, key, _: store.wait_result(key, timeout_s=WAIT_S)),
    Verb(
        12,
        "set",
        lambda store, key, value: store.set_progress(key, logstore.TaskProgress(status=value)),
        writes=True,
        of_progress=True,
    ),
    Verb(14, "get", lambda store, key, _: store.get_progress(key), of_progress=True),
    Verb(2, "clear", lambda store, key, _: store.delete_result(key), of_progress=True),
)
_WEIGHTS = [verb.weight for verb in VERBS]


class Worker:
    """The clients of one process."""

    def __init__(self, name: str, seed: int, results: Path, progress: Path) -> None:
        self._name = name
        self._seed = seed
        self._results = Recorder(results, name)
        self._progress = Recorder(progress, name)
        self._over = threading.Event()
        self._values = itertools.count()

    def run(self, talk: Talk, path: str, compact_at: int) -> None:
        """Works until the parent says no more. An error of any client ends the process."""

        def guarded(job: Callable[[], None]) -> None:
            try:
                job()
            except BaseException:
                talk.fail()

        options: dict[str, Any] = {"compact_at": compact_at, "sync_interval_s": 0.05}
        with logstore.open(path, **options) as store:
            jobs: list[Callable[[], None]] = [
                *(_Thread(self, store, number) for number in range(THREADS)),
                lambda: asyncio.run(self._tasks(path, options)),
                lambda: self._keep(store),
            ]
            threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
            for thread in threads:
                thread.start()
            while talk.hear() is not None:
                pass
            self._over.set()
            for thread in threads:
                thread.join()

    async def _tasks(self, path: str, options: dict[str, Any]) -> None:
        async with logstore.open_async(path, **options) as store:
            await asyncio.gather(*(self._task(store, number) for number in range(TASKS)))

    async def _task(self, store: logstore.AsyncStore, number: int) -> None:
        client = f"{self._name} task {number}"
        rng = random.Random(f"{self._seed} task {number}")
        while not self._over.is_set():
            verb, key, value = self.draw(rng)
            with self.begin(verb, key, value, client) as operation:
                try:
                    found = await verb.call(store, key, value)
                except logstore.WaitTimeoutError:
                    operation.did_nothing()
                except logstore.ResultError:
                    operation.returned(MISSING)
                else:
                    operation.returned(_recorded(verb, found))

    def _keep(self, store: logstore.Store) -> None:
        rng = random.Random(f"{self._seed} housekeeper")
        while not self._over.wait(rng.random() * PAUSE_S):
            if rng.random() < 0.6:
                store.compact()
                continue
            try:
                store.vacuum()
            except logstore.StoreBusyError:
                pass  # another process's is under way

    def draw(self, rng: random.Random) -> tuple[Verb, str, str]:
        """What to do next, with a value that no other worker writes."""
        verb = rng.choices(VERBS, _WEIGHTS)[0]
        about = "progress" if verb.of_progress else "result"
        key = f"{about} {time.monotonic_ns() // SLICE_NS} {rng.randrange(KEYS)}"
        return verb, key, f"{self._name}.{next(self._values)}"

    def begin(self, verb: Verb, key: str, value: str, client: str) -> Recording:
        """Begin to record it."""
        recorder = self._progress if verb.of_progress else self._results
        return recorder.operation(
            key, verb.operation, value if verb.writes else None, client=client
        )

    @property
    def over(self) -> bool:
        """Whether the clients should end."""
        return self._over.is_set()


class _Thread:
    """A client in a thread."""

    def __init__(self, worker: Worker, store: logstore.Store, number: int) -> None:
        self._worker = worker
        self._store = store
        self._client = f"{worker._name} thread {number}"
        self._rng = random.Random(f"{worker._seed} thread {number}")

    def __call__(self) -> None:
        worker = self._worker
        while not worker.over:
            verb, key, value = worker.draw(self._rng)
            with worker.begin(verb, key, value, self._client) as operation:
                try:
                    found = verb.call(self._store, key, value)
                except logstore.WaitTimeoutError:
                    operation.did_nothing()
                except logstore.ResultError:
                    operation.returned(MISSING)
                else:
                    operation.returned(_recorded(verb, found))


def _recorded(verb: Verb, found: Any) -> object:
    """What a call has returned, as the models know it."""
    if verb.of_progress and verb.operation == "get":
        return MISSING if found is None else found.status
    return None if verb.operation in ("set", "clear") else found
