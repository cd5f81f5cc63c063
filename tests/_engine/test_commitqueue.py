"""Group commit: who leads, who follows, what a group costs, what each write gets."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import logstore
from logstore import TaskProgress
from logstore._engine import append, compaction, durability
from logstore._engine import commitqueue as commit_module
from logstore._engine import engine as engine_module
from logstore._engine.commitqueue import CommitQueue
from logstore._engine.frames import RESULT, Entry
from logstore._engine.writes import Lookup, Write
from tests.support.inside import folded, live

LONG_S = 100.0


def a_write(name: str) -> Write:
    return Write(name.encode(), Entry(RESULT, 0, 0, 0, b""), sync=True)


class Disk:
    """A commit function that a test can hold up."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.begun = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)
        self.error: Exception | None = None

    def commit(self, group: list[Write], ack: Callable[[], None]) -> None:
        self.groups.append([write.key.decode() for write in group])
        self.begun.release()
        assert self.may_end.acquire(timeout=LONG_S)
        if self.error is not None:
            raise self.error
        for write in group:
            write.error = None
        ack()


def start(queue: CommitQueue, name: str, outcomes: dict[str, object]) -> threading.Thread:
    def run() -> None:
        write = a_write(name)
        try:
            queue.run([write])
            outcomes[name] = write.error
        except BaseException as exc:
            outcomes[name] = exc

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def wait_for_queue(queue: CommitQueue, length: int) -> None:
    """Until so many batches wait; the queue has no other sign of it."""
    gate = threading.Event()
    while len(queue._queue) < length:
        gate.wait(0.001)


class InterruptedLock:
    """A lock; after one release, a signal handler raises."""

    armed = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.acquire = self._lock.acquire
        self.locked = self._lock.locked

    def release(self) -> None:
        self._lock.release()
        if InterruptedLock.armed:
            InterruptedLock.armed = False
            raise KeyboardInterrupt


def test_a_signal_during_the_acks_leaves_no_thread_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk()
    queue = CommitQueue(disk.commit, LONG_S)
    outcomes: dict[str, object] = {}
    threads = [start(queue, "first", outcomes)]
    assert disk.begun.acquire(timeout=LONG_S)
    with monkeypatch.context() as patch:
        ours = SimpleNamespace(Lock=InterruptedLock, get_ident=threading.get_ident)
        patch.setattr(commit_module, "threading", ours)
        for number, name in enumerate("abc"):
            threads.append(start(queue, name, outcomes))
            wait_for_queue(queue, number + 1)
    disk.may_end.release()
    assert disk.begun.acquire(timeout=LONG_S)  # "a" leads "b" and "c"
    InterruptedLock.armed = True
    disk.may_end.release()
    for thread in threads:
        thread.join(LONG_S / 2)
    assert not any(thread.is_alive() for thread in threads)
    assert isinstance(outcomes.pop("a"), KeyboardInterrupt)
    assert outcomes == {"first": None, "b": None, "c": None}


def test_a_lone_writer_commits_on_its_own_thread() -> None:
    threads: list[int] = []

    def commit(group: list[Write], ack: Callable[[], None]) -> None:
        threads.append(threading.get_ident())
        ack()

    CommitQueue(commit, LONG_S).run([a_write("a")])
    assert threads == [threading.get_ident()]


def test_those_who_come_during_a_commit_share_the_next_one_in_order() -> None:
    disk = Disk()
    queue = CommitQueue(disk.commit, LONG_S)
    outcomes: dict[str, object] = {}
    threads = [start(queue, "first", outcomes)]
    assert disk.begun.acquire(timeout=LONG_S)
    for i, name in enumerate(("a", "b", "c")):
        threads.append(start(queue, name, outcomes))
        wait_for_queue(queue, i + 1)
    disk.may_end.release(2)
    for thread in threads:
        thread.join(LONG_S)
    assert disk.groups == [["first"], ["a", "b", "c"]]
    assert outcomes == dict.fromkeys(("first", "a", "b", "c"))


