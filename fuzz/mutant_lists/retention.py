"""Faults of the removal of results beside writers: expiry and eviction."""

from __future__ import annotations

from fuzz.mutant_lists.mutant import Mutant

TESTS = "_engine/test_retention.py::test_"
NEWER = TESTS + "a_newer_record_of_the_task_is_not_removed"
AGAIN = TESTS + "a_task_that_runs_again_keeps_its_progress"
LIMITS = TESTS + "the_oldest_results_over_a_limit_are_evicted"
COSTS = TESTS + "an_expiry_costs_no_flush_and_an_eviction_one"
FOLDS = TESTS + "a_fold_beside_the_writers_changes_nothing_that_is_seen"
GOES = TESTS + "what_has_expired_goes_without_a_fold_under_all_locks"
SYNCED = (
    "_engine/test_maintenance.py::test_what_is_taken_away_changes_nothing_in_when_the_log_is_synced"
)
WATCHERS = TESTS + "watchers_get_each_removal_once_and_in_order"

MUTANTS = [
    Mutant(
        "a newer result is removed in the place of the one that has expired",
        "_engine/writes.py",
        "if mark.result_us != self.result.time_us:",
        "if not mark.result_us:",
        TESTS + "a_result_that_is_written_again_with_the_same_value_is_another_one",
    ),
    Mutant(
        "what has been deleted expires",
        "_engine/writes.py",
        "if mark.result_us != self.result.time_us:",
        "if mark.result_us not in (0, self.result.time_us):",
        NEWER,
    ),
    Mutant(
        "a removal does not look at the clock again",
        "_engine/writes.py",
        "if not evicts and is_live_result(self.result, now_us):",
        "if False:",
        TESTS + "a_clock_that_is_set_back_keeps_what_is_valid_again",
    ),
    Mutant(
        "an eviction needs no flush",
        "_engine/writes.py",
        "sync=evicts)",
        "sync=False)",
        COSTS,
    ),
    Mutant(
        "an expiry needs a flush",
        "_engine/writes.py",
        "sync=evicts)",
        "sync=True)",
        COSTS,
    ),
    Mutant(
        "an evicted task keeps the progress from before",
        "_engine/writes.py",
        "time_us if evicts else end_us(self.result)",
        "end_us(self.result)",
        TESTS + "an_evicted_task_keeps_only_later_progress",
    ),
    Mutant(
        "the progress of a task that runs again goes with its expired result",
        "_engine/writes.py",
        "return entry._replace(flags=HAD_RESULT | KEEPS_PROGRESS)",
        "return entry",
        AGAIN,
    ),
    Mutant(
        "the progress of an expired result stays",
        "_engine/overlay.py",
        "if kind != RESULT and not entry[1] & KEEPS_PROGRESS:",
        "if kind == 3:",
        FOLDS,
    ),
    Mutant(
        "watchers do not hear that a task runs again",
        "_engine/notify.py",
        "        if entry.flags & KEEPS_PROGRESS:\n",
        "        if False:\n",
        WATCHERS,
    ),
    Mutant(
        "a list leaves out what has expired in the log",
        "_engine/listing.py",
        "for key, entry in self._results.items() if entry.kind == EXPIRED",
        "for key, entry in self._results.items() if False",
        FOLDS,
    ),
    Mutant(
        "what the logs have a newer record of is removed again",
        "_engine/retention.py",
        "            if engine.view().result(record.key) is None:\n",
        "            if True:\n",
        GOES,
    ),
    Mutant(
        "a result that is written again counts as evicted",
        "_engine/retention.py",
        "record.key in counted or (newer is not None and newer.kind == RESULT)",
        "record.key in counted",
        LIMITS + "[limits0]",
    ),
    Mutant(
        "what the logs remove is evicted again in other results",
        "_engine/retention.py",
        "    removed = _removed_by_the_logs(engine)\n",
        "    removed = list[bytes]()\n",
        TESTS + "what_the_logs_remove_is_not_evicted_again_in_other_results[limits0]",
    ),
    Mutant(
        "what the logs remove counts twice",
        "_engine/retention.py",
        "record.key in counted or (newer is not None and newer.kind == RESULT)",
        "newer is not None and newer.kind == RESULT",
        LIMITS + "[limits0]",
    ),
    Mutant(
        "the evicted bytes are not counted",
        "_engine/retention.py",
        "        results -= count\n        data_bytes -= size\n",
        "        results -= count\n",
        LIMITS + "[limits1]",
    ),
    Mutant(
        "the progress of what is evicted does not count",
        "_engine/table.py",
        "places = (DB_RESULTS, mark.result_us), (DB_PROGRESS, mark.progress_us)",
        "places = ((DB_RESULTS, mark.result_us),)",
        TESTS + "the_progress_of_what_is_evicted_makes_room_too",
    ),
    Mutant(
        "a count goes on in a table of another fold",
        "_engine/retention.py",
        "            if engine.from_table(Table.read_meta).epoch != epoch:\n",
        "            if False:\n",
        TESTS + "a_look_goes_on_in_the_table_of_the_next_fold",
    ),
    Mutant(
        "an eviction that was counted in another table is written",
        "_engine/writes.py",
        "if evicts and lookup.table_epoch() != self.counted_in:",
        "if False:",
        TESTS + "a_fold_between_two_groups_makes_the_count_void[20]",
    ),
    Mutant(
        "a fold beside the writers removes results",
        "_engine/compaction.py",
        "kinds = (PROGRESS,) if retention is None else (RESULT, PROGRESS)",
        "kinds = (RESULT, PROGRESS)",
        TESTS + "expired_progress_goes_with_the_fold_of_a_sealed_log",
    ),
    Mutant(
        "expired progress behind an expired result stays",
        "_engine/compaction.py",
        "                if kind not in kinds:\n                    continue\n",
        "                if kind not in kinds:\n                    return\n",
        TESTS + "expired_progress_goes_with_the_fold_of_a_sealed_log",
    ),
    Mutant(
        "nothing is removed beside writers",
        "_engine/maintenance.py",
        "            self._retires = True\n        if engine.overlay.sealed",
        "            pass\n        if engine.overlay.sealed",
        TESTS + "the_thread_that_has_folded_a_log_removes_what_is_due_by_itself",
    ),
    Mutant(
        "writers bring more than is removed",
        "_engine/groups.py",
        "        _keep_up(engine)\n",
        "",
        TESTS + "writers_take_away_as_much_as_they_bring_if_nothing_else_does[limits0]",
    ),
    Mutant(
        "writers look at the table again and again",
        "_engine/retention.py",
        "    if engine.removing_from != epoch:\n",
        "    if True:\n",
        TESTS + "writers_do_not_look_at_the_table_again_where_nothing_is_left_to_take_away",
    ),
    Mutant(
        "a look goes on in an older table",
        "_engine/retention.py",
        "    if engine.removing_from != epoch:\n",
        "    if engine.removing_from < 0:\n",
        TESTS + "writers_take_away_as_much_as_they_bring_if_nothing_else_does[limits0]",
    ),
    Mutant(
        "an error of a removal by a writer is not counted",
        "_engine/groups.py",
        "    except (OSError, lmdb.Error, LogstoreError) as exc:\n        engine.counters",
        "    except ZeroDivisionError as exc:\n        engine.counters",
        TESTS + "an_error_of_a_removal_fails_no_write",
    ),
    Mutant(
        "the log is synced with each step of a removal",
        "_engine/maintenance.py",
        "if not pauses or self._next_sync_at() <= time.monotonic() + TICK_S:",
        "if True:",
        SYNCED + "[0.01]",
    ),
    Mutant(
        "a pause in a removal puts the sync of the log off",
        "_engine/maintenance.py",
        "due_at = min(self._resume_at, self._next_sync_at())",
        "return self._resume_at - time.monotonic()",
        SYNCED + "[1.0]",
    ),
    Mutant(
        "the times of a compaction that died are used again",
        "_engine/engine.py",
        "            header.last_time_us = max(header.last_time_us, newest_us)\n",
        "",
        TESTS + "a_compaction_that_died_before_it_published_its_times_has_used_them",
    ),
]
