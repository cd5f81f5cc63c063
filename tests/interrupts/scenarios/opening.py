"""Calls that open and close a store."""

from __future__ import annotations

import os

import logstore
from tests.interrupts.campaign import Scenario
from tests.interrupts.world import World
from tests.support.bystanders import ask, until

from .common import ALONE, APART, BESIDE, in_log
from .writes import next_value


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


def one_file_soon(world: World) -> None:
    """A thread closes a handle to which the interrupted call has left no reference."""
    until(lambda: world.files() == ["app.db"])
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


OPENING: dict[str, Scenario] = {
    "open, nothing there": Scenario(open_it, nothing_there, opened, after=one_file, **APART),
    "open, at rest": Scenario(open_it, at_rest, opened, after=one_file, **APART),
    "open, after a crash": Scenario(open_it, crashed, opened, after=one_file, **APART),
    "open, beside another process": Scenario(open_it, at_rest, opened, **BESIDE),
    "open, a second time": Scenario(open_it, in_log, opened, after=last_one_out, **ALONE),
    "open to read, at rest": Scenario(open_reader, at_rest, opened, after=one_file, **APART),
    "open to read, beside another process": Scenario(open_reader, at_rest, opened, **BESIDE),
    # Those moments are the ones of the calls within it, which are scenarios of their own.
    "with open": Scenario(
        with_open, next_value, wrote_at_rest, after=one_file_soon, moments=False, **APART
    ),
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
