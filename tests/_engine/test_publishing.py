"""One flush for the writers of all processes: what each of them sees, acks and fails.

A peer writes, and stays in its flush until the test lets it go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import logstore
from logstore import TaskProgress
from logstore._engine import durability, locks, sealing, shelter
from logstore._engine.compaction import Fold
from logstore._engine.counters import Counters
from logstore._engine.engine import Engine
from logstore._engine.frames import DELETED, Entry
from logstore._engine.header import FAILURES
from logstore._engine.log import FIRST_OFFSET
from logstore._engine.options import LARGE_BYTES
from logstore._engine.publishing import Publisher
from logstore._engine.writes import Flush
from tests.support import boundary
from tests.support.boundary import A_WRITE_WHOSE_FLUSH_FAILS
from tests.support.inside import live
from tests.support.peers import Peer, PeerError
from tests.support.stores import Stores

LONG_S = 100.0

HELD_FLUSH = """
from pathlib import Path
from logstore._engine import durability, locks, shelter
real, place = durability.sync_data, Path({place!r})
def held(fd):
    durability.sync_data = real
    (place / "in-flush").touch()
    while not (place / "go-on").exists():
        time.sleep(0.001)
    {then}
durability.sync_data = held
"""


class Flushing:
    """A peer that writes, and the state of its flush."""

    def __init__(self, place: Path, peer: Peer) -> None:
        self._place, self.peer = place, peer

    def begin(self, code: str, then: str = "real(fd)") -> None:
        """Let the peer write, and return when it is in its flush."""
        self.peer.run(HELD_FLUSH.format(place=str(self._place), then=then))
        self.peer.begin(code)
        wait_until((self._place / "in-flush").exists)

    def go_on(self) -> None:
        (self._place / "go-on").touch()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def store(path: Path, open_store: Stores) -> logstore.Store:
    return open_store(path, sync_interval_s=1e6)


@pytest.fixture
def flushing(
    store: logstore.Store, tmp_path: Path, start_peer: Callable[..., Peer]
) -> Iterator[Flushing]:
    flushing = Flushing(tmp_path, start_peer(store.path, sync_interval_s=1e6))
    yield flushing
    flushing.go_on()


@pytest.fixture
def beside() -> Iterator[Callable[..., Future[Any]]]:
    """Call something in a thread."""
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit


def appended(store: logstore.Store) -> int:
    return live(store).header.appended


def appended_by(
    store: logstore.Store, begin: Callable[..., Future[Any]], *call: Any
) -> Future[Any]:
    """Begin a write beside the test, and return when it is appended; it is not acked then."""
    before = appended(store)
    written = begin(*call)
    wait_until(lambda: appended(store) > before)
    assert not written.done()
    return written


def test_a_write_does_not_wait_for_the_lock_while_another_process_flushes(
    store: logstore.Store, flushing: Flushing, beside: Callable[..., Future[Any]]
) -> None:
    flushing.begin("store.set_result('theirs', 1)")
    ours = appended_by(store, beside, store.set_result, "ours", 2)
    assert [store.status(key) for key in ("theirs", "ours")] == ["unknown", "unknown"]
    flushing.go_on()
    ours.result(LONG_S)
    flushing.peer.end()
    assert [store.get_result(key) for key in ("theirs", "ours")] == [1, 2]
    assert flushing.peer.run("[store.get_result(key) for key in ('theirs', 'ours')]") == [1, 2]


def test_one_flush_acks_what_all_processes_have_appended(
    store: logstore.Store,
    flushing: Flushing,
    start_peer: Callable[..., Peer],
    beside: Callable[..., Future[Any]],
) -> None:
    third = start_peer(store.path)
    flushing.begin("store.set_result('a', 1)")
    ours = appended_by(store, beside, store.set_result, "b", 2)
    before = appended(store)
    third.begin("store.set_result('c', 3)")
    wait_until(lambda: appended(store) > before)
    flushing.go_on()
    ours.result(LONG_S)
    third.end()
    flushing.peer.end()
    assert store.stats().flushes + third.run("store.stats().flushes") == 1


def test_when_the_flushing_process_dies_another_one_flushes_for_both(
    store: logstore.Store, flushing: Flushing, beside: Callable[..., Future[Any]]
) -> None:
    flushing.begin("store.set_result('theirs', 1)")
    ours = appended_by(store, beside, store.set_result, "ours", 2)
    flushing.peer.kill()
    ours.result(LONG_S)
    assert [store.get_result(key) for key in ("theirs", "ours")] == [1, 2]
    assert store.stats().recoveries == 1


def test_a_flush_that_fails_fails_the_writes_of_all_processes_and_none_is_ever_seen(
    store: logstore.Store, flushing: Flushing, beside: Callable[..., Future[Any]]
) -> None:
    store.set_result("before", 0)
    flushing.begin("store.set_result('theirs', 1)", then="raise OSError(5, 'I/O')")
    ours = appended_by(store, beside, store.set_result, "ours", 2)
    flushing.go_on()
    with pytest.raises(logstore.WriteError, match="was not acknowledged"):
        ours.result(LONG_S)
    with pytest.raises(PeerError, match="was not acknowledged"):
        flushing.peer.end()
    for _ in range(2):
        assert [store.status(key) for key in ("theirs", "ours")] == ["unknown", "unknown"]
        store.set_result("after", 3)
    assert [store.get_result(key) for key in ("before", "after")] == [0, 3]


@pytest.mark.parametrize("fails", [False, True])
def test_a_write_with_a_condition_is_told_nothing_that_a_crash_could_take_back(
    store: logstore.Store,
    flushing: Flushing,
    beside: Callable[..., Future[Any]],
    fails: bool,
) -> None:
    """It is judged by a deletion that is not on the disk yet."""
    store.set_result("a", 1)
    flushing.begin("store.delete_result('a')", then="raise OSError(5, '')" if fails else "real(fd)")
    popped = beside(store.pop_result, "a")
    time.sleep(0.05)
    assert store.get_result("a") == 1
    assert not popped.done()
    flushing.go_on()
    if fails:
        with pytest.raises(logstore.WriteError):
            popped.result(LONG_S)
        with pytest.raises(PeerError):
            flushing.peer.end()
        assert store.get_result("a") == 1
    else:
        with pytest.raises(logstore.ResultDeletedError):
            popped.result(LONG_S)
        assert flushing.peer.end() is True


def test_of_two_processes_that_pop_a_result_one_gets_it(
    store: logstore.Store, flushing: Flushing, beside: Callable[..., Future[Any]]
) -> None:
    store.set_result("a", "once")
    flushing.begin("store.pop_result('a')")
    popped = beside(store.pop_result, "a")
    flushing.go_on()
    with pytest.raises(logstore.ResultDeletedError):
        popped.result(LONG_S)
    assert flushing.peer.end() == "once"


def test_a_result_set_behind_an_unflushed_deletion_is_there(
    store: logstore.Store, flushing: Flushing, beside: Callable[..., Future[Any]]
) -> None:
    store.set_result("a", 1)
    flushing.begin("store.delete_result('a')")
    written = beside(store.set_result, "a", 2)
    flushing.go_on()
    written.result(LONG_S)
    flushing.peer.end()
    assert store.pop_result("a") == 2


def test_progress_behind_an_unflushed_result_is_published_with_it_and_before_no_result_at_once(
    store: logstore.Store, flushing: Flushing, beside: Callable[..., Future[Any]]
) -> None:
    store.set_result("first", 1)
    flushes = store.stats().flushes
    store.set_progress("t", TaskProgress(0.1))
    assert store.stats().flushes == flushes
    flushing.begin("store.set_result('theirs', 1)")
    reported = appended_by(store, beside, store.set_progress, "t", TaskProgress(0.5))
    assert store.get_progress("t") == TaskProgress(0.1)
    flushing.go_on()
    reported.result(LONG_S)
    flushing.peer.end()
    assert store.get_progress("t") == TaskProgress(0.5)
    assert store.stats().flushes == flushes


def test_a_compaction_waits_for_a_flush_and_takes_it_in(
    store: logstore.Store, flushing: Flushing, beside: Callable[..., Future[Any]]
) -> None:
    flushing.begin("store.set_result('theirs', 1)")
    compacted = beside(store.compact)
    time.sleep(0.05)
    assert not compacted.done()
    flushing.go_on()
    compacted.result(LONG_S)
    flushing.peer.end()
    assert (store.stats().log_bytes, store.get_result("theirs")) == (0, 1)


def test_what_is_published_during_a_fold_is_folded_once(
    store: logstore.Store,
    flushing: Flushing,
    beside: Callable[..., Future[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A reader takes it into the overlay, which the fold of a large write reads."""
    flushing.begin("store.set_result('theirs', 1)")
    with_lock, mark_results = Publisher.with_lock, Fold._mark_results

    def publish_first(publisher: Publisher, *args: Any) -> Any:
        flushing.go_on()
        flushing.peer.end()
        return with_lock(publisher, *args)

    def read_after(fold: Fold, results: Any) -> None:
        mark_results(fold, results)
        assert beside(store.get_result, "theirs").result(LONG_S) == 1

    with monkeypatch.context() as patched:
        patched.setattr(Publisher, "with_lock", publish_first)
        patched.setattr(Fold, "_mark_results", read_after)
        store.set_result("large", bytes(LARGE_BYTES + 1))
    assert store.check().problems == ()


