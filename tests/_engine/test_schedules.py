"""The engine's part of schedules: their payloads, their records, and which process gets a slot."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import lmdb
import pytest

import logstore
from logstore import CorruptRecordError
from logstore._engine import durability, frames, messages, queuetable
from logstore._engine.frames import RESULT, SCHEDULE, SCHEDULE_HEAD, TIME_MAX, Entry
from logstore._engine.log import FIRST_OFFSET
from logstore._engine.schedules import Schedule, decode_schedule, schedule_entry
from logstore._engine.writes import (
    Claim,
    PutSchedule,
    RemoveSchedule,
    SlotTakenError,
    Together,
    Write,
)
from tests.support.inside import live

if TYPE_CHECKING:
    from tests.support.peers import Peer

HOUR_US = 3600 * 1_000_000
NOON_US = 1_700_000_000_000_000
FAR_US = NOON_US + 24 * HOUR_US

# Run in another process: claims slots one after the other, each with a message; the losers of the
# race are counted.  The store and ``START`` are set by then.
CLAIMS = """
from logstore._engine import messages
from logstore._engine.queuetable import all_schedules
from logstore._engine.writes import Claim, SlotTakenError, Together, Write
def claim_slots(store, start_us, count, name):
    won = 0
    engine = store._handle.writable_engine
    [schedule] = all_schedules(engine)
    for slot in range(start_us, start_us + count):
        put = Write(f"{name}-{slot}".encode(), messages.message_entry(b"q", b"\\1"), sync=True)
        write = Together([Claim(schedule, slot, ahead_us=1 << 57), put])
        engine.commit_queue.run([write])
        if write.error is None:
            won += 1
        elif not isinstance(write.error, SlotTakenError):
            raise write.error
    return won
