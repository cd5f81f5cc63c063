"""Faults of the engine, one edit each, with the test that is expected to notice.

Rules: ``old`` is exactly once in its file, and is as short as that allows, which ``make test``
checks: a change of the code changes its mutant.  Each fault is one that somebody could make: a
sync, a check, a lock, an order or a flag that is gone.
"""

from __future__ import annotations

from fuzz.mutant_lists import arenas, checks, files, log, retention, schedules, threads
from fuzz.mutant_lists.mutant import Mutant

__all__ = ["MUTANTS", "Mutant"]

MUTANTS: list[Mutant] = [
    *(*log.MUTANTS, *arenas.MUTANTS, *retention.MUTANTS, *checks.MUTANTS),
    *(*files.MUTANTS, *threads.MUTANTS, *schedules.MUTANTS),
]
