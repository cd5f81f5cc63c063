"""The calls of a store that are interrupted everywhere, and the states in which they are made."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import logstore
from tests.support.bystanders import ask, sleeps, until

from .campaign import Scenario
from .world import MISSING, World

LARGE_BYTES = 300_000
COMPACT_AT = 1 << 14
FILL_BYTES = 11_000

# -- writes ------------------------------------------------------------------------------------


def next_value(world: World) -> None:
    """The call will write a new value to "k"."""
    world.kept = world.number()
    world.expect("k", world.kept)


def write(world: World) -> None:
    world.store.set_result("k", world.kept)


def wrote(world: World, _value: object) -> None:
    world.wrote("k")
    assert world.store.get_result("k") == world.kept


def writing(prepare: Callable[[World], object], **rest: Any) -> Scenario:
    """The write of a small result, behind something else."""

    def prepared(world: World) -> None:
        prepare(world)
        next_value(world)

    return Scenario(write, prepared, wrote, **rest)


def fill_log(world: World) -> None:
    """The next write makes a compaction due."""
    if world.writes_to_full is None:
        world.writes_to_full = fill(world, 1000)
    fill(world, world.writes_to_full - 1)


def fill(world: World, writes_max: int) -> int:
    """Write until a compaction comes, or this often; how often it was."""
    store = world.store
    store.compact()
    store.set_result("fill", b"x" * FILL_BYTES)
    epoch = store.stats().epoch
    for done in range(writes_max):
        if store.stats().epoch > epoch:
            return done
        world.set("k", world.number())
    assert store.stats().epoch == epoch
    return writes_max


def fill_log_and_go_on(world: World) -> None:
    fill_log(world)
    next_value(world)


def next_large_value(world: World) -> None:
    world.kept = world.number().to_bytes(4, "little") * (LARGE_BYTES // 4)
    world.expect("k", world.kept)


def next_progress(world: World) -> None:
    world.kept = world.number()


def write_progress(world: World) -> None:
    world.store.set_progress("p", logstore.TaskProgress(current=world.kept))


def wrote_progress(world: World, _value: object) -> None:
    progress = world.store.get_progress("p")
    assert progress is not None
    assert progress.current == world.kept


def write_one_to_take_away(world: World) -> None:
    world.kept = world.number()
    world.set("k", world.kept)
    world.expect("k", MISSING)


def popped(world: World, value: object) -> None:
    assert value == world.kept
    gone(world, True)


def gone(world: World, value: object) -> None:
    assert value
    world.wrote("k")
    assert not world.store.is_result_ready("k")


# -- writes that meet others -------------------------------------------------------------------


class Meeting:
    """Another thread's write that meets the call's, by a flush that lasts until both are there."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._flush = os.fdatasync
        self._number = world.number()
        self._begun = False
        self._leads = threading.Event()

    def lead(self) -> None:
        """Let the thread write, and the call after it."""
        os.fdatasync = self._wait_for_the_call
        self._begin()
        assert self._leads.wait(10)

    def follow(self) -> None:
        """Let the thread write behind the call, as soon as that flushes."""
        os.fdatasync = self._wait_for_the_thread

    def _begin(self) -> None:
        self._begun = True
        self._world.thread.begin(lambda: self._world.store.set_result("met", self._number))

    def _wait_for_the_call(self, fd: Any) -> None:
        if threading.current_thread() is self._world.thread.thread:
            self._leads.set()
            assert until(lambda: sleeps(threading.main_thread()), 5.0)
        self._flush(fd)

    def _wait_for_the_thread(self, fd: Any) -> None:
        if not self._begun:
            self._begin()
            assert until(lambda: sleeps(self._world.thread.thread), 5.0)
        self._flush(fd)

    def end(self) -> None:
        """After the call."""
        try:
            if self._begun:
                self._world.thread.end()
                self._world.values["met"] = self._number
        finally:
            os.fdatasync = self._flush


def meeting(how: Callable[[Meeting], object]) -> Scenario:
    """A write that another thread's write leads or follows."""

    def prepare(world: World) -> None:
        world.meeting = Meeting(world)
        how(world.meeting)
        next_value(world)

    return Scenario(write, prepare, wrote, settle=lambda world: world.meeting.end())


# -- reads -------------------------------------------------------------------------------------


def in_log(world: World) -> None:
    world.set("k", world.number())


def little_in_log(world: World) -> None:
    world.store.compact()
    in_log(world)


def in_table(world: World) -> None:
    if "k" not in world.values:
        world.set("k", world.number())
        world.store.compact()


def after_peers(call: str) -> Callable[[World], None]:
    """A state in which another process has just done something, and this one has not looked."""

    def prepare(world: World) -> None:
        in_log(world)
        ask(world.peer, f"{call} and None")

    return prepare


def read(world: World) -> object:
    return world.store.get_result("k")