def test_a_stopped_process_in_its_flush_is_a_time_out_for_others_and_their_writes_stay_open(
    path: Path, tmp_path: Path, open_store: Stores, start_peer: Callable[..., Peer]
) -> None:
    store = open_store(path, write_timeout_s=0.2)
    flushing = Flushing(tmp_path, start_peer(path))
    flushing.begin("store.set_result('theirs', 1)")
    flushing.peer.stop()
    with pytest.raises(logstore.WriteTimeoutError, match="outcome of this write is unknown"):
        store.set_result("ours", 2)
    assert store.status("ours") == "unknown"
    flushing.peer.resume()
    flushing.go_on()
    flushing.peer.end()
    wait_until(lambda: store.status("ours") == "ready")


@pytest.mark.parametrize(
    "at",
    [
        pytest.param("os.fdatasync", id="flushed"),
        pytest.param("logstore._engine.logview.LogView.publish", id="published"),
    ],
)
def test_what_a_dead_process_has_appended_is_published_when_no_process_writes(
    path: Path, open_store: Stores, start_peer: Callable[..., Peer], at: str
) -> None:
    store = open_store(path, sync_interval_s=0.02)
    peer = start_peer(path)
    peer.die("store.set_result('a', 1)", at=at)
    wait_until(lambda: store.status("a") == "ready")


