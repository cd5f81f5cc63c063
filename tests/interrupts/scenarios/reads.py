"""Calls that read, and those that wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import logstore
from tests.interrupts.campaign import Scenario
from tests.interrupts.world import MISSING, World

from .common import CLOSES_SOON, after_peers, in_log, in_table
from .meeting import comes_later


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


def came(world: World) -> None:
    world.meeting.end()


def wait_for_it(world: World) -> object:
    world.meeting.thread.start()
    return world.store.wait_result(world.kept, timeout_s=20)


def wait_in_vain(world: World) -> object:
    try:
        return world.store.wait_result("missing", timeout_s=0.01)
    except logstore.WaitTimeoutError:
        return MISSING


def watch(world: World) -> object:
    world.meeting.thread.start()
    with world.store.watch(world.kept) as events:
        return next(events).task_id


def watched(world: World, value: object) -> None:
    assert value == world.kept


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
