"""AsyncStore: the verbs off the loop, waiting and watching, and its end."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import logstore
from logstore import AsyncStore, TaskProgress
from logstore._codec.weight import PARTS_MAX, SMALL_BYTES
from logstore._engine import maintenance, notify
from logstore._engine.notify import Notifier, Subscription
from logstore._engine.reading import BaseEngine
from logstore._engine.table import Table
from logstore._engine.writes import Write
from logstore._handle import Handle
from logstore._loops import waiters
from tests.support.fileformat import editing
from tests.support.forked import run_in_fork

if TYPE_CHECKING:
    from tests.support.peers import Peer

LONG_S = 100.0
FORK = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(autouse=True)
def quiet(no_idle_compaction: None) -> None:
    """Stores compact when told."""
    assert maintenance.IDLE_S > LONG_S


@pytest.fixture
def run(path: Path) -> Iterator[Callable[[Callable[[AsyncStore], Awaitable[None]]], None]]:
    """Runs a coroutine on a store that is verified afterwards."""

    def run(body: Callable[[AsyncStore], Awaitable[None]]) -> None:
        async def main() -> None:
            async with logstore.open_async(path) as store:
                await body(store)

        asyncio.run(asyncio.wait_for(main(), LONG_S))

    yield run
    assert os.listdir(path.parent) == [path.name]
    report = logstore.check(path)
    assert report.ok, report.problems


Run = Callable[[Callable[[AsyncStore], Awaitable[None]]], None]


@pytest.fixture
def no_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Says how the names of threads begin that cannot be started from now on; "" for none."""
    refused: list[str] = [""]
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if refused[-1] and thread.name.startswith(refused[-1]):
            raise RuntimeError("can't start new thread")
        real(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        yield refused.append


async def becomes(condition: Callable[[], bool]) -> None:
    """Until something that gives no other sign has come about."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it has not come about")


def test_every_verb_does_what_its_namesake_does(run: Run, tmp_path: Path) -> None:
    async def body(store: AsyncStore) -> None:
        assert store.path == store.store.path
        assert not store.closed
        await store.set_progress("a", TaskProgress(0.5))
        assert await store.get_progress("a") == TaskProgress(0.5)
        assert await store.status("a") == "running"
        await store.set_result("a", {"n": 1})
        await store.set_result("failed", "why", failed=True)
        assert await store.get_result("a") == {"n": 1}
        assert await store.is_result_ready("a")
        await store.sync()
        await store.compact()
        assert await store.get_result("a") == {"n": 1}
        assert [info.task_id async for info in store.tasks()] == ["failed", "a"]
        assert await store.pop_result("a") == {"n": 1}
        assert await store.delete_result("failed")
        assert not await store.delete_result("failed")
        with pytest.raises(logstore.ResultDeletedError):
            await store.get_result("a")
        assert (await store.check()).ok
        assert (await store.stats()).results == 0
        await store.vacuum()
        await store.backup(tmp_path / "copy.db")
        assert logstore.check(tmp_path / "copy.db").ok
        (tmp_path / "copy.db").unlink()

    run(body)


# -- reads that are asked for together -----------------------------------------------------------


async def outcomes(*calls: Awaitable[Any]) -> list[Any]:
    """What each call returns, or the text of its error."""
    found = await asyncio.gather(*calls, return_exceptions=True)
    return [f"{type(one).__name__}: {one}" if isinstance(one, Exception) else one for one in found]


def test_gets_of_one_turn_each_have_their_own_outcome(path: Path) -> None:
    large = "large" * SMALL_BYTES
    with logstore.open(path) as store:
        for task_id in ("table", "damaged", "replaced", "deleted", "popped"):
            store.set_result(task_id, task_id)
        store.set_result("large in the table", large)
        store.set_result("expired", 1, ttl_s=0.001)
    with editing(path, b"ids") as txn:
        mark = txn.get(b"damaged")
        assert mark is not None
        txn.put(b"damaged", mark[:-1] + bytes((mark[-1] ^ 1,)))

    async def main() -> None:
        async with logstore.open_async(path) as store:
            await store.set_result("log", "log")
            await store.set_result("replaced", "anew")
            await store.set_result("large in the log", large)
            await store.delete_result("deleted")
            await store.set_progress("progress", TaskProgress(0.5))
            await store.delete_result("progress")
            ids = ["table", "damaged", "replaced", "deleted", "large in the table", "expired"]
            ids += ["log", "large in the log", "progress", "never", "table", "damaged", "popped"]
            calls: list[Awaitable[Any]] = [store.get_result(task_id) for task_id in ids]
            found = await outcomes(*calls, store.status("table"))
            damaged = "the mark of task b'damaged' is damaged"
            assert found[1].startswith("CorruptRecordError: ")
            assert damaged in found[1]
            assert damaged in found[11]
            found[1] = found[11] = ""
            assert found == [
                "table",
                "",
                "anew",
                "ResultDeletedError: the result of task 'deleted' has been deleted",
                large,
                "ResultExpiredError: the result of task 'expired' has expired",
                "log",
                large,
                "ResultIsMissingError: no result is stored for task 'progress'",
                "ResultIsMissingError: no result is stored for task 'never'",
                "table",
                "",
                "popped",
                "ready",
            ]
            assert await store.pop_result("popped") == "popped"
            # Each caller has an error of its own.
            both = await asyncio.gather(
                store.get_result("never"), store.get_result("never"), return_exceptions=True
            )
            assert both[0] is not both[1]

    asyncio.run(asyncio.wait_for(main(), LONG_S))


def test_a_damaged_trace_concerns_those_alone_who_ask_for_it(path: Path) -> None:
    with logstore.open(path) as store:
        store.set_result("whole", 1)
        store.set_progress("damaged", TaskProgress(0.5))

    async def main() -> None:
        async with logstore.open_async(path) as store:
            await store.delete_result("damaged")  # of its progress: what was before counts
            with monkeypatch.context() as patched:
                patched.setattr(BaseEngine, "find_trace", fail)
                found = await outcomes(store.get_result("damaged"), store.get_result("whole"))
            assert found == ["CorruptRecordError: damaged", 1]

    def fail(self: BaseEngine, key: bytes) -> None:
        raise logstore.CorruptRecordError("damaged")

    monkeypatch = pytest.MonkeyPatch()
    asyncio.run(asyncio.wait_for(main(), LONG_S))


def test_a_table_that_cannot_be_read_is_told_to_all_who_asked_and_to_nobody_else(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    async def body(store: AsyncStore) -> None:
        await store.set_result("a", 1)
        await store.compact()
        with monkeypatch.context() as patched:
            patched.setattr(Table, "get_results", fail)
            calls = [store.get_result("a"), store.status("a"), store.get_result("b")]
            found = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(one) for one in found] == [OSError, str, OSError]
        assert found[0] is not found[2]
        assert await store.get_result("a") == 1

    run(body)


# -- waiting -----------------------------------------------------------------------------------


def test_waiters_of_one_task_are_all_told_and_those_of_others_are_not(run: Run) -> None:
    async def body(store: AsyncStore) -> None:
        waiting = [
            asyncio.ensure_future(store.wait_result("a", timeout_s=LONG_S)) for _ in range(3)
        ]
        other = asyncio.ensure_future(store.wait_result("b", timeout_s=LONG_S))
        await asyncio.sleep(0)
        await store.set_result("a", 1)
        assert await asyncio.gather(*waiting) == [1, 1, 1]
        assert not other.done()
        await store.set_result("b", 2)
        assert await other == 2

    run(body)


def test_a_result_of_another_process_ends_the_wait(
    run: Run, path: Path, start_peer: Callable[..., Peer]
) -> None:
    async def body(store: AsyncStore) -> None:
        peer = start_peer(path)
        waiting = asyncio.ensure_future(store.wait_result("a", timeout_s=LONG_S))
        await asyncio.sleep(0)
        await asyncio.to_thread(peer.run, "store.set_progress('a', logstore.TaskProgress(0.5))")
        await asyncio.to_thread(peer.run, "store.set_result('a', 1)")
        assert await waiting == 1
        await asyncio.to_thread(peer.run, "store.close()")

    run(body)


def test_a_result_in_the_table_is_found_without_waiting(run: Run) -> None:
    async def body(store: AsyncStore) -> None:
        await store.set_result("a", 1)
        assert await store.wait_result("a") == 1  # in memory
        await store.compact()
        assert await store.wait_result("a") == 1
        assert await store.wait_ready("a")

    run(body)


def test_a_result_that_is_there_is_found_however_short_the_time_out(run: Run) -> None:
    async def body(store: AsyncStore) -> None:
        await store.set_result("a", 1)
        await store.compact()
        assert await store.wait_ready("a", timeout_s=0)
        assert await store.wait_result("a", timeout_s=0) == 1

    run(body)


def test_a_wait_in_vain_ends_with_its_time_out(run: Run) -> None:
    async def body(store: AsyncStore) -> None:
        with pytest.raises(logstore.WaitTimeoutError, match=r"'a' within 0\.02 s"):
            await store.wait_result("a", timeout_s=0.02)
        assert not await store.wait_ready("a", timeout_s=0.02)

    run(body)


def test_what_is_not_a_result_yet_wakes_a_waiter_who_waits_on_until_its_time_is_over(
    run: Run,
) -> None:
    async def body(store: AsyncStore) -> None:
        waiting = asyncio.ensure_future(store.wait_ready("a", timeout_s=0.2))
        await asyncio.sleep(0)
        for number in range(5):
            await store.set_progress("a", TaskProgress(current=number))
        assert not await waiting

    run(body)


@pytest.mark.parametrize("others", [0, 1, 2])
def test_a_cancelled_waiter_leaves_the_others_waiting(run: Run, others: int) -> None:
    async def body(store: AsyncStore) -> None:
        waiting = [asyncio.ensure_future(store.wait_result("a")) for _ in range(others + 1)]
        await asyncio.sleep(0.01)
        waiting[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]
        await store.set_result("a", 1)
        assert await asyncio.gather(*waiting[1:]) == [1] * others

    run(body)


def test_a_deletion_ends_the_wait_with_the_error_that_says_so(run: Run) -> None:
    async def body(store: AsyncStore) -> None:
        await store.set_result("a", 1)
        await store.delete_result("a")
        with pytest.raises(logstore.ResultDeletedError):
            await store.wait_result("a", timeout_s=LONG_S)

    run(body)


def test_closing_ends_every_wait(run: Run) -> None:
    async def body(store: AsyncStore) -> None:
        waiting = asyncio.ensure_future(store.wait_result("a", timeout_s=LONG_S))
        await store.set_result("other", 1)
        await store.close()
        with pytest.raises(logstore.StoreClosedError):
            await waiting

    run(body)


def test_a_waiter_whom_nobody_could_tell_of_changes_gets_the_error_at_once(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    async def body(store: AsyncStore) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Notifier, "subscribe", fail)
            outcomes = await asyncio.gather(
                store.wait_result("a"), store.wait_result("a"), store.wait_ready("b"),
                return_exceptions=True,
            )  # fmt: skip
        assert [str(outcome) for outcome in outcomes] == ["can't start new thread"] * 3
        waiting = asyncio.ensure_future(store.wait_result("a"))
        await asyncio.sleep(0)
        await store.set_result("a", 1)
        assert await waiting == 1

    run(body)


def test_a_record_that_cannot_be_looked_at_is_the_error_of_its_own_waiters_only(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Handle.status

    def status(handle: Handle, key: bytes) -> str:
        if key == b"damaged":
            raise logstore.CorruptRecordError("damaged")
        return real(handle, key)

    async def body(store: AsyncStore) -> None:
        monkeypatch.setattr(Handle, "status", status)
        damaged = asyncio.ensure_future(store.wait_result("damaged"))
        whole = asyncio.ensure_future(store.wait_result("whole"))
        with pytest.raises(logstore.CorruptRecordError):
            await damaged
        assert not whole.done()
        await store.set_result("whole", 1)
        assert await whole == 1

    run(body)


def test_a_subscription_that_nobody_needs_any_more_ends(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiters, "IDLE_S", 0.01)
    monkeypatch.setattr(notify, "TIMEOUT_S", 0.01)

    async def body(store: AsyncStore) -> None:
        notifier = store.store._handle._lease.notifier
        waiting = asyncio.ensure_future(store.wait_result("a"))
        await becomes(lambda: bool(notifier._to_all))
        await asyncio.sleep(0.1)  # longer than an idle subscription lives
        assert notifier._to_all
        await store.set_result("a", 1)
        assert await waiting == 1
        await becomes(lambda: not notifier._to_all)
        waiting = asyncio.ensure_future(store.wait_result("b"))
        await asyncio.sleep(0)
        await store.set_result("b", 2)
        assert await waiting == 2

    run(body)


def test_a_subscription_of_a_loop_that_waits_now_and_then_is_kept(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiters, "IDLE_S", LONG_S)
    monkeypatch.setattr(notify, "TIMEOUT_S", 0.01)
    looks: list[float] = []
    real = waiters.Waiters.recheck

    def again(here: waiters.Waiters) -> None:
        real(here)
        looks.append(0.0)

    monkeypatch.setattr(waiters.Waiters, "recheck", again)

    async def body(store: AsyncStore) -> None:
        assert not await store.wait_ready("a", timeout_s=0.01)
        looks.clear()
        await becomes(lambda: len(looks) > 5)
        assert store.store._handle._lease.notifier._to_all

    run(body)


def test_a_waiter_who_comes_while_states_are_looked_at_for_others_who_have_left_is_told(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiters, "IDLE_S", 0.01)
    monkeypatch.setattr(notify, "TIMEOUT_S", 0.01)
    looking, go_on = threading.Event(), threading.Event()
    real = waiters.Waiters._is_settled

    def is_settled(here: waiters.Waiters, key: bytes) -> bool:
        if key == b"gone":
            looking.set()
            go_on.wait(LONG_S)
        return real(here, key)

    monkeypatch.setattr(waiters.Waiters, "_is_settled", is_settled)

    async def body(store: AsyncStore) -> None:
        leaving = asyncio.ensure_future(store.wait_ready("gone"))
        await asyncio.to_thread(looking.wait, LONG_S)
        leaving.cancel()
        await asyncio.sleep(0.1)  # longer than an idle subscription lives
        waiting = asyncio.ensure_future(store.wait_result("a", timeout_s=LONG_S))
        await asyncio.sleep(0)
        go_on.set()
        await becomes(lambda: bool(store.store._handle._lease.notifier._to_all))
        await store.set_result("a", 1)
        assert await waiting == 1

    run(body)


def test_loops_that_are_closed_are_forgotten_by_the_next_that_waits(path: Path) -> None:
    store = asyncio.run(_opened(path))
    notifier = store.store._handle._lease.notifier
    for _ in range(3):
        assert not asyncio.run(store.wait_ready("a", timeout_s=1))
        assert len(notifier._to_all) == 1
        assert len(store._waiters) == 1
    loop = weakref.ref(next(iter(store._waiters)))
    asyncio.run(store.wait_ready("a", timeout_s=1))

    def is_forgotten() -> bool:  # a thread may hold it for a moment
        gc.collect()
        return loop() is None

    asyncio.run(becomes(is_forgotten))
    asyncio.run(store.close())


def test_a_change_ends_the_subscriptions_of_loops_that_are_closed(path: Path) -> None:
    store = asyncio.run(_opened(path))
    notifier = store.store._handle._lease.notifier

    async def leave_a_waiter_and_a_watch() -> None:
        waiting.append(asyncio.ensure_future(store.wait_ready("a")))
        waiting.append(asyncio.ensure_future(watch.__anext__()))
        await becomes(lambda: len(notifier._to_all) == 2)

    waiting: list[asyncio.Future[Any]] = []
    watch = store.watch()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave_a_waiter_and_a_watch())
    loop.close()
    asyncio.run(store.set_result("a", 1))
    asyncio.run(becomes(lambda: not notifier._to_all))
    asyncio.run(store.close())
    # They ended with their loop, and know nothing of it.
    for future in waiting:
        future._log_destroy_pending = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("closed", [False, True], ids=["the loop goes on", "the loop is closed"])
def test_a_first_waiter_who_is_cancelled_with_its_loop_leaves_no_subscription(
    path: Path, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    monkeypatch.setattr(waiters, "IDLE_S", 0.01)
    monkeypatch.setattr(notify, "TIMEOUT_S", 0.01)
    begun, go_on, subscribed = threading.Event(), threading.Event(), threading.Event()
    real = Notifier.subscribe

    def subscribe(notifier: Notifier, subscription: Subscription) -> None:
        begun.set()
        go_on.wait(LONG_S)
        real(notifier, subscription)
        subscribed.set()

    store = asyncio.run(_opened(path))
    notifier = store.store._handle._lease.notifier

    async def main() -> None:
        waiting = asyncio.ensure_future(store.wait_ready("a"))
        await asyncio.to_thread(begun.wait, LONG_S)
        waiting.cancel()
        if not closed:
            go_on.set()
            await asyncio.to_thread(subscribed.wait, LONG_S)
            await becomes(lambda: not notifier._to_all)

    with monkeypatch.context() as patched:
        patched.setattr(Notifier, "subscribe", subscribe)
        asyncio.run(main())
        go_on.set()
        assert subscribed.wait(LONG_S)
    asyncio.run(becomes(lambda: not notifier._to_all))
    asyncio.run(store.close())


# -- watching ----------------------------------------------------------------------------------


async def taken(watch: Any, count: int) -> list[tuple[str, str]]:
    events = [await watch.__anext__() for _ in range(count)]
    return [(event.task_id, event.kind) for event in events]


def test_a_watch_tells_each_change_in_order_and_ends_when_it_is_closed(run: Run) -> None:
    async def body(store: AsyncStore) -> None:
        watch, one = store.watch(), store.watch("b")
        firsts = [asyncio.ensure_future(taken(watch, 4)), asyncio.ensure_future(taken(one, 1))]
        notifier = store.store._handle._lease.notifier
        await becomes(lambda: bool(notifier._to_all and notifier._by_key))
        await store.set_result("a", 1)
        await store.set_progress("b", TaskProgress(0.5))
        await store.set_result("b", 2, failed=True)
        await store.delete_result("a")
        events = await firsts[0]
        assert sorted(events) == sorted(
            [("a", "result"), ("b", "progress"), ("b", "result"), ("a", "deleted")]
        )
        assert (await firsts[1])[0][0] == "b"
        await watch.aclose()
        with pytest.raises(StopAsyncIteration):
            await watch.__anext__()
        await one.aclose()

    run(body)


def test_a_watch_ends_when_the_store_is_closed(run: Run) -> None:
    async def body(store: AsyncStore) -> None:
        async def count() -> int:
            return len([event async for event in store.watch()])

        counting = asyncio.ensure_future(count())
        await becomes(lambda: bool(store.store._handle._lease.notifier._to_all))
        await store.set_result("a", 1)
        await store.close()
        assert await counting <= 1

    run(body)


def test_a_watch_whose_first_step_is_cancelled_leaves_no_subscription_behind(run: Run) -> None:
    async def body(store: AsyncStore) -> None:
        notifier = store.store._handle._lease.notifier
        first = asyncio.ensure_future(store.watch().__anext__())
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await becomes(lambda: not notifier._to_all)

    run(body)


# -- errors and the end ------------------------------------------------------------------------


def test_each_of_the_calls_that_share_a_batch_gets_its_own_outcome(run: Run) -> None:
    async def body(store: AsyncStore) -> None:
        outcomes = await asyncio.gather(
            store.set_result("a", 1),
            store.pop_result("missing"),
            store.set_result("b", object()),
            store.delete_result("missing"),
            return_exceptions=True,
        )
        assert outcomes[0] is None
        assert isinstance(outcomes[1], logstore.ResultIsMissingError)
        assert isinstance(outcomes[2], logstore.UnserializableValueError)
        assert outcomes[3] is False

    run(body)


def test_an_error_of_the_disk_is_everyones_of_the_batch(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    async def body(store: AsyncStore) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("logstore._engine.durability.sync_data", fail)
            outcomes = await asyncio.gather(
                *(store.set_result(f"t{n}", n) for n in range(3)), return_exceptions=True
            )
        assert all(isinstance(outcome, logstore.WriteError) for outcome in outcomes)
        assert len({id(outcome) for outcome in outcomes}) == 3
        await store.set_result("after", 1)
        assert await store.get_result("after") == 1

    run(body)


@pytest.mark.parametrize("name", ["logstore-writer", "logstore-reader", "logstore-notifier"])
def test_a_thread_that_cannot_be_started_is_an_error_of_those_who_asked_for_it(
    run: Run, no_thread: Callable[[str], None], name: str
) -> None:
    async def body(store: AsyncStore) -> None:
        call: Callable[[], Coroutine[Any, Any, Any]] = {
            "logstore-writer": lambda: store.set_result("a", 1),
            "logstore-reader": lambda: store.get_result("missing"),
            "logstore-notifier": lambda: store.wait_ready("missing", timeout_s=LONG_S / 8),
        }[name]
        no_thread(name)
        for _ in range(2):
            calls = [asyncio.wait_for(call(), LONG_S / 4) for _ in range(2)]
            errors = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(error) for error in errors] == [logstore.ResourceLimitError] * 2
            assert errors[0] is not errors[1]
        no_thread("")
        await store.set_result("a", 1)
        assert await store.get_result("a") == 1
        waiting = asyncio.ensure_future(store.wait_result("b", timeout_s=LONG_S / 4))
        await asyncio.sleep(0.01)
        await store.set_result("b", 2)
        assert await waiting == 2
        assert len(store.store._handle._lease.notifier._to_all) == 1

    run(body)


def test_a_store_closes_after_its_threads_could_not_be_started(
    run: Run, no_thread: Callable[[str], None]
) -> None:
    async def body(store: AsyncStore) -> None:
        no_thread("logstore-")
        for call in (store.set_result("a", 1), store.status("a")):
            with pytest.raises(logstore.ResourceLimitError, match="can't start new thread"):
                await asyncio.wait_for(call, LONG_S / 4)
        no_thread("")
        await store.close()

    run(body)


def test_any_call_after_close_is_a_typed_error(run: Run) -> None:
    async def body(store: AsyncStore) -> None:
        await store.close()
        assert store.closed
        for call in (store.get_result("a"), store.set_result("a", 1), store.stats(), store.sync()):
            with pytest.raises(logstore.StoreClosedError):
                await call
        await store.close()

    run(body)


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.get_result("a"),
        lambda store: store.is_result_ready("a"),
        lambda store: store.get_progress("b"),
        lambda store: store.status("a"),
        lambda store: store.wait_result("a"),
        lambda store: store.wait_ready("a"),
        lambda store: store.set_result("a", 2),
        lambda store: store.set_progress("a", TaskProgress()),
        lambda store: store.delete_result("a"),
        lambda store: store.pop_result("a"),
    ],
)
def test_a_closed_store_is_closed_also_if_the_process_has_the_file_open_still(
    call: Callable[[AsyncStore], Awaitable[Any]], run: Run, path: Path
) -> None:
    """What another handle has in memory is no answer."""

    async def body(store: AsyncStore) -> None:
        await store.set_result("a", 1)
        await store.set_progress("b", TaskProgress())
        closed = await logstore.open_async(path)
        await closed.close()
        with pytest.raises(logstore.StoreClosedError, match="the store is closed"):
            await call(closed)
        assert await store.get_result("a") == 1

    run(body)


@FORK
def test_a_child_opens_the_file_again_also_for_what_the_parent_has_in_memory(run: Run) -> None:
    async def body(store: AsyncStore) -> None:
        await store.set_result("a", 1)

        def child() -> None:
            async def read() -> list[Any]:
                return [await store.get_result("a"), await store.is_result_ready("a")]

            assert asyncio.run(read()) == [1, True]

        assert await asyncio.to_thread(run_in_fork, child) == 0

    run(body)


def test_calls_on_their_way_when_the_store_is_closed_are_done_or_told_so(run: Run) -> None:
    async def body(store: AsyncStore) -> None:
        writes = [asyncio.ensure_future(store.set_result(f"t{n}", n)) for n in range(50)]
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(store.close())
        late = asyncio.ensure_future(store.stats())
        outcomes = await asyncio.gather(*writes, late, return_exceptions=True)
        await closing
        for outcome in outcomes[:-1]:
            assert outcome is None or isinstance(outcome, logstore.StoreClosedError)

    run(body)


DEEP: list[Any] = []
for _ in range(50):
    DEEP = [(), [], [], [], [], DEEP]


@pytest.mark.parametrize(
    ("value", "on_loop"),
    [
        ((1, "a", b"b", {"c": [None]}), True),
        ((), True),
        (set(range(PARTS_MAX - 10)), True),
        (set(range(PARTS_MAX)), False),
        ((1 << (8 * SMALL_BYTES + 1),), False),
        (("a" * (SMALL_BYTES // 2),), True),
        (("a" * SMALL_BYTES,), False),
        (DEEP, False),
    ],
)
def test_a_value_is_encoded_on_the_loop_only_if_that_is_short_work(
    value: Any, on_loop: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(store: AsyncStore) -> None:
        threads: list[threading.Thread] = []
        real = store.store._handle.result_write

        def result_write(*args: Any) -> Write:
            write = real(*args)
            threads.append(threading.current_thread())
            return write

        monkeypatch.setattr(store.store._handle, "result_write", result_write)
        await store.set_result("a", value)
        assert [thread is threading.main_thread() for thread in threads] == [on_loop]
        assert await store.get_result("a") == value

    run(body)


@pytest.mark.parametrize("parts", [1, PARTS_MAX, 2 * PARTS_MAX])
def test_a_hook_runs_in_neither_the_loop_nor_the_thread_for_reads(path: Path, parts: int) -> None:
    called_in: list[str] = []

    def enc_hook(value: Any) -> str:
        called_in.append(threading.current_thread().name)
        return "converted"

    async def main() -> None:
        async with logstore.open_async(path, enc_hook=enc_hook) as store:
            await store.set_result("a", [[0] * parts, [object()]])
            await store.set_progress("a", TaskProgress(meta={"m": [[0] * parts, [object()]]}))
            assert (await store.get_result("a"))[1] == ["converted"]

    asyncio.run(main())
    assert [name.partition("_")[0] for name in called_in] == ["asyncio", "asyncio"]


def test_what_is_in_memory_is_read_without_suspending(run: Run) -> None:
    async def body(store: AsyncStore) -> None:
        await store.set_result("a", 1)
        await store.set_progress("a", TaskProgress(0.5))
        reads: list[Coroutine[Any, Any, Any]] = [store.get_result("a"), store.get_progress("a")]
        for read, expected in zip(reads, (1, TaskProgress(0.5)), strict=True):
            with pytest.raises(StopIteration) as end:
                read.send(None)
            assert end.value.value == expected

    run(body)


def test_one_store_may_be_used_by_several_loops(path: Path) -> None:
    store = asyncio.run(_opened(path))
    for number in range(3):
        asyncio.run(store.set_result("a", number))
        assert asyncio.run(store.wait_result("a")) == number
    asyncio.run(store.close())
    assert os.listdir(path.parent) == [path.name]


async def _opened(path: Path) -> AsyncStore:
    return await logstore.open_async(path)


@FORK
@pytest.mark.parametrize("use", [True, False])
def test_a_forked_child_uses_the_store_with_threads_of_its_own(path: Path, use: bool) -> None:
    store = asyncio.run(_opened(path))
    asyncio.run(store.set_result("a", 1))

    def in_child() -> None:
        if use:
            asyncio.run(store.set_result("child", 2))
            assert asyncio.run(store.get_result("a")) == 1
        asyncio.run(store.close())

    assert run_in_fork(in_child) == 0
    asyncio.run(store.set_result("b", 3))
    assert store.store.status("child") == ("ready" if use else "unknown")
    asyncio.run(store.close())
    assert os.listdir(path.parent) == [path.name]


FIRST_CALLS: dict[str, Callable[[AsyncStore], Awaitable[Any]]] = {
    "get_result": lambda store: store.get_result("a"),
    "is_result_ready": lambda store: store.is_result_ready("a"),
    "get_progress": lambda store: store.get_progress("a"),
    "status": lambda store: store.status("a"),
    "wait_result": lambda store: store.wait_result("a"),
    "wait_ready": lambda store: store.wait_ready("b", timeout_s=5),
    "watch": lambda store: _first_change(store),
    "set_result": lambda store: store.set_result("a", 2),
    "pop_result": lambda store: store.pop_result("a"),
    "tasks": lambda store: store.tasks().__anext__(),
    "stats": lambda store: store.stats(),
}


async def _first_change(store: AsyncStore) -> None:
    watch = store.watch()
    first = asyncio.ensure_future(watch.__anext__())
    await becomes(lambda: bool(store.store._handle._lease.notifier._to_all))
    await store.set_result("b", 1)
    await first
    await watch.aclose()


@FORK
@pytest.mark.parametrize("name", FIRST_CALLS)
def test_a_forked_child_opens_the_store_anew_in_a_thread_whatever_it_calls_first(
    path: Path, name: str
) -> None:
    store = asyncio.run(_opened(path))
    asyncio.run(store.set_result("a", 1))
    real = store.store._handle._open_lease
    opened_on_the_loop: list[bool] = []

    def open_handle() -> Any:
        opened_on_the_loop.append(threading.current_thread() is threading.main_thread())
        return real()

    store.store._handle._open_lease = open_handle

    def in_child() -> None:
        asyncio.run(asyncio.wait_for(FIRST_CALLS[name](store), LONG_S))
        assert opened_on_the_loop == [False]
        asyncio.run(store.close())

    assert run_in_fork(in_child) == 0
    asyncio.run(store.close())


@pytest.mark.parametrize("name", ["compact", "vacuum", "backup", "check"])
def test_what_takes_long_has_a_thread_of_its_own_that_says_what_it_does(
    run: Run, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []

    def note(*_: object, **__: object) -> None:
        names.append(threading.current_thread().name)

    async def body(store: AsyncStore) -> None:
        monkeypatch.setattr(store.store, name, note)
        await getattr(store, name)(*([tmp_path / "copy"] if name == "backup" else []))

    run(body)
    assert names == [f"logstore-{name}"]
