"""Faults of the protocol, each an edit of ``protocol.py``, that the search must find."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from fuzz.model import protocol
from fuzz.model.protocol import Protocol


class Mutant(NamedTuple):
    """One fault: old and new text, in pairs."""

    what: str
    edits: tuple[tuple[str, str], ...]


def mutated(mutant: Mutant) -> type[Protocol]:
    """The protocol with the fault.  Raises ValueError if it does not fit."""
    assert protocol.__file__ is not None
    text = Path(protocol.__file__).read_text()
    for old, new in mutant.edits:
        if text.count(old) != 1:
            raise ValueError(f"{mutant.what}: {text.count(old)} times in the protocol: {old!r}")
        text = text.replace(old, new)
    module = ModuleType("fuzz.model.mutant")
    exec(compile(text, mutant.what, "exec"), module.__dict__)
    vars(module)["Violation"] = protocol.Violation
    changed: type[Protocol] = module.__dict__["Protocol"]
    return changed


MUTANTS = (
    Mutant(
        "published before the flush",
        (
            ("return At.MARK_FLUSHING\n        return At.PUBLISH", "s[COMMITTED] = s[b + TARGET]\n"
             "            self.show(s)\n            return At.MARK_FLUSHING\n"
             "        return At.PUBLISH"),
        ),
    ),
    Mutant(
        "progress is published past unflushed frames",
        (("if s[NEEDS_SYNC] > s[SYNCED] or", "if s[b + KIND] != PROGRESS or"),),
    ),
    Mutant(
        "APPENDED is read before the flush lock is taken",
        (
            ("        s[b + WOKEN] = 0\n        bit", "        s[b + WOKEN] = 0\n"
             "        s[b + TARGET] = s[APPENDED]\n        return At.TRY_LATE\n\n"
             "    def try_late(self, s: State, b: int) -> int:\n        bit"),
            ("RECOVER\n        s[b + TARGET] = s[APPENDED]\n", "RECOVER\n"),
            ("    ADOPT_LOG = 46", "    ADOPT_LOG = 46\n    TRY_LATE = 47"),
        ),
    ),
    Mutant(
        "NEEDS_SYNC is stored behind APPENDED",
        (
            ("return At.NEED if s[b + KIND] != PROGRESS else At.APPEND", "return At.APPEND"),
            ("s[NEEDS_SYNC] = s[b + END]\n        return At.APPEND",
             "s[NEEDS_SYNC] = s[b + END]\n        return At.UNLOCK"),
            ("s[b + MINE], s[b + END]\n        return At.UNLOCK", "s[b + MINE], s[b + END]\n"
             "        return At.NEED if s[b + KIND] != PROGRESS else At.UNLOCK"),
        ),
    ),
    Mutant(
        "APPENDED is stored before the pwrite",
        (
            ("        s[WRITING] = 1\n        return At.WRITE", "        s[WRITING] = 1\n"
             "        s[APPENDED_EPOCH], s[APPENDED] = s[EPOCH], s[b + END]\n"
             "        return At.WRITE"),
            ("s[WHOLE] != s[APPENDED]:", "s[WHOLE] != s[b + END] - 1:"),
        ),
    ),
    Mutant(
        "a recovery drops what a peer has appended",
        (("s[APPENDED] if is_whole else s[COMMITTED])", "s[COMMITTED])"),),
    ),
    Mutant(
        "a recovery keeps the epoch behind an interrupted append",
        (("if s[b + KIND] >= FOLD or s[WRITING] or s[LOG_FAILED]:",
          "if s[b + KIND] >= FOLD or s[LOG_FAILED]:"),),
    ),
    Mutant(
        "a fold does not take the flush lock",
        (
            ("        bit = 1 << s[b + LOG]\n        if self._held(s, FLUSH_LOCK, bit):\n"
             "            return WAIT\n        s[b + FLUSH_LOCK] = bit\n"
             "        return At.BOTH_LOCKED", "        return At.BOTH_LOCKED"),
        ),
    ),
    Mutant(
        "a second flush counts after one has failed",
        (
            ("        if s[LOG_FAILED] or s[FLUSHING]:\n"
             "            return At.RELEASE_AND_RECOVER\n", ""),
            ("return At.RELEASE_AND_RECOVER if not s[b + WRITER_LOCK] else At.BOTH_LOCKED",
             "return At.RELEASE_FLUSH if not s[b + WRITER_LOCK] else At.BOTH_LOCKED"),
        ),
    ),
    Mutant(
        "a flush counts after a process has died in one",
        (("        if s[LOG_FAILED] or s[FLUSHING]:\n            return At.RELEASE",
          "        if s[LOG_FAILED]:\n            return At.RELEASE"),),
    ),
    Mutant(
        "an epoch is published before the table commits",
        (
            ("        s[WRITING] = 1\n        return At.COMMIT",
             "        s[WRITING] = 1\n        s[EPOCH], s[COMMITTED] = s[EPOCH] + 1, 0\n"
             "        return At.COMMIT"),
        ),
    ),
    Mutant(
        "the epoch has moved: taken for success, although the flush has failed",
        (("                s[b + OUTCOME] = BROKEN\n        return At.TELL",
          "                pass\n        return At.TELL"),),
    ),
    Mutant(
        "a failure is noted although the table has the frames",
        (("if s[LOG_FAILED] and s[EPOCH_0 + s[b + TABLE]] == s[EPOCH]:", "if s[LOG_FAILED]:"),),
    ),
    Mutant(
        "a failure is told before the recovery",
        (("        return At.TELL if s[COMMITTED] >= s[b + END] else",
          "        if s[COMMITTED] < s[b + END] and s[LOG_FAILED]:\n"
          "            s[b + OUTCOME] = BROKEN\n            return At.TELL\n"
          "        return At.TELL if s[COMMITTED] >= s[b + END] else"),),
    ),
    Mutant(
        "a waiter that finds the log failed leaves the recovery to others",
        (("return At.RELEASE_AND_RECOVER\n        s[b", "return At.RELEASE_FLUSH\n        s[b"),),
    ),
    Mutant(
        "conditions are resolved against what is published",
        (("self.has_key(s, b, s[APPENDED]):", "self.has_key(s, b, s[COMMITTED]):"),),
    ),
    Mutant(
        "a pop without a key is acked without waiting",
        (("s[b + DEPENDS] = s[IN_0 + s[b + TABLE]] | self.prefix(s, s[APPENDED])\n"
          "            return At.UNLOCK",
          "s[b + DEPENDS] = s[IN_0 + s[b + TABLE]] | self.prefix(s, s[APPENDED])\n"
          "            s[b + END] = 0\n            return At.UNLOCK"),),
    ),
    Mutant(
        "APPENDED of a new epoch is stored before STATE",
        (
            ("return At.NEW_EPOCH", "return At.RESET_APPENDED"),
            ("return At.RESET_APPENDED\n\n    def reset_app",
             "return At.RESET_FLUSHING\n\n    def reset_app"),
            ("s[EPOCH], 0\n        return At.RESET_FLUSHING",
             "s[EPOCH_0 + s[b + TABLE]], 0\n        return At.NEW_EPOCH"),
        ),
    ),
    Mutant(
        "who releases the flush lock wakes the others only if it has published",
        (("    def release_flush(self, s: State, b: int) -> int:\n        self._wake(s, b)",
          "    def release_flush(self, s: State, b: int) -> int:\n"
          "        s[b + FLUSH_LOCK] = 0\n        if s[b + TARGET]:\n"
          "            self._wake(s, b)"),),
    ),
    Mutant(
        "the log is not named before its rename",
        (("counts = s[PATH_LOG] if s[PATH_LOG] == s[NEXT_LOG] else s[LOG_ID]",
          "counts = s[LOG_ID]"),),
    ),
    Mutant(
        "the new log is not locked before it is named",
        (("        s[b + WRITER_LOCK] |= 1 << s[NEXT_LOG]\n", ""),),
    ),
    Mutant(
        "a writer goes on with the log that it has open",
        (("        if s[b + LOG] != counts:\n            s[b + WRITER_LOCK] = 0\n"
          "            s[b + LOG] = s[PATH_LOG]\n            return At.LOCK\n", ""),),
    ),
    Mutant(
        "a vacuum publishes before its rename",
        (("        old, new = s[PATH_TABLE], 1 - s[PATH_TABLE]\n",
          "        old, new = s[PATH_TABLE], 1 - s[PATH_TABLE]\n        s[INCARNATION] = new\n"
          "        return At.RENAME_LATE\n\n"
          "    def rename_late(self, s: State, b: int) -> int:\n"
          "        old, new = s[PATH_TABLE], 1 - s[PATH_TABLE]\n"),
         ("    ADOPT_LOG = 46", "    ADOPT_LOG = 46\n    RENAME_LATE = 47")),
    ),
    Mutant(
        "a vacuum that has died is published without a sync of the directory",
        (("        if s[INCARNATION] != s[PATH_TABLE]:\n            return At.SYNC_DIRECTORY",
          "        if s[INCARNATION] != s[PATH_TABLE]:\n            return At.STORE_INCARNATION"),),
    ),
    Mutant(
        "a writer folds into the table that it has open",
        (("        s[b + TABLE] = s[PATH_TABLE]\n        if s[b + KIND]",
          "        if s[b + KIND]"),),
    ),
)  # fmt: skip
