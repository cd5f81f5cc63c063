"""The scripted clients: what a store may show of them after a crash, and what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

import logstore
from fuzz.clients import (
    KINDS,
    NOTHING,
    Op,
    Script,
    State,
    Task,
    answer_of,
    digest_of,
    least_durable,
    listed,
    match,
    match_exactly,
    observe,
    perform,
)

OPS = 40


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_script_is_the_same_for_the_same_kind_seed_and_client(kind: str) -> None:
    ops = [Script(kind, 7, "a").op(index) for index in range(OPS)]
    again = Script(kind, 7, "a")
    assert [again.op(index) for index in reversed(range(OPS))] == ops[::-1]
    if kind != "recovering":
        assert [Script(kind, 8, "a").op(index) for index in range(OPS)] != ops


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"closing"}))
def test_a_store_shows_what_the_script_says_after_each_operation(kind: str, tmp_path: Path) -> None:
    client = Script(kind, 3, "a")
    with logstore.open(tmp_path / "app.db", compact_at=1 << 14, sync_interval_s=0.01) as store:
        for index in range(OPS):
            perform(store, client, index, directory=str(tmp_path))
            found = observe(store, client, OPS)
            match_exactly(client, found, index + 1)
            there = {task.task_id for task in store.tasks()}
            assert there == listed("a", client.state(index + 1))
        assert store.check().ok


def _client_of(*ops: Op) -> Script:
    """A client that does just these operations, and then sets key 7 for ever."""
    client = Script("results", 0, "a")
    client.op(0)
    made = Script.__new__(Script)
    Script.__init__(made, "results", 0, "a")
    steps = iter(ops)
    made._next = lambda: next(steps, Op("set", 7, 0))  # type: ignore[method-assign]
    return made


SET, AGAIN, GONE = Op("set", 0, 10), Op("set", 0, 20), Op("delete", 0)
THERE = {0: Task((0, 10))}


@pytest.mark.parametrize(
    ("found", "least", "acked"),
    [
        ({}, 0, 0),
        (THERE, 0, 0),  # not acked, and there
        (THERE, 1, 1),
        ({0: Task((1, 20))}, 1, 1),  # the next one, not acked, is there
        ({0: Task(gone="deleted")}, 3, 3),
        ({}, 0, 2),  # acked but not durable
    ],
)
def test_what_may_be_there(found: State, least: int, acked: int) -> None:
    match(_client_of(SET, AGAIN, GONE), found, least, acked)


@pytest.mark.parametrize(
    ("found", "least", "acked"),
    [
        ({}, 1, 1),  # lost
        (THERE, 2, 2),  # an older one came back
        ({0: Task((1, 20))}, 3, 3),  # a deleted one came back
        ({0: Task((1, 20))}, 0, 0),  # an operation overtook another
        ({0: Task((0, 11))}, 1, 1),  # another value
        ({**THERE, 5: Task((3, 1))}, 1, 1),  # something that was never written
    ],
)
def test_what_must_not_be_there(found: State, least: int, acked: int) -> None:
    with pytest.raises(AssertionError, match="client a"):
        match(_client_of(SET, AGAIN, GONE), found, least, acked)


def test_a_failed_write_may_be_found_until_it_has_failed() -> None:
    client = _client_of(SET, Op("fail", 3, 5))
    landed = {**THERE, 3: Task((1, 5))}
    assert match(client, landed, 1, 1) == landed
    with pytest.raises(AssertionError):
        match(client, landed, 1, 2)


def test_progress_is_durable_with_the_next_durable_operation() -> None:
    client = _client_of(SET, Op("progress", 1), Op("progress", 1), Op("sync"), SET)
    found = [least_durable(client, acked, sync="always") for acked in range(6)]
    assert found == [0, 1, 1, 1, 4, 5]
    found = [least_durable(client, acked, sync="interval") for acked in range(6)]
    assert found == [0, 0, 0, 0, 4, 4]


def test_what_calls_return_follows_from_the_script() -> None:
    client = _client_of(SET, GONE, GONE)
    assert answer_of(client, 1) is True
    assert answer_of(client, 2) is False


def test_a_value_that_was_not_written_is_refused(tmp_path: Path) -> None:
    client = _client_of(SET)
    with logstore.open(tmp_path / "app.db") as store:
        store.set_result("a 0", {"by": "a", "op": 0, "data": bytes(10)})
        with pytest.raises(AssertionError, match="is not what was written"):
            observe(store, client, 1)


def test_a_digest_tells_states_apart() -> None:
    assert digest_of(THERE) == digest_of(dict(THERE))
    assert digest_of(THERE) != digest_of({0: NOTHING})
