"""The queues of a store against plain dictionaries, under Hypothesis (derandomized).

Invariants: through any handle, at any time and after any compaction, vacuum, reopening or sudden
death, a queue holds the messages that were put and not settled, each with its priority, due time,
attempts and status; `take` returns the first of the highest priority, or the oldest of all, and
None only if nothing is ready; the full check finds nothing.

What the model leaves open: which takes return the oldest of all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    invariant,
    precondition,
    rule,
)

import logstore
from logstore import MessageSettledError
from logstore.types import MessageStatus
from tests.support.lives import MODEL, StoreLives

if TYPE_CHECKING:
    from logstore.queue import Lease, Queue

QUEUES = ("q", "qq")  # keys of one begin like those of the other
handles = st.integers(0, 1)
names = st.sampled_from(QUEUES)
ids = st.sampled_from(("a", "b", "c" * 480))
priorities = st.sampled_from((0, 0, 1, 7, 255))
delays = st.sampled_from((None, None, 0, 60, 600))  # the clock moves in steps of 60 s
payloads = st.one_of(
    st.integers(),
    st.integers(0, 3000).map(lambda size: b"\x55" * size),
    st.just(300_000).map(bytes),
)
chosen = st.integers(0, 1 << 16)
some_status = st.sampled_from((None, "ready", "delayed", "leased", "dead"))


@dataclass
class Held:
    """What the model knows of a message; times are the model's own seconds."""

    queue: str
    task_id: str
    payload: Any
    priority: int
    enqueued: tuple[float, int]
    due: tuple[float, int] | None
    attempts_max: int = 0
    attempts: int = 0
    reason: str = ""
    leased: bool = False
    leases: list[Lease] = field(default_factory=list)

    @property
    def ready_since(self) -> tuple[float, int]:
        return self.due or self.enqueued

    def status(self, now: float) -> MessageStatus:
        if self.reason:
            return "dead"
        if self.leased:
            return "leased"
        return "delayed" if self.due and self.due[0] > now else "ready"