def test_a_writer_that_sleeps_through_more_failures_than_are_kept_has_an_error(
    store: logstore.Store, start_peer: Callable[..., Peer]
) -> None:
    peer = start_peer(store.path)
    engine = live(store)
    point = engine.header.appended
    for number in range(len(FAILURES) + 1):
        peer.run(A_WRITE_WHOSE_FLUSH_FAILS.replace("lost", f"lost-{number}"))
    with pytest.raises(OSError, match="has failed"):
        engine.in_turn(lambda deadline: engine.publish(point, deadline, flush=False))


def test_the_flush_lock_is_free_after_an_error_in_the_flush(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(BaseException):
        pass

    def interrupted(fd: int) -> None:
        raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr(durability, "sync_data", interrupted)
        with pytest.raises(Interrupted):
            store.set_result("a", 1)
    with open(f"{store.path}-shm", "r+b") as beside:
        assert locks.try_lock_byte(beside.fileno(), locks.FLUSH)
    store.set_result("b", 2)
    assert store.get_result("b") == 2


def test_progress_behind_a_result_that_a_dead_process_has_not_flushed_is_published_with_a_flush(
    store: logstore.Store, start_peer: Callable[..., Peer]
) -> None:
    peer = start_peer(store.path)
    peer.die("store.set_result('theirs', 1)", at="os.fdatasync")
    live(store).header.flushing = 0  # it has died a moment before it flushes
    flushes = store.stats().flushes
    store.set_progress("t", TaskProgress(0.5))
    assert store.stats().flushes == flushes + 1
    assert (store.get_result("theirs"), store.get_progress("t")) == (1, TaskProgress(0.5))


def test_behind_a_process_that_died_in_its_flush_no_flush_of_that_log_is_trusted(
    store: logstore.Store, start_peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have failed: the system says so once, and what the page cache holds is not written."""
    peer = start_peer(store.path)
    peer.die("store.set_result('theirs', 1)", at="os.fdatasync")
    synced: list[int] = []
    monkeypatch.setattr(durability, "sync_data", synced.append)
    store.sync()
    assert not synced
    assert (store.get_result("theirs"), store.stats().log_bytes) == (1, 0)


@pytest.mark.parametrize("catches_up", [False, True], ids=["nobody", "another thread"])
@pytest.mark.parametrize("read", ["find_result", "find_traces"])
def test_a_read_beside_a_recovery_that_dies_finds_nothing_ahead_of_its_turn(
    store: logstore.Store,
    start_peer: Callable[..., Peer],
    monkeypatch: pytest.MonkeyPatch,
    catches_up: bool,
    read: str,
) -> None:
    """What nobody has been shown is in the table then, and the next read would not find it."""
    store.set_result("a", 0)
    store.compact()
    peer, second, engine = start_peer(store.path), start_peer(store.path), live(store)
    real = engine.from_table

    def beside(look: Callable[[Any], Any]) -> Any:
        monkeypatch.setattr(engine, "from_table", real)
        peer.run("store.delete_result('a')")
        peer.die("store.set_result('a', 1)", at="os.fdatasync")
        second.die("store.set_result('b', 1)", at="logstore._engine.engine.Engine.begin_epoch")
        if catches_up:
            engine.view()
        return real(look)

    monkeypatch.setattr(engine, "from_table", beside)
    entry = engine.find_result(b"a") if read == "find_result" else engine.find_traces([b"a"])[0]
    assert isinstance(entry, Entry)
    assert entry.kind == DELETED
    assert store.status("a") == "deleted"
    store.set_result("c", 1)
    assert store.get_result("a") == 1


def test_a_recovery_keeps_what_another_process_had_appended_whole(
    store: logstore.Store, start_peer: Callable[..., Peer]
) -> None:
    whole, half = start_peer(store.path), start_peer(store.path)
    whole.die("store.set_result('whole', 1)", at="os.fdatasync")
    half.die("boundary.die_half_written()\nstore.set_result('half', 2)")
    store.set_result("ours", 3)
    assert [store.status(key) for key in ("whole", "half", "ours")] == ["ready", "unknown", "ready"]
    assert store.stats().recoveries == 1


# -- waiting for writers that may write again ----------------------------------------------------


class Gathering:
    """A publisher that has the flush lock, in a time of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, flush_s: float = 0.008) -> None:
        self.now_s = 0.0
        self.arrives: Callable[[], object] = lambda: None
        self.header = SimpleNamespace(arrivals=10, arrivals_published=9, batch=3)
        self.publisher = Publisher(cast("Any", None), cast("Any", self.header), -1, Counters())
        self.publisher._flush_s = flush_s
        self.publisher._arrival = 7  # in the batch that was published last, as two others
        monkeypatch.setattr(time, "perf_counter", lambda: self.now_s)
        monkeypatch.setattr(time, "sleep", self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.arrives()

    def waited_s(self) -> float:
        start = self.now_s
        self.publisher._gather()
        return self.now_s - start

    def arrive(self, every_s: float) -> None:
        self.header.arrivals = 10 + int(self.now_s / every_s)


def test_a_flush_waits_for_the_processes_of_the_last_one_as_long_as_they_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gathering = Gathering(monkeypatch)
    gathering.arrives = lambda: gathering.arrive(0.0005)
    assert gathering.waited_s() == pytest.approx(0.001, abs=0.0001)  # two have come


def test_a_flush_waits_for_half_a_flush_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    gathering = Gathering(monkeypatch)
    gathering.header.batch = 100
    gathering.publisher._arrival = 0
    gathering.arrives = lambda: gathering.arrive(0.0005)
    assert gathering.waited_s() == pytest.approx(0.004, abs=0.0001)


def test_a_flush_waits_less_and_less_often_where_no_process_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gathering = Gathering(monkeypatch)
    waits = []
    for _ in range(300):
        gathering.publisher._arrival = 7
        waits.append(gathering.waited_s() > 0)
    tried = [number for number, waited in enumerate(waits) if waited]
    assert [b - a for a, b in pairwise(tried)] == [3, 5, 9, 17, 33, 65, 65, 65]


@pytest.mark.parametrize("alone", ["batch", "own", "fast"])
def test_a_flush_does_not_wait_for_itself_nor_on_a_fast_disk(
    monkeypatch: pytest.MonkeyPatch, alone: str
) -> None:
    gathering = Gathering(monkeypatch, flush_s=0.0001 if alone == "fast" else 0.008)
    if alone != "fast":
        gathering.header.batch = 0 if alone == "batch" else 1
        gathering.publisher._arrival = 9
    assert gathering.waited_s() == 0


# -- locks held to the end ----------------------------------------------------------------------


def test_a_large_write_behind_a_sync_in_its_group_is_folded_under_the_flush_lock(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set_progress("t", TaskProgress(0.5))  # not flushed yet
    handle, fold = store._handle, Engine.fold
    taken: list[bool] = []

    def observed(engine: Engine, **options: Any) -> None:
        with open(f"{store.path}-shm", "r+b") as beside:
            taken.append(locks.try_lock_byte(beside.fileno(), locks.FLUSH))
        fold(engine, **options)

    monkeypatch.setattr(Engine, "fold", observed)
    handle.commit([Flush(), handle.result_write("large", bytes(LARGE_BYTES + 1))])
    assert taken == [False]
    assert live(store).header.synced == FIRST_OFFSET
    assert store.get_progress("t") == TaskProgress(0.5)


def test_a_write_that_waits_while_the_logs_are_replaced_goes_on(
    store: logstore.Store,
    start_peer: Callable[..., Peer],
    beside: Callable[..., Future[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A reader of the same process opens the new logs, and leaves the old ones."""
    peer = start_peer(store.path)
    holder = open(f"{store.path}-shm", "r+b")  # noqa: SIM115 - the lock is given back meanwhile
    assert locks.try_lock_byte(holder.fileno(), locks.WRITER)
    check = shelter.check

    old = live(store).logs

    def replaced() -> None:
        monkeypatch.setattr(shelter, "check", check)
        holder.close()
        peer.run(A_WRITE_WHOSE_FLUSH_FAILS)
        assert beside(store.status, "lost").result(LONG_S) == "unknown"
        assert live(store).logs is not old
        assert min(log.fd for log in old.both) >= 0  # a check may be reading them

    monkeypatch.setattr(shelter, "check", replaced)
    store.set_result("a", 1)
    assert store.get_result("a") == 1
    assert max(log.fd for log in old.both) < 0


# -- what no other process can bring about at will -----------------------------------------------


def test_a_compaction_beside_a_process_that_is_stopped_in_its_flush_is_a_time_out(
    path: Path, tmp_path: Path, open_store: Stores, start_peer: Callable[..., Peer]
) -> None:
    store = open_store(path, write_timeout_s=0.2)
    flushing = Flushing(tmp_path, start_peer(path))
    flushing.begin("store.set_result('theirs', 1)")
    with pytest.raises(logstore.WriteTimeoutError):
        store.compact()
    flushing.go_on()
    flushing.peer.end()
    store.compact()
    assert store.get_result("theirs") == 1


def test_an_exception_of_a_signal_handler_is_not_noted_as_an_error(store: logstore.Store) -> None:
    engine = live(store)
    with pytest.raises(TimeoutError):
        engine.note_error(TimeoutError("of a handler"))
    engine.note_error(OSError(5, "of the disk"))
    assert store.stats().last_error == "[Errno 5] of the disk"


def test_a_write_that_fails_and_cannot_be_recovered_from_is_recovered_by_the_next(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = live(store)

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(durability, "pwrite_all", fail)
        patched.setattr(engine, "fold_unverified", fail)
        with pytest.raises(logstore.WriteError):
            store.set_result("a", 1)
    assert store.stats().last_error is not None
    store.set_result("b", 2)
    assert [store.status(key) for key in ("a", "b")] == ["unknown", "ready"]
    assert store.stats().recoveries == 1


def test_a_log_that_another_process_has_compacted_meanwhile_is_not_compacted_again(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = iter((True, False))
    monkeypatch.setattr(sealing, "_is_full", lambda engine: next(full))
    store.set_result("a", 1)
    assert store.stats().compactions == 0


def test_an_error_behind_the_acknowledgement_fails_no_write(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch, beside: Callable[..., Future[Any]]
) -> None:
    def fail() -> None:
        raise RuntimeError

    monkeypatch.setattr(sealing, "compact_if_due", fail)
    beside(store.set_result, "a", 1).result(LONG_S)
    assert store.get_result("a") == 1


@pytest.mark.parametrize("stale", [0, 1])
def test_what_is_said_to_be_appended_to_another_epoch_is_not_published(
    store: logstore.Store, stale: int
) -> None:
    """A process has died while it began a new epoch."""
    store.set_result("a", 1)
    engine = live(store)
    header = engine.header
    state, appended = header.state, header.appended
    header.appended = stale << 32 | 9999
    engine.publisher.publish_all()
    assert engine.publisher._try_publish(header.epoch + 1, 0) is None
    assert header.state == state
    engine.exclusively(lambda: engine.adopt_salvaged(engine.overlay), recover=False)
    assert (header.epoch, header.appended) == ((state >> 32) + 1, header.state)
    assert appended == state
    assert store.get_result("a") == 1


@pytest.mark.parametrize("call", ["under_lock", "publish"])
def test_a_handler_that_raises_before_the_view_lock_is_taken_is_not_hidden(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    class Interrupted(BaseException):
        pass

    class NotTaken:
        def acquire(self) -> None:
            raise Interrupted

        def release(self) -> None:
            raise RuntimeError("cannot release un-acquired lock")

    view = live(store).logview
    calls: dict[str, Callable[[], object]] = {
        "under_lock": lambda: view.under_lock(lambda: None),
        "publish": lambda: view.publish(live(store).header.appended),
    }
    with monkeypatch.context() as patched:
        patched.setattr(view, "lock", NotTaken())
        with pytest.raises(Interrupted):
            calls[call]()
    store.set_result("b", 2)
    assert store.get_result("b") == 2


def test_a_compaction_whose_flush_fails_drops_what_was_not_published(
    store: logstore.Store, start_peer: Callable[..., Peer]
) -> None:
    store.set_result("before", 0)
    peer = start_peer(store.path)
    peer.die("store.set_result('theirs', 1)", at="os.fdatasync")
    live(store).header.flushing = 0  # it has died a moment before its flush
    boundary.fail_next("fdatasync")
    store.compact()
    assert [store.status(key) for key in ("before", "theirs")] == ["ready", "unknown"]
    assert store.stats().last_error is not None


def test_a_process_publishes_what_it_has_not_read(
    store: logstore.Store, start_peer: Callable[..., Peer]
) -> None:
    peer = start_peer(store.path)
    peer.run("store.set_result('x', 1)\nstore.compact()")
    peer.die("store.set_result('theirs', 2)", at="os.fdatasync")
    live(store).header.flushing = 0  # as above
    live(store).sync()  # as the maintenance thread does
    assert [store.get_result(key) for key in ("x", "theirs")] == [1, 2]


@pytest.mark.parametrize("call", ["delete_result", "pop_result"])
def test_a_durable_write_that_changes_nothing_puts_what_is_before_it_on_the_disk(
    store: logstore.Store, call: str
) -> None:
    store.set_result("a", 1)
    store.set_progress("t", TaskProgress(0.5))
    flushes = store.stats().flushes
    if call == "pop_result":
        with pytest.raises(logstore.ResultIsMissingError):
            store.pop_result("missing")
    else:
        assert not store.delete_result("missing")
    assert store.stats().flushes == flushes + 1
    header = live(store).header
    assert header.synced == header.committed


def test_a_write_finds_itself_published_by_a_compaction_that_came_before_the_flush_lock(
    store: logstore.Store, start_peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = start_peer(store.path)
    real = locks.try_lock_byte

    def try_lock_byte(fd: int, byte: locks.ByteLock) -> bool:
        if byte is locks.FLUSH:
            monkeypatch.undo()
            peer.run("store.compact()")
        return real(fd, byte)

    monkeypatch.setattr(locks, "try_lock_byte", try_lock_byte)
    epoch = live(store).header.epoch
    store.set_result("a", 1)
    assert live(store).header.epoch == epoch + 1
    assert store.get_result("a") == 1


def test_a_write_whose_flush_fails_in_another_process_just_before_its_own_is_told_so(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = locks.try_lock_byte

    def try_lock_byte(fd: int, byte: locks.ByteLock) -> bool:
        if byte is locks.FLUSH:
            monkeypatch.undo()
            live(store).header.log_failed = 1
        return real(fd, byte)

    monkeypatch.setattr(locks, "try_lock_byte", try_lock_byte)
    with pytest.raises(logstore.WriteError):
        store.set_result("a", 1)
    assert store.status("a") == "unknown"
    store.set_result("a", 2)
    assert store.get_result("a") == 2
