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
from logstore._engine.writes import Together, Write
from logstore.queue import Sending

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


class Message(NamedTuple):
    """What a client's queue shows of a message: the operation that put it and its size, and what
    became of it."""

    op: int
    size: int
    priority: int = 0
    attempts: int = 0
    status: str = "ready"


class Task(NamedTuple):
    """What a store shows of a task: the operation that wrote the result and its size, the
    progress, and what became of a result that is gone."""

    result: tuple[int, int] | None = None
    progress: int | None = None
    gone: str | None = None
    message: Message | None = None

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
    "queueing": {"put": 30, "put many": 8, "put large": 0.5, "finish": 18, "ack": 8, "retry": 8,
                 "put off": 4, "bury": 8, "revive": 5, "cancel": 6, "pause": 3, "resume": 3,
                 "set": 4, "compact": 2},
    "queueing beside folds": {"put": 40, "put many": 10, "finish": 25, "ack": 8, "retry": 8,
                              "put off": 4, "bury": 8, "revive": 5, "cancel": 6, "set": 6},
    "queueing beside vacuums": {"put": 30, "put many": 8, "finish": 20, "retry": 6, "bury": 6,
                                "cancel": 6, "compact": 4, "vacuum": 10},
    "queueing together": {"put many": 1, "finish": 1},
    "recovering": {"set": 1},
}  # fmt: skip

_SETTLE_S = 60.0
_APART = 4  # how many keys only ever expire, and how many are only ever written in vain
_DURABLE = frozenset({"delete", "pop", "sync", "settle", "compact", "vacuum", "reopen"})
_PUTS = frozenset({"put", "put many", "put large"})
_ENDINGS = frozenset({"finish", "ack", "retry", "put off", "bury"})
_OF_QUEUES = _PUTS | _ENDINGS | {"revive", "cancel", "pause", "resume"}
_DURABLE_ALWAYS = frozenset({"set", "large", "expire"}) | _OF_QUEUES
_PAUSED = 999  # the key of what shows that the client's queue is paused
_FIRST_MESSAGE = 1000  # keys of messages count on from here
_TOGETHER = 3  # messages that are put at once
_ATTEMPTS_MAX = 2
_LONG_S = 1e6  # a delayed message is not due before a state is judged


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
        self._messages = _FIRST_MESSAGE

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
        if name in _OF_QUEUES:
            return self._next_of_queue(name, state)
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

    def _next_of_queue(self, name: str, state: State) -> Op:
        """Deliveries are those of the oldest message that is ready: only delayed messages have
        a priority, so that its order is known."""
        there = {key: task.message for key, task in state.items() if task.message is not None}
        there.pop(_PAUSED, None)
        if name in ("pause", "resume"):
            return Op(name, _PAUSED)
        if name in _ENDINGS and _PAUSED not in state:
            ready = [key for key, message in there.items() if message.status == "ready"]
            if ready:
                return Op(name, min(ready), self._size())
        if name in ("revive", "cancel"):
            keys = [key for key in there if (there[key].status == "dead") == (name == "revive")]
            if keys:
                return Op(name, self._rng.choice(sorted(keys)))
        if name not in _PUTS:
            name = "put"
        key = self._messages
        self._messages += _TOGETHER if name == "put many" else 1
        size = LARGE_BYTES if name == "put large" else self._size()
        if name == "put many":  # over several pages
            size = self._rng.randrange(2000, 6000)
        return Op(name, key, size)

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
    elif op.name == "put many":
        many = {op.key + n: Task(message=Message(index, op.size)) for n in range(_TOGETHER)}
        return {**state, **many}
    elif op.name in _OF_QUEUES:
        task = _after_of_queue(task, index, op)
    else:  # a failed write leaves nothing, the others change no task
        return state
    return {**state, op.key: task}


def _after_of_queue(task: Task, index: int, op: Op) -> Task:
    if op.name in _PUTS:
        delay_s, priority = _delay_and_priority(op)
        status = "delayed" if delay_s else "ready"
        return Task(message=Message(index, op.size, priority, 0, status))
    if op.name == "pause":
        return Task(message=Message(0, 0))
    if op.name == "finish":
        return Task((index, op.size))
    message = task.message
    if op.name in ("ack", "cancel", "resume") or message is None:
        return NOTHING
    if op.name == "revive":
        message = message._replace(attempts=0, status="ready")
    else:
        attempts = message.attempts + 1
        is_dead = op.name == "bury" or attempts >= _ATTEMPTS_MAX
        later = "delayed" if op.name == "put off" else "ready"
        message = message._replace(attempts=attempts, status="dead" if is_dead else later)
    return Task(message=message)


