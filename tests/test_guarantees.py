"""What the store promises, one section per promise; each test fails without the code behind it.

The promises are in docs/guarantees.md.  More of each is in the tests of the engine and the crash
tests.
"""

from __future__ import annotations

import asyncio
import functools
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
import pytest

import logstore
from tests.support import boundary, fileformat
from tests.support.bystanders import sleeps, until
from tests.support.fileformat import frames_in, meta_of
from tests.support.peers import ROOT, run_child

STEADY = 500


# -- what strace shows ---------------------------------------------------------------------------


class Call(NamedTuple):
    """One system call on a file, or an ack."""

    name: str  # write, sync, rename, unlink or ack
    path: str
    text: str = ""
    durable: bool = False  # written through a descriptor that syncs each write


_LINE = re.compile(r"^(\d+) +(.*)$")
_FD = re.compile(r"^(\w+)\((\d+)<([^>]*)>(.*)$")
_OPEN = re.compile(r"^open(?:at)?\(.*, (O_[A-Z_|]+).*\) = (\d+)<")
_RENAME = re.compile(r'^(?:rename(?:at2?)?|link(?:at)?)\(.*"([^"]+)".*"([^"]+)".*\) = 0')
CALLS = ("fdatasync", "fsync", "msync", "openat", "open", "rename", "link", "linkat", "unlink")
_UNLINK = re.compile(r'^unlink\("([^"]+)"\) += 0')
_WRITES = {"write", "writev", "pwrite64", "pwritev", "pwritev2", "ftruncate", "fallocate"}


def trace(directory: Path, what: str) -> list[Call]:
    """The calls of a traced run, in the order in which they ended."""
    if shutil.which("strace") is None:
        if os.environ.get("CI"):
            pytest.fail("this test needs strace")
        pytest.skip("no strace")
    output = directory / "trace"
    names = ",".join([*sorted(_WRITES), *CALLS])
    command = ["strace", "-f", "-y", "-s", "64", "-e", f"trace={names}", "-o", str(output)]
    script = [sys.executable, "-m", "tests.support.traced", what, str(directory / "app.db")]
    subprocess.run(
        [*command, *script], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=250
    )
    return list(parse(output.read_text(), str(directory)))


def parse(text: str, directory: str) -> Iterator[Call]:
    """Each call on a file of the directory, and each ack."""
    begun: dict[str, str] = {}
    synchronous: set[tuple[str, str]] = set()
    for line in text.splitlines():
        found = _LINE.match(line)
        assert found is not None, line
        thread, call = found.groups()
        if call.endswith("<unfinished ...>"):
            begun[thread] = call.removesuffix(" <unfinished ...>")
            continue
        if call.startswith("<..."):
            call = begun.pop(thread) + call.partition("resumed>")[2]
        if (opened := _OPEN.match(call)) is not None:
            path = call.rpartition("<")[2].rstrip(">")
            synchronous.discard((opened[2], path))
            if "SYNC" in opened[1]:
                synchronous.add((opened[2], path))
        elif (renamed := _RENAME.match(call)) is not None:
            yield Call("rename", renamed[2], renamed[1])
        elif (unlinked := _UNLINK.match(call)) is not None:
            yield Call("unlink", unlinked[1])
        elif (on_file := _FD.match(call)) is not None:
            name, fd, path, rest = on_file.groups()
            if name == "write" and fd == "1":
                yield Call("ack", "", rest.partition('"')[2].partition("\\n")[0])
            elif path.startswith(directory) and " = -1 " not in rest:
                kind = "write" if name in _WRITES else "sync"
                yield Call(kind, path, rest, kind == "write" and (fd, path) in synchronous)


@pytest.fixture(scope="module")
def steady_trace(tmp_path_factory: pytest.TempPathFactory) -> list[Call]:
    """500 results, one after the other."""
    return trace(tmp_path_factory.mktemp("steady"), "steady")


def between_acks(calls: list[Call]) -> Iterator[tuple[str, list[Call]]]:
    """Each ack with the calls since the one before it."""
    since: list[Call] = []
    for call in calls:
        if call.name == "ack":
            yield call.text, since
            since = []
        else:
            since.append(call)


# -- G1: acked results survive power loss --------------------------------------------------------


def test_g1_an_ack_comes_after_the_flush_behind_the_write(steady_trace: list[Call]) -> None:
    acks = 0
    for text, calls in between_acks(steady_trace):
        if text.removeprefix("ack ").isdigit():
            acks += 1
            kinds = [call.name for call in calls if call.path.endswith("app.db-log")]
            assert kinds[-2:] == ["write", "sync"], (text, calls)
    assert acks == STEADY