"""


def put(
    store: logstore.Store,
    definition: bytes = b"daily",
    since_us: int = NOON_US,
    *,
    key: bytes = b"s",
    restarts: bool = False,
) -> bool:
    write = PutSchedule(key, definition, since_us, restarts=restarts)
    live(store).commit_queue.run([write])
    assert write.error is None
    return write.outcome is True


def claim(
    store: logstore.Store, schedule: Schedule, slot_us: int, *, ahead_us: int = FAR_US
) -> bool:
    write = Claim(schedule, slot_us, ahead_us=ahead_us)
    live(store).commit_queue.run([write])
    assert write.error is None or isinstance(write.error, SlotTakenError)
    return write.error is None


def schedules(store: logstore.Store) -> list[Schedule]:
    return queuetable.all_schedules(live(store))


def only(store: logstore.Store) -> Schedule:
    [schedule] = schedules(store)
    return schedule


# -- payloads ------------------------------------------------------------------------------------


def test_a_payload_has_all_of_a_schedule_and_without_a_definition_removes_it() -> None:
    assert decode_schedule(b"s", schedule_entry(b"d", 7, 9)) == (b"s", b"d", 7, 9)
    assert decode_schedule(b"s", schedule_entry(b"", 7, 9)) is None


def test_a_short_payload_is_told() -> None:
    with pytest.raises(CorruptRecordError, match="schedule b's' is damaged"):
        decode_schedule(b"s", Entry(SCHEDULE, 0, 1, 0, bytes(15)))


@pytest.mark.parametrize(
    ("payload", "is_whole"),
    [
        (bytes(15), False),
        (bytes(16), True),
        (SCHEDULE_HEAD.pack(TIME_MAX, TIME_MAX) + b"\xff", True),
        (SCHEDULE_HEAD.pack(TIME_MAX + 1, 0), False),
        (SCHEDULE_HEAD.pack(0, TIME_MAX + 1), False),
    ],
)
def test_a_frame_is_whole_if_its_times_are_times(payload: bytes, is_whole: bool) -> None:
    data = frames.encode_frame(5, 7, 4096, b"s", Entry(SCHEDULE, 0, 1, 0, payload))
    assert (frames.decode_frame(data, 0, 4096, 5, 7) is not None) is is_whole


# -- conditions ----------------------------------------------------------------------------------


def test_a_new_schedule_counts_from_the_given_time(store: logstore.Store) -> None:
    assert put(store)
    assert only(store) == (b"s", b"daily", NOON_US, NOON_US - 1)
    assert not claim(store, only(store), NOON_US - 1)
    assert claim(store, only(store), NOON_US)


def test_what_is_put_again_as_it_is_changes_nothing(store: logstore.Store) -> None:
    put(store)
    assert claim(store, only(store), NOON_US + 5)
    assert not put(store, since_us=NOON_US + 9, restarts=True)
    assert only(store).last_us == NOON_US + 5


def test_a_change_goes_on_or_restarts(store: logstore.Store) -> None:
    put(store)
    claim(store, only(store), NOON_US + 5)
    assert put(store, b"other", NOON_US + 9)
    assert only(store) == (b"s", b"other", NOON_US, NOON_US + 5)
    assert put(store, b"hourly", NOON_US + 9, restarts=True)
    assert only(store) == (b"s", b"hourly", NOON_US + 9, NOON_US + 8)
    assert put(store, b"weekly", NOON_US + 3, restarts=True)
    assert only(store).last_us == NOON_US + 8  # a slot that was sent stays sent


def test_a_slot_is_claimed_once_and_no_earlier_one_after_it(store: logstore.Store) -> None:
    put(store)
    schedule = only(store)
    assert claim(store, schedule, NOON_US + 2)
    assert not claim(store, schedule, NOON_US + 2)
    assert not claim(store, schedule, NOON_US + 1)
    assert claim(store, schedule, NOON_US + 3)


def test_a_slot_of_a_clock_that_was_wrong_holds_nothing_up(store: logstore.Store) -> None:
    put(store)
    schedule = only(store)
    assert claim(store, schedule, FAR_US + 1)
    assert claim(store, schedule, NOON_US)
    assert not claim(store, schedule, NOON_US)
    assert claim(store, schedule, FAR_US)
    assert not claim(store, schedule, NOON_US + 1)  # it is not beyond what is taken for wrong


@pytest.mark.parametrize("change", ["other", ""])
def test_what_has_changed_or_is_gone_is_claimed_no_more(store: logstore.Store, change: str) -> None:
    put(store)
    schedule = only(store)
    if change:
        put(store, change.encode())
    else:
        live(store).commit_queue.run([RemoveSchedule(b"s")])
    assert not claim(store, schedule, NOON_US + 5)


def test_a_claim_for_once_removes_the_schedule(store: logstore.Store) -> None:
    put(store)
    schedule = only(store)
    first, second = (Claim(schedule, NOON_US, ahead_us=FAR_US, once=True) for _ in range(2))
    live(store).commit_queue.run([first, second])
    assert first.error is None
    assert isinstance(second.error, SlotTakenError)
    assert schedules(store) == []


def test_a_refused_claim_keeps_its_message_out(store: logstore.Store) -> None:
    put(store)
    schedule = only(store)
    claim(store, schedule, NOON_US)
    message = Write(b"t", messages.message_entry(b"default", b"\1"), sync=True)
    write = Together([Claim(schedule, NOON_US, ahead_us=FAR_US), message])
    live(store).commit_queue.run([write])
    assert isinstance(write.error, SlotTakenError)
    assert "'s' was sent by another process" in str(write.error)
    assert store.queue().stats().ready == 0


def test_writes_of_one_group_see_each_other(store: logstore.Store) -> None:
    removal, again = RemoveSchedule(b"s"), PutSchedule(b"s", b"daily", NOON_US, restarts=False)
    group = [PutSchedule(b"s", b"daily", 5, restarts=False), removal, again, RemoveSchedule(b"x")]
    live(store).commit_queue.run(list[Write](group))
    assert [write.outcome for write in group] == [True, True, True, False]
    assert only(store).since_us == NOON_US


# -- in the table --------------------------------------------------------------------------------


def test_schedules_are_folded_found_and_removed(path: Path) -> None:
    with logstore.open(path) as store:
        for number in range(5):
            put(store, b"d%d" % number, key=b"s%d" % number)
        store.compact()
        claim(store, schedules(store)[3], NOON_US + 1)
        live(store).commit_queue.run([RemoveSchedule(b"s1"), RemoveSchedule(b"s2")])
        found = schedules(store)
        assert [(one.key, one.last_us - NOON_US) for one in found] == [
            (b"s0", -1),
            (b"s3", 1),
            (b"s4", -1),
        ]
        store.compact()
        assert schedules(store) == found
        assert not claim(store, found[1], NOON_US + 1)
        assert store.check().ok
        store.vacuum()
        assert schedules(store) == found
    assert logstore.check(path).ok
    with logstore.open(path) as store:
        assert schedules(store) == found
        store.backup(path.with_name("copy.db"))
    with logstore.open(path.with_name("copy.db")) as store:
        assert schedules(store) == found


def test_a_salvage_keeps_schedules(path: Path, start_peer: Callable[..., Peer]) -> None:
    peer = start_peer(path)
    peer.run(
        "from logstore._engine.writes import PutSchedule, Write\n"
        "store._handle.commit([PutSchedule(b's', b'daily', 5, restarts=False)])"
    )
    peer.kill()
    assert logstore.check(path, salvage=True).salvaged_frames
    with logstore.open(path) as store:
        assert only(store) == (b"s", b"daily", 5, 4)


def test_a_salvage_of_an_open_store_keeps_what_it_has_in_memory(store: logstore.Store) -> None:
    put(store)
    store.queue().put("job")
    engine = live(store)
    durability.pwrite_all(engine.logs.of(engine.header.epoch).fd, b"\xff", FIRST_OFFSET + 40)
    report = store.check(salvage=True)
    assert report.ok, report.problems
    [kept] = report.kept_logs
    Path(kept).unlink()
    assert only(store).definition == b"daily"
    assert store.queue().stats().ready == 1


def damaged(path: Path, key: bytes, change: Callable[[bytes], bytes]) -> None:
    with (
        lmdb.open(str(path), subdir=False, lock=False, max_dbs=16) as env,
        env.begin(write=True) as txn,
    ):
        db = env.open_db(b"schedules", txn=txn, create=False)
        raw = txn.get(b"s", db=db)
        assert raw is not None
        txn.delete(b"s", db=db)
        txn.put(key, change(bytes(raw)), db=db)


@pytest.mark.parametrize(
    ("key", "change"),
    [(b"s", lambda raw: raw[:-1] + b"!"), (b"t", lambda raw: raw), (b"s", lambda raw: raw[:3])],
    ids=["a byte", "another place", "cut"],
)
def test_a_check_finds_a_damaged_schedule_and_setting_it_again_repairs_it(
    path: Path, key: bytes, change: Callable[[bytes], bytes]
) -> None:
    with logstore.open(path) as store:
        put(store)
    damaged(path, key, change)
    assert not logstore.check(path).ok
    with logstore.open(path) as store:
        assert put(store, key=key)
        assert put(store, b"more", key=b"s")
        assert [one.key for one in schedules(store)] == sorted({key, b"s"})


def test_a_damaged_schedule_is_claimed_by_nobody_and_can_be_removed(path: Path) -> None:
    with logstore.open(path) as store:
        put(store)
        schedule = only(store)
    damaged(path, b"s", lambda raw: raw[:-1] + b"!")
    with logstore.open(path) as store:
        write = Claim(schedule, NOON_US, ahead_us=FAR_US)
        live(store).commit_queue.run([write])
        assert isinstance(write.error, CorruptRecordError)
        removal = RemoveSchedule(b"s")
        live(store).commit_queue.run([removal])
        assert removal.outcome is True
        store.compact()
        assert store.check().ok


# -- races ---------------------------------------------------------------------------------------


def test_of_threads_that_claim_a_slot_one_gets_it(store: logstore.Store) -> None:
    put(store)
    space: dict[str, Callable[..., int]] = {}
    exec(CLAIMS, space)
    barrier = threading.Barrier(4)
    won: list[int] = []

    def run(number: int) -> None:
        barrier.wait()
        won.append(space["claim_slots"](store, NOON_US, 50, number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sent = [info.task_id.split("-")[1] for info in store.queue("q").messages()]
    assert sum(won) == len(sent) == len(set(sent))
    assert str(NOON_US + 49) in sent


def test_of_processes_that_claim_a_slot_one_gets_it(
    store: logstore.Store, start_peer: Callable[..., Peer]
) -> None:
    put(store)
    peers = [start_peer(store.path) for _ in range(3)]
    for peer in peers:
        peer.run(CLAIMS)
    for number, peer in enumerate(peers):
        peer.begin(f"claim_slots(store, {NOON_US}, 50, 'p{number}')")
    won = [peer.end() for peer in peers]
    sent = [info.task_id.split("-")[1] for info in store.queue("q").messages()]
    assert sum(won) == len(sent) == len(set(sent))
    assert str(NOON_US + 49) in sent
    assert store.check().ok


def test_a_process_that_dies_in_its_flush_has_sent_the_slot_or_not_claimed_it(
    store: logstore.Store, start_peer: Callable[..., Peer]
) -> None:
    put(store)
    schedule = only(store)
    peer = start_peer(store.path)
    peer.run(CLAIMS)
    peer.die(f"claim_slots(store, {NOON_US}, 1, 'theirs')", at="os.fdatasync")
    won = claim(store, schedule, NOON_US)
    assert won is (store.queue("q").stats().ready == 0)
    assert store.check().ok


def test_a_claim_sees_what_stands_before_it_in_its_group(store: logstore.Store) -> None:
    put(store)
    schedule = only(store)
    engine = live(store)
    group = [Claim(schedule, NOON_US, ahead_us=FAR_US) for _ in range(3)]
    result = Write(b"r", Entry(RESULT, 0, 0, 0, b"\x01"), sync=True)
    engine.commit_queue.run([group[0], result, *group[1:]])
    assert [write.error is None for write in group] == [True, False, False]
