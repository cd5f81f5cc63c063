"""Faults of the protocol and of the readers' slots: edits of steps, that a search must find.

Each names the configuration that shows it.  Some rules have no fault here, because another rule
covers them, so that no search of these sizes finds their lack alone:

- A fold beside the writers looks at the table's epoch.  One that folds a log again sets that back,
  and the next fold of everything folds the open log again; more takes two deaths.
- It folds only into the table at the path.  A vacuum begins with nothing sealed, so at its rename
  there is nothing to fold.
- A fold of everything publishes first, and folds a log that has the key of a large record first,
  also if only the sealed one has it.  Readers beside it look again behind a look into the table.
- APPENDED of a new epoch is stored behind STATE, and the holder of the flush lock alone publishes
  no APPENDED of another epoch.  A process that waits has appended to the epoch itself.
- No failure is noted if the table has the frames.  It would be the one that is noted already.
- After a failed flush the logs are replaced.  A frame that is written over its pages cleans them
  here; what the system does with the rest of a page is not in the model.
- A reader takes only the log before its own for the sealed one.  Newer values are no error.
- A commit says which number it has.  Readers beside it could make a pause each time.
- A reader says its exact number at the end.  Pages are used again only three snapshots later.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from fuzz.model import protocol, slots
from fuzz.model.search import Model


class Edit(NamedTuple):
    """One change of a method's text."""

    method: str
    old: str
    new: str


class Mutant(NamedTuple):
    """One fault, and the configuration that shows it."""

    what: str
    config: str
    edits: tuple[Edit, ...]


def mutated(mutant: Mutant) -> Callable[[Any], Model]:
    """Return the model with the fault, to be made for a configuration.

    Raises ValueError if it does not fit.
    """
    original, name = (slots, "Slots") if mutant in SLOT_MUTANTS else (protocol, "Protocol")
    changed: Callable[[Any], Model] = vars(_changed(original, mutant))[name]
    return changed


def _changed(original: ModuleType, mutant: Mutant) -> ModuleType:
    assert original.__file__ is not None
    text = Path(original.__file__).read_text()
    for method, old, new in mutant.edits:
        found = re.search(rf"    def {method}\(.*?(?=\n    (?:def|@|#)|\n\n\n|\Z)", text, re.DOTALL)
        count = found[0].count(old) if found else 0
        if found is None or count != 1:
            raise ValueError(f"{mutant.what}: {count} times in {method}(): {old!r}")
        text = text[: found.start()] + found[0].replace(old, new) + text[found.end() :]
    module = ModuleType("fuzz.model.mutant")
    exec(compile(text, mutant.what, "exec"), module.__dict__)
    return module


def _skip(what: str, config: str, method: str, before: str, after: str) -> Mutant:
    """A fault in which one method goes on to another step."""
    return Mutant(what, config, (Edit(method, f"At.{before}", f"At.{after}"),))


