"""Queues: what is put is delivered until it is settled, by one worker at a time, in order."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import logstore
from logstore import MessageSettledError
from tests.support.inside import folded, has_queues

if TYPE_CHECKING:
    from logstore.queue import Lease, Queue
    from tests.support.peers import Peer
    from tests.support.stores import Clock, Stores

CrashCopy = Callable[[logstore.Store], Path]

SMALL_LOG = 1 << 14
LONG_S = 60.0


def take(queue: Queue) -> Lease:
    """Take what is there."""
    lease = queue.take(0)
    assert lease is not None
    return lease


def drained(queue: Queue) -> list[Any]:
    """Take and settle everything; return the payloads."""
    payloads = []
    while (lease := queue.take(0)) is not None:
        payloads.append(lease.payload)
        lease.ack()
    return payloads


def statuses(queue: Queue) -> list[str]:
    return [info.status for info in queue.messages()]


# -- order ---------------------------------------------------------------------------------------


def test_messages_are_delivered_in_their_order(store: logstore.Store) -> None:
    queue = store.queue()
    for number in range(20):
        queue.put(number)
    assert drained(queue) == list(range(20))
    assert queue.take(0) is None


@pytest.mark.parametrize("in_table", [False, True])
def test_a_higher_priority_is_first_and_a_low_one_is_not_starved(
    store: logstore.Store, in_table: bool
) -> None:
    queue = store.queue()
    queue.put("low")
    for number in range(40):
        queue.put(number, priority=number % 2 + 1)
    if in_table:
        store.compact()
    got = drained(queue)
    assert got.index("low") == 15  # each sixteenth is the oldest of all
    got.remove("low")
    odd, even = [n for n in got if n % 2], [n for n in got if not n % 2]
    assert odd == list(range(1, 40, 2))
    assert even == list(range(0, 40, 2))
    assert got[:15] == odd[:15]


def test_queues_are_apart(store: logstore.Store) -> None:
    one, two = store.queue("one"), store.queue("two")
    one.put("a")
    two.put("b")
    store.compact()
    one.put("c")
    assert drained(two) == ["b"]
    assert drained(one) == ["a", "c"]


def test_delayed_messages_come_when_they_are_due(store: logstore.Store, clock: Clock) -> None:
    queue = store.queue()
    queue.put("in ten seconds", delay_s=10)
    queue.put("at a time", at=datetime.now(timezone.utc) + timedelta(seconds=5))
    store.compact()
    queue.put("in seven", delay_s=7)
    assert queue.take(0) is None
    assert statuses(queue) == ["delayed"] * 3
    queue.put("now")
    assert drained(queue) == ["now"]
    clock.advance(8)
    assert drained(queue) == ["at a time", "in seven"]
    clock.advance(3)
    assert drained(queue) == ["in ten seconds"]


def test_a_clock_that_is_set_back_holds_nothing_back_that_was_not_delayed(
    store: logstore.Store, clock: Clock
) -> None:
    queue = store.queue()
    queue.put(1)
    store.compact()
    queue.put(2)
    clock.advance(-3600)
    queue.put(3)
    assert drained(queue) == [1, 2, 3]


def test_a_take_waits_for_a_message(store: logstore.Store) -> None:
    queue = store.queue()
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(queue.take(LONG_S)))
    thread.start()
    time.sleep(0.05)
    queue.put("x")
    thread.join(LONG_S)
    assert got[0].payload == "x"
    started = time.monotonic()
    queue.put("y", delay_s=0.2)
    lease = queue.take(LONG_S)
    assert lease is not None
    assert lease.payload == "y"
    assert time.monotonic() - started >= 0.2
    assert queue.take(0.05) is None


# -- settling ------------------------------------------------------------------------------------


def test_a_leased_message_is_delivered_to_nobody_else(store: logstore.Store) -> None:
    queue = store.queue()
    queue.put(1)
    lease = take(queue)
    assert queue.take(0) is None
    assert statuses(queue) == ["leased"]
    lease.ack()
    assert queue.take(0) is None
    assert statuses(queue) == []
    with pytest.raises(MessageSettledError):
        lease.ack()


def test_a_result_and_the_settlement_are_one(
    store: logstore.Store, crash_copy: CrashCopy, open_store: Stores
) -> None:
    queue = store.queue()
    task_id = queue.put("job")
    assert task_id is not None
    flushes = store.stats().flushes
    take(queue).ack_with_result({"answer": 42})
    assert store.stats().flushes == flushes + 1
    copy = open_store(crash_copy(store))
    assert copy.get_result(task_id) == {"answer": 42}
    assert copy.queue().take(0) is None


def test_a_result_is_not_stored_where_the_message_was_settled_before(
    store: logstore.Store,
) -> None:
    queue = store.queue()
    queue.put("job", task_id="t")
    lease = take(queue)
    assert queue.cancel("t")
    with pytest.raises(MessageSettledError):
        lease.ack_with_result(1)
    assert store.status("t") == "unknown"
    assert queue.take(0) is None


def test_what_is_released_is_delivered_again_and_that_is_no_attempt(store: logstore.Store) -> None:
    queue = store.queue()
    queue.put(1)
    queue.put(2)
    first = take(queue)
    first.release()
    first.release()  # without effect
    again = take(queue)
    assert (again.payload, again.attempts) == (1, 0)
    again.ack()
    assert drained(queue) == [2]


@pytest.mark.parametrize("in_table", [False, True])
def test_a_retry_is_an_attempt_more_and_after_the_last_one_it_is_dead(
    store: logstore.Store, clock: Clock, in_table: bool
) -> None:
    queue = store.queue()
    queue.put("job", task_id="t", max_attempts=2)
    lease = take(queue)
    lease.retry(delay_s=5)
    if in_table:
        store.compact()
    assert queue.take(0) is None
    clock.advance(6)
    lease = take(queue)
    assert lease.attempts == 1
    lease.retry()
    if in_table:
        store.compact()
    [info] = queue.messages()
    assert (info.task_id, info.status, info.attempts) == ("t", "dead", 2)
    assert "attempts" in info.reason
    assert queue.take(0) is None


@pytest.mark.parametrize("in_table", [False, True])
def test_dead_messages_are_kept_and_delivered_again_on_request(
    store: logstore.Store, in_table: bool
) -> None:
    queue = store.queue()
    queue.put("a", task_id="a")
    queue.put("b", task_id="b")
    take(queue).dead("it is poison")
    take(queue).dead("this too")
    if in_table:
        store.compact()
    assert [info.reason for info in queue.messages("dead")] == ["it is poison", "this too"]
    assert queue.requeue("b") == 1
    lease = take(queue)
    assert (lease.task_id, lease.attempts) == ("b", 0)
    lease.ack()
    assert queue.requeue() == 1
    assert queue.purge("dead") == 0
    assert drained(queue) == ["a"]


def test_a_unique_message_is_put_once(store: logstore.Store) -> None:
    queue = store.queue()
    assert queue.put(1, task_id="t", unique=True) == "t"
    assert queue.put(2, task_id="t", unique=True) is None
    store.compact()
    assert queue.put(3, task_id="t", unique=True) is None
    assert queue.put(4, task_id="tt", unique=True) == "tt"
    lease = take(queue)
    assert queue.put(5, task_id="t", unique=True) is None
    lease.ack()
    assert queue.put(6, task_id="t", unique=True) == "t"
    assert drained(queue) == [4, 6]


def test_many_are_put_with_one_flush(store: logstore.Store) -> None:
    queue = store.queue()
    flushes = store.stats().flushes
    ids = queue.put_many(range(100))
    assert store.stats().flushes == flushes + 1
    assert len(set(ids)) == 100
    assert drained(queue) == list(range(100))
    assert queue.put_many([]) == []


@pytest.mark.parametrize("in_table", [False, True])
def test_a_queue_is_paused_over_restarts(
    open_store: Stores, store: logstore.Store, in_table: bool
) -> None:
    queue = store.queue()
    queue.put(1)
    queue.pause()
    if in_table:
        store.compact()
    assert queue.take(0) is None
    assert queue.stats() == (1, 0, 0, 0, True)
    store.close()
    queue = open_store().queue()
    assert queue.take(0) is None
    queue.resume()
    assert drained(queue) == [1]


def test_purging_leaves_what_is_being_worked_on(store: logstore.Store) -> None:
    queue = store.queue()
    queue.put_many(range(5))
    lease = take(queue)
    queue.put("later", delay_s=100)
    store.queue("other").put("stays")
    assert queue.purge("delayed") == 1
    assert queue.purge() == 4
    assert statuses(queue) == ["leased"]
    lease.ack()
    assert drained(store.queue("other")) == ["stays"]


@pytest.mark.parametrize("in_table", [False, True])
def test_cancelling(store: logstore.Store, in_table: bool) -> None:
    queue = store.queue()
    queue.put(1, task_id="a")
    queue.put(2, task_id="b")
    if in_table:
        store.compact()
    assert queue.cancel("a")
    assert not queue.cancel("a")
    assert not queue.cancel("c")
    assert drained(queue) == [2]


@pytest.mark.parametrize(
    "wrong",
    [
        {"priority": 256},
        {"priority": -1},
        {"delay_s": -1},
        {"at": datetime(2030, 1, 1)},
        {"max_attempts": -1},
        {"task_id": ""},
    ],
)
def test_wrong_arguments_are_refused_and_nothing_is_put(
    store: logstore.Store, wrong: dict[str, Any]
) -> None:
    queue = store.queue()
    with pytest.raises(ValueError):
        queue.put(1, **wrong)
    with pytest.raises(TypeError):
        queue.put(1, delay_s=1, at=datetime.now(timezone.utc))
    with pytest.raises(logstore.UnserializableValueError):
        queue.put(object())
    assert queue.take(0) is None


@pytest.mark.parametrize("name", ["", "x" * 201, 7])
def test_names_of_queues_are_checked(store: logstore.Store, name: Any) -> None:
    with pytest.raises(ValueError):
        store.queue(name)


# -- on the disk ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "compact", "crash", "vacuum", "backup", "sealed"])
def test_messages_survive(
    open_store: Stores, crash_copy: CrashCopy, path: Path, tmp_path: Path, how: str
) -> None:
    store = open_store(compact_at=SMALL_LOG if how == "sealed" else 1 << 20)
    queue = store.queue()
    queue.put("settled", task_id="s")
    queue.put("returned", task_id="r")
    queue.put("dead", task_id="d")
    store.compact()
    queue.put("log", task_id="l", priority=3)
    queue.put("delayed", task_id="y", delay_s=1000)
    leases = {lease.task_id: lease for lease in (take(queue) for _ in range(4))}
    leases["s"].ack()
    leases["r"].retry()
    leases["d"].dead("why")
    if how == "sealed":
        for number in range(40):
            store.set_result(f"fill-{number}", bytes(1000))
        assert folded(store)
    if how == "compact":
        store.compact()
    elif how == "crash":
        store = open_store(crash_copy(store))
    elif how == "vacuum":
        store.vacuum()
    elif how == "backup":
        store.backup(tmp_path / "copy.db")
        store = open_store(tmp_path / "copy.db")
    elif how == "close":
        store.close()
        store = open_store()
    queue = store.queue()
    found = {info.task_id: (info.status, info.attempts) for info in queue.messages()}
    assert found.pop("l") in {("ready", 0), ("leased", 0)}
    assert found == {"r": ("ready", 1), "d": ("dead", 1), "y": ("delayed", 0)}


def test_a_message_that_is_settled_within_one_log_never_gets_into_the_table(
    store: logstore.Store,
) -> None:
    queue = store.queue()
    queue.put_many(range(100))
    drained(queue)
    before = store.stats().file_bytes
    store.compact()
    assert store.check().ok
    assert store.stats().file_bytes <= before + (1 << 16)


def test_a_store_without_queues_has_no_databases_for_them(store: logstore.Store) -> None:
    store.set_result("a", 1)
    assert store.queue().take(0) is None
    store.compact()
    assert not has_queues(store)
    store.queue().put(1)
    store.compact()
    assert has_queues(store)


def test_damaged_indexes_are_found(open_store: Stores, path: Path) -> None:
    import lmdb

    store = open_store()
    queue = store.queue()
    for number in range(3):
        queue.put(number, task_id=f"t{number}")
    queue.put("later", delay_s=1000)
    take(queue).dead("x")
    queue.pause()
    store.compact()
    backup = path.with_name("backup.db")
    store.backup(backup)
    for name in (b"ready", b"due", b"held", b"messages", b"dead", b"queues"):
        copy = path.with_name("damaged.db")
        shutil.copy(backup, copy)
        with (
            lmdb.open(str(copy), subdir=False, lock=False, max_dbs=16) as env,
            env.begin(write=True) as txn,
        ):
            database = env.open_db(name, txn=txn, create=False)
            with txn.cursor(db=database) as cursor:
                assert cursor.first()
                if name == b"queues":
                    cursor.put(cursor.key(), cursor.value()[:-1] + b"?")
                else:
                    cursor.delete()
        report = logstore.check(copy)
        assert not report.ok, name
        copy.unlink()


def test_a_large_message_goes_through_the_log(
    store: logstore.Store, crash_copy: CrashCopy, open_store: Stores
) -> None:
    queue = store.queue()
    value = os.urandom(1 << 20)
    queue.put(value, task_id="t")
    copy = open_store(crash_copy(store))
    assert take(copy.queue()).payload == value
    lease = take(queue)
    lease.ack_with_result(value)
    assert store.get_result("t") == value


# -- several processes ---------------------------------------------------------------------------


def test_the_messages_of_a_dead_worker_are_delivered_to_another(
    store: logstore.Store, start_peer: Callable[..., Peer]
) -> None:
    queue = store.queue()
    queue.put("job", task_id="t")
    queue.put("last", task_id="l", max_attempts=1)
    peer = start_peer(store.path)
    assert peer.run("leases = [store.queue().take(0) for _ in 'ab']; leases[0].payload") == "job"
    assert queue.take(0) is None
    peer.kill()
    lease = queue.take(LONG_S)
    assert lease is not None
    assert (lease.task_id, lease.attempts) == ("t", 1)
    [dead] = queue.messages("dead")
    assert (dead.task_id, dead.reason) == ("l", "the worker died")


def test_what_a_worker_holds_that_closes_is_delivered_at_once(
    store: logstore.Store, start_peer: Callable[..., Peer]
) -> None:
    queue = store.queue()
    queue.put("job")
    peer = start_peer(store.path)
    peer.run("lease = store.queue().take(0)")
    peer.run("store.close()")
    lease = queue.take(LONG_S)
    assert lease is not None
    assert lease.attempts == 0


def test_a_stopped_worker_keeps_its_message_and_stops_no_other(
    store: logstore.Store, start_peer: Callable[..., Peer]
) -> None:
    queue = store.queue()
    queue.put_many([1, 2])
    peer = start_peer(store.path)
    peer.run("lease = store.queue().take(0)")
    peer.stop()
    assert drained(queue) == [2]
    assert queue.take(0.3) is None
    peer.resume()
    peer.run("lease.ack()")
    assert statuses(queue) == []


WORKER = """
import os, random, sys, time, logstore
path, seed = sys.argv[1], int(sys.argv[2])
random = random.Random(seed)
starts = os.open(path + ".starts", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
with logstore.open(path, compact_at=1 << 14) as store:
    queue = store.queue()
    while True:
        lease = queue.take(1.0)
        if lease is None:
            continue
        os.write(starts, b"%s %d\\n" % (lease.task_id.encode(), os.getpid()))
        time.sleep(random.random() * 0.004)
        lease.ack_with_result(lease.payload)
"""


@pytest.mark.slow
def test_killed_workers_lose_nothing_and_only_a_death_starts_a_task_again(
    open_store: Stores, path: Path
) -> None:
    import random
    import signal
    import subprocess
    import sys

    count, kills = 600, 25
    chance = random.Random(7)
    store = open_store(compact_at=SMALL_LOG)
    queue = store.queue()
    ids = queue.put_many(range(count))
    workers: list[subprocess.Popen[bytes]] = []
    dead: set[int] = set()

    def start() -> None:
        command = [sys.executable, "-c", WORKER, str(path), str(chance.randrange(1 << 30))]
        workers.append(subprocess.Popen(command))

    for _ in range(4):
        start()
    try:
        deadline = time.monotonic() + LONG_S
        while len(dead) < kills and time.monotonic() < deadline:
            time.sleep(0.02 + chance.random() * 0.05)
            victim = workers.pop(chance.randrange(len(workers)))
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            dead.add(victim.pid)
            start()
        deadline = time.monotonic() + LONG_S
        while statuses(queue) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert len(dead) == kills
    assert [store.get_result(task_id) for task_id in ids] == list(range(count))
    starts = Path(f"{path}.starts")
    lines = [line.split() for line in starts.read_text().splitlines()]
    starts.unlink()
    first = Counter(task_id for task_id, _ in lines)
    assert set(first) == set(ids)
    by_task: dict[str, list[int]] = {}
    for task_id, pid in lines:
        by_task.setdefault(task_id, []).append(int(pid))
    again = {task_id: pids for task_id, pids in by_task.items() if len(pids) > 1}
    assert all(pid in dead for pids in again.values() for pid in pids[:-1])