class QueueMachine(StoreLives):
    """One store with two handles, whose queues are used through both."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Held] = []  # by sequence
        self.leases: list[tuple[int, Lease, Held]] = []  # with their handles
        self.paused: set[str] = set()
        self.results: dict[str, Any] = {}

    # -- the model ----------------------------------------------------------------------------

    def at(self, delay_s: float | None) -> tuple[float, int]:
        """A time, which sorts behind all equal ones before it."""
        self.order += 1
        return self.now + (delay_s or 0), self.order

    def of(self, name: str, *statuses: str | None) -> list[Held]:
        return [
            held
            for held in self.held
            if held.queue == name and (not statuses or held.status(self.now) in statuses)
        ]

    def pick(self, number: int) -> tuple[int, Lease, Held]:
        return self.leases.pop(number % len(self.leases))

    def end(self, held: Held, *, settled: bool) -> None:
        held.leased = False
        if settled:
            self.held.remove(held)

    def void_leases(self, handle: int | None = None) -> None:
        for number, lease, held in list(self.leases):
            if handle in (None, number):
                self.leases.remove((number, lease, held))
                held.leased = False

    # -- the store ----------------------------------------------------------------------------

    def queue(self, handle: int, name: str) -> Queue:
        return self.stores[handle].queue(name)

    # -- enqueuing ----------------------------------------------------------------------------

    @rule(
        handle=handles,
        name=names,
        task_id=ids,
        payload=payloads,
        priority=priorities,
        delay_s=delays,
        unique=st.booleans(),
        max_attempts=st.sampled_from((0, 1, 2)),
    )
    def put(
        self,
        handle: int,
        name: str,
        task_id: str,
        payload: Any,
        priority: int,
        delay_s: float | None,
        unique: bool,
        max_attempts: int,
    ) -> None:
        found = self.queue(handle, name).put(
            payload,
            task_id=task_id,
            priority=priority,
            delay_s=delay_s,
            unique=unique,
            max_attempts=max_attempts,
        )
        if unique and any(held.task_id == task_id and not held.reason for held in self.held):
            assert found is None
            return
        assert found == task_id
        due = self.at(delay_s) if delay_s else None
        self.held.append(Held(name, task_id, payload, priority, self.at(None), due, max_attempts))

    @rule(handle=handles, name=names, many=st.lists(payloads, max_size=6), priority=priorities)
    def put_many(self, handle: int, name: str, many: list[Any], priority: int) -> None:
        found = self.queue(handle, name).put_many(many, priority=priority)
        for task_id, payload in zip(found, many, strict=True):
            self.held.append(Held(name, task_id, payload, priority, self.at(None), None))

    # -- working ------------------------------------------------------------------------------

    @rule(handle=handles, name=names, count=st.integers(1, 4))
    def take(self, handle: int, name: str, count: int) -> None:
        for _ in range(count):
            lease = self.queue(handle, name).take(0)
            ready = [] if name in self.paused else self.of(name, "ready")
            if lease is None:
                assert not ready
                return
            assert ready, f"{lease.task_id} was delivered, but nothing is ready"
            first = min(ready, key=lambda held: (-held.priority, held.ready_since))
            oldest = min(ready, key=lambda held: held.ready_since)
            expected = [(held.task_id, held.attempts, held.payload) for held in (first, oldest)]
            got = lease.task_id, lease.attempts, lease.payload
            assert got in expected
            held = (first, oldest)[expected.index(got)]
            assert lease.priority == held.priority
            held.leased = True
            self.leases.append((handle, lease, held))

    def settles(self, held: Held) -> bool:
        return held in self.held

    @rule(number=chosen, value=st.integers(), has_result=st.booleans())
    @precondition(lambda self: self.leases)
    def ack(self, number: int, value: int, has_result: bool) -> None:
        _, lease, held = self.pick(number)
        if not self.settles(held):
            with pytest.raises(MessageSettledError):
                lease.ack_with_result(value) if has_result else lease.ack()
            return
        if has_result:
            lease.ack_with_result(value)
            self.results[held.task_id] = value
        else:
            lease.ack()
        self.end(held, settled=True)
        with pytest.raises(MessageSettledError):
            lease.ack()

    @rule(number=chosen, delay_s=delays)
    @precondition(lambda self: self.leases)
    def retry(self, number: int, delay_s: float | None) -> None:
        _, lease, held = self.pick(number)
        if not self.settles(held):
            with pytest.raises(MessageSettledError):
                lease.retry()
            return
        lease.retry(delay_s=delay_s or 0)
        self.end(held, settled=False)
        held.attempts += 1
        if held.attempts_max and held.attempts >= held.attempts_max:
            held.reason = "no attempts are left"
        else:
            held.due = self.at(delay_s) if delay_s else None

    @rule(number=chosen, reason=st.sampled_from(("poison", "\u00e9" * 300)))
    @precondition(lambda self: self.leases)
    def bury(self, number: int, reason: str) -> None:
        _, lease, held = self.pick(number)
        if not self.settles(held):
            with pytest.raises(MessageSettledError):
                lease.dead(reason)
            return
        lease.dead(reason)
        self.end(held, settled=False)
        held.attempts += 1
        held.reason = reason

    @rule(number=chosen)
    @precondition(lambda self: self.leases)
    def release(self, number: int) -> None:
        _, lease, held = self.pick(number)
        lease.release()
        held.leased = False

    # -- the rest -----------------------------------------------------------------------------

    @rule(handle=handles, name=names, number=chosen)
    def cancel(self, handle: int, name: str, number: int) -> None:
        task_ids = [held.task_id for held in self.held] + ["nobody"]
        task_id = task_ids[number % len(task_ids)]
        meant = [held for held in self.held if held.task_id == task_id and not held.reason]
        assert self.queue(handle, name).cancel(task_id) == bool(meant)
        for held in meant:
            self.held.remove(held)

    @rule(handle=handles, name=names, status=some_status)
    def purge(self, handle: int, name: str, status: MessageStatus | None) -> None:
        meant = [
            held
            for held in self.of(name, "ready", "delayed", "dead")
            if status in (None, held.status(self.now))
        ]
        assert self.queue(handle, name).purge(status) == len(meant)
        for held in meant:
            self.held.remove(held)

    @rule(handle=handles, name=names, task_id=st.one_of(st.none(), ids))
    def requeue(self, handle: int, name: str, task_id: str | None) -> None:
        meant = [held for held in self.of(name, "dead") if task_id in (None, held.task_id)]
        assert self.queue(handle, name).requeue(task_id) == len(meant)
        for held in meant:
            held.attempts, held.reason, held.due = 0, "", None

    @rule(handle=handles, name=names, paused=st.booleans())
    def pause_or_resume(self, handle: int, name: str, paused: bool) -> None:
        if paused:
            self.queue(handle, name).pause()
            self.paused.add(name)
        else:
            self.queue(handle, name).resume()
            self.paused.discard(name)

    @rule(handle=handles, name=names, status=some_status, limit=st.sampled_from((None, 0, 2)))
    def list_messages(
        self, handle: int, name: str, status: MessageStatus | None, limit: int | None
    ) -> None:
        meant = self.of(name, status) if status else self.of(name)
        found = list(self.queue(handle, name).messages(status, limit=limit))
        assert [
            (info.task_id, info.status, info.priority, info.attempts, info.reason) for info in found
        ] == [
            (held.task_id, held.status(self.now), held.priority, held.attempts, held.reason)
            for held in meant[:limit]
        ]

    @rule(handle=handles)
    def get_results(self, handle: int) -> None:
        for task_id, value in self.results.items():
            assert self.stores[handle].get_result(task_id) == value

    # -- time and the whole store -------------------------------------------------------------

    @rule(seconds=st.sampled_from((60, 600)))
    def let_time_pass(self, seconds: float) -> None:
        self.now += seconds

    @rule(handle=handles)
    def compact(self, handle: int) -> None:
        self.stores[handle].compact()

    @rule(handle=handles)
    def vacuum(self, handle: int) -> None:
        self.stores[handle].vacuum()

    @rule(handle=handles, name=names)
    def reopen_one(self, handle: int, name: str) -> None:
        self.take(handle, name, 2)
        self.stores[handle].close()  # which gives back what was taken with it
        self.void_leases(handle)
        self.stores[handle] = self.open_one()

    def close_all(self) -> None:
        super().close_all()
        self.void_leases()

    @rule(handle=handles)
    def back_up(self, handle: int) -> None:
        copy = self.path.with_name("copy.db")
        self.stores[handle].backup(copy)
        with logstore.open(copy) as store:
            for name in QUEUES:
                found = [info.task_id for info in store.queue(name).messages()]
                assert found == [held.task_id for held in self.of(name)]
            assert store.check().ok
        copy.unlink()

    @invariant()
    def counts_agree(self) -> None:
        if not self.stores:
            return
        for name in QUEUES:
            assert self.queue(0, name).stats() == (
                *(len(self.of(name, status)) for status in ("ready", "delayed", "leased", "dead")),
                name in self.paused,
            )


TestQueueModel = pytest.mark.slow(QueueMachine.TestCase)
TestQueueModel.settings = MODEL
