"""The full check finds damage planted in a closed file, and salvage beside live readers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import logstore
from logstore import TaskProgress
from logstore._engine import checking, durability, records
from logstore._engine.frames import RESULT, Entry, checksum_seed
from logstore._engine.log import FIRST_OFFSET
from logstore._engine.records import EXPIRY, TIME, Mark
from tests.support.fileformat import editing
from tests.support.inside import live

if TYPE_CHECKING:
    from tests.support.peers import Peer
    from tests.support.stores import Stores


@pytest.fixture
def filled(path: Path) -> Path:
    """A closed store with records of every kind."""
    with logstore.open(path) as store:
        for i in range(5):
            store.set_result(f"result-{i}", i, ttl_s=1e6 if i % 2 else None)
            store.set_progress(f"running-{i}", TaskProgress(i / 5), ttl_s=1e6 if i % 2 else None)
            store.set_result(f"deleted-{i}", i)
            store.delete_result(f"deleted-{i}")
        store.set_progress("result-0", TaskProgress())
    assert logstore.check(path).ok
    return path


def problems(path: Path) -> str:
    report = logstore.check(path)
    assert not report.ok
    assert all(str(path) in problem for problem in report.problems)
    return "\n".join(report.problems)


def seed_of(path: Path) -> int:
    with editing(path, b"meta") as txn:
        return checksum_seed(records.decode_meta(txn.get(b"header") or b"", "").uuid)


def test_a_whole_store_is_counted_and_nothing_is_found(filled: Path) -> None:
    report = logstore.check(filled)
    assert report.ok
    assert (report.results, report.progress, report.gone) == (5, 6, 5)
    assert (report.salvaged_frames, report.lost_bytes, report.kept_logs) == (0, 0, ())


@pytest.mark.parametrize(
    ("database", "said"),
    [
        (b"ids", "entries, expected"),
        (b"results", "is missing"),
        (b"progress", "is missing"),
        (b"gone", "is missing"),
        (b"running", "is missing from the running tasks"),
        (b"expiries", "is missing from its index"),
    ],
)
def test_an_entry_taken_out_of_any_database_is_found(
    filled: Path, database: bytes, said: str
) -> None:
    with editing(filled, database) as txn, txn.cursor() as cursor:
        assert cursor.first()
        assert cursor.delete()
    assert said in problems(filled)


@pytest.mark.parametrize(
    ("database", "key"),
    [
        (b"results", TIME.pack(5)),
        (b"progress", TIME.pack(5)),
        (b"gone", TIME.pack(5)),
        (b"running", TIME.pack(5)),
        (b"expiries", EXPIRY.pack(5, 1, 5)),
    ],
)
def test_an_entry_that_belongs_to_nothing_is_found_in_any_database(
    filled: Path, database: bytes, key: bytes
) -> None:
    record = records.encode_record(seed_of(filled), b"stray", Entry(RESULT, 0, 5, 0, b"\x00"))
    with editing(filled, database) as txn:
        txn.put(key, record)
    said = problems(filled)
    assert f"{database.decode()} has" in said
    assert "entries, expected" in said


@pytest.mark.parametrize("database", [b"ids", b"results", b"progress", b"gone"])
def test_a_flipped_bit_in_any_checksummed_value_is_found(filled: Path, database: bytes) -> None:
    with editing(filled, database) as txn, txn.cursor() as cursor:
        assert cursor.first()
        key, value = cursor.item()
        txn.put(key, value[:-1] + bytes((value[-1] ^ 1,)))
    assert "damaged" in problems(filled)


def test_a_mark_that_leads_to_anothers_record_is_found(filled: Path) -> None:
    seed = seed_of(filled)
    with editing(filled, b"ids") as txn:
        other = txn.get(b"result-2")
        assert other is not None
        mark = records.decode_mark(seed, b"result-2", other, "")
        txn.put(b"result-4", records.encode_mark(seed, b"result-4", Mark(mark.result_us)))
    assert "the mark of task b'result-4' points to a record of b'result-2'" in problems(filled)


def test_a_wrong_count_of_bytes_in_the_header_is_found(filled: Path) -> None:
    with editing(filled, b"meta") as txn:
        meta = records.decode_meta(txn.get(b"header") or b"", "")
        txn.put(b"header", records.encode_meta(meta._replace(data_bytes=meta.data_bytes + 1)))
    assert "bytes of data, but the header says" in problems(filled)


def test_a_check_changes_nothing(filled: Path) -> None:
    before = filled.read_bytes()
    logstore.check(filled)
    assert filled.read_bytes() == before


def test_a_check_beside_writers_finds_nothing_and_counts_frames(
    path: Path, start_peer: Callable[..., Peer]
) -> None:
    peer = start_peer(path, compact_at=1 << 14)
    peer.begin("for i in range(400): store.set_result(f'task-{i % 50}', bytes(i))")
    while True:
        report = logstore.check(path)
        assert report.ok, report.problems
        if report.results + report.log_frames > 20:
            break
    peer.end()
    peer.run("store.close()")


def test_checking_what_is_not_a_store_raises(path: Path) -> None:
    with pytest.raises(logstore.OpenError, match="no such store"):
        logstore.check(path)
    path.write_text("something else entirely" * 100)
    with pytest.raises(logstore.NotAStoreError):
        logstore.check(path)


# -- salvage of a store that is open ----------------------------------------------------------


def damage_second_frame(store: logstore.Store) -> tuple[int, int]:
    """Change a byte of the log under a live store; where the frame begins and ends."""
    engine = live(store)
    log = engine.logs.of(engine.header.epoch)
    ends = [FIRST_OFFSET]
    while (length := int.from_bytes(log.read(ends[-1] + 4, ends[-1] + 8), "little")) != 0:
        ends.append(ends[-1] + length)
    assert len(ends) == 6
    durability.pwrite_all(log.fd, b"\xff", ends[2] - 1)
    return ends[1], ends[2]


def test_salvage_of_an_open_store_saves_every_whole_frame(
    open_store: Stores, start_peer: Callable[..., Peer]
) -> None:
    store = open_store()
    peer = start_peer(store.path)
    peer.run("for i in range(5): store.set_result(f'task-{i}', i)")
    start, end = damage_second_frame(store)
    with pytest.raises(logstore.CorruptLogError, match=f"at offset {start}"):
        store.get_result("task-0")
    report = store.check(salvage=True)
    assert report.ok, report.problems
    assert (report.salvaged_frames, report.lost_bytes) == (4, end - start)
    [kept] = report.kept_logs
    Path(kept).unlink()
    assert [store.get_result(f"task-{i}") for i in (0, 2, 3, 4)] == [0, 2, 3, 4]
    assert peer.run("store.get_result('task-4')") == 4
    peer.run("store.set_result('after', 1)")
    assert store.get_result("after") == 1
    peer.run("store.close()")


def test_salvage_of_an_open_store_that_a_peer_has_vacuumed_ends(
    open_store: Stores, start_peer: Callable[..., Peer]
) -> None:
    store = open_store(write_timeout_s=5)
    store.set_result("a", 1)
    peer = start_peer(store.path)
    peer.run("store.vacuum()\nstore.set_result('b', 2)")
    assert store.check(salvage=True).ok
    assert (store.get_result("a"), store.get_result("b")) == (1, 2)
    peer.run("store.close()")


def test_salvage_of_an_open_store_saves_what_the_process_has_in_memory(
    open_store: Stores, start_peer: Callable[..., Peer]
) -> None:
    store = open_store()
    peer = start_peer(store.path)
    peer.run("for i in range(5): store.set_result(f'task-{i}', i)")
    assert store.get_result("task-4") == 4
    damage_second_frame(store)
    report = store.check(salvage=True)
    assert report.ok, report.problems
    assert report.lost_bytes == 0
    [kept] = report.kept_logs
    Path(kept).unlink()
    assert [store.get_result(f"task-{i}") for i in range(5)] == list(range(5))
    late = start_peer(store.path)
    assert late.run("store.get_result('task-1')") == 1
    late.run("store.close()")
    peer.run("store.close()")


def test_a_report_names_no_more_than_a_thousand_problems(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_many(_: object, problems: list[str]) -> int:
        problems += map(str, range(1001))
        return 0

    with logstore.open(path) as store:
        monkeypatch.setattr(checking, "_check_log", find_many)
        assert store.check().problems == tuple(map(str, range(1000)))
