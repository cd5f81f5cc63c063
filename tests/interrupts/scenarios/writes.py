"""Calls that write, and what they may meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import logstore
from tests.interrupts.campaign import Scenario
from tests.interrupts.world import MISSING, World
from tests.support.bystanders import DEADLINE_S, ask, until
from tests.support.inside import is_log_sealed

from .common import ALONE, CLOSES_SOON, after_peers
from .meeting import Behind, Followed, Led, Meeting

LARGE_BYTES = 300_000
COMPACT_AT = 1 << 14
FILL_BYTES = 11_000


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


def forget_sealed(world: World) -> None:
    """Wait until a sealed log is in the table, and no longer in memory."""
    assert until(lambda: not is_log_sealed(world.store), DEADLINE_S)
    world.store.is_result_ready("k")


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


def meeting(kind: type[Meeting]) -> Scenario:
    """A write that meets another one."""

    def prepare(world: World) -> None:
        world.meeting = kind(world)
        next_value(world)

    def call(world: World) -> None:
        world.meeting.begin()
        write(world)

    return Scenario(call, prepare, wrote, settle=lambda world: world.meeting.end())


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
        after=forget_sealed,
    ),
    "set, another process has vacuumed": writing(after_peers("store.vacuum()"), **CLOSES_SOON),
    "set, another process has compacted": writing(after_peers("store.compact()")),
    "set, another process has died in a write": writing(
        lambda world: ask(world.peer, "die_in_a_write('died')")
    ),
    "set, led by another thread": meeting(Led),
    "set, followed by another thread": meeting(Followed),
    "set, behind another process": meeting(Behind),
    "set_progress": Scenario(write_progress, next_progress, wrote_progress),
    "pop": Scenario(
        lambda world: world.store.pop_result("k"), write_one_to_take_away, popped, watched=True
    ),
    "delete": Scenario(
        lambda world: world.store.delete_result("k"), write_one_to_take_away, gone, watched=True
    ),
    "sync": Scenario(lambda world: world.store.sync()),
}