def test_a_follower_whose_time_is_over_leaves_the_queue_and_the_rest_goes_on() -> None:
    disk = Disk()
    queue = CommitQueue(disk.commit, 0.05)
    outcomes: dict[str, object] = {}
    leader = start(queue, "first", outcomes)
    assert disk.begun.acquire(timeout=LONG_S)
    late = start(queue, "late", outcomes)
    late.join(LONG_S)
    assert isinstance(outcomes["late"], logstore.WriteTimeoutError)
    disk.may_end.release(2)
    leader.join(LONG_S)
    queue.run([a_write("after")])
    assert disk.groups == [["first"], ["after"]]


def test_a_commit_that_raises_wakes_everybody_and_leaves_no_leader_behind() -> None:
    disk = Disk()
    queue = CommitQueue(disk.commit, LONG_S)
    outcomes: dict[str, object] = {}
    threads = [start(queue, "first", outcomes)]
    assert disk.begun.acquire(timeout=LONG_S)
    threads.append(start(queue, "a", outcomes))
    wait_for_queue(queue, 1)
    threads.append(start(queue, "b", outcomes))
    wait_for_queue(queue, 2)
    disk.may_end.release()
    assert disk.begun.acquire(timeout=LONG_S)
    disk.error = RuntimeError("broken")
    disk.may_end.release()
    for thread in threads:
        thread.join(LONG_S)
    assert outcomes["first"] is None
    for name in ("a", "b"):  # the leader has the error itself, the follower an unknown outcome
        assert isinstance(outcomes[name], RuntimeError | logstore.WriteTimeoutError)
    disk.error = None
    disk.may_end.release()
    write = a_write("after")
    queue.run([write])
    assert write.error is None


def test_a_batch_that_was_taken_is_not_committed_again_though_its_leader_never_said_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The leader is interrupted in the acks, and once more where it makes up for that."""
    disk = Disk()
    queue = CommitQueue(disk.commit, LONG_S)
    outcomes: dict[str, object] = {}
    threads = [start(queue, "first", outcomes)]
    assert disk.begun.acquire(timeout=LONG_S)
    interrupted: list[object] = []

    def wake(batch: commit_module._Batch) -> None:
        if len(disk.groups) == 2 and len(interrupted) < 2:
            interrupted.append(batch)
            raise KeyboardInterrupt
        real(batch)

    real = commit_module._wake
    monkeypatch.setattr(commit_module, "_wake", wake)
    for number, name in enumerate("abc"):
        threads.append(start(queue, name, outcomes))
        wait_for_queue(queue, number + 1)
    disk.may_end.release(10)
    for thread in threads:
        thread.join(LONG_S / 2)
    assert len(interrupted) == 2
    assert disk.groups == [["first"], ["a", "b", "c"]]
    assert isinstance(outcomes.pop("a"), KeyboardInterrupt)
    assert outcomes == {"first": None, "b": None, "c": None}


@pytest.mark.parametrize("alone", [True, False])
def test_a_leader_whose_commit_raises_gives_the_lead_back(alone: bool) -> None:
    disk = Disk()
    queue = CommitQueue(disk.commit, LONG_S)
    outcomes: dict[str, object] = {}
    threads = []
    if not alone:
        threads.append(start(queue, "first", outcomes))
        assert disk.begun.acquire(timeout=LONG_S)
    threads.append(start(queue, "a", outcomes))
    if not alone:
        wait_for_queue(queue, 1)
        disk.may_end.release()
        threads[0].join(LONG_S)
    assert disk.begun.acquire(timeout=LONG_S)
    disk.error = RuntimeError("broken")
    disk.may_end.release()
    threads[-1].join(LONG_S)
    assert outcomes["a"] is disk.error
    assert queue._lead.acquire(blocking=False)


def test_a_commit_within_a_commit_of_the_same_thread_is_refused() -> None:
    begun: list[bytes] = []
    refused: list[BaseException] = []

    def commit(group: list[Write], ack: Callable[[], None]) -> None:
        begun.extend(write.key for write in group)
        if len(begun) == 1:
            try:
                queue.run([a_write("inner")])
            except logstore.WriteError as exc:
                refused.append(exc)
        ack()

    queue = CommitQueue(commit, LONG_S)
    queue.run([a_write("outer")])
    assert [type(exc) for exc in refused] == [logstore.WriteError]
    queue.run([a_write("after")])
    assert begun == [b"outer", b"after"]


@pytest.mark.parametrize("woken", ["with the group", "to lead"])
def test_a_follower_is_woken(woken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself it looks again only when its time is over, which is too late here."""
    monkeypatch.setattr(commit_module, "RECHECK_S", LONG_S)
    time_s = 20.0
    disk = Disk()
    queue = CommitQueue(disk.commit, time_s)
    outcomes: dict[str, object] = {}
    threads = [start(queue, "first", outcomes)]
    assert disk.begun.acquire(timeout=LONG_S)
    names = ["a"] if woken == "to lead" else ["a", "b"]
    for number, name in enumerate(names):
        threads.append(start(queue, name, outcomes))
        wait_for_queue(queue, number + 1)
    disk.may_end.release(10)
    for thread in threads:
        thread.join(time_s / 2)
    assert outcomes == dict.fromkeys(["first", *names])


