"""Clients of a store that do what a seed says, and what a store may hold of theirs.

Rules:
- A client alone writes its task ids, so its script, a function of kind, seed and name, says what
  every call must return and what the store holds after each operation.
- After a crash the store must show, for each client, its state after exactly `j` operations, where
  `j` is at least the last durable operation that was acked and at most one more than the last
  acked: nothing acked is lost, nothing is half there, nothing comes back, nothing overtakes.
- Values carry client, operation and random bytes, and are compared whole.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import logstore

__all__ = [
    "KINDS",
    "Op",
    "Script",
    "Task",
    "answer_of",
    "digest_of",
    "least_durable",
    "listed",
    "match",
    "match_exactly",
    "observe",
    "perform",
    "task_id",
    "value_of",
]

KEYS = 8
LARGE_BYTES = 263_000  # above the size from which a record does not go through the log


class Op(NamedTuple):
    """One operation: on the client's key, with a value of so many random bytes."""

    name: str
    key: int = 0
    size: int = 0


class Task(NamedTuple):
    """What a store shows of a task: the operation that wrote the result and its size, the
    progress, and what became of a result that is gone."""

    result: tuple[int, int] | None = None
    progress: int | None = None
    gone: str | None = None

    @property
    def status(self) -> str:
        """What :meth:`logstore.Store.status` says."""
        if self.result is not None:
            return "ready"
        if self.progress is not None:
            return "running"
        return self.gone or "unknown"


State = dict[int, Task]
NOTHING = Task()

# How often each operation comes, by kind of script.
KINDS: dict[str, dict[str, float]] = {
    "results": {"set": 1},
    "mixed": {"set": 40, "progress": 30, "delete": 10, "pop": 8, "expire": 4, "sync": 4},
    "progress": {"progress": 80, "settle": 12, "set": 8},
    "interval": {"set": 50, "progress": 20, "delete": 10, "pop": 6, "settle": 10, "sync": 4},
    "ends": {"set": 30, "progress": 15, "delete": 30, "pop": 15, "expire": 10},
    "compacting": {"set": 40, "progress": 20, "delete": 12, "pop": 8, "expire": 8, "compact": 12},
    "sealing": {"set": 40, "progress": 22, "delete": 10, "pop": 8, "expire": 10, "sync": 4},
    "vacuuming": {"set": 40, "progress": 12, "delete": 20, "compact": 4, "vacuum": 14},
    "backing": {"set": 40, "progress": 20, "delete": 10, "backup": 12},
    "large": {"set": 25, "large": 25, "progress": 20, "big progress": 10, "delete": 20},
    "closing": {"set": 30, "progress": 25, "delete": 10, "reopen": 25},
    "failing": {"set": 40, "progress": 20, "delete": 15, "fail": 18, "compact": 5},
    "busy": {"set": 50, "progress": 25, "delete": 10, "pop": 8, "expire": 3, "large": 0.6,
             "compact": 1, "vacuum": 0.6},
    "recovering": {"set": 1},
}  # fmt: skip

_SETTLE_S = 60.0
_APART = 4  # how many keys only ever expire, and how many are only ever written in vain
_DURABLE = frozenset({"delete", "pop", "sync", "settle", "compact", "vacuum", "reopen"})
_DURABLE_ALWAYS = frozenset({"set", "large", "expire"})


class Script:
    """A client's operations, made as they are asked for, and the state after each."""

    def __init__(self, kind: str, seed: int, client: str) -> None:
        self.client = client
        self._rng = random.Random(f"{kind} {seed} {client}")
        self._names = list(KINDS[kind])
        self._weights = list(KINDS[kind].values())
        self.ops: list[Op] = []
        self.states: list[State] = [{}]
        self._keys: dict[int, list[int]] = {}

    def op(self, index: int) -> Op:
        """The operation of that number, from 0."""
        while len(self.ops) <= index:
            op = self._next()
            self.ops.append(op)
            self.states.append(_after(self.states[-1], len(self.ops) - 1, op))
        return self.ops[index]

    def state(self, count: int) -> State:
        """What the store holds of the client after `count` operations."""
        if count:
            self.op(count - 1)
        return self.states[count]

    def keys(self, count: int) -> list[int]:
        """The keys that the first `count` operations can have touched."""
        if count not in self._keys:
            self.state(count)
            self._keys[count] = sorted({op.key for op in self.ops[:count]})
        return self._keys[count]

    def forget(self, count: int) -> None:
        """Drops the states before `count`: a long script keeps only what is still asked for."""
        for index in range(count):
            if self.states[index]:
                self.states[index] = {}

    def _next(self) -> Op:
        rng, state = self._rng, self.states[-1]
        name = rng.choices(self._names, self._weights)[0]
        key = rng.randrange(KEYS)
        if name == "pop":
            there = [key for key, task in state.items() if task.result is not None]
            if not there:
                return Op("set", key, self._size())
            return Op("pop", rng.choice(sorted(there)))
        if name in ("expire", "fail"):
            first = KEYS if name == "expire" else 2 * KEYS
            return Op(name, first + key % _APART, self._size())
        if name in ("large", "big progress"):
            return Op(name, key, LARGE_BYTES + rng.randrange(40_000))
        return Op(name, key, self._size())

    def _size(self) -> int:
        return self._rng.choice((0, 20, 200, 400, self._rng.randrange(6000)))