MUTANTS = (
    # -- appending and publishing -------------------------------------------------------------
    Mutant(
        "published before the flush",
        "two sets",
        (
            Edit(
                "look_needs",
                "return At.MARK_FLUSHING",
                "s[COMMITTED] = s[b + TARGET]\n            self.show(s)\n"
                "            return At.MARK_FLUSHING",
            ),
        ),
    ),
    Mutant(
        "progress is published past unflushed frames",
        "set and progress",
        (Edit("look_needs", "s[NEEDS_SYNC] > s[SYNCED]", "s[b + KIND] != PROGRESS"),),
    ),
    Mutant(
        "the flush lock is taken late: APPENDED is read before it",
        "two sets",
        (
            Edit(
                "look",
                "        if s[b + KIND]",
                "        s[b + TARGET] = s[APPENDED]\n        if s[b + KIND]",
            ),
            Edit("flush_locked", "        s[b + TARGET] = s[APPENDED]\n", ""),
        ),
    ),
    Mutant(
        "what needs a flush is said behind APPENDED",
        "two sets",
        (
            Edit(
                "write",
                "At.NEED if self.needs_flush >> s[b + NUMBER] & 1 else At.APPEND",
                "At.APPEND",
            ),
            Edit(
                "append",
                "At.UNLOCK",
                "At.NEED if self.needs_flush >> s[b + NUMBER] & 1 else At.UNLOCK",
            ),
            Edit("need", "At.APPEND", "At.UNLOCK"),
        ),
    ),
    Mutant(
        "APPENDED is stored before the frame is written",
        "two sets",
        (
            Edit(
                "resolve",
                "return At.WRITE",
                "s[APPENDED_EPOCH], s[APPENDED] = s[EPOCH], s[b + END]\n        return At.WRITE",
            ),
            Edit("put_frame", "whole != s[APPENDED]:", "whole != s[b + END] - 1:"),
            Edit("put_frame", "epoch & 1, s[APPENDED],", "epoch & 1, s[b + END] - 1,"),
        ),
    ),
    Mutant(
        "a recovery drops what a peer has appended",
        "two pops",
        (Edit("commit", "s[APPENDED] if is_whole else s[COMMITTED]", "s[COMMITTED]"),),
    ),
    Mutant(
        "a writer appends behind an interrupted append",
        "two sets",
        (Edit("check", " or s[WRITING]", ""),),
    ),
    Mutant(
        "a second flush counts after one has failed",
        "two sets",
        (
            Edit("fail", "s[LOG_FAILED] = 1", "s[FLUSHING] = 0"),
            Edit("fail", "RELEASE_AND_RECOVER", "RELEASE_FLUSH"),
        ),
    ),
    Mutant(
        "a flush counts after a process has died in one",
        "two sets",
        (Edit("flush_locked", " or s[FLUSHING]", ""),),
    ),
    Mutant(
        "a recovery publishes an APPENDED of another epoch",
        "set set seal, set",
        (Edit("all_locked", " or s[APPENDED_EPOCH] != s[EPOCH]", ""),),
    ),
    Mutant(
        "the epoch has moved: taken for success, although the flush has failed",
        "two sets, a failing write",
        (Edit("look_failures", "s[b + OUTCOME] = BROKEN", "pass"),),
    ),
    Mutant(
        "a failure is noted only if the table has the epoch before",
        "set seal, set",
        (Edit("note_failure", "<= s[EPOCH]", "== s[EPOCH]"),),
    ),
    Mutant(
        "a failure is told before the recovery",
        "two sets",
        (
            Edit(
                "look",
                "        return At.TELL if",
                "        if s[COMMITTED] < s[b + END] and s[LOG_FAILED]:\n"
                "            s[b + OUTCOME] = BROKEN\n            return At.TELL\n"
                "        return At.TELL if",
            ),
        ),
    ),
    _skip(
        "who finds the log failed leaves the recovery to others",
        "two pops",
        "flush_locked",
        "RELEASE_AND_RECOVER",
        "RELEASE_FLUSH",
    ),
    Mutant(
        "who releases the flush lock wakes the others only if it has published",
        "set, set, fold",
        (
            Edit(
                "release_flush",
                "self._wake(s, b)",
                "s[b + FLUSH_LOCK] = 0\n        if s[b + TARGET]:\n            self._wake(s, b)",
            ),
        ),
    ),
    Mutant(
        "conditions are resolved against what is published",
        "two pops",
        (
            Edit(
                "resolve",
                "newest = self.newest(s, s[APPENDED], ",
                "newest = self.newest(s, s[COMMITTED], ",
            ),
        ),
    ),
    Mutant(
        "conditions are resolved without the sealed log",
        "pop seal, pop",
        (
            Edit(
                "resolve",
                "newest = self.newest(s, s[APPENDED], s[b + TABLE])",
                "newest = self.newest_in(s, s[EPOCH], s[APPENDED]) or s[KEY_0 + s[b + TABLE]]",
            ),
        ),
    ),
    Mutant(
        "a pop without a key is acked without waiting",
        "two pops",
        (
            Edit(
                "resolve",
                "                return At.UNLOCK",
                "                s[b + END] = 0\n                return At.UNLOCK",
            ),
        ),
    ),
    Mutant(
        "a writer goes on with the log that it has open",
        "two pops",
        (Edit("check", "s[b + LOG] != s[LOG_ID]", "False"),),
    ),
    # -- the locks of a new epoch -------------------------------------------------------------
    Mutant(
        "a fold of everything does not take the flush lock",
        "two sets, a failing write",
        (
            Edit(
                "flush_lock_too",
                "if self._held(s, FLUSH_LOCK):",
                "if s[b + KIND] != SEAL:\n            return At.FOLD_LOCK_TOO\n"
                "        if self._held(s, FLUSH_LOCK):",
            ),
        ),
    ),
    Mutant(
        "a fold of everything does not take the fold lock",
        "set seal, set seal, tick",
        (
            Edit(
                "fold_lock_too",
                "        if self._held(s, FOLD_LOCK):\n            return WAIT\n",
                "",
            ),
        ),
    ),
    Mutant(
        "a seal does not take the flush lock",
        "set, seal tick",
        (
            Edit(
                "flush_lock_too",
                "if self._held(s, FLUSH_LOCK):",
                "if s[b + KIND] == SEAL:\n            return At.SEAL_READY\n"
                "        if self._held(s, FLUSH_LOCK):",
            ),
        ),
    ),
    # -- a fold of everything, recovery and vacuum --------------------------------------------
    Mutant(
        "an epoch is published before the table commits",
        "two sets",
        (
            Edit(
                "mark_writing",
                "s[WRITING] = 1",
                "s[WRITING] = 1\n        s[EPOCH], s[COMMITTED] = s[EPOCH] + 1, 0",
            ),
        ),
    ),
    _skip(
        "an epoch is published before the commit is on the disk",
        "two sets",
        "commit",
        "SYNC_TABLE",
        "CLEAR_SEALED",
    ),
    Mutant(
        "what is sealed is given up before the commit",
        "set seal tick, expire",
        (
            Edit(
                "mark_writing",
                "s[WRITING] = 1",
                "s[WRITING] = 1\n        s[SEALED] = s[SEALED_END] = 0",
            ),
        ),
    ),
    Mutant(
        "a START is written before the commit",
        "set seal tick, expire",
        (
            Edit(
                "mark_writing",
                "s[WRITING] = 1",
                "s[WRITING] = 1\n        self.put_start(s, b, s[EPOCH] + 1, 0)",
            ),
        ),
    ),
    Mutant(
        "a START is written before state, for an epoch behind that of a commit that was not said",
        "set and fold",
        (
            Edit(
                "clear_sealed",
                "s[SEALED] = s[SEALED_END] = 0",
                "s[SEALED] = s[SEALED_END] = 0\n        epoch = s[EPOCH_0 + s[b + TABLE]]\n"
                "        self.put(s, epoch & 1, 0, START * 16, epoch)",
            ),
        ),
    ),
    Mutant(
        "a new epoch has the flushed offset of the one before",
        "two sets",
        (Edit("reset_synced", "s[SYNCED] = 0", "pass"),),
    ),
    Mutant(
        "a large record goes into the table before an older one that is in a log",
        "set and large",
        (Edit("put_large", "if is_covered:", "if False:"),),
    ),
    Mutant(
        "a vacuum publishes before its rename",
        "set and vacuum",
        (
            Edit(
                "commit",
                "return At.RENAME_TABLE",
                "s[INCARNATION] = table\n            return At.RENAME_TABLE",
            ),
        ),
    ),
    _skip(
        "a vacuum that has died is published without a sync of the directory",
        "set and vacuum",
        "check",
        "SYNC_DIRECTORY",
        "STORE_INCARNATION",
    ),
    Mutant(
        "a vacuum's last round beside a sealed log",
        "set seal, vacuum, reads",
        (Edit("commit", "if s[b + KIND] == VACUUM and s[SEALED]:", "if False:"),),
    ),
    Mutant(
        "a writer folds into the table that it has open",
        "set and vacuum",
        (
            Edit("check", "        s[b + TABLE] = s[PATH_TABLE]\n", ""),
            Edit("check", "if s[INCARNATION] != s[PATH_TABLE]:", "if False:"),
        ),
    ),
    Mutant(
        "a recovery of a store that no process has open begins the epoch behind the table's",
        "sets around a seal, a power cut",
        (Edit("_recover_alone", "new = epoch + 2", "new = epoch + 1"),),
    ),
    # -- a seal -------------------------------------------------------------------------------
    Mutant(
        "sealed while a log is sealed",
        "set seal set seal, tick",
        (
            Edit("seal_ready", "s[SEALED] or ", ""),
            Edit("start", " or (kind == SEAL and s[SEALED])", ""),
        ),
    ),
    Mutant(
        "sealed while a flush is not over",
        "set, seal tick",
        (
            Edit(
                "seal_ready",
                "self.must_recover(s)",
                "s[WRITING] or s[LOG_FAILED] or s[APPENDED_EPOCH] != s[EPOCH]",
            ),
        ),
    ),
    Mutant(
        "a seal does not flush progress",
        "set seal tick, expire",
        (Edit("seal_ready", "s[SYNCED] < s[APPENDED]", "s[SYNCED] < s[NEEDS_SYNC]"),),
    ),
    _skip(
        "a seal is published before its START is written",
        "set, seal tick",
        "seal_mark",
        "SEAL_START",
        "SEAL_SYNCED",
    ),
    Mutant(
        "a seal stores state before sealed",
        "set, seal tick",
        (
            Edit("seal_needs", "At.SEAL_WORD", "At.SEAL_STATE"),
            Edit("seal_state", "At.SEAL_APPENDED", "At.SEAL_WORD"),
            Edit(
                "seal_word",
                "s[EPOCH], s[b + TARGET]\n        return At.SEAL_STATE",
                "s[EPOCH] - 1, s[b + TARGET]\n        return At.SEAL_APPENDED",
            ),
        ),
    ),
    Mutant(
        "a sealed log's epoch keeps the flushed offset",
        "sets around a seal, a power cut",
        (Edit("seal_synced", "s[SYNCED] = 0", "pass"),),
    ),
    Mutant(
        "WRITING is not set in a seal",
        "set seal tick, expire",
        (Edit("seal_mark", "s[WRITING] = 1", "pass"),),
    ),
    # -- a fold beside the writers ------------------------------------------------------------
    _skip(
        "a fold that a dead process has committed counts without a sync",
        "set seal set seal, tick",
        "fold_locked",
        "FOLD_SYNC",
        "FOLD_DONE",
    ),
    Mutant(
        "a sealed log is given up before it is in the table",
        "set, seal tick",
        (
            Edit(
                "fold_locked",
                "At.FOLD_COMMIT if epoch == s[SEALED]",
                "At.FOLD_DONE if epoch == s[SEALED]",
            ),
        ),
    ),
    _skip(
        "a sealed log is given up before the commit is on the disk",
        "set, seal tick",
        "fold_commit",
        "FOLD_SYNC",
        "FOLD_DONE",
    ),
    Mutant(
        "a process that waits for a fold waits without a time-out",
        "set seal set seal, tick",
        (
            Edit(
                "sleep_fold",
                "s[b + WOKEN] or (s[KILLED] and not self._held(s, FOLD_LOCK))",
                "s[b + WOKEN]",
            ),
        ),
    ),
    Mutant(
        "who gives back the fold lock wakes no process",
        "set seal set seal, tick",
        (Edit("release_fold", "self._wake_folders(s, b)", "s[b + FOLD_LOCK] = 0"),),
    ),
    # -- a read -------------------------------------------------------------------------------
    _skip(
        "a reader does not look whether its sealed log is in the table",
        "set seal tick, large, reads",
        "read_view",
        "READ_VIEW_SEALED",
        "READ_TABLE",
    ),
    Mutant(
        "a reader believes what it has read of a sealed log that is used again",
        "set seal set seal, reads",
        (Edit("read_sealed_log", "s[SEALED] != epoch", "False"),),
    ),
    Mutant(
        "a reader believes what it has read of a log that is used again",
        "set seal set seal, reads",
        (Edit("read_open_log", "end and s[EPOCH] != epoch", "False"),),
    ),
    _skip(
        "a reader does not look whether the table is still the same",
        "set seal, vacuum, reads",
        "read_state",
        "READ_SAME_TABLE",
        "READ_SEALED",
    ),
    Mutant(
        "a reader does not look again behind a look into the table",
        "expire fold, set, reads",
        (
            Edit(
                "read_table", "return At.READ_WRITING", "return self.returned(s, b, s[b + TARGET])"
            ),
        ),
    ),
    Mutant(
        "a reader that comes into a commit does not sync it",
        "set seal tick, large, reads",
        (
            Edit(
                "read_table",
                "        self.sync(s, s[b + TABLE])  # a reader that comes into a commit\n",
                "",
            ),
        ),
    ),
)

