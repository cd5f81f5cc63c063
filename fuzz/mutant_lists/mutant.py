"""What a listed mutant is."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One fault."""

    what: str
    file: str  # below logstore/
    old: str
    new: str
    test: str  # its node's id below tests/
