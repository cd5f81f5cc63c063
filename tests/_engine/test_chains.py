"""Frames of format version 2 in a store's log: chains, kinds that are no record, later kinds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import logstore
from logstore._codec.values import encode_value
from tests.support import fileformat
from tests.support.fileformat import EXPIRED, MORE, RESULT, START, log_of, meta_of
from tests.support.inside import chained_to_the_next, in_one_group
from tests.support.peers import Peer, PeerError
from tests.support.stores import names_in

TIME_US = 4_000_000_000_000_000  # later than what a store writes by itself
LINKS = ("b", "c", "d")

CrashCopy = Callable[[logstore.Store], Path]


@pytest.fixture
def crashed(store: logstore.Store, crash_copy: CrashCopy) -> Path:
    """A store that was left with the result of ``a`` in its log, and with ``old`` in its table."""
    store.set_result("old", "old")
    store.compact()
    store.set_result("a", "a")
    return crash_copy(store)


def frame_of(
    path: Path, task_id: str, *, kind: int = RESULT, flags: int = 0, synced: int = 4096
) -> bytes:
    """Return the frame of a task that sets the result to its own id."""
    meta = meta_of(path)
    payload = encode_value(task_id) if kind == RESULT else b""
    time_us = TIME_US + ord(task_id[0])
    return fileformat.frame(
        meta.uuid,
        meta.epoch,
        task_id.encode(),
        payload,
        kind=kind,
        flags=flags,
        time_us=time_us,
        synced=synced,
    )


def chain(path: Path, *task_ids: str) -> list[bytes]:
    """Return the frames of a chain."""
    return [
        frame_of(path, task_id, flags=0 if task_id == task_ids[-1] else MORE)
        for task_id in task_ids
    ]


def ready(path: Path, mode: str) -> list[str]:
    """Return the tasks that have a result, by their ids."""
    with logstore.open(path, mode=mode) as store:  # type: ignore[arg-type]
        found = sorted(info.task_id for info in store.tasks())
        assert all(store.get_result(task_id) == task_id for task_id in found)
        report = store.check()
        assert report.ok, report.problems
    return [task_id for task_id in found if task_id != "old"]


def contents(path: Path) -> dict[str, bytes]:
    """Return all files of a store but the shared header."""
    names = [name for name in names_in(path.parent) if not name.endswith("-shm")]
    return {name: path.with_name(name).read_bytes() for name in names}


# -- chains ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["r", "rw"])
def test_a_whole_chain_in_the_middle_of_the_log_is_recovered(crashed: Path, mode: str) -> None:
    fileformat.append_to_log(crashed, *chain(crashed, *LINKS), frame_of(crashed, "e"))
    assert ready(crashed, mode) == ["a", *LINKS, "e"]


@pytest.mark.parametrize("links", range(len(LINKS)))
@pytest.mark.parametrize("of_the_next", [0, 1, 38])
def test_a_chain_without_its_end_is_absent_as_a_whole(
    crashed: Path, links: int, of_the_next: int
) -> None:
    frames = chain(crashed, *LINKS)
    fileformat.append_to_log(crashed, *frames[:links], frames[links][:of_the_next])
    assert ready(crashed, "r") == ["a"]
    with logstore.open(crashed) as store:
        assert store.stats().torn_tails == bool(links or of_the_next > 11)
    assert ready(crashed, "rw") == ["a"]


def test_a_chain_whose_middle_is_damaged_below_a_flush_is_an_error_and_not_salvaged(
    crashed: Path,
) -> None:
    frames = chain(crashed, *LINKS)
    at = fileformat.append_to_log(crashed, *frames)
    end = at + len(b"".join(frames))
    fileformat.append_to_log(crashed, frame_of(crashed, "e", synced=end))
    data = bytearray(log_of(crashed).read_bytes())
    rest = at + len(frames[0])
    data[rest : rest + len(frames[1]) + len(frames[2])] = bytes(len(frames[1]) + len(frames[2]))
    log_of(crashed).write_bytes(data)
    for mode in ("r", "rw"):
        with pytest.raises(logstore.CorruptLogError, match=f"damaged at offset {at}"):
            logstore.open(crashed, mode=mode)
    report = logstore.check(crashed, salvage=True)
    assert (report.salvaged_frames, report.lost_bytes) == (2, len(b"".join(frames)))
    assert ready(crashed, "rw") == ["a", "e"]


def test_a_chain_that_another_process_has_written_is_seen_whole(
    store: logstore.Store, start_peer: Callable[..., Peer]
) -> None:
    peer = start_peer(store.path)
    with chained_to_the_next("b", "c"):
        errors = in_one_group(store, *(("result", task_id, task_id) for task_id in LINKS))
    assert errors == [None] * 3
    assert peer.run("[store.get_result(t) for t in 'bcd']") == list(LINKS)


def test_a_live_reader_shows_nothing_of_a_chain_without_an_end(
    path: Path, start_peer: Callable[..., Peer], no_idle_compaction: None
) -> None:
    with logstore.open(path) as store:
        peer = start_peer(path)
        with chained_to_the_next("c"):
            in_one_group(store, ("result", "b", 1), ("result", "c", 2))
        with pytest.raises(PeerError, match=r"CorruptLogError: .*expected a whole frame"):
            peer.run("store.get_result('b')")
        with pytest.raises(PeerError, match="CorruptLogError"):
            peer.run("store.get_result('c')")
        peer.kill()


# -- kinds -------------------------------------------------------------------------------------


def test_a_start_is_no_task_and_an_end_of_a_result_is_one(crashed: Path) -> None:
    meta = meta_of(crashed)
    start = fileformat.frame(meta.uuid, meta.epoch, b"-", bytes(8), kind=START)
    fileformat.append_to_log(crashed, start, frame_of(crashed, "old", kind=EXPIRED, flags=2))
    for mode in ("r", "rw", "rw"):
        with logstore.open(crashed, mode=mode) as store:
            assert [info.task_id for info in store.tasks()] == ["a"]
            assert (store.status("old"), store.status("-")) == ("expired", "unknown")
            assert store.check().ok


@pytest.mark.parametrize(("kind", "flags"), [(12, 0), (255, 0), (RESULT, 4), (RESULT, 0x40)])
@pytest.mark.parametrize("behind_damage", [False, True])
def test_a_frame_of_a_later_version_is_refused_and_untouched(
    crashed: Path, kind: int, flags: int, behind_damage: bool
) -> None:
    newer = frame_of(crashed, "x", kind=kind, flags=flags)
    at = fileformat.append_to_log(crashed, b"\xff" * 50 * behind_damage, newer)
    at += 50 * behind_damage
    before = contents(crashed)
    expected = (
        f"{log_of(crashed)}: a frame of kind {kind} with flags {flags:#x} at offset {at}, written "
        f"by a newer version of logstore; use that version"
    )
    for use in (
        lambda: logstore.open(crashed),
        lambda: logstore.open(crashed, mode="r"),
        lambda: logstore.open(crashed, accept_log_loss=True),
        lambda: logstore.check(crashed),
        lambda: logstore.check(crashed, salvage=True),
    ):
        with pytest.raises(logstore.FormatVersionError) as caught:
            use()
        assert str(caught.value) == expected
        assert contents(crashed) == before


def test_a_clean_table_beside_a_log_of_a_later_version_is_refused(crashed: Path) -> None:
    fileformat.append_to_log(crashed, frame_of(crashed, "x", kind=17))
    first = fileformat.frames_in(crashed)[0]
    data = log_of(crashed).read_bytes()
    log_of(crashed).write_bytes(data[:4096] + data[first.end :])  # only that frame is left
    fileformat.put_meta(crashed, meta_of(crashed)._replace(clean=1))
    with pytest.raises(logstore.FormatVersionError, match="kind 17"):
        logstore.open(crashed)


def test_a_live_reader_refuses_a_frame_of_a_later_version(
    path: Path, start_peer: Callable[..., Peer], no_idle_compaction: None
) -> None:
    with logstore.open(path) as store:
        peer = start_peer(path)
        first = fileformat.FIRST_OFFSET
        store.set_result("x", "x")
        copy = Path(shutil.copyfile(path, path.with_name("copy.db")))
        newer = frame_of(copy, "x", kind=19)
        with open(log_of(path), "r+b") as log:
            log.seek(first)
            log.write(newer)
        with fileformat.header_words(path) as words:
            state = words[fileformat.STATE]
            words[fileformat.STATE] = state >> 32 << 32 | first + len(newer)
        with pytest.raises(PeerError, match=r"FormatVersionError: .*app\.db-log: .* kind 19"):
            peer.run("store.get_result('x')")
        with fileformat.header_words(path) as words:
            words[fileformat.STATE] = state
        peer.kill()