SLOT_MUTANTS = (
    Mutant(
        "a fold does not wait for readers",
        "a read, four folds",
        (Edit("look_at_slot", "if slot == SLOTS:", "if True:"),),
    ),
    Mutant(
        "a reader does not look at the sequence",
        "a read, four folds",
        (
            Edit("look_again", "if s[SEQUENCE] != s[b + SEEN]:", "if False:"),
            Edit("look_again", "if not s[SEQUENCE] & 1 or", "if True or"),
        ),
    ),
    Mutant(
        "a reader looks at the sequence only before it begins",
        "a read, four folds",
        (Edit("look_again", "if s[SEQUENCE] != s[b + SEEN]:", "if False:"),),
    ),
    Mutant(
        "a reader makes no pause",
        "a read, four folds",
        (Edit("pause", "if s[TORN]:", "if False:"),),
    ),
    Mutant(
        "a reader takes any snapshot before that of the commit",
        "a read, folds, failing commits",
        (Edit("look_again", "s[b + ID] + 1 == s[COMMITTING]", "s[b + ID] < s[COMMITTING]"),),
    ),
    Mutant(
        "a reader says which snapshot it has only when it has it",
        "a read, four folds",
        (Edit("store_slot", "s[NEWEST] + 1", "0"),),
    ),
    Mutant(
        "a slot is cleared without its lock",
        "a read, a slot of the dead",
        (
            Edit(
                "try_slot",
                "        slot = s[b + PAGE]",
                "        return At.CLEAR_DEAD\n        slot = s[b + PAGE]",
            ),
            Edit("unlock_slot", "        s[LOCK + 2 * s[b + PAGE]] = 0\n", ""),
        ),
    ),
    Mutant(
        "a slot is cleared after its lock was free for a moment",
        "a read, a slot of the dead",
        (
            Edit("try_slot", "        s[LOCK + 2 * slot] = self._me(b)\n", ""),
            Edit("unlock_slot", "        s[LOCK + 2 * s[b + PAGE]] = 0\n", ""),
        ),
    ),
    Mutant(
        "the sequence goes on from where a process has died",
        "two reads, folds",
        (Edit("make_odd", "s[SEQUENCE] + 1 | 1", "s[SEQUENCE] + 1"),),
    ),
)