def read_it(world: World, value: object) -> None:
    assert value == world.values["k"]


def read_missing(world: World) -> object:
    try:
        return world.store.get_result("missing")
    except logstore.ResultIsMissingError:
        return MISSING


def equals(expected: object) -> Callable[[World, Any], None]:
    def complete(world: World, value: object) -> None:
        assert value == expected, value

    return complete


def equals_path(world: World, value: object) -> None:
    assert value == world.path


def listed(world: World, value: list[logstore.TaskInfo]) -> None:
    assert {"k"} <= {info.task_id for info in value}


# -- waits -------------------------------------------------------------------------------------


def comes_later(world: World) -> None:
    """The thread writes what is waited for as soon as the main thread waits."""
    number = world.number()
    world.kept = f"later {number}"

    def write() -> None:
        until(lambda: sleeps(threading.main_thread()), 1.0)
        world.store.set_result(world.kept, number)

    world.thread.begin(write)


def came(world: World) -> None:
    world.thread.end()


def wait_for_it(world: World) -> object:
    return world.store.wait_result(world.kept, timeout_s=20)


def wait_in_vain(world: World) -> object:
    try:
        return world.store.wait_result("missing", timeout_s=0.01)
    except logstore.WaitTimeoutError:
        return MISSING


def watch(world: World) -> object:
    with world.store.watch(world.kept) as events:
        return next(events).task_id


def watched(world: World, value: object) -> None:
    assert value == world.kept


# -- the whole store ---------------------------------------------------------------------------


def compacted(world: World, _value: object) -> None:
    assert world.store.stats().log_bytes == 0


def vacuum_again(world: World) -> None:
    """Nothing is left over, and others can do it at once."""
    ask(world.peer, "store.vacuum() and None")
    world.thread.run(world.store.vacuum)
    world.store.vacuum()


def new_copy(world: World) -> None:
    world.kept = os.path.join(world.directory, f"copy {world.number()}")


def back_up(world: World) -> None:
    world.store.backup(world.kept)


def is_a_copy(world: World, _value: object) -> None:
    with logstore.open(world.kept, mode="r") as store:
        for key, value in world.values.items():
            assert store.get_result(key) == value


def back_up_again(world: World) -> None:
    """The copy is whole or not there, and others can be made at once."""
    if os.path.exists(world.kept):
        assert logstore.check(world.kept).ok
        os.unlink(world.kept)
    for run in (world.thread.run, lambda job: job()):
        new_copy(world)
        run(lambda: back_up(world))
        is_a_copy(world, None)
        os.unlink(world.kept)


def is_sound(world: World, value: logstore.CheckReport) -> None:
    assert value.ok, value.problems


# -- opening and closing -----------------------------------------------------------------------


def at_rest(world: World) -> None:
    """The store is there, and this process does not have it open."""
    if not os.path.exists(world.path):
        logstore.open(world.path, **world.options).close()


def nothing_there(world: World) -> None:
    for name in world.files():
        os.unlink(os.path.join(world.directory, name))
    world.values.clear()


def crashed(world: World) -> None:
    """A process has died with the store open, and results in the log."""
    number = world.number()
    arguments = f"{world.path!r}, {world.options!r}, {number}"
    ask(world.peer, f"die_with_an_open_store({arguments})")
    world.values["crashed"] = number


def open_it(world: World) -> logstore.Store:
    return logstore.open(world.path, **world.options)


def open_reader(world: World) -> logstore.Store:
    return logstore.open(world.path, mode="r")


def opened(world: World, store: logstore.Store) -> None:
    for key, value in world.values.items():
        assert store.get_result(key) == value
    store.close()


def one_file(world: World) -> None:
    world.assert_at_rest()


def last_one_out(world: World) -> None:
    """No handle is left over: when the one that is known has been closed, others are alone."""
    world.store.close()
    world.here = False
    world.ask_peer()
    world.assert_at_rest()
    world.reopen()
    world.ask_self()


def close_again_and_last(world: World) -> None:
    world.kept.close()
    last_one_out(world)


def open_and_write(world: World) -> None:
    world.kept = logstore.open(world.path, **world.options)
    number = world.number()
    world.kept.set_result("k", number)
    world.values["k"] = number


def open_to_read(world: World) -> None:
    at_rest(world)
    world.kept = open_reader(world)


def close(world: World) -> None:
    world.kept.close()


def closed(world: World, _value: object) -> None:
    assert world.kept.closed


def close_reader_again(world: World) -> None:
    world.kept.close()
    assert world.kept.closed


def close_again(world: World) -> None:
    if world.kept is not None:
        world.kept.close()
        assert world.kept.closed
        world.kept = None
    world.assert_at_rest()


def with_open(world: World) -> None:
    with logstore.open(world.path, **world.options) as store:
        store.set_result("k", world.kept)


def wrote_at_rest(world: World, _value: object) -> None:
    world.assert_at_rest()
    world.wrote("k")


