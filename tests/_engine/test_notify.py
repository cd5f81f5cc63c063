"""Waiting and watching across processes and compactions: nothing lost, nothing reported twice."""

from __future__ import annotations

import signal
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import logstore
from logstore import TaskProgress
from logstore._engine import notify
from tests.support.forked import run_in_fork
from tests.support.guarded import touched_without

if TYPE_CHECKING:
    from tests.support.peers import Peer
    from tests.support.stores import Stores

LONG_S = 60
POLL_S = 0.5  # what a reader that looks now and then would need


def take(watch: logstore.Watch, last: str) -> list[logstore.Event]:
    """Events up to the result of ``last``."""
    events = []
    for event in watch:
        events.append(event)
        if (event.task_id, event.kind) == (last, "result"):
            break
    return events


def test_a_result_of_another_process_wakes_a_waiter_far_sooner_than_polling(
    open_store: Stores,
    start_peer: Callable[..., Peer],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(notify, "TIMEOUT_S", 10 * LONG_S)  # so that only a wake-up can do it
    store = open_store()
    peer = start_peer(store.path)
    delays: list[float] = []
    store.set_result("warm-up", 1)
    assert peer.run("store.wait_result('warm-up', timeout_s=60)") == 1
    for i in range(20):
        peer.begin(f"time.sleep(0.02)\nstore.set_result('task-{i}', 1)\ntime.monotonic()")
        store.wait_result(f"task-{i}", timeout_s=LONG_S)
        woken_at = time.monotonic()
        delays.append(woken_at - peer.end())
    peer.run("store.close()")
    with capsys.disabled():
        print(
            f"\nfrom behind the write to the waiter: median {statistics.median(delays) * 1e3:.2f} "
            f"ms, longest {max(delays) * 1e3:.2f} ms"
        )
    # All were woken, or their time would have been over; how soon, is up to the machine too.
    assert min(delays) < POLL_S / 5


def test_a_waiter_uses_no_processor_time(store: logstore.Store) -> None:
    thread = threading.Thread(target=store.wait_result, args=("a",), kwargs={"timeout_s": LONG_S})
    thread.start()
    used_s: list[float] = []
    while not used_s or (used_s[-1] >= 0.2 and len(used_s) < 20):  # others use some at times
        begun = time.process_time()
        thread.join(1.0)  # the time that is measured, not a wait for something to happen
        used_s.append(time.process_time() - begun)
        assert thread.is_alive()
    store.set_result("a", 1)
    thread.join(LONG_S)
    assert min(used_s) < 0.2


@pytest.mark.parametrize("compact_at", [1 << 14, 1 << 20], ids=["many compactions", "few"])
def test_every_result_of_three_processes_is_reported_once_and_in_order(
    open_store: Stores, start_peer: Callable[..., Peer], compact_at: int
) -> None:
    count = 300
    store = open_store(compact_at=compact_at)
    peers = [start_peer(store.path, compact_at=compact_at) for _ in range(3)]
    with store.watch() as watch:
        for number, peer in enumerate(peers):
            peer.begin(
                f"for i in range({count}):\n"
                f"    store.set_result(f'task-{number}-{{i}}', bytes(200))\n"
                f"    if i % 50 == 49: store.compact()\n"
            )
        for peer in peers:
            peer.end()
        store.set_result("end", 1)
        events = take(watch, "end")
    seen = [event.task_id for event in events if event.kind == "result"]
    expected = {f"task-{n}-{i}" for n in range(3) for i in range(count)} | {"end"}
    assert len(seen) == len(set(seen))
    assert set(seen) == expected
    for number in range(3):
        own = [int(name.split("-")[2]) for name in seen if name.startswith(f"task-{number}-")]
        assert own == sorted(own)
    times = [event.time for event in events]
    assert times == sorted(set(times))
    for peer in peers:
        peer.run("store.close()")


def test_deletions_are_reported_across_a_compaction_that_no_watch_saw(
    open_store: Stores, start_peer: Callable[..., Peer]
) -> None:
    store = open_store()
    peer = start_peer(store.path)
    with store.watch() as watch:
        peer.run(
            "store._handle.engine.exclusively(lambda: None)\n"
            "store.set_result('a', 1)\nstore.set_result('b', 2)\nstore.delete_result('b')\n"
            "store.compact()\nstore.set_result('c', 3)\nstore.compact()\n"
            "store.set_result('end', 4)"
        )
        events = [(event.task_id, event.kind) for event in take(watch, "end")]
    assert events[-1] == ("end", "result")
    assert [name for name, kind in events if kind == "result" and name != "b"] == ["a", "c", "end"]
    assert ("b", "deleted") in events
    peer.run("store.close()")


def test_progress_that_comes_faster_than_it_is_taken_is_reported_with_its_newest(
    store: logstore.Store,
) -> None:
    with store.watch() as watch:
        for i in range(100):
            store.set_progress("p", TaskProgress(i / 100))
        store.set_result("end", 1)
        events = take(watch, "end")
    assert 1 <= sum(event.kind == "progress" for event in events) <= 100
    assert store.get_progress("p") == TaskProgress(0.99)


def test_two_watches_that_begin_at_different_times_each_see_what_came_after(
    store: logstore.Store,
) -> None:
    with store.watch() as first:
        store.set_result("a", 1)
        with store.watch() as second:
            store.set_result("end", 2)
            assert [event.task_id for event in take(second, "end")] == ["end"]
        assert [event.task_id for event in take(first, "end")] == ["a", "end"]


def test_a_watch_that_begins_again_after_a_pause_reports_nothing_of_the_pause(
    store: logstore.Store,
) -> None:
    with store.watch():
        store.set_result("before", 1)
    store.set_result("pause", 1)
    store.compact()
    store.set_result("pause", 2)
    with store.watch() as watch:
        store.set_result("end", 1)
        assert [event.task_id for event in take(watch, "end")] == ["end"]


def test_a_watch_goes_on_over_a_vacuum_of_another_process(
    open_store: Stores, start_peer: Callable[..., Peer]
) -> None:
    store = open_store()
    peer = start_peer(store.path)
    with store.watch() as watch:
        peer.run("store.set_result('a', 1)\nstore.vacuum()\nstore.set_result('b', 2)")
        store.set_result("end", 3)
        assert [event.task_id for event in take(watch, "end")] == ["a", "b", "end"]
    peer.run("store.close()")


def test_a_notifier_that_cannot_be_started_is_an_error_and_leaves_no_subscription(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    notifier = store._handle._lease.notifier
    for watched in (None, "a"):
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", fail)
            with pytest.raises(logstore.ResourceLimitError, match="ulimit -u"):
                store.watch(watched)
    assert not notifier._to_all
    assert not notifier._by_key
    with store.watch() as watch:
        store.set_result("end", 1)
        assert [event.task_id for event in take(watch, "end")] == ["end"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_leaves_a_subscription_of_its_parent_without_the_parents_lock(
    store: logstore.Store,
) -> None:
    watch = store.watch()
    with store._handle._lease.notifier._lock:

        def in_child() -> None:
            signal.alarm(LONG_S)  # ends it if it waits for the lock
            watch.close()

        assert run_in_fork(in_child) == 0
    watch.close()
    assert not store._handle._lease.notifier._to_all


def test_a_waiter_in_a_store_read_at_rest_meets_its_time_out(path: Path) -> None:
    logstore.open(path).close()
    with logstore.open(path, mode="r") as store:
        with pytest.raises(logstore.WaitTimeoutError):
            store.wait_result("a", timeout_s=0.01)
        with store.watch() as watch:
            watch.close()
            assert list(watch) == []


def test_subscriptions_and_their_position_are_touched_under_the_lock_only(
    store: logstore.Store,
) -> None:
    notifier = store._handle._lease.notifier
    touched = touched_without(notifier._lock, notifier, "_to_all", "_by_key", "_position")
    with store.watch() as all_tasks, store.watch("a") as one_task:
        store.set_result("a", 1)
        store.compact()
        store.set_result("end", 1)
        assert [event.task_id for event in take(all_tasks, "end")] == ["a", "end"]
        assert next(one_task).task_id == "a"
        notifier.notify_all()
    assert touched == []


@pytest.mark.parametrize("waits", [False, True])
def test_a_store_that_is_closed_ends_its_notifier_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    monkeypatch.setattr(notify, "TIMEOUT_S", 10 * LONG_S)  # so that only a wake-up can do it
    store = logstore.open(path)
    watch = store.watch()
    if not waits:
        watch.close()
    thread = store._handle._lease.notifier._thread
    assert thread is not None
    store.close()
    thread.join(LONG_S)
    assert not thread.is_alive()


class Told(notify.Subscription):
    """A subscriber that does something when it is told."""

    def __init__(self, do: Callable[[], object]) -> None:
        super().__init__(None)
        self.notify = lambda _: do()  # type: ignore[method-assign, assignment]


def test_an_error_of_one_subscriber_is_logged_and_an_interrupt_is_not_swallowed(
    store: logstore.Store, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(error: BaseException) -> None:
        raise error

    told = threading.Event()
    notifier = store._handle._lease.notifier
    subscriptions = [Told(lambda: fail(ValueError("its own"))), Told(told.set)]
    for subscription in subscriptions:
        store._handle.subscribe(subscription)
    notifier.notify_all()
    assert told.is_set()
    assert "a subscriber of the store failed" in caplog.text
    store._handle.unsubscribe(subscriptions[0])
    interrupted = Told(lambda: fail(KeyboardInterrupt()))
    store._handle.subscribe(interrupted)
    with pytest.raises(KeyboardInterrupt):
        notifier.notify_all()
    for subscription in (subscriptions[1], interrupted):
        store._handle.unsubscribe(subscription)
