"""The list of mutants fits today's code and tests; ``make mutants`` runs them."""

from __future__ import annotations

import pytest

from fuzz.mutant_list import MUTANTS, Mutant
from fuzz.mutants import ROOT, edited


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_a_mutant_fits_the_code_and_names_a_test(mutant: Mutant) -> None:
    assert edited(mutant, ROOT / "logstore") != (ROOT / "logstore" / mutant.file).read_text()
    file, _, test = mutant.test.partition("::")
    assert f"def {test.partition('[')[0]}(" in (ROOT / "tests" / file).read_text()


def test_no_two_mutants_are_the_same() -> None:
    assert len({mutant.what for mutant in MUTANTS}) == len(MUTANTS)
    assert len({mutant[1:4] for mutant in MUTANTS}) == len(MUTANTS)