APART: dict[str, Any] = {"here": False, "there": False}
BESIDE: dict[str, Any] = {"here": False, "there": True}
CLOSES_SOON: dict[str, Any] = {"options": {"sync_interval_s": 0.01}}  # replaced tables
ALONE: dict[str, Any] = {"there": False}

WRITES: dict[str, Scenario] = {
    "set": writing(lambda world: None),
    "set, alone": writing(lambda world: None, **ALONE),
    "set, watched": writing(lambda world: None, watched=True, waits=True),
    "set, large": Scenario(write, next_large_value, wrote),
    "set, a compaction is due": Scenario(
        write,
        fill_log_and_go_on,
        wrote,
        options={"compact_at": COMPACT_AT},
    ),
    "set, another process has vacuumed": writing(after_peers("store.vacuum()"), **CLOSES_SOON),
    "set, another process has compacted": writing(after_peers("store.compact()")),
    "set, another process has died in a write": writing(
        lambda world: ask(world.peer, "die_in_a_write('died')")
    ),
    "set, led by another thread": meeting(Meeting.lead),
    "set, followed by another thread": meeting(Meeting.follow),
    "set_progress": Scenario(write_progress, next_progress, wrote_progress),
    "pop": Scenario(
        lambda world: world.store.pop_result("k"), write_one_to_take_away, popped, watched=True
    ),
    "delete": Scenario(
        lambda world: world.store.delete_result("k"), write_one_to_take_away, gone, watched=True
    ),
    "sync": Scenario(lambda world: world.store.sync()),
}

READS: dict[str, Scenario] = {
    "get, from the log": Scenario(read, in_log, read_it),
    "get, from the table": Scenario(read, in_table, read_it),
    "get, missing": Scenario(read_missing, complete=equals(MISSING)),
    "get, another process has written": Scenario(read, after_peers("store.sync()"), read_it),
    "get, another process has compacted": Scenario(read, after_peers("store.compact()"), read_it),
    "get, another process has vacuumed": Scenario(
        read, after_peers("store.vacuum()"), read_it, **CLOSES_SOON
    ),
    "is_result_ready": Scenario(
        lambda world: world.store.is_result_ready("k"), in_table, equals(True)
    ),
    "status": Scenario(lambda world: world.store.status("k"), in_table, equals("ready")),
    "get_progress": Scenario(lambda world: world.store.get_progress("p"), complete=equals(None)),
    "tasks": Scenario(lambda world: list(world.store.tasks()), in_table, listed),
    "stats": Scenario(lambda world: world.store.stats().path, complete=equals_path),
    "wait, for what is there": Scenario(
        lambda world: world.store.wait_result("k"), in_log, read_it, waits=True
    ),
    "wait, for what comes": Scenario(wait_for_it, comes_later, settle=came, waits=True),
    "wait, in vain": Scenario(wait_in_vain, complete=equals(MISSING), waits=True),
    "watch": Scenario(watch, comes_later, watched, settle=came, waits=True),
}

WHOLE: dict[str, Scenario] = {
    "compact": Scenario(lambda world: world.store.compact(), in_log, compacted),
    "vacuum": Scenario(
        lambda world: world.store.vacuum(), in_log, after=vacuum_again, **CLOSES_SOON
    ),
    "backup": Scenario(back_up, new_copy, is_a_copy, after=back_up_again),
    "check": Scenario(lambda world: world.store.check(), little_in_log, is_sound),
    "check, with salvage": Scenario(
        lambda world: world.store.check(salvage=True), little_in_log, is_sound
    ),
}

OPENING: dict[str, Scenario] = {
    "open, nothing there": Scenario(open_it, nothing_there, opened, after=one_file, **APART),
    "open, at rest": Scenario(open_it, at_rest, opened, after=one_file, **APART),
    "open, after a crash": Scenario(open_it, crashed, opened, after=one_file, **APART),
    "open, beside another process": Scenario(open_it, at_rest, opened, **BESIDE),
    "open, a second time": Scenario(open_it, in_log, opened, after=last_one_out, **ALONE),
    "open to read, at rest": Scenario(open_reader, at_rest, opened, after=one_file, **APART),
    "open to read, beside another process": Scenario(open_reader, at_rest, opened, **BESIDE),
    "with open": Scenario(with_open, next_value, wrote_at_rest, after=one_file, **APART),
    "close": Scenario(close, open_and_write, closed, after=close_again, first_self=True, **APART),
    "close, beside another process": Scenario(
        close, open_and_write, closed, after=close_again, first_self=True, **BESIDE
    ),
    "close, beside another handle": Scenario(
        close, open_and_write, closed, after=close_again_and_last, first_self=True, **ALONE
    ),
    "close, of one that reads": Scenario(
        close, open_to_read, closed, settle=close_reader_again, **APART
    ),
}
