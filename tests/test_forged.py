"""Files whose checksums are right and that say what no writer says: damage, like any other.

Nobody but a program that means it, or one with a fault, makes such files; but a reader that took
them would fail later, with an error that no caller expects.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

import logstore
from logstore._engine import frames, records
from logstore._engine.frames import HEADER_BYTES, RESULT, TIME_MAX, Entry
from logstore._engine.records import TIME, Mark
from logstore._handle import Mode
from tests.support.fileformat import editing

LAST_US = 1_700_000_000_000_000
FORGED = {
    "a key that is not UTF-8": (b"\xd9", LAST_US, 0),
    "no key": (b"", LAST_US, 0),
    "a time beyond the last": (b"forged", TIME_MAX + 1, 0),
    "the largest time": (b"forged", 2**64 - 1, 0),
    "no time": (b"forged", 0, 0),
    "an expiry beyond the last": (b"forged", LAST_US, TIME_MAX + 1),
    "the largest expiry": (b"forged", LAST_US, 2**64 - 1),
}


def meta_of(path: Path) -> records.Meta:
    with editing(path, b"meta") as txn:
        raw = txn.get(b"header")
        assert raw is not None
        return records.decode_meta(raw, str(path))


def use_every_listing(store: logstore.Store) -> list[str]:
    """The ids that are ready; every other listing ends well too."""
    for status in ("running", "deleted", "expired"):
        assert list(store.tasks(status=status)) == []
    return sorted(info.task_id for info in store.tasks())


@pytest.mark.parametrize("forged", FORGED)
@pytest.mark.parametrize("mode", ["rw", "r"])
def test_a_forged_frame_is_a_torn_tail(
    store: logstore.Store, crash_copy: Callable[[logstore.Store], Path], forged: str, mode: Mode
) -> None:
    key, time_us, expires_us = FORGED[forged]
    store.set_result("whole", 1)
    path = crash_copy(store)
    meta = meta_of(path)
    entry = Entry(RESULT, 0, time_us, expires_us, b"\x01")
    end = HEADER_BYTES + store.stats().log_bytes
    seed = frames.checksum_seed(meta.uuid)
    with Path(f"{path}-log").open("r+b") as log:
        log.seek(end)
        log.write(frames.encode_frame(seed, meta.epoch, HEADER_BYTES, key, entry))
    with logstore.open(path, mode=mode) as opened:
        assert use_every_listing(opened) == ["whole"]
        assert opened.stats().torn_tails == 1
        assert opened.check().ok
        if mode == "rw":
            opened.set_result("next", 2)
            assert use_every_listing(opened) == ["next", "whole"]


@pytest.mark.parametrize("forged", [name for name in FORGED if "time" not in name])
def test_a_forged_record_is_damage_of_its_task_alone(path: Path, forged: str) -> None:
    key, _, expires_us = FORGED[forged]
    with logstore.open(path) as store:
        store.set_result("forged", 1)
        store.set_result("whole", 2)
    seed = frames.checksum_seed(meta_of(path).uuid)
    with editing(path, b"ids") as txn:
        raw = txn.get(b"forged")
        assert raw is not None
        time_us = records.decode_mark(seed, b"forged", raw, "").result_us
    with editing(path, b"results") as txn:
        payload = bytes(len(b"forged") - len(key) + 1)  # as many bytes of data as before
        entry = Entry(RESULT, 0, time_us, expires_us, payload)
        txn.put(TIME.pack(time_us), records.encode_record(seed, key, entry))
    for mode in ("r", "rw"):
        with logstore.open(path, mode=mode) as store:
            with pytest.raises(logstore.CorruptRecordError, match=r"app\.db: the record of time"):
                store.get_result("forged")
            assert use_every_listing(store) == ["whole"]
            assert "the record of time" in store.check().problems[0]
    with logstore.open(path) as store:
        store.set_result("forged", 3)
        store.compact()
        assert use_every_listing(store) == ["forged", "whole"]
        assert store.check().ok


@pytest.mark.parametrize("time_us", [TIME_MAX + 1, 2**64 - 1])
def test_a_forged_mark_is_damage_of_its_task_alone(path: Path, time_us: int) -> None:
    with logstore.open(path) as store:
        store.set_result("forged", 1)
        store.set_result("whole", 2)
    seed = frames.checksum_seed(meta_of(path).uuid)
    with editing(path, b"ids") as txn:
        txn.put(b"forged", records.encode_mark(seed, b"forged", Mark(time_us)))
    with logstore.open(path) as store:
        with pytest.raises(logstore.CorruptRecordError, match="the mark of task b'forged'"):
            store.get_result("forged")
        assert use_every_listing(store) == ["whole"]
        store.set_result("forged", 3)
        assert use_every_listing(store) == ["forged", "whole"]


@pytest.mark.parametrize("database", [b"results", b"progress", b"gone"])
@pytest.mark.parametrize("time_us", [TIME_MAX + 1, 2**64 - 1])
def test_a_damaged_time_in_an_index_does_not_end_all_writing(
    path: Path, database: bytes, time_us: int
) -> None:
    """Times only grow: behind one that is taken for the newest there would be none left."""
    with logstore.open(path) as store:
        store.set_result("whole", 1)
    with editing(path, database) as txn:
        txn.put(TIME.pack(time_us), b"damaged")
    with logstore.open(path) as store:
        store.set_result("next", 2)
        store.compact()
        assert [store.get_result(key) for key in ("whole", "next")] == [1, 2]
        assert use_every_listing(store) == ["next", "whole"]
    with logstore.open(path) as store:
        store.set_result("again", 3)
        assert use_every_listing(store) == ["again", "next", "whole"]


def test_behind_the_last_time_writing_is_refused_and_reading_goes_on(path: Path) -> None:
    """What a reader would not take is not written."""
    with logstore.open(path) as store:
        store.set_result("a", 1)
    seed = frames.checksum_seed(meta_of(path).uuid)
    entry = Entry(RESULT, 0, TIME_MAX, 0, b"\x02")
    with editing(path, b"results") as txn:
        txn.put(TIME.pack(TIME_MAX), records.encode_record(seed, b"last", entry))
    with editing(path, b"ids") as txn:
        txn.put(b"last", records.encode_mark(seed, b"last", Mark(TIME_MAX)))
    with logstore.open(path) as store:
        with pytest.raises(logstore.WriteError, match="no times are left"):
            store.set_result("b", 3)
        assert [store.get_result(key) for key in ("a", "last")] == [1, 2]
        assert store.status("b") == "unknown"
        assert use_every_listing(store) == ["a", "last"]


@pytest.mark.parametrize("word", ["synced", "published"])
def test_a_shared_header_that_contradicts_itself_is_an_error_and_nothing_is_written(
    path: Path, word: str
) -> None:
    """A frame that is written after it would be one that no reader takes, or page 0."""
    store = logstore.open(path, sync_interval_s=1e6)
    header = store._handle.writable_engine.header
    epoch = header.epoch
    if word == "synced":
        header.synced = 1 << 40
    else:
        header.publish(epoch, 4095)
    before = Path(f"{path}-log").read_bytes()
    with pytest.raises(logstore.WriteError, match=r"app\.db-shm: damaged: .* synced up to \d+"):
        store.set_result("a", 1)
    assert Path(f"{path}-log").read_bytes() == before
    header.synced = HEADER_BYTES
    header.publish(epoch, HEADER_BYTES)
    store.set_result("a", 2)
    assert store.get_result("a") == 2
    store.close()


def test_the_checksums_of_forged_files_are_right() -> None:
    """Else the tests above would show nothing."""
    frame = frames.encode_frame(7, 1, HEADER_BYTES, b"\xd9", Entry(RESULT, 0, 1, 0, b""))
    assert zlib.crc32(frame[4:], 7).to_bytes(4, "little") == frame[:4]
