"""Faults of schedules: who gets a slot, and what is left of it."""

from __future__ import annotations

from fuzz.mutant_lists.mutant import Mutant

TESTS = "_engine/test_schedules.py::test_"

MUTANTS = [
    Mutant(
        "a slot is claimed twice",
        "_engine/writes.py",
        "self.slot_us <= current.last_us <= self.ahead_us",
        "self.slot_us < current.last_us <= self.ahead_us",
        TESTS + "a_slot_is_claimed_once_and_no_earlier_one_after_it",
    ),
    Mutant(
        "a slot of a schedule that has changed is claimed",
        "_engine/writes.py",
        "            or current.definition != self.schedule.definition\n",
        "",
        TESTS + "what_has_changed_or_is_gone_is_claimed_no_more",
    ),
    Mutant(
        "a clock that was wrong stops a schedule",
        "_engine/writes.py",
        "self.slot_us <= current.last_us <= self.ahead_us",
        "self.slot_us <= current.last_us",
        TESTS + "a_slot_of_a_clock_that_was_wrong_holds_nothing_up",
    ),
    Mutant(
        "a schedule that restarts forgets what was sent",
        "_engine/writes.py",
        "max(self.since_us - 1, current.last_us)",
        "self.since_us - 1",
        TESTS + "a_change_goes_on_or_restarts",
    ),
    Mutant(
        "a removed schedule stays in the table",
        "_engine/queuefold.py",
        "            if schedules.decode_schedule(key, entry) is None:\n",
        "            if False:\n",
        TESTS + "schedules_are_folded_found_and_removed",
    ),
]