def _after(state: State, index: int, op: Op) -> State:
    """The state after one more operation; the given one stays as it is."""
    task = state.get(op.key, NOTHING)
    if op.name in ("set", "large"):
        task = Task((index, op.size), task.progress)
    elif op.name in ("progress", "big progress"):
        task = task._replace(progress=index)
    elif op.name in ("delete", "pop"):
        task = Task(gone="deleted" if task.result is not None else task.gone)
    elif op.name == "expire":
        task = Task(gone="expired")
    else:  # a failed write leaves nothing, the others change no task
        return state
    return {**state, op.key: task}


def answer_of(client: Script, index: int) -> object:
    """What the operation of that number must return."""
    op = client.op(index)
    task = client.state(index).get(op.key, NOTHING)
    if op.name == "delete":
        return task.result is not None
    if op.name == "pop":
        assert task.result is not None
        return value_of(client.client, *task.result)
    return None


def is_durable(op: Op, *, sync: str) -> bool:
    """Whether what was acked before it, and itself, survives power loss once it is acked."""
    return op.name in _DURABLE or (sync == "always" and op.name in _DURABLE_ALWAYS)


def task_id(client: str, key: int) -> str:
    """The id of a client's key."""
    return f"{client} {key}"


@lru_cache(maxsize=64)
def value_of(client: str, index: int, size: int) -> dict[str, Any]:
    """The value that a client's operation of that number writes."""
    data = random.Random(f"{client} {index} {size}").randbytes(size)
    return {"by": client, "op": index, "data": data}


def progress_of(index: int, op: Op) -> logstore.TaskProgress:
    """The progress that an operation sets."""
    meta = {"data": bytes(op.size)} if op.name == "big progress" else None
    return logstore.TaskProgress(current=index, meta=meta)


# -- doing -------------------------------------------------------------------------------------


def perform(store: logstore.Store, client: Script, index: int, *, directory: str = "") -> None:
    """Does one operation, but for reopening, and asserts what it returns."""
    op = client.op(index)
    name = task_id(client.client, op.key)
    found: object = None
    if op.name in ("set", "large"):
        store.set_result(name, value_of(client.client, index, op.size))
    elif op.name == "expire":
        store.set_result(name, value_of(client.client, index, op.size), ttl_s=1e-6)
    elif op.name in ("progress", "big progress"):
        store.set_progress(name, progress_of(index, op))
    elif op.name == "delete":
        found = store.delete_result(name)
    elif op.name == "pop":
        found = store.pop_result(name)
    elif op.name == "backup":
        store.backup(f"{directory}/backup-{client.client}-{index}")
    elif op.name == "fail":
        _fail(lambda: store.set_result(name, value_of(client.client, index, op.size)))
    elif op.name == "settle":
        _settle(store)
    elif op.name == "vacuum":
        _vacuum(store)
    else:
        {"sync": store.sync, "compact": store.compact}[op.name]()
    expected = answer_of(client, index)
    assert found == expected, (
        f"operation {index} of client {client.client}, {op}, returned {_short(found)}, "
        f"expected {_short(expected)}"
    )


def _vacuum(store: logstore.Store) -> None:
    try:
        store.vacuum()
    except logstore.StoreBusyError:
        store.compact()  # another client's vacuum is under way: as documented


def _settle(store: logstore.Store) -> None:
    """Waits for the background flush, and only for that."""
    deadline = time.monotonic() + _SETTLE_S
    while store.stats().log_unsynced_bytes:
        assert time.monotonic() < deadline, f"nothing was flushed within {_SETTLE_S} s"
        time.sleep(0.001)