# -- on a store --------------------------------------------------------------------------------


def test_a_group_is_one_write_and_one_flush(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    pwrite_all, sync_data = durability.pwrite_all, durability.sync_data

    def write(fd: int, data: bytes | memoryview, offset: int) -> None:
        calls.append("write")
        pwrite_all(fd, data, offset)

    def sync(fd: int) -> None:
        calls.append("sync")
        sync_data(fd)

    monkeypatch.setattr(durability, "pwrite_all", write)
    monkeypatch.setattr(durability, "sync_data", sync)
    store._handle.commit([store._handle.result_write(f"task-{i}", i) for i in range(50)])
    assert calls == ["write", "sync"]
    store.set_progress("p", TaskProgress())
    assert calls == ["write", "sync", "write"]


def test_a_group_does_not_go_on_behind_a_compaction_that_failed_half_way(
    store: logstore.Store,
    crash_copy: Callable[[logstore.Store], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The table is of the next epoch already: frames of this one would not count any more."""
    real = compaction.fold_into

    def fold_into(*arguments: Any, **options: Any) -> int:
        monkeypatch.undo()
        real(*arguments, **options)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(engine_module, "fold_into", fold_into)
    writes = [
        store._handle.result_write("large", bytes(300_000)),
        store._handle.result_write("small", 1),
    ]
    live(store).commit_queue.run(writes)
    assert isinstance(writes[0].error, logstore.WriteError)
    assert writes[1].error is None
    with logstore.open(crash_copy(store)) as recovered:
        assert recovered.get_result("small") == 1


def test_a_result_is_visible_only_after_its_flush(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    sync_data = durability.sync_data

    def sync(fd: int) -> None:
        seen.append(store.status("a"))
        sync_data(fd)

    monkeypatch.setattr(durability, "sync_data", sync)
    store.set_result("a", 1)
    assert seen == ["unknown"]
    assert store.status("a") == "ready"


def test_a_commit_in_the_steady_state_does_not_change_the_size_of_the_log(
    store: logstore.Store,
) -> None:
    size = store.stats().log_file_bytes
    for i in range(300):
        store.set_result(f"task-{i}", bytes(10_000))
        assert folded(store)
    stats = store.stats()
    assert stats.compactions >= 2
    assert stats.log_file_bytes == size


def test_each_write_meets_the_store_as_the_ones_before_it_in_the_group_leave_it(
    store: logstore.Store,
) -> None:
    popped, again = store._handle.pop_write("a"), store._handle.pop_write("a")
    deleted = store._handle.delete_write("a")
    with pytest.raises(logstore.ResultDeletedError):
        store._handle.commit([store._handle.result_write("a", 1), popped, again, deleted])
    assert popped.error is None
    assert store._handle.popped_value(popped) == 1
    assert isinstance(again.error, logstore.ResultDeletedError)
    assert (deleted.error, deleted.outcome) == (None, False)


def test_a_large_write_in_a_group_keeps_its_place(store: logstore.Store) -> None:
    store._handle.commit(
        [
            store._handle.result_write("a", "small"),
            store._handle.result_write("a", bytes(400_000)),
            store._handle.result_write("b", bytes(400_000)),
            store._handle.result_write("b", "small"),
        ]
    )
    assert store.get_result("a") == bytes(400_000)
    assert store.get_result("b") == "small"
    store._handle.commit(
        [
            store._handle.result_write("b", "small too"),
            store._handle.result_write("b", bytes(400_001)),
        ]
    )
    assert store.get_result("b") == bytes(400_001)


def test_what_comes_behind_a_failed_part_of_a_group_is_committed_after_a_recovery(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = live(store)

    def fail(*_: object) -> None:
        engine.header.writing = 1  # as a compaction that fails in its commit leaves it
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(engine, "fold_large", fail)
    large, small = (
        store._handle.result_write("a", bytes(400_000)),
        store._handle.result_write("b", 2),
    )
    with pytest.raises(logstore.WriteError, match="not acknowledged"):
        store._handle.commit([large, small])
    assert isinstance(large.error, logstore.WriteError)
    assert small.error is None
    assert (store.status("a"), store.get_result("b")) == ("unknown", 2)
    assert store.stats().recoveries == 1
    assert engine.header.writing == 0


def test_a_group_for_which_the_log_has_no_room_fails_and_the_next_one_goes_on(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append, "OFFSET_MAX", 0xFFFF)  # as if offsets had 16 bits
    store.set_result("before", 1)
    with pytest.raises(logstore.WriteError, match="the log has reached its largest size"):
        store._handle.commit(
            [
                store._handle.result_write("a", bytes(40_000)),
                store._handle.result_write("b", bytes(40_000)),
            ]
        )
    assert (store.status("a"), store.status("b")) == ("unknown", "unknown")
    store.set_result("after", 2)
    assert (store.get_result("before"), store.get_result("after")) == (1, 2)
    assert store.stats().recoveries == 0


def test_a_refused_write_in_a_group_whose_flush_fails_has_the_error_of_the_flush(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been refused because of a write that has failed now."""
    store.set_result("a", 1)
    refused, lost = store._handle.pop_write("missing"), store._handle.result_write("b", 2)

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(durability, "sync_data", fail)
    with pytest.raises(logstore.WriteError):
        store._handle.commit([refused, lost])
    monkeypatch.undo()
    assert isinstance(refused.error, logstore.WriteError)
    assert isinstance(lost.error, logstore.WriteError)
    assert store.get_result("a") == 1


def test_a_deletion_meets_the_progress_written_before_it_in_the_group(
    store: logstore.Store,
) -> None:
    deleted = store._handle.delete_write("a")
    store._handle.commit([store._handle.progress_write("a", TaskProgress(0.5)), deleted])
    assert deleted.outcome is False
    assert (store.status("a"), store.get_progress("a")) == ("unknown", None)


def test_a_plain_write_is_logged_whatever_the_store_holds() -> None:
    write = a_write("a")
    assert write.resolve(Lookup(), 0, 1) is write.entry


@pytest.mark.parametrize("call", ["pwrite_all", "sync_data"])
def test_a_failed_write_or_flush_fails_the_group_and_shows_nothing_of_it(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    store.set_result("before", 1)

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(durability, call, fail)
    writes = [store._handle.result_write(name, 1) for name in ("a", "b")]
    with pytest.raises(logstore.WriteError, match="not acknowledged"):
        store._handle.commit(writes)
    monkeypatch.undo()
    assert all(isinstance(write.error, logstore.WriteError) for write in writes)
    assert (store.status("a"), store.status("b")) == ("unknown", "unknown")
    assert store.get_result("before") == 1
    store.set_result("after", 2)
    assert store.get_result("after") == 2
    assert (store.status("a"), store.status("b")) == ("unknown", "unknown")
    assert store.stats().recoveries >= 1


def test_after_a_failed_flush_the_log_is_another_file(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = live(store).logs.log_id

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(durability, "sync_data", fail)
    with pytest.raises(logstore.WriteError):
        store.set_result("a", 1)
    monkeypatch.undo()
    store.set_result("b", 1)
    assert live(store).logs.log_id != before
    assert store.status("a") == "unknown"


def test_a_full_disk_is_said_and_writing_works_again_when_there_is_space(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set_result("before", 1)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durability, "pwrite_all", fail)
    for _ in range(3):
        with pytest.raises(logstore.DiskFullError, match="free some space"):
            store.set_result("a", 1)
    assert store.get_result("before") == 1
    monkeypatch.undo()
    store.set_result("a", 2)
    assert (store.get_result("before"), store.get_result("a")) == (1, 2)
