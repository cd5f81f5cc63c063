"""Faults of the two logs: seals, folds beside writers, readers of both, and their recovery."""

from __future__ import annotations

from fuzz.mutant_lists.mutant import Mutant

ARENAS = "_engine/test_arenas.py::test_"
EXCHANGED = "_engine/test_exchanged_logs.py::test_"
PUBLISHING = "_engine/test_publishing.py::test_"
AHEAD = PUBLISHING + "a_read_beside_a_recovery_that_dies_finds_nothing_ahead_of_its_turn"
READERS = "_engine/test_readers.py::test_"
BOTH = ARENAS + "a_store_left_with_both_logs_is_recovered"
FOLD_DIES = ARENAS + "a_fold_that_dies_loses_nothing"
SEAL_DIES = ARENAS + "a_seal_that_dies_loses_nothing"
WAITS = ARENAS + "a_writer_waits_for_a_fold_only_where_both_logs_are_full_and_not_for_long"
COPIES = ARENAS + "where_a_copy_puts_compactions_off_no_log_is_sealed_or_folded"
ALL_COPIES = ARENAS + "a_check_a_backup_and_a_vacuum_have_what_is_in_a_sealed_log"
RECOVERY_DIES = ARENAS + "a_recovery_that_dies_before_it_has_replaced_the_logs_is_done_again"

