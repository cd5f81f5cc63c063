"""The engine's part of queues: payloads, leases, lines, and what is written together."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmdb
import pytest

import logstore
from logstore import CorruptRecordError, MessageSettledError, StoreBusyError
from logstore._engine import leases, locks, messages
from logstore._engine.engine import Engine
from logstore._engine.frames import DELETED, MESSAGE, RESULT, SETTLED, Entry
from logstore._engine.leases import PAGES, Leases
from logstore._engine.messages import Message, Settings
from logstore._engine.table import Txn
from logstore._engine.taking import Taker
from logstore._engine.writes import Change, Delete, Together, Write
from logstore._handle import Handle
from tests.support.bystanders import until
from tests.support.inside import live

if TYPE_CHECKING:
    from tests.support.peers import Peer
    from tests.support.stores import Clock

A_MESSAGE = Message(b"task", 1234, b"queue", 7, 0, 2, 5, b"body")


# -- payloads ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [A_MESSAGE, A_MESSAGE._replace(reason="why not", due_us=99), A_MESSAGE._replace(body=b"")],
)
def test_a_record_has_all_of_a_message(message: Message) -> None:
    assert messages.decode_message(b"task", messages.record_entry(message)) == message


@pytest.mark.parametrize(
    "payload",
    [b"", b"\0" * 7, b"\0" * 8, b"\0\0\0\0\0\x09\0\0name", b"\0\0\0\0\0\x02\0\0\xff\xff"],
)
def test_a_damaged_message_is_told(payload: bytes) -> None:
    with pytest.raises(CorruptRecordError, match=r"task b't' at 5 is damaged"):
        messages.decode_message(b"t", Entry(MESSAGE, 0, 5, 0, payload))


@pytest.mark.parametrize("payload", [b"", bytes(8), bytes(9), b"\xff" * 9])
def test_a_frame_that_names_no_message_is_told(payload: bytes) -> None:
    with pytest.raises(CorruptRecordError, match="names no message"):
        messages.sequence_of(Entry(SETTLED, 0, 5, 0, payload))


def test_what_becomes_of_a_message() -> None:
    again = messages.after(A_MESSAGE, messages.returned_entry(1234, 3, 77))
    assert (again.attempts, again.due_us, again.reason) == (3, 77, "")
    dead = messages.after(A_MESSAGE, messages.buried_entry(1234, 4, ""))
    assert (dead.attempts, dead.reason) == (4, "unknown")
    assert messages.after(dead, messages.returned_entry(1234, 0, 0)).reason == ""


def test_keys_sort_in_the_order_of_delivery() -> None:
    ready = [
        A_MESSAGE._replace(priority=p, sequence=s) for p, s in ((9, 5), (7, 1), (7, 2), (0, 0))
    ]
    keys = list(map(messages.ready_key, ready))
    assert keys == sorted(keys)
    assert [messages.split_ready(key) for key in keys] == [(m.priority, m.sequence) for m in ready]
    due = [A_MESSAGE._replace(due_us=d, priority=p) for d, p in ((1, 0), (2, 9), (2, 3))]
    keys = list(map(messages.due_key, due))
    assert keys == sorted(keys)
    assert [messages.split_due(key)[:2] for key in keys] == [(m.due_us, m.priority) for m in due]


def test_settings() -> None:
    entry = messages.settings_entry(Settings(paused=True, running_max=9))
    assert messages.decode_settings(entry.payload) == (True, 9)
    assert messages.decode_settings(b"") == Settings()


# -- leases --------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Leases, Leases]]:
    """Two processes' leases on the same words; the locks are on two open files."""
    memory = memoryview(bytearray(leases.BYTES))
    fds = [os.open(tmp_path / "shm", os.O_RDWR | os.O_CREAT) for _ in range(2)]
    yield Leases(fds[0], memory), Leases(fds[1], memory)
    for fd in fds:
        os.close(fd)


def test_a_page_is_one_workers_until_it_leaves(two: tuple[Leases, Leases]) -> None:
    one, other = two
    page = one.join("x", 11)
    assert other.join("x", 22) != page
    assert sorted(one.processes()) == [11, 22]
    assert list(other.dead()) == []
    one.leave(page)
    assert other.join("x", 22) == page


def test_leases_of_all_are_seen_and_a_page_has_room_for_some(two: tuple[Leases, Leases]) -> None:
    one, other = two
    page, theirs = one.join("x", 11), other.join("x", 22)
    for sequence in range(1, leases.LEASES_MAX + 1):
        assert one.has_room(page)
        one.add(page, sequence, 0)
    assert not one.has_room(page)
    other.add(theirs, 2000, 65)
    assert one.all() == {*range(1, leases.LEASES_MAX + 1), 2000}
    one.remove(page, 5)
    one.remove(page, 5)
    assert 5 not in other.all()
    one.add(page, 1000, 0)


