"""A crashed store's logs in each other's places, or not of one pair: refused, and salvaged."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import logstore
from logstore._engine.log import FIRST_OFFSET, Log, log_path, log_paths
from tests._engine.test_arenas import OPTIONS, flip, folds_held, no_space, seal
from tests.support.fileformat import meta_of
from tests.support.inside import folded, live
from tests.support.stores import names_in

if TYPE_CHECKING:
    from tests.support.stores import Stores

CrashCopy = Callable[[logstore.Store], Path]
Values = dict[str, Any]

pytestmark = pytest.mark.usefixtures("no_idle_compaction")


class Crashed:
    """A store that a crash has left, with what is in its table, and in its two logs."""

    def __init__(self, path: Path, in_table: Values, in_own: Values, in_next: Values) -> None:
        self.path = path
        self.in_table, self.in_own, self.in_next = in_table, in_own, in_next
        epoch = meta_of(path).epoch
        self.own, self.next = (Path(log_path(str(path), epoch + n)) for n in range(2))

    def everything(self) -> Values:
        """Return what a store has that has lost nothing."""
        return self.in_table | self.in_own | self.in_next

    def contents(self) -> dict[str, bytes]:
        """Return all files but the shared header."""
        names = names_in(self.path.parent)
        return {n: self.path.with_name(n).read_bytes() for n in names if not n.endswith("-shm")}

    def expect_refused(self, *said: str) -> None:
        """Neither opening nor a check goes on, and both change nothing."""
        before = self.contents()
        messages = list(logstore.check(self.path).problems)
        for options in ({"mode": "r"}, {}, {"accept_log_loss": True}):
            with pytest.raises(logstore.CorruptLogError) as caught:
                logstore.open(self.path, **options)
            messages.append(str(caught.value))
        assert len(messages) == 4
        for message in messages:
            assert [each for each in said if each not in message] == [], message
        assert self.contents() == before

    def expect_salvaged(self, expected: Values) -> None:
        """A salvage finds these results, and keeps the logs as they were."""
        logs = [log.read_bytes() for log in (self.own, self.next) if log.exists()]
        report = logstore.check(self.path, salvage=True)
        assert report.ok, report.problems
        assert report.lost_bytes == 0
        kept = [Path(name).read_bytes() for name in report.kept_logs]
        assert sorted(kept) == sorted(log for log in logs if any(log[FIRST_OFFSET:]))
        self.expect(expected)

    def expect(self, expected: Values) -> None:
        """These results are there, and no others."""
        with logstore.open(self.path, **OPTIONS) as store:
            found = [info.task_id for info in store.tasks(status="ready")]
            assert {name: store.get_result(name) for name in found} == expected
            store.set_result("new", 1)


@pytest.fixture
def store(open_store: Stores, is_odd: bool) -> logstore.Store:
    """A store whose log of even or odd epochs is open."""
    store = open_store(**OPTIONS)
    while live(store).header.epoch & 1 != is_odd:
        store.set_result("first", 1)
        store.delete_result("first")
        store.compact()
    return store


def leave(store: logstore.Store, crash_copy: CrashCopy, logs: str) -> Crashed:
    """Return the store with a sealed log and an open one, or one of both only."""
    if logs == "new":
        store.set_result("a", 1)
        return Crashed(crash_copy(store), {}, {"a": 1}, {})
    with folds_held(store.path):
        values = seal(store)
        if logs == "sealed":
            behind: Values = {"sealed-0": 1, "a": 1}
            for name, value in behind.items():
                store.set_result(name, value)
            return Crashed(crash_copy(store), {}, values, behind)
    assert folded(store)
    store.set_result("a", 1)
    return Crashed(crash_copy(store), values, {"a": 1}, {})


each_log = pytest.mark.parametrize("is_odd", [False, True], ids=["even", "odd"])
each_state = pytest.mark.parametrize("logs", ["new", "folded", "sealed"])


@each_log
@each_state
def test_logs_that_were_exchanged_are_refused_and_salvaged(
    store: logstore.Store, crash_copy: CrashCopy, logs: str
) -> None:
    crashed = leave(store, crash_copy, logs)
    exchange(crashed)
    crashed.expect_refused("the two files were exchanged", f"belong in {crashed.own}")
    if logs == "folded":
        exchange(crashed)
        crashed.expect(crashed.everything())
    else:
        crashed.expect_salvaged(crashed.everything())


def exchange(crashed: Crashed) -> None:
    os.rename(crashed.own, f"{crashed.own}-aside")
    os.rename(crashed.next, crashed.own)
    os.rename(f"{crashed.own}-aside", crashed.next)


@each_log
@each_state
def test_a_log_copied_over_the_other_one_is_refused_and_salvaged(
    store: logstore.Store, crash_copy: CrashCopy, logs: str
) -> None:
    crashed = leave(store, crash_copy, logs)
    shutil.copyfile(crashed.own, crashed.next)
    crashed.expect_refused(f"{crashed.next}: has writes of epoch", f"belong in {crashed.own}")
    crashed.expect_salvaged(crashed.in_table | crashed.in_own)


@each_log
@pytest.mark.parametrize("logs", ["folded", "sealed"])
def test_a_log_under_the_other_one_is_refused_and_salvaged(
    store: logstore.Store, crash_copy: CrashCopy, logs: str
) -> None:
    """With a new log, none can tell it from one that was never written."""
    crashed = leave(store, crash_copy, logs)
    shutil.copyfile(crashed.next, crashed.own)
    crashed.expect_refused(f"{crashed.own}: has writes of epoch", f"belong in {crashed.next}")
    crashed.expect_salvaged(crashed.in_table | crashed.in_next)


@each_log
@each_state
def test_a_log_that_was_renamed_to_the_other_one_is_refused_and_salvaged(
    store: logstore.Store, crash_copy: CrashCopy, logs: str
) -> None:
    crashed = leave(store, crash_copy, logs)
    os.rename(crashed.own, crashed.next)
    crashed.expect_refused(f"belong in {crashed.own}, and that is missing")
    crashed.expect_salvaged(crashed.in_table | crashed.in_own)


@each_log
def test_an_older_copy_of_a_log_in_the_place_of_the_other_one_is_of_no_harm_to_a_salvage(
    store: logstore.Store, crash_copy: CrashCopy
) -> None:
    """It takes the newest of both."""
    store.set_result("a", 1)
    older = Path(log_path(str(crash_copy(store)), live(store).header.epoch))
    store.set_result("a", 2)
    crashed = Crashed(crash_copy(store), {}, {"a": 2}, {})
    shutil.copyfile(older, crashed.next)
    crashed.expect_refused("one was copied over the other")
    flip(crashed.own, FIRST_OFFSET + 20)  # the first result is in the older copy only
    assert logstore.check(crashed.path, salvage=True).salvaged_frames == 2
    crashed.expect({"a": 2})


@each_log
def test_what_is_damaged_in_a_log_is_salvaged_from_its_copy(
    store: logstore.Store, crash_copy: CrashCopy
) -> None:
    crashed = leave(store, crash_copy, "sealed")
    shutil.copyfile(crashed.own, crashed.next)
    data = crashed.own.read_bytes()
    for log, key in ((crashed.own, b"sealed-3"), (crashed.next, b"sealed-5")):
        flip(log, data.index(key))
    report = logstore.check(crashed.path, salvage=True)
    assert report.ok, report.problems
    assert report.salvaged_frames == len(crashed.in_own)
    assert report.lost_bytes > 2000
    crashed.expect(crashed.in_own)


# -- logs of two pairs --------------------------------------------------------------------------


@each_log
@pytest.mark.parametrize("which", ["own", "next"])
def test_a_log_from_before_the_last_opening_is_refused_and_the_other_one_salvaged(
    store: logstore.Store,
    open_store: Stores,
    crash_copy: CrashCopy,
    is_odd: bool,
    which: str,
) -> None:
    with folds_held(store.path):
        seal(store)
        store.set_result("old", 1)
        older = crash_copy(store)
    store.close()
    again = open_store(**OPTIONS)
    while live(again).header.epoch & 1 != is_odd:
        again.set_result("x", 1)
        again.compact()
    for info in again.tasks():
        again.delete_result(info.task_id)
    again.compact()
    again.compact()
    crashed = leave(again, crash_copy, "folded")
    log = crashed.own if which == "own" else crashed.next
    shutil.copyfile(older.with_name(log.name), log)
    crashed.expect_refused("are not of one pair", str(crashed.own), str(crashed.next))
    kept = crashed.in_table | (crashed.in_own if which == "next" else {})
    crashed.expect_salvaged(kept)


@each_log
def test_logs_of_two_pairs_are_those_of_a_replacement_that_was_cut_off_if_the_new_one_is_empty(
    store: logstore.Store,
    open_store: Stores,
    crash_copy: CrashCopy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crashed = leave(store, crash_copy, "sealed")
    ids = log_ids(crashed.path)
    calls: list[Callable[..., Any]] = [no_space, Log.create]

    def create(*arguments: Any, **options: Any) -> Any:
        return calls.pop()(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "create", create)
        with pytest.raises(logstore.DiskFullError):
            logstore.open(crashed.path, **OPTIONS)
    even, odd = log_ids(crashed.path)
    assert odd in ids
    assert even not in ids
    crashed.expect(crashed.everything())


def log_ids(path: Path) -> list[bytes]:
    """Return the log ids of both logs."""
    return [Path(each).read_bytes()[32:40] for each in log_paths(str(path))]