MUTANTS = [
    # -- seals
    Mutant(
        "a seal writes no first frame",
        "_engine/append.py",
        "    log.write(frame, FIRST_OFFSET)\n",
        "",
        BOTH,
    ),
    Mutant(
        "the first frame says another end of the sealed log",
        "_engine/append.py",
        "encode_start(seed, epoch, end)",
        "encode_start(seed, epoch, end - 1)",
        BOTH,
    ),
    Mutant(
        "a seal flushes no progress",
        "_engine/sealing.py",
        "engine.is_settled(end)",
        "engine.is_settled(0)",
        ARENAS + "a_flush_that_fails_in_a_seal_loses_no_result",
    ),
    Mutant(
        "the new epoch is published before the sealed log is",
        "_engine/logview.py",
        "            header.sealed = sealed.state\n"
        "            header.begin_epoch(epoch, FIRST_OFFSET, start)\n",
        "            header.begin_epoch(epoch, FIRST_OFFSET, start)\n"
        "            header.sealed = sealed.state\n",
        SEAL_DIES + "[behind state-beside others]",
    ),
    Mutant(
        "the first frame counts as synced",
        "_engine/logview.py",
        "header.begin_epoch(epoch, FIRST_OFFSET, start)",
        "header.begin_epoch(epoch, start, start)",
        ARENAS + "a_first_frame_that_did_not_reach_the_disk_is_the_end_of_the_log",
    ),
    Mutant(
        "a log is sealed while the other one is",
        "_engine/sealing.py",
        "if _is_full(engine) and not header.sealed and",
        "if _is_full(engine) and",
        ARENAS + "a_log_is_not_sealed_while_the_other_one_is",
    ),
    Mutant(
        "a copy does not put seals off",
        "_engine/sealing.py",
        "return end >= engine.options.compact_at and not engine.deferral.applies()",
        "return end >= engine.options.compact_at",
        COPIES,
    ),
    # -- folds of a sealed log
    Mutant(
        "a sealed log is folded while a copy is made",
        "_engine/sealing.py",
        "        or engine.deferral.applies()\n        or identity",
        "        or identity",
        COPIES,
    ),
    Mutant(
        "a fold does not look whether its table is at the path",
        "_engine/sealing.py",
        "        or identity.is_suspect(engine)\n",
        "",
        ARENAS + "a_log_that_is_removed_is_replaced_and_nothing_is_lost[sealed]",
    ),
    Mutant(
        "a fold says that the table has the log before it has",
        "_engine/sealing.py",
        "    header.folding = 1\n    try:\n",
        "    header.folding = 1\n    header.sealed = 0\n    try:\n",
        FOLD_DIES + "[before its commit-beside others]",
    ),
    Mutant(
        "what a dead process has committed is not synced before its log is used again",
        "_engine/sealing.py",
        "durability.sync_data(engine.table.fd)",
        "pass",
        ARENAS + "what_a_dead_process_has_folded_is_on_the_disk_before_its_log_is_used_again",
    ),
    Mutant(
        "a sealed log is folded into a table that has more than it",
        "_engine/sealing.py",
        "if epoch not in (sealed.epoch, sealed.epoch + 1):",
        "if epoch < sealed.epoch:",
        ARENAS + "behind_a_dead_compaction_of_both_logs_none_is_folded_alone",
    ),
    Mutant(
        "a fold removes what is over a limit",
        "_engine/sealing.py",
        "                [(sealed.results, sealed.progress)],\n",
        "                [(sealed.results, sealed.progress)],\n"
        "                engine.options.retention,\n",
        ARENAS + "a_fold_of_the_sealed_log_takes_nothing_away",
    ),
    Mutant(
        "a dead fold's transaction is taken for another program's",
        "_engine/identity.py",
        "not (header.writing or header.folding)",
        "not header.writing",
        FOLD_DIES + "[behind its commit-beside others]",
    ),
    Mutant(
        "a compaction does not take the fold lock",
        "_engine/engine.py",
        "lambda: self.fold_lock.hold(work, deadline)",
        "lambda: (work(),)",
        ARENAS + "a_compaction_waits_for_a_fold",
    ),
    Mutant(
        "two threads hold the fold lock",
        "_engine/foldlock.py",
        "if not shelter.acquire(lock, max(0.0, deadline - time.monotonic())):",
        "if False:",
        ARENAS + "one_thread_at_a_time_holds_the_fold_lock",
    ),
    Mutant(
        "a compaction folds the open log only",
        "_engine/engine.py",
        "view.newer_than(meta.epoch)",
        "view.newer_than(view.epoch)",
        ALL_COPIES,
    ),
    Mutant(
        "a compaction leaves the sealed log sealed",
        "_engine/logview.py",
        "            self._header.sealed = 0\n",
        "",
        ALL_COPIES,
    ),
    Mutant(
        "a sealed log is folded behind the one that follows it",
        "_engine/overlay.py",
        "return (self,) if sealed is None else (sealed, self)",
        "return (self,) if sealed is None else (self, sealed)",
        BOTH,
    ),
    # -- writers beside folds
    Mutant(
        "a writer waits long for a fold",
        "_engine/sealing.py",
        "fold_sealed(engine, time.monotonic() + FOLD_WAIT_S)",
        "fold_sealed(engine, time.monotonic() + 20 * FOLD_WAIT_S)",
        WAITS,
    ),
    Mutant(
        "a writer waits for a fold when the open log is full",
        "_engine/sealing.py",
        "end < engine.options.compact_at * BOTH_FULL or state",
        "state",
        WAITS,
    ),
    Mutant(
        "each write waits for a fold",
        "_engine/sealing.py",
        " or state - engine.waited_at < end // BOTH_FULL:",
        ":",
        WAITS,
    ),
    # -- readers of both logs
    Mutant(
        "a reader reads no sealed log",
        "_engine/logview.py",
        "        if known.applied < end:\n",
        "        if False:\n",
        ARENAS + "who_joins_beside_a_sealed_log_reads_it",
    ),
    Mutant(
        "a reader keeps what it knows of a sealed log",
        "_engine/engine.py",
        "overlay.sealed is None or overlay.sealed.state == self.header.sealed\n",
        "True\n",
        ARENAS + "a_large_result_is_seen_by_who_still_has_the_older_one_of_a_sealed_log[True]",
    ),
    Mutant(
        "a backup has nothing of a sealed log",
        "_engine/overlay.py",
        "for part in self.parts():\n            copy",
        "for part in (self,):\n            copy",
        ALL_COPIES,
    ),
    Mutant(
        "a read goes with a table that has more than readers have been shown",
        "_engine/engine.py",
        "return self.header.writing != 0 and self.header.state != state",
        "return False",
        AHEAD + "[find_result-nobody]",
    ),
    Mutant(
        "a read goes by a view that another thread has brought up to date",
        "_engine/reading.py",
        "if self.must_look_again(state):",
        "if self.must_look_again(view.state):",
        AHEAD + "[find_result-another thread]",
    ),
    Mutant(
        "a reader takes any snapshot before that of the commit",
        "_engine/table.py",
        "if snapshot == newest or",
        "if snapshot <= newest or",
        READERS + "a_reader_takes_no_snapshot_before_the_last_whole_one",
    ),
    # -- recovery
    Mutant(
        "recovery reads one log only",
        "_engine/recovery.py",
        "    if other == own:\n",
        "    if True:\n",
        BOTH,
    ),
    Mutant(
        "recovery does not compare the end of a sealed log",
        "_engine/recovery.py",
        "if sealed_end is not None and sealed_end != overlay.applied and not is_lost:",
        "if False:",
        ARENAS + "a_sealed_log_that_is_cut_off_is_refused",
    ),
    Mutant(
        "recovery begins the epoch behind the table's",
        "_engine/recovery.py",
        "epoch = meta.epoch + 2",
        "epoch = meta.epoch + 1",
        RECOVERY_DIES + "[0-False]",
    ),
    Mutant(
        "a table of the epoch before goes with a log behind no sealed one",
        "_engine/recovery.py",
        "        return not log.may_follow\n",
        "        return False\n",
        ARENAS + "a_table_of_the_epoch_before_without_a_sealed_log_is_refused",
    ),
    Mutant(
        "logs that were exchanged are taken for empty ones",
        "_engine/recovery.py",
        "        _refuse_misplaced(path, logs)\n",
        "",
        EXCHANGED + "logs_that_were_exchanged_are_refused_and_salvaged",
    ),
    Mutant(
        "a log goes with an older copy of the other one",
        "_engine/recovery.py",
        "        _refuse_mixed(logs, meta)\n",
        "",
        EXCHANGED + "a_log_from_before_the_last_opening_is_refused_and_the_other_one_salvaged",
    ),
    Mutant(
        "a replacement of the logs that was cut off is taken for an older copy",
        "_engine/recovery.py",
        "if not is_pair and (even.newest or odd.newest >= meta.epoch):",
        "if not is_pair:",
        EXCHANGED + "logs_of_two_pairs_are_those_of_a_replacement_that_was_cut_off"
        "_if_the_new_one_is_empty",
    ),
    Mutant(
        "a salvage looks for frames in the place of their log only",
        "_engine/salvage.py",
        "epoch = newest[where] if newest[where] in epochs and meta.version > 1 else by_name",
        "epoch = by_name",
        EXCHANGED + "logs_that_were_exchanged_are_refused_and_salvaged",
    ),
    Mutant(
        "a salvage takes an older copy of a log behind the newer one",
        "_engine/salvage.py",
        "sorted(dict.fromkeys(records), key=lambda record: record[1].time_us)",
        "list(dict.fromkeys(records))",
        EXCHANGED
        + "an_older_copy_of_a_log_in_the_place_of_the_other_one_is_of_no_harm_to_a_salvage",
    ),
    # -- the files
    Mutant(
        "only one log is looked for at its path",
        "_engine/identity.py",
        "all(map(has_log, engine.logs.both))",
        "has_log(engine.logs.both[0])",
        ARENAS + "a_log_that_is_removed_is_replaced_and_nothing_is_lost",
    ),
    Mutant(
        "only one log is replaced when a flush has failed",
        "_engine/log.py",
        "                made.append(Log.create(each, uuid, log_id, size, like=path))\n",
        "                if made and os.path.lexists(each):\n"
        "                    made.append(Log.open(each, uuid))\n                else:\n"
        "                    made.append(Log.create(each, uuid, log_id, size, like=path))\n",
        ARENAS + "both_logs_are_replaced_when_a_flush_has_failed",
    ),
    # -- slots
    Mutant(
        "the slot of a dead reader is not cleared",
        "_engine/readers.py",
        "            self.words[index] = 0\n            self._unlock(index)\n"
        "            return True",
        "            self._unlock(index)\n            return True",
        READERS + "a_dead_reader_is_not_waited_for_and_its_slot_is_cleared",
    ),
    Mutant(
        "the lock of a dead reader's slot is kept",
        "_engine/readers.py",
        "            self._unlock(index)\n            return True",
        "            return True",
        READERS + "a_dead_reader_is_not_waited_for_and_its_slot_is_cleared",
    ),
]