def _fail(write: Callable[[], object]) -> None:
    """A write whose flush fails, once, as a disk's would."""
    real = os.fdatasync

    def failing(fd: Any) -> None:
        os.fdatasync = real
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    os.fdatasync = failing
    try:
        write()
    except logstore.WriteError:
        return
    finally:
        os.fdatasync = real
    raise AssertionError("a write whose flush failed was acked")


# -- judging -----------------------------------------------------------------------------------


def observe(store: logstore.Store, client: Script, count: int) -> State:
    """What the store shows of the tasks that a client's first `count` operations can have
    touched. Raises AssertionError for a value that no operation wrote."""
    found: State = {}
    for key in client.keys(count):
        task = _observe(store, client, key)
        if task != NOTHING:
            found[key] = task
    return found


def _observe(store: logstore.Store, client: Script, key: int) -> Task:
    name = task_id(client.client, key)
    result: tuple[int, int] | None = None
    try:
        value = store.get_result(name)
    except logstore.ResultError:
        pass
    else:
        result = value["op"], len(value["data"])
        if value != value_of(client.client, *result):
            raise AssertionError(f"the result of {name!r} is not what was written: {_short(value)}")
    progress = store.get_progress(name)
    status = store.status(name)
    current = None if progress is None else progress.current
    task = Task(result, current, status if status in ("deleted", "expired") else None)
    if status != task.status:
        raise AssertionError(f"{name!r}: status {status!r}, but result and progress are {task}")
    assert store.is_result_ready(name) is (result is not None)
    return task


@dataclass
class _Expected:
    """A state that a store may show, and after how many operations it is reached."""

    count: int
    state: State


def allowed(client: Script, least: int, most: int) -> Iterator[_Expected]:
    """The states from `least` operations on; the one after `most` may be under way."""
    for count in range(least, most + 1):
        yield _Expected(count, client.state(count))
    under_way = client.op(most)
    yield _Expected(most + 1, client.state(most + 1))
    if under_way.name == "fail":  # until it has failed, its record may be found whole
        landed = {**client.state(most), under_way.key: Task((most, under_way.size))}
        yield _Expected(most + 1, landed)


def match(client: Script, found: State, least: int, most: int) -> State:
    """The state, as the script has it, in which the store shows the client to be.

    Raises AssertionError if that is nowhere between `least` and `most` acked operations and the
    one under way.
    """
    nearest: tuple[int, list[str], int] | None = None
    for expected in allowed(client, least, most):
        wrong = _differences(client, found, _visible(expected.state))
        if not wrong:
            return expected.state
        if nearest is None or len(wrong) < nearest[0]:
            nearest = len(wrong), wrong, expected.count
    assert nearest is not None
    raise AssertionError(
        f"client {client.client}: the store shows no state after {least} (durable) to {most} "
        f"(acked) operations or the one under way; next is that after {nearest[2]}:\n  "
        + "\n  ".join(nearest[1])
    )


def match_exactly(client: Script, found: State, count: int) -> None:
    """Raises AssertionError unless the store shows a client after exactly so many operations."""
    wrong = _differences(client, found, _visible(client.state(count)))
    assert not wrong, f"client {client.client}, after {count} operations:\n  " + "\n  ".join(wrong)


def _visible(state: State) -> State:
    return {
        key: Task(task.result, task.progress, None if task.status in ("ready", "running")
                  else task.gone)
        for key, task in state.items()
        if task != NOTHING
    }  # fmt: skip


def _differences(client: Script, found: State, expected: State) -> list[str]:
    return [
        f"{task_id(client.client, key)!r}: found {found.get(key, NOTHING)}, "
        f"expected {expected.get(key, NOTHING)}"
        for key in sorted({*found, *expected})
        if found.get(key, NOTHING) != expected.get(key, NOTHING)
    ]


def digest_of(found: State) -> str:
    """A short name for what was seen."""
    return hashlib.blake2b(repr(sorted(found.items())).encode(), digest_size=8).hexdigest()


def least_durable(client: Script, acked: int, *, sync: str) -> int:
    """How many of the acked operations power loss cannot take back."""
    for count in range(acked, 0, -1):
        if is_durable(client.op(count - 1), sync=sync):
            return count
    return 0


def listed(client: str, state: State) -> set[str]:
    """The ids that :meth:`logstore.Store.tasks` must list of a client in that state."""
    return {
        task_id(client, key) for key, task in state.items() if task.status in ("ready", "running")
    }


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 200 else f"{text[:200]}... ({len(text)} characters)"
