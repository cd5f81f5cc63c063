"""Files whose checksums are right and that say what no writer says: damage, like any other.

Only a faulty or hostile program makes such files; but a reader that took them would fail later,
with an error that no caller expects.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

import logstore
from tests.support import fileformat
from tests.support.fileformat import (
    APPENDED,
    FIRST_OFFSET,
    STATE,
    SYNCED,
    TIME_MAX,
    frames_in,
    meta_of,
)

Mode = Literal["rw", "r"]

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
    forged_frame = fileformat.frame(
        meta.uuid, meta.epoch, key, b"\x01", time_us=time_us, expires_us=expires_us
    )
    with Path(f"{path}-log").open("r+b") as log:
        log.seek(frames_in(path)[-1].end)
        log.write(forged_frame)
    assert [frame.key for frame in frames_in(path)] == [b"whole", key]  # its checksum is right
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
    payload = bytes(len(b"forged") - len(key) + 1)  # as many bytes of data as before
    time_us = fileformat.result_time(path, b"forged")
    fileformat.put_result(path, key, payload, time_us, expires_us=expires_us)
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
    fileformat.put_mark(path, b"forged", time_us)
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
    fileformat.put(path, database, fileformat.time_key(time_us), b"damaged")
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
    fileformat.put_result(path, b"last", b"\x02", TIME_MAX)
    fileformat.put_mark(path, b"last", TIME_MAX)
    with logstore.open(path) as store:
        with pytest.raises(logstore.WriteError, match="no times are left"):
            store.set_result("b", 3)
        assert [store.get_result(key) for key in ("a", "last")] == [1, 2]
        assert store.status("b") == "unknown"
        assert use_every_listing(store) == ["a", "last"]


@pytest.mark.parametrize("word", ["synced", "appended"])
def test_a_shared_header_that_contradicts_itself_is_an_error_and_nothing_is_written(
    path: Path, word: str
) -> None:
    """A frame that is written after it would be one that no reader takes, or page 0."""
    store = logstore.open(path, sync_interval_s=1e6)
    with fileformat.header_words(path) as words:
        epoch = words[STATE] >> 32
        if word == "synced":
            words[SYNCED] = 1 << 40
        else:
            words[APPENDED] = epoch << 32 | FIRST_OFFSET - 1
        before = Path(f"{path}-log").read_bytes()
        with pytest.raises(logstore.WriteError, match=r"db-shm: damaged: .* synced up to \d+"):
            store.set_result("a", 1)
        assert Path(f"{path}-log").read_bytes() == before
        words[SYNCED] = FIRST_OFFSET
        words[APPENDED] = epoch << 32 | FIRST_OFFSET
    store.set_result("a", 2)
    assert store.get_result("a") == 2
    store.close()
