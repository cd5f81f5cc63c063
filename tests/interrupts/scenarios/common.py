"""What several scenarios need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.interrupts.world import World
from tests.support.bystanders import ask

# Where the store is open all the time: here and in another process unless it says otherwise.
APART: dict[str, Any] = {"here": False, "there": False}
BESIDE: dict[str, Any] = {"here": False, "there": True}
ALONE: dict[str, Any] = {"there": False}
# Tables that have been replaced are closed soon, by the maintenance thread.
CLOSES_SOON: dict[str, Any] = {"options": {"sync_interval_s": 0.01}}


def in_log(world: World) -> None:
    """There is a result "k" in the log."""
    world.set("k", world.number())


def in_table(world: World) -> None:
    """There is a result "k" in the table, and it is not in the log."""
    if "k" not in world.values:
        world.set("k", world.number())
        world.store.compact()


def little_in_log(world: World) -> None:
    """There is little else in the log."""
    world.store.compact()
    in_log(world)


def after_peers(call: str) -> Callable[[World], None]:
    """Another process has just done something, and this one has not looked."""

    def prepare(world: World) -> None:
        in_log(world)
        ask(world.peer, f"{call} and None")

    return prepare