def test_g1_whatever_is_acked_is_on_the_disk(tmp_path: Path) -> None:
    """At each ack nothing is left that was written and not flushed, no rename without its name."""
    dirty: dict[str, str] = {}
    acks = 0
    for call in trace(tmp_path, "verbs"):
        if call.name == "ack":
            acks += 1
            assert dirty == {}, call.text
        elif call.path.endswith("-shm"):
            continue
        elif call.name == "write" and not call.durable:
            dirty[call.path] = call.text
        elif call.name in ("sync", "unlink"):
            dirty.pop(call.path, None)
        elif call.name == "rename":
            dirty[str(tmp_path)] = call.path
            if call.text in dirty:
                dirty[call.path] = dirty.pop(call.text)
    assert acks == 46


@pytest.mark.parametrize("who", ["a live peer", "a live peer that ends", "a joiner", "the next"])
def test_g1_a_takeover_syncs_the_name_that_a_dead_vacuum_left(
    path: Path, start_peer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """Who goes on with the renamed file, without its name on the disk, would lose it all."""
    victim = start_peer(path, sync_interval_s=1e6)
    victim.run("store.set_result('a', 1)")
    if who.startswith("a live peer"):
        store = logstore.open(path, sync_interval_s=1e6)
    elif who == "a joiner":
        start_peer(path, sync_interval_s=1e6)
    victim.die(
        "os.fsync = lambda fd: boundary.is_directory(fd) and os.kill(os.getpid(), 9)\n"
        "store.vacuum()"
    )
    synced: list[str] = []
    real, rename = os.fsync, os.rename

    def fsync(fd: int) -> None:
        synced.append(boundary.path_of(fd))
        real(fd)

    def renamed(old: str, new: str) -> None:
        synced.append("a new log has its name")  # it may get onto the disk alone
        rename(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", renamed)
    if who == "a live peer that ends":
        store.close()
    if not who.startswith("a live peer") or store.closed:
        store = logstore.open(path, sync_interval_s=1e6)
    with store:
        store.set_result("b", 2)
        synced.append("a new log has its name")
        assert str(path.parent) in synced[: synced.index("a new log has its name")]
        assert [store.get_result(key) for key in "ab"] == [1, 2]
        assert store.stats().incarnation == 2


# -- G2: acked progress survives kill -9, at once, and power loss, soon --------------------------


def test_g2_progress_survives_a_kill(path: Path, start_peer: Callable[..., Any]) -> None:
    peer = start_peer(path, sync_interval_s=1e6)
    for current in range(20):
        peer.run(f"store.set_progress('t', logstore.TaskProgress(current={current}))")
    peer.kill()
    with logstore.open(path) as store:
        progress = store.get_progress("t")
        assert progress is not None
        assert progress.current == 19


def test_g2_progress_costs_no_flush(
    open_store: Callable[..., logstore.Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(sync_interval_s=1e6)
    flushes: list[int] = []
    monkeypatch.setattr(os, "fdatasync", flushes.append)
    monkeypatch.setattr(os, "fsync", flushes.append)
    for number in range(50):
        store.set_progress(f"t{number % 5}", logstore.TaskProgress(current=number))
    assert flushes == []
    assert store.stats().log_unsynced_bytes > 0


def test_g2_progress_is_flushed_within_the_interval(
    open_store: Callable[..., logstore.Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(sync_interval_s=0.05)
    store.set_result("a", 1)
    flushed = threading.Event()
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        real(fd)
        flushed.set()

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    store.set_progress("t", logstore.TaskProgress())
    assert flushed.wait(100)
    store.sync()
    assert store.stats().log_unsynced_bytes == 0


# -- G3: what has been shown is never taken back -------------------------------------------------


def test_g3_no_reader_sees_a_result_before_its_flush(
    store: logstore.Store, start_peer: Callable[..., Any], tmp_path: Path
) -> None:
    begun, go_on = tmp_path / "begun", tmp_path / "go on"
    os.mkfifo(begun)
    os.mkfifo(go_on)
    store.set_result("old", "old")
    writer = start_peer(store.path)
    reader = start_peer(store.path)
    writer.run(
        "real = os.fdatasync\n"
        "def fdatasync(fd):\n"
        f"    open({str(begun)!r}, 'w').close()\n"
        f"    open({str(go_on)!r}).read()\n"
        "    os.fdatasync = real\n"
        "    real(fd)\n"
        "os.fdatasync = fdatasync"
    )
    writer.begin("inside.in_one_group(store, ('result', 'old', 'new'), ('result', 'new', 'new'))")
    begun.read_text()
    for _ in range(20):
        assert store.get_result("old") == "old"
        assert store.status("new") == "unknown"
        assert [task.task_id for task in store.tasks()] == ["old"]
        assert reader.run("store.get_result('old'), store.is_result_ready('new')") == ("old", False)
    assert reader.run("len(list(store.tasks()))") == 1
    go_on.write_text("")
    writer.end()
    assert store.get_result("old") == store.get_result("new") == "new"
    assert reader.run("store.get_result('old'), store.get_result('new')") == ("new", "new")


def test_g3_nothing_shows_when_the_flush_fails(
    store: logstore.Store, start_peer: Callable[..., Any]
) -> None:
    reader = start_peer(store.path)
    store.set_result("old", "old")
    log = os.stat(f"{store.path}-log").st_ino
    boundary.fail_next("fdatasync")
    with pytest.raises(logstore.WriteError):
        store.set_result("new", "new")
    for number in range(2):
        assert store.status("new") == "unknown"
        assert reader.run("store.status('new'), store.get_result('old')") == ("unknown", "old")
        store.set_result("later", number)
        reader.run(f"store.set_result('reader', {number})")
        assert store.get_result("reader") == number
    # What the page cache holds of the old file is no evidence: nothing is appended to it.
    assert os.stat(f"{store.path}-log").st_ino != log


# -- G4: linearizable per task id, across processes ----------------------------------------------


def test_g4_a_read_sees_the_write_acked_before_it(
    store: logstore.Store, start_peer: Callable[..., Any]
) -> None:
    peer = start_peer(store.path)
    for number in range(60):
        store.set_result("t", number)
        assert peer.run("store.get_result('t')") == number
        if number % 5 == 1:
            store.compact()
        elif number % 5 == 2:
            peer.run("store.compact()")
        elif number % 20 == 3:
            peer.run("store.vacuum()")
        elif number % 20 == 13:
            store.vacuum()
        peer.run(f"store.set_result('t', {-number})")
        assert store.get_result("t") == -number
        assert peer.run("store.delete_result('t')") is True
        assert store.status("t") == "deleted"
        peer.run(f"store.set_progress('t', logstore.TaskProgress(current={number}))")
        progress = store.get_progress("t")
        assert progress is not None
        assert progress.current == number


# -- G5: all or nothing --------------------------------------------------------------------------


def test_g5_a_torn_record_is_absent_and_stays_so(
    store: logstore.Store, crash_copy: Callable[[logstore.Store], Path]
) -> None:
    store.set_result("whole", 1)
    store.set_result("torn", "x" * 50)
    start, end, *_ = frames_in(crash_copy(store))[-1]
    for cut in range(start, end, 7):
        path = crash_copy(store)
        with Path(f"{path}-log").open("r+b") as log:
            log.seek(cut)
            log.write(bytes(end - cut))
        for _ in range(2):
            with logstore.open(path) as recovered:
                assert recovered.get_result("whole") == 1
                assert recovered.status("torn") == "unknown"
                recovered.set_result("next", 2)
                assert recovered.check().ok


DIE_WRITTEN = """
def write(fd, data, at, real=os.pwrite):
    real(fd, data, at)
    os.kill(os.getpid(), 9)
os.pwrite = write
"""


@pytest.mark.parametrize(
    "dies", ["boundary.die_half_written()", DIE_WRITTEN], ids=["in its write", "behind its write"]
)
def test_g5_nothing_behind_a_dead_writers_frames_comes_to_life(
    store: logstore.Store,
    start_peer: Callable[..., Any],
    crash_copy: Callable[[logstore.Store], Path],
    dies: str,
) -> None:
    """The next frame is as long as the first unacked one: the second would stand right behind."""
    store.set_result("whole", 1)
    peer = start_peer(store.path)
    dead = "inside.in_one_group(store, ('result', 'd1', 'dead'), ('result', 'd2', 'dead'))"
    peer.die(f"{dies}\n{dead}")
    store.set_result("n1", "live")
    assert [store.status(key) for key in ("d1", "d2")] == ["unknown", "unknown"]
    with logstore.open(crash_copy(store)) as recovered:
        assert recovered.get_result("n1") == "live"
        assert [recovered.status(key) for key in ("d1", "d2")] == ["unknown", "unknown"]


def test_g5_frames_of_an_older_epoch_stay_dead(
    store: logstore.Store, crash_copy: Callable[[logstore.Store], Path]
) -> None:
    """Behind the new frame of b lies, whole and in its old place, the old one."""
    store.set_result("a", 1)
    store.set_result("b", 1)
    store.compact()
    store.set_result("c", 1)  # in the other log
    store.compact()
    store.set_result("b", 2)
    path = crash_copy(store)
    with logstore.open(path) as recovered:
        assert recovered.get_result("b") == 2
    with logstore.open(path) as recovered:
        assert recovered.get_result("b") == 2


def test_g5_frames_that_a_recovery_has_folded_stay_dead(
    store: logstore.Store,
    crash_copy: Callable[[logstore.Store], Path],
    open_store: Callable[..., logstore.Store],
) -> None:
    store.set_result("a", 1)
    store.set_result("b", 1)
    recovered = open_store(crash_copy(store))
    recovered.set_result("b", 2)
    with logstore.open(crash_copy(recovered)) as again:
        assert again.get_result("a") == 1
        assert again.get_result("b") == 2


def test_g5_progress_that_was_cleared_does_not_come_back(store: logstore.Store) -> None:
    for tidy_up in (store.compact, store.vacuum):
        store.set_progress("t", logstore.TaskProgress(current=1))
        store.compact()
        assert store.delete_result("t") is False
        store.set_result("t", 1)
        assert store.get_progress("t") is None
        tidy_up()
        assert store.get_progress("t") is None
        assert store.delete_result("t") is True


# -- G6: damage is never served ------------------------------------------------------------------


def damage(file: Path | str, content: bytes) -> None:
    """Change one bit in the middle of some content that the file holds."""
    data = bytearray(Path(file).read_bytes())
    places = [found.start() for found in re.finditer(re.escape(content), data)]
    assert places, "the content is not in the file"
    for place in places:
        data[place + len(content) // 2] ^= 0x04
    Path(file).write_bytes(data)


def test_g6_a_damaged_record_is_an_error_and_the_rest_works(path: Path) -> None:
    with logstore.open(path) as store:
        for number in range(20):
            store.set_result(f"t{number}", f"content of {number:02}")
    damage(path, b"content of 07")
    with logstore.open(path) as store:
        with pytest.raises(logstore.CorruptRecordError) as caught:
            store.get_result("t7")
        assert str(path) in str(caught.value)
        assert "t7" in str(caught.value)
        assert all(store.get_result(f"t{n}") == f"content of {n:02}" for n in range(20) if n != 7)
        assert not store.check().ok
        store.set_result("t7", "new")
        assert store.get_result("t7") == "new"
        store.compact()
        assert store.check().ok


def test_g6_a_damaged_frame_that_was_acked_is_an_error_at_opening(
    store: logstore.Store, crash_copy: Callable[[logstore.Store], Path]
) -> None:
    for number in range(5):
        store.set_result(f"t{number}", f"content of {number}")
    path = crash_copy(store)
    damage(f"{path}-log", b"content of 2")
    kept = Path(f"{path}-log").read_bytes()
    with pytest.raises(logstore.CorruptLogError, match=r"app\.db-log: damaged at offset \d+"):
        logstore.open(path)
    assert Path(f"{path}-log").read_bytes() == kept
    report = logstore.check(path, salvage=True)
    assert report.salvaged_frames == 4
    assert report.lost_bytes > 0
    with logstore.open(path) as saved:
        assert [saved.status(f"t{n}") for n in range(5)] == [
            "unknown" if n == 2 else "ready" for n in range(5)
        ]


def test_g6_a_damaged_frame_is_an_error_for_a_live_reader(
    path: Path, start_peer: Callable[..., Any]
) -> None:
    peer = start_peer(path)
    store = logstore.open(path, sync_interval_s=1e6)
    try:
        store.set_result("before", 1)
        peer.run("store.set_result('damaged', 'content of it')")
        with Path(f"{path}-log").open("r+b") as log:
            place = log.read().index(b"content of it")
            log.seek(place)
            log.write(b"c0ntent")
        with pytest.raises(logstore.CorruptLogError):
            store.get_result("damaged")
    finally:
        peer.kill()
        with pytest.raises(logstore.LogstoreError):
            store.close()


# -- G7: one commit, one flush -------------------------------------------------------------------


def test_g7_a_commit_is_one_write_and_one_flush(steady_trace: list[Call]) -> None:
    begin = next(n for n, call in enumerate(steady_trace) if call.text.startswith("ack begin"))
    end = next(n for n, call in enumerate(steady_trace) if call.text.startswith("ack end"))
    calls = steady_trace[begin + 1 : end]
    flushes = sum(call.name == "sync" or call.durable for call in calls)
    writes = sum(call.name == "write" for call in calls)
    assert STEADY <= flushes <= 1.02 * STEADY
    assert STEADY <= writes <= 1.02 * STEADY
    assert not [call for call in calls if call.name == "rename"]


def test_g7_the_log_keeps_its_size(steady_trace: list[Call]) -> None:
    sizes = [
        call.text.split()[-1] for call in steady_trace if re.match("ack (begin|end)", call.text)
    ]
    assert len(sizes) == 2
    assert sizes[0] == sizes[1]


def test_g7_callers_that_wait_share_a_flush(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """63 threads come while the first one's flush is under way: one more flush for all of them."""
    first_flush, everybody_waits = threading.Event(), threading.Event()
    flushes: list[int] = []
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        flushes.append(fd)
        if len(flushes) == 1:
            first_flush.set()
            assert everybody_waits.wait(100)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    threads = [threading.Thread(target=store.set_result, args=(f"t{n}", n)) for n in range(64)]
    threads[0].start()
    assert first_flush.wait(100)
    for thread in threads[1:]:
        thread.start()
        assert until(lambda thread=thread: sleeps(thread))  # type: ignore[misc]
    everybody_waits.set()
    for thread in threads:
        thread.join()
    assert len(flushes) == 2
    stats = store.stats()
    assert stats.group_size_max == 63
    assert sorted(store.get_result(f"t{n}") for n in range(64)) == list(range(64))


# -- G8: the event loop never waits for the disk -------------------------------------------------


def test_g8_the_loop_goes_on_while_a_flush_is_slow(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(go_on_while_a_flush_is_slow(path, monkeypatch))


async def go_on_while_a_flush_is_slow(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        begun.set()
        assert go_on.wait(100)
        real(fd)

    async with logstore.open_async(path) as store:
        await store.set_result("a", 1)
        monkeypatch.setattr(os, "fdatasync", fdatasync)
        write = asyncio.ensure_future(store.set_result("b", 2))
        await asyncio.to_thread(begun.wait, 100)
        for _ in range(1000):
            await asyncio.sleep(0)
            assert not write.done()
        assert await store.get_result("a") == 1
        assert await store.status("b") == "unknown"
        go_on.set()
        await write
        assert await store.get_result("b") == 2


def test_g8_no_verb_touches_a_file_on_the_loop(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop_thread = threading.get_ident()
    elsewhere: set[str] = set()
    on_the_loop: list[str] = []

    def guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def checked(*args: Any, **options: Any) -> Any:
            if threading.get_ident() == loop_thread:
                on_the_loop.append("".join(traceback.format_stack(limit=8)))
            elsewhere.add(name)
            return function(*args, **options)

        return checked

    with monkeypatch.context() as patched:
        for name in ("pread", "pwrite", "fdatasync", "fsync", "open", "stat", "rename", "unlink"):
            patched.setattr(os, name, guarded(name, getattr(os, name)))
        begins = {write: guarded(f"a transaction, write={write}", bool) for write in (True, False)}
        opened = boundary.transactions_seen_by(lambda write: begins[write]())
        patched.setattr(lmdb, "open", opened)
        asyncio.run(use_every_verb(path))
    assert {"pwrite", "fdatasync", "fsync", "open"} <= elsewhere
    assert {"a transaction, write=True", "a transaction, write=False"} <= elsewhere
    assert on_the_loop == []


async def use_every_verb(path: Path) -> None:
    """Small and large values, in the log and in the table."""
    async with logstore.open_async(path) as store:
        for value in (1, "x" * 1000, list(range(1000)), bytes(300_000)):
            await store.set_result("a", value)
            await store.set_progress("a", logstore.TaskProgress(meta={"of": value}))
            for _ in range(2):
                assert await store.get_result("a") == value
                assert await store.is_result_ready("a")
                assert await store.get_progress("a") is not None
                assert await store.status("a") == "ready"
                assert await store.wait_result("a", timeout_s=100) == value
                assert await store.status("unheard of") == "unknown"
                assert len([task async for task in store.tasks()]) == 1
                await store.compact()
            assert await store.pop_result("a") == value
        assert not await store.delete_result("a")
        await store.vacuum()
        await store.backup(path.with_name("backup.db"))
        assert (await store.check()).ok
        assert (await store.stats()).results == 0
        await store.sync()


# -- G9: one file at rest ------------------------------------------------------------------------


def test_g9_one_file_at_rest_and_known_files_while_open(
    path: Path, start_peer: Callable[..., Any]
) -> None:
    side_files = ["app.db", "app.db-log", "app.db-log2", "app.db-shm"]
    for _ in range(2):
        store = logstore.open(path)
        peer = start_peer(path)
        store.set_result("a", 1)
        peer.run("store.set_result('b', 2)")
        store.vacuum()
        assert sorted(os.listdir(path.parent)) == side_files
        assert {os.stat(path.parent / name).st_mode & 0o777 for name in side_files} == {0o600}
        store.close()
        assert sorted(os.listdir(path.parent)) == side_files
        peer.run("store.close()")
        assert os.listdir(path.parent) == ["app.db"]


@pytest.mark.parametrize("death", ["-vacuum", "-log-new"])
def test_g9_what_a_dead_peer_left_goes_too(
    path: Path, start_peer: Callable[..., Any], death: str
) -> None:
    code = {
        "-vacuum": "store.vacuum()",
        "-log-new": "boundary.fail_next('fdatasync')\nstore.set_result('b', 2)",
    }[death]
    store = logstore.open(path)
    store.set_result("a", 1)
    peer = start_peer(path)
    peer.die(code, at="os.fsync")
    assert os.path.exists(f"{path}{death}")
    assert store.get_result("a") == 1
    store.close()
    assert os.listdir(path.parent) == ["app.db"]


# -- G10: reading executes nothing and is bounded ------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x81" * 100_000 + b"\x01", id="deep"),
        pytest.param(b"\x9b" + struct.pack(">Q", 1 << 40), id="array of 2^40"),
        pytest.param(b"\x5b" + struct.pack(">Q", 1 << 40), id="bytes of 2^40"),
        pytest.param(b"\xbb" + struct.pack(">Q", 1 << 40), id="map of 2^40"),
        pytest.param(b"\x9f\x01\xff", id="indefinite"),
        pytest.param(b"\xd8\x23\x63a.b", id="regular expression"),
        pytest.param(b"\xd8\x1c\x81\xd8\x1d\x00", id="shared references"),
        pytest.param(b"\x01\x01", id="two items"),
        pytest.param(b"\x80\x04K\x01.", id="pickle"),
    ],
)
@pytest.mark.parametrize("kind", [fileformat.RESULT, fileformat.PROGRESS])
def test_g10_hostile_bytes_are_refused_in_bounded_memory(
    store: logstore.Store,
    crash_copy: Callable[[logstore.Store], Path],
    data: bytes,
    kind: int,
) -> None:
    path = crash_copy(store)
    meta = meta_of(path)
    with Path(f"{path}-log").open("r+b") as log:
        log.seek(fileformat.FIRST_OFFSET)
        log.write(fileformat.frame(meta.uuid, meta.epoch, b"hostile", data, kind=kind))
    with logstore.open(path) as opened:
        read = opened.get_result if kind == fileformat.RESULT else opened.get_progress
        tracemalloc.start()
        try:
            with pytest.raises(logstore.DecodeError):
                read("hostile")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 1 << 20


def test_g10_nothing_that_would_run_code_can_be_stored(store: logstore.Store) -> None:
    class Executes:
        def __reduce__(self) -> tuple[Any, ...]:
            raise AssertionError("asked how to be pickled")

    with pytest.raises(logstore.UnserializableValueError):
        store.set_result("a", Executes())
    assert store.status("a") == "unknown"


def test_g10_using_a_store_imports_no_pickle(tmp_path: Path) -> None:
    code = (
        "import sys, logstore\n"
        f"with logstore.open({str(tmp_path / 'app.db')!r}) as store:\n"
        "    store.set_result('a', {'b': [1, 2.5, 'c', None]})\n"
        "    store.compact()\n"
        "    store.get_result('a')\n"
        "assert not {'pickle', '_pickle', 'marshal_', 'shelve'} & set(sys.modules)\n"
    )
    run_child(code)