def _delay_and_priority(op: Op) -> tuple[float | None, int]:
    """Every fourth message is delayed."""
    return (None, 0) if op.name != "put" or op.key % 4 else (_LONG_S, 1 + op.key % 200)


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
    elif op.name in _OF_QUEUES:
        _perform_of_queue(store, client, index)
    else:
        {"sync": store.sync, "compact": store.compact}[op.name]()
    expected = answer_of(client, index)
    assert found == expected, (
        f"operation {index} of client {client.client}, {op}, returned {_short(found)}, "
        f"expected {_short(expected)}"
    )


def _perform_of_queue(store: logstore.Store, client: Script, index: int) -> None:
    op = client.op(index)
    queue, name = store.queue(client.client), task_id(client.client, op.key)
    value = value_of(client.client, index, op.size)
    if op.name in ("put", "put large"):
        delay_s, priority = _delay_and_priority(op)
        queue.put(
            value, task_id=name, priority=priority, delay_s=delay_s, max_attempts=_ATTEMPTS_MAX
        )
    elif op.name == "put many":
        _put_many(store, client, index)
    elif op.name == "revive":
        assert queue.requeue(name) == 1
    elif op.name == "cancel":
        assert queue.cancel(name)
    elif op.name in ("pause", "resume"):
        getattr(queue, op.name)()
    else:
        lease = queue.take(0)
        assert lease is not None, f"{name} was not delivered"
        assert lease.task_id == name, f"{lease.task_id} was delivered, expected {name}"
        ways: dict[str, Callable[[], None]] = {
            "finish": lambda: lease.ack_with_result(value),
            "ack": lease.ack,
            "retry": lease.retry,
            "put off": lambda: lease.retry(delay_s=_LONG_S),
            "bury": lambda: lease.dead("why"),
        }
        ways[op.name]()


def _put_many(store: logstore.Store, client: Script, index: int) -> None:
    """As :meth:`Queue.put_many`, with task ids that the script knows."""
    op = client.op(index)
    queue, value = store.queue(client.client), value_of(client.client, index, op.size)
    names = [task_id(client.client, op.key + number) for number in range(_TOGETHER)]
    writes: list[Write] = [
        queue._put_write(value, Sending(task_id=name, max_attempts=_ATTEMPTS_MAX)) for name in names
    ]
    store._handle.commit([Together(writes)])
    queue._were_put(writes)


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
    if any(op.name in _OF_QUEUES for op in client.ops[:count]):
        _observe_queue(store, client, found)
    return found


def _observe_queue(store: logstore.Store, client: Script, found: State) -> None:
    queue = store.queue(client.client)
    payloads: dict[str, Any] = {}
    leases = []
    while (lease := queue.take(0)) is not None:
        leases.append(lease)
        payloads[lease.task_id] = lease.payload
    for lease in leases:
        lease.release()
    infos = list(queue.messages())
    if queue.stats().paused:
        found[_PAUSED] = Task(message=Message(0, 0))
    else:
        ready = [info.task_id for info in infos if info.status == "ready"]
        assert list(payloads) == ready, f"delivered {list(payloads)}, listed {ready}"
    for info in infos:
        key = int(info.task_id.rpartition(" ")[2])
        op = _op_that_put(client, key)
        size = client.ops[op].size
        expected = value_of(client.client, op, size)
        if payloads.get(info.task_id, expected) != expected:
            raise AssertionError(f"the message of {info.task_id!r} is not what was put")
        task = found.get(key, NOTHING)
        assert task.message is None, f"{info.task_id!r} has two messages"
        message = Message(op, size, info.priority, info.attempts, info.status)
        found[key] = task._replace(message=message)


def _op_that_put(client: Script, key: int) -> int:
    for index, op in enumerate(client.ops):
        if op.name in _PUTS and 0 <= key - op.key < (_TOGETHER if op.name == "put many" else 1):
            return index
    raise AssertionError(f"no client has put {task_id(client.client, key)!r}")


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
        key: task._replace(gone=None if task.status in ("ready", "running") else task.gone)
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
