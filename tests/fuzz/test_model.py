"""The model of the log's protocol: small configurations hold, and each listed fault is found."""

from __future__ import annotations

import pytest

from fuzz.model.__main__ import find
from fuzz.model.configs import SLOTS, TINY
from fuzz.model.mutants import MUTANTS, SLOT_MUTANTS, Edit, Mutant, mutated
from fuzz.model.protocol import Config, Protocol
from fuzz.model.search import explore
from fuzz.model.slots import Slots


@pytest.mark.parametrize("config", TINY, ids=lambda config: config.name)
def test_the_protocol_keeps_its_guarantees_in(config: Config) -> None:
    result = explore(Protocol(config), trace=True)
    assert result.violation is None, "\n".join(result.trace)
    assert result.states > 100


def test_readers_slots_keep_the_guarantees() -> None:
    for config in SLOTS[:2]:
        result = explore(Slots(config), trace=True)
        assert result.violation is None, "\n".join(result.trace)
        assert result.states > 100


@pytest.mark.slow
@pytest.mark.parametrize("mutant", [*MUTANTS, *SLOT_MUTANTS], ids=lambda mutant: mutant.what)
def test_the_search_finds(mutant: Mutant) -> None:
    assert find(mutant).violation is not None


def test_a_mutant_that_does_not_fit_the_protocol_is_refused() -> None:
    for edit in (Edit("check", "no such text", ""), Edit("no_such_method", "", "")):
        with pytest.raises(ValueError, match="0 times in"):
            mutated(Mutant("of another protocol", TINY[0].name, (edit,)))


def test_a_violation_is_shown_as_the_steps_that_lead_to_it() -> None:
    result = explore(mutated(MUTANTS[0])(TINY[0]), trace=True)
    assert result.trace[-1] == result.violation
    assert "look_needs" in result.trace[-2]  # the step that publishes


def test_so_is_one_of_the_readers_slots() -> None:
    mutant = SLOT_MUTANTS[0]
    config = next(config for config in SLOTS if config.name == mutant.config)
    result = explore(mutated(mutant)(config), trace=True)
    assert result.violation is not None
    assert result.trace[-1] == result.violation
    assert all(step.split()[0] in ("0", "1", "2") for step in result.trace[:-1])
    assert len(result.trace) > 5