def test_a_dead_workers_page_is_nobodys_before_its_messages_are_returned(
    two: tuple[Leases, Leases], tmp_path: Path
) -> None:
    one, other = two
    page = one.join("x", 11)
    one.add(page, 5, 67)
    locks.unlock_byte(one._fd, locks.ByteLock(leases.LOCKS_AT + page))  # as the kernel does
    assert other.join("x", 22) != page
    [found] = other.dead()
    assert (found, other.of(page)) == (page, [(5, 3)])
    other.clear_page(page)
    assert list(other.dead()) == []
    one._mine.clear()
    assert other.join("x", 33) == page


def test_there_are_so_many_workers_at_most(two: tuple[Leases, Leases]) -> None:
    one, other = two
    for number in range(1, PAGES):
        one.join("x", number)
    with pytest.raises(StoreBusyError, match=f"{PAGES - 1} workers"):
        other.join("x", 1)


def test_a_process_holds_more_than_a_page(store: logstore.Store) -> None:
    queue = store.queue()
    count = 3 * leases.LEASES_MAX
    queue.put_many(range(count))
    held = [queue.take(0) for _ in range(count)]
    assert [lease.payload for lease in held if lease is not None] == list(range(count))
    assert queue.take(0) is None
    for lease in held:
        assert lease is not None
        lease.ack()
    assert list(queue.messages()) == []


# -- what is written together --------------------------------------------------------------------


def test_parts_that_write_nothing_are_left_out(store: logstore.Store) -> None:
    engine = live(store)
    delete = Delete(b"nothing", Entry(DELETED, 0, 0, 0, b""), sync=True)
    result = Write(b"r", Entry(RESULT, 0, 0, 0, b"\x01"), sync=True)
    engine.commit_queue.run([Together([delete, result])])
    assert store.get_result("r") == 1
    [(key, entry)] = engine.overlay.changed
    assert (key, entry.flags) == (b"r", 0)


def test_all_or_none(store: logstore.Store) -> None:
    queue = store.queue()
    queue.put(1, task_id="t")
    lease = queue.take(0)
    assert lease is not None
    lease.ack()
    result = Write(b"r", Entry(RESULT, 0, 0, 0, b"\x01"), sync=True)
    gone = Change(b"t", messages.settled_entry(1, 0), must=True)
    together = Together([result, gone])
    live(store).commit_queue.run([together])
    assert isinstance(together.error, MessageSettledError)
    assert not store.is_result_ready("r")


def test_a_chain_and_a_plain_write_in_one_group(store: logstore.Store) -> None:
    engine = live(store)
    group: list[Write] = [
        Together([Write(b"a", Entry(RESULT, 0, 0, 0, bytes((n,))), sync=True) for n in range(3)]),
        Write(b"b", Entry(RESULT, 0, 0, 0, b"\x05"), sync=True),
        Change(b"c", messages.settled_entry(7, 0)),
    ]
    engine.commit_queue.run(group)
    assert (store.get_result("a"), store.get_result("b")) == (2, 5)
    assert group[2].outcome is False
    assert all(entry.flags == 0 for _, entry in engine.overlay.changed)


# -- after a death -------------------------------------------------------------------------------


def test_a_message_that_a_dead_process_has_appended_is_there_after_the_recovery(
    store: logstore.Store, start_peer: Callable[..., Peer]
) -> None:
    peer = start_peer(store.path)
    peer.die("store.queue().put('theirs', task_id='t')", at="os.fdatasync")
    queue = store.queue()
    queue.put("mine")
    assert next(queue.messages()).task_id == "t"
    assert store.stats().recoveries == 1
    assert store.check().ok


def test_a_settlement_that_a_dead_worker_has_appended_counts(
    store: logstore.Store, start_peer: Callable[..., Peer]
) -> None:
    queue = store.queue()
    queue.put("job", task_id="t")
    peer = start_peer(store.path)
    peer.run("lease = store.queue().take(0)")
    peer.die("lease.ack_with_result('done')", at="os.fdatasync")
    assert queue.take(1.0) is None
    assert store.get_result("t") == "done"


def test_an_index_key_without_a_message_is_passed(path: Path) -> None:
    with logstore.open(path) as store:
        store.queue().put_many([1, 2])
    with (
        lmdb.open(str(path), subdir=False, lock=False, max_dbs=16) as env,
        env.begin(write=True) as txn,
        txn.cursor(db=env.open_db(b"messages", txn=txn, create=False)) as cursor,
    ):
        assert cursor.first()
        cursor.delete()
    assert not logstore.check(path).ok
    with logstore.open(path) as store:
        queue = store.queue()
        lease = queue.take(0)
        assert lease is not None
        assert lease.payload == 2
        lease.ack()
        assert queue.take(0) is None


