"""A process is killed before and after each of its calls that touch the store's files.

Every step of creation, commits, compaction, vacuum, close, the replacement of a failed log and of
recovery itself, with a peer that has the store open meanwhile and without one.
"""

from __future__ import annotations

import random
from itertools import count

import pytest

import logstore
from tests.support.victims import (
    COUNT,
    KILL_AFTER,
    KILL_BEFORE,
    OP_ALL,
    Allowed,
    Outcome,
    Step,
    Victims,
    verify,
)

LARGE = {"bytes": 300_000}
BASE: list[Step] = [
    ["group", {f"base{i}": i for i in range(20)}],
    ["progress", "base running", 1],
    ["compact"],
    ["group", {f"base{i}": -i for i in range(0, 20, 3)}],
    ["progress", "base running", 2],
    ["delete", "base19"],
]
SCENARIOS: dict[str, list[Step]] = {
    "commits": [
        ["set", "a", 1],
        ["progress", "p", 1],
        ["set", "a", 2],
        ["group", {"b": 1, "c": 2, "base1": "new"}],
        ["delete", "base2"],
        ["pop", "base3"],
        ["progress", "base running", 3],
        ["sync"],
    ],
    "large": [
        ["set", "l", "small"],
        ["set", "l", LARGE],
        ["mixed", {"m": 1, "n": LARGE, "o": 3}],
        ["set", "l", "small again"],
    ],
    "compaction": [["set", "a", 1], ["compact"], ["set", "b", 2], ["delete", "a"], ["compact"]],
    "vacuum": [["set", "a", 1], ["vacuum"], ["set", "b", 2], ["vacuum"], ["set", "base0", "new"]],
    "failed log": [["set", "a", 1], ["fail_log_once"], ["set", "b", 2], ["set", "c", 3]],
}


pytestmark = pytest.mark.usefixtures("no_idle_compaction")


def killed_at_each_step(
    victims: Victims, name: str, *, with_peer: bool, sample: int | None = None
) -> int:
    """Kill at every step of a scenario, or at a seeded sample of them; how many kills."""
    calls = attempt(victims, name, COUNT, 0, with_peer=with_peer).calls
    assert calls > 5
    cases = [(what, nth) for nth in range(1, calls + 1) for what in (KILL_BEFORE, KILL_AFTER)]
    if sample is not None and sample < len(cases):
        cases = random.Random(name).sample(cases, sample)
    for action, nth in cases:
        outcome = attempt(victims, name, action, nth, with_peer=with_peer)
        assert outcome.status == -9, outcome
    return len(cases)


def attempt(victims: Victims, name: str, action: int, nth: int, *, with_peer: bool) -> Outcome:
    """One run of a scenario with its verification."""
    path = victims.new_path()
    allowed = Allowed()
    peer = logstore.open(path, sync_interval_s=1e6) if with_peer else None
    outcome = victims.run(
        path,
        [*SCENARIOS[name], ["close"]],
        before=[["open"], *BASE],
        ops=OP_ALL,
        action=action,
        nth=nth,
    )
    allowed.take(outcome.journal)
    try:
        assert outcome.status in (0, -9)
        verify(path, allowed, peer)
    except BaseException:
        print(f"replay: {name}, action {action}, call {nth}, peer {with_peer}: {outcome}")
        raise
    finally:
        if peer is not None:
            peer.close()
    return outcome


@pytest.mark.parametrize("name", SCENARIOS)
def test_survived_without_a_peer(victims: Victims, name: str) -> None:
    killed_at_each_step(victims, name, with_peer=False, sample=60)


@pytest.mark.parametrize("name", SCENARIOS)
def test_survived_by_a_live_peer(victims: Victims, name: str) -> None:
    killed_at_each_step(victims, name, with_peer=True, sample=60)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("with_peer", [False, True])
def test_every_step_of_all_scenarios(victims: Victims, with_peer: bool) -> None:
    kills = sum(killed_at_each_step(victims, name, with_peer=with_peer) for name in SCENARIOS)
    assert kills > 300


def test_creation(victims: Victims) -> None:
    for action in (KILL_BEFORE, KILL_AFTER):
        for nth in count(1):
            path = victims.new_path()
            steps: list[Step] = [["open"], ["set", "a", 1], ["close"]]
            outcome = victims.run(path, steps, ops=OP_ALL, action=action, nth=nth)
            allowed = Allowed()
            allowed.take(outcome.journal)
            verify(path, allowed)
            if outcome.status == 0:
                break
            assert outcome.status == -9


@pytest.mark.parametrize("first", [KILL_BEFORE, KILL_AFTER])
def test_recovery_is_killed_too(victims: Victims, first: int) -> None:
    """A crash in a vacuum or commit, then a crash at each step of the recovery from it."""
    chosen = random.Random(first)
    for name in ("commits", "vacuum", "failed log"):
        calls = attempt(victims, name, COUNT, 0, with_peer=False).calls
        for nth in chosen.sample(range(1, calls), 2):
            for recovery_nth in count(1):
                path = victims.new_path()
                allowed = Allowed()
                before: list[Step] = [["open"], *BASE]
                died = victims.run(
                    path, SCENARIOS[name], before=before, ops=OP_ALL, action=first, nth=nth
                )
                allowed.take(died.journal)
                again = victims.run(path, [["open"]], ops=OP_ALL, action=first, nth=recovery_nth)
                verify(path, allowed)
                if again.status == 0:
                    break
