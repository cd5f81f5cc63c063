"""Calls that go over the whole store."""

from __future__ import annotations

import os

import logstore
from tests.interrupts.campaign import Scenario
from tests.interrupts.world import World
from tests.support.bystanders import ask

from .common import CLOSES_SOON, in_log, little_in_log


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