def test_databases_that_are_being_made_are_read_by_nobody(store: logstore.Store) -> None:
    table = live(store).table
    store.queue().put("x")

    def make_and_fail(txn: Txn) -> None:
        table.make_queues(txn)
        assert not table.has_queues()
        assert [info.status for info in store.queue().messages()] == ["ready"]
        raise KeyError

    with pytest.raises(KeyError):
        table.write(make_and_fail)
    assert not table.has_queues()
    store.compact()
    assert table.has_queues()
    assert [info.status for info in store.queue().messages()] == ["ready"]


@pytest.mark.parametrize("how", ["retry", "dead"])
def test_a_message_that_was_met_while_its_delivery_ended_is_in_line_again(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    queue = store.queue()
    queue.put("job")
    lease = queue.take(0)
    assert lease is not None
    commit = Handle.commit

    def met(handle: Handle, writes: list[Write]) -> None:
        commit(handle, writes)
        monkeypatch.undo()
        queue.requeue()
        assert queue.take(0) is None  # it is in line again, and still leased

    monkeypatch.setattr(Handle, "commit", met)
    if how == "retry":
        lease.retry()
    else:
        lease.dead("why")
    again = queue.take(0)
    assert again is not None
    assert again.payload == "job"


def test_a_paused_queue_is_looked_at_no_more_often_because_a_message_is_due(
    store: logstore.Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = store.queue()
    queue.put("later", delay_s=10)
    queue.pause()
    clock.advance(20)
    takes = 0
    real = Taker.take

    def counted(taker: Taker, queues: Collection[bytes], *others: Any) -> Any:
        nonlocal takes
        takes += 1
        return real(taker, queues, *others)

    monkeypatch.setattr(Taker, "take", counted)
    assert queue.take(0.3) is None
    assert takes <= 3


def test_what_a_dead_worker_had_returned_is_not_returned_again(
    store: logstore.Store, start_peer: Callable[..., Peer]
) -> None:
    queue = store.queue()
    queue.put("job")
    peer = start_peer(store.path)
    peer.run("lease = store.queue().take(0)")
    peer.run("lease._handle.commit([lease._retry(60.0)])")  # and before its lease is ended
    peer.kill()
    assert queue.take(0) is None  # looks for dead workers from now on
    taker = store._handle.taker
    assert until(lambda: not taker.leased())
    [info] = queue.messages()
    assert (info.status, info.attempts) == ("delayed", 1)


@pytest.mark.parametrize("dropped", ["lease", "handle"])
def test_a_lease_that_nobody_can_end_any_more_goes_back(path: Path, dropped: str) -> None:
    with logstore.open(path) as one:
        other = logstore.open(path)
        one.queue().put("job")
        lease = other.queue().take(0)
        assert lease is not None
        assert one.queue().take(0) is None
        if dropped == "lease":
            del lease
        other.close()
        again = one.queue().take(60.0)
        assert again is not None
        assert again.payload == "job"


def test_a_lease_that_is_dropped_is_one_attempt(store: logstore.Store) -> None:
    queue = store.queue()
    queue.put("job", max_attempts=2)
    for attempts in (0, 1):
        lease = queue.take(60.0)
        assert lease is not None
        assert lease.attempts == attempts
        del lease
    assert until(lambda: any(queue.messages("dead")))
    [info] = queue.messages("dead")
    assert (info.attempts, info.reason) == (2, "the worker dropped it")


def test_a_take_that_fails_leaves_its_message_in_line(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = store.queue()
    queue.put("job")

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Leases, "add", fail)
        with pytest.raises(MemoryError):
            queue.take(0)
    lease = queue.take(0)
    assert lease is not None
    assert lease.payload == "job"


@pytest.mark.parametrize("moment", range(6))
@pytest.mark.parametrize("change", ["dead", "requeue"])
def test_a_fold_beside_a_list_shows_no_message_twice_and_hides_none(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch, change: str, moment: int
) -> None:
    queue = store.queue()
    ids = queue.put_many(range(5))
    lease = queue.take(0)
    assert lease is not None
    if change == "dead":
        store.compact()
        lease.dead("why")
    else:
        lease.dead("why")
        store.compact()
        queue.requeue()
    reads = 0
    real = Engine.from_table

    def folded(engine: Engine, read: Any) -> Any:
        nonlocal reads
        reads += 1
        if reads == moment + 1:
            store.compact()
        return real(engine, read)

    monkeypatch.setattr(Engine, "from_table", folded)
    assert sorted(info.task_id for info in queue.messages()) == sorted(ids)
