"""Faults of what is written to the log and the table, and of the order in which it is published."""

from __future__ import annotations

from fuzz.mutant_lists.mutant import Mutant

G = "test_guarantees.py::test_"
KILLS = "crash/test_kill_points.py::test_"
FAULTS = "crash/test_faults.py::test_"
COMMIT = "_engine/test_commitqueue.py::test_"
IDENTITY = "_engine/test_identity.py::test_"
VACUUM = "crash/test_vacuum.py::test_"
PUBLISHING = "_engine/test_publishing.py::test_"
ARENAS = "_engine/test_arenas.py::test_"
DURABLE = G + "g1_whatever_is_acked_is_on_the_disk"
TAKEOVER = G + "g1_a_takeover_syncs_the_name_that_a_dead_vacuum_left"

MUTANTS = [
    # -- syncs
    Mutant(
        "a commit is not flushed",
        "_engine/log.py",
        "durability.sync_data(self.fd)",
        "pass",
        G + "g1_an_ack_comes_after_the_flush_behind_the_write",
    ),
    Mutant(
        "a commit is flushed twice",
        "_engine/log.py",
        "durability.sync_data(self.fd)",
        "durability.sync_data(self.fd), durability.sync_data(self.fd)",
        G + "g7_a_commit_is_one_write_and_one_flush",
    ),
    Mutant(
        "the flush comes before the write",
        "_engine/append.py",
        "    log.write(data, start)\n",
        "    log.sync()\n    log.write(data, start)\n    header.synced = end\n",
        G + "g1_an_ack_comes_after_the_flush_behind_the_write",
    ),
    Mutant(
        "a new log is not synced",
        "_engine/log.py",
        "            durability.sync_file(fd)\n            os.rename(temporary, path)",
        "            os.rename(temporary, path)",
        "_engine/test_log.py::"
        "test_a_new_log_is_on_the_disk_before_it_gets_its_name_and_its_name_after",
    ),
    Mutant(
        "a new log gets its name before it is synced",
        "_engine/log.py",
        "            durability.sync_file(fd)\n            os.rename(temporary, path)\n",
        "            os.rename(temporary, path)\n            durability.sync_file(fd)\n",
        "_engine/test_log.py::"
        "test_a_new_log_is_on_the_disk_before_it_gets_its_name_and_its_name_after",
    ),
    Mutant(
        "the name of a new log is not synced",
        "_engine/log.py",
        "durability.sync_directory(os.path.dirname(path))",
        "pass",
        DURABLE,
    ),
    Mutant(
        "the name of a vacuumed table is not synced",
        "_engine/vacuum.py",
        "    durability.sync_directory(os.path.dirname(path))\n    table =",
        "    table =",
        DURABLE,
    ),
    Mutant(
        "a live peer does not sync a dead vacuum's rename",
        "_engine/engine.py",
        "durability.sync_directory(os.path.dirname(self.path))",
        "pass",
        TAKEOVER + "[a live peer]",
    ),
    Mutant(
        "a joiner does not sync a dead vacuum's rename",
        "_engine/joining.py",
        "                durability.sync_directory(os.path.dirname(path))\n",
        "",
        TAKEOVER + "[a joiner]",
    ),
    Mutant(
        "recovery does not sync a dead vacuum's rename",
        "_engine/recovery.py",
        "durability.sync_directory(os.path.dirname(path))",
        "pass",
        TAKEOVER + "[the next]",
    ),
    Mutant(
        "a backup's name is not synced",
        "_engine/closedcopy.py",
        "        durability.sync_directory(os.path.dirname(destination))\n",
        "",
        DURABLE,
    ),
    Mutant(
        "no thread flushes progress",
        "_engine/maintenance.py",
        "if header.synced < split(header.appended)[1] or header.state != header.appended:",
        "if False:",
        G + "g2_progress_is_flushed_within_the_interval",
    ),
    Mutant(
        "progress costs a flush",
        "_engine/groups.py",
        "flush = flush or write.sync",
        "flush = True",
        G + "g2_progress_costs_no_flush",
    ),
    Mutant(
        "what was only written counts as synced",
        "_engine/publishing.py",
        "        if appended != state:\n",
        "        header.synced = appended & OFFSET_MAX\n        if appended != state:\n",
        G + "g2_progress_is_flushed_within_the_interval",
    ),
    # -- the order of a commit
    Mutant(
        "a group is published before it is flushed",
        "_engine/publishing.py",
        "self._view.logs.of(appended >> 32).sync()",
        "self._view.publish(appended), self._view.logs.of(appended >> 32).sync()",
        G + "g3_no_reader_sees_a_result_before_its_flush",
    ),
    Mutant(
        "a group whose flush has failed is published",
        "_engine/publishing.py",
        "                    header.log_failed = 1\n                raise\n",
        "                    header.log_failed = 1\n",
        G + "g3_nothing_shows_when_the_flush_fails",
    ),
    Mutant(
        "an append does not say that it is under way",
        "_engine/append.py",
        "    header.writing = 1\n    log.write(data,",
        "    log.write(data,",
        G + "g5_nothing_behind_a_dead_writers_frames_comes_to_life[behind its write]",
    ),
    # -- one flush for the writers of all processes
    Mutant(
        "a write is said to be appended before it is written",
        "_engine/append.py",
        "    log.write(data, start)\n",
        "    header.appended = epoch << 32 | end\n    log.write(data, start)\n",
        PUBLISHING + "a_recovery_keeps_what_another_process_had_appended_whole",
    ),
    Mutant(
        "a condition is judged by what is published only",
        "_engine/engine.py",
        "entry = self.logview.unpublished.index().results.get(key)",
        "entry = None",
        PUBLISHING + "of_two_processes_that_pop_a_result_one_gets_it",
    ),
    Mutant(
        "a write that is refused does not wait for the flush of what refuses it",
        "_engine/groups.py",
        "            appended.append((writes, point, flush))\n",
        "            appended.append((writes, point, flush)) if resolved else _succeed(writes)\n",
        PUBLISHING + "a_write_with_a_condition_is_told_nothing_that_a_crash_could_take_back[True]",
    ),
    Mutant(
        "a new epoch is taken for success",
        "_engine/publishing.py",
        "if published is not None and published < end:",
        "if False:",
        PUBLISHING + "a_writer_that_sleeps_through_more_failures_than_are_kept_has_an_error",
    ),
    Mutant(
        "a failed flush is not noted for other processes",
        "_engine/engine.py",
        "header.add_failure()",
        "pass",
        PUBLISHING + "a_flush_that_fails_fails_the_writes_of_all_processes_and_none_is_ever_seen",
    ),
    Mutant(
        "a flush is trusted behind a process that died in one",
        "_engine/publishing.py",
        "            if header.flushing:\n",
        "            header.flushing = 0\n            if header.flushing:\n",
        PUBLISHING + "behind_a_process_that_died_in_its_flush_no_flush_of_that_log_is_trusted",
    ),
    Mutant(
        "an error in a flush keeps the flush lock",
        "_engine/publishing.py",
        "            locks.fcntl_call(self._lock_fd, locks.SETLK, locks.FLUSH.unlocked)  "
        "# the first call\n",
        "            if not header.flushing:\n"
        "                locks.unlock_byte(self._lock_fd, locks.FLUSH)\n",
        PUBLISHING + "the_flush_lock_is_free_after_an_error_in_the_flush",
    ),
    Mutant(
        "progress is published past a result that is not on the disk",
        "_engine/publishing.py",
        "header.synced < max(synced_to, header.unsynced)",
        "header.synced < synced_to",
        PUBLISHING
        + "progress_behind_a_result_that_a_dead_process_has_not_flushed_is_published_with_a_flush",
    ),
    Mutant(
        "a group waits for its flush under the locks of a compaction",
        "_engine/groups.py",
        "            engine.fold_large(*large)\n",
        "            engine.publish(engine.header.appended, deadline, flush=True)\n"
        "            engine.fold_large(*large)\n",
        PUBLISHING + "a_large_write_behind_a_sync_in_its_group_is_folded_under_the_flush_lock",
    ),
    Mutant(
        "a reader closes the logs that another thread still uses",
        "_engine/logview.py",
        "self.left.extend(old.both)",
        "old.close()",
        PUBLISHING + "a_write_that_waits_while_the_logs_are_replaced_goes_on",
    ),
    Mutant(
        "a compaction does not take the flush lock",
        "_engine/engine.py",
        "self._with_writer_lock(lambda: within(work, deadline), deadline, prepare)",
        "self._with_writer_lock(lambda: (self._settle(), work())[1], deadline, prepare)",
        PUBLISHING + "a_compaction_waits_for_a_flush_and_takes_it_in",
    ),
    Mutant(
        "a large write is folded beside frames that are published meanwhile",
        "_engine/engine.py",
        "            self._settle()\n            return work()\n",
        "            return work()\n",
        PUBLISHING + "what_is_published_during_a_fold_is_folded_once",
    ),
    Mutant(
        "a recovery drops what other processes have appended",
        "_engine/engine.py",
        "                batches.append((unpublished.results, unpublished.progress))\n",
        "                pass\n",
        PUBLISHING + "a_recovery_keeps_what_another_process_had_appended_whole",
    ),
    Mutant(
        "an interrupted append is not recovered from",
        "_engine/engine.py",
        "return bool(header.writing or header.log_failed)",
        "return bool(header.log_failed)",
        "_engine/test_vacuum.py::test_closing_behind_a_dead_vacuum_goes_over_to_its_file",
    ),
    Mutant(
        "of an interrupted append only the WRITING word is cleared",
        "_engine/groups.py",
        "engine.settled_within(lambda: None, deadline)",
        "engine.header.writing = 0",
        G + "g5_nothing_behind_a_dead_writers_frames_comes_to_life",
    ),
    Mutant(
        "a log whose flush has failed is used further",
        "_engine/publishing.py",
        "header.log_failed = 1",
        "pass",
        G + "g3_nothing_shows_when_the_flush_fails",
    ),
    Mutant(
        "a group goes on after a segment has failed",
        "_engine/groups.py",
        "            if engine.must_recover():  # also",
        "            if writes[0] is group[0] and engine.must_recover():  # also",
        COMMIT + "a_group_does_not_go_on_behind_a_compaction_that_failed_half_way",
    ),
    Mutant(
        "a fold beside the writers never gives way",
        "_engine/compaction.py",
        "            if give_way is not None and",
        "            if give_way is None and",
        "_engine/test_compaction.py::test_it_gives_way_again_and_again",
    ),
    Mutant(
        "a fold gives way to writers that wait for it",
        "_engine/sealing.py",
        "    if split(engine.header.appended)[1] < engine.options.compact_at:\n        time.sleep",
        "    if True:\n        time.sleep",
        "_engine/test_arenas.py::test_a_fold_gives_way_to_writers_until_the_other_log_is_full",
    ),
    Mutant(
        "an error does not reach the caller",
        "_engine/groups.py",
        "    else:\n        _succeed(writes)\n",
        "    finally:\n        _succeed(writes)\n",
        G + "g3_nothing_shows_when_the_flush_fails",
    ),
    Mutant(
        "a leader commits one caller's writes at a time",
        "_engine/commitqueue.py",
        "while queue:",
        "while False:",
        G + "g7_callers_that_wait_share_a_flush",
    ),
    Mutant(
        "the arena of a new log is not filled",
        "_engine/log.py",
        "            _fill(fd, FIRST_OFFSET, size)\n",
        "",
        G + "g7_the_log_keeps_its_size",
    ),
    Mutant(
        "a short write is taken for a whole one",
        "_engine/durability.py",
        "    if written != len(data):",
        "    if False:",
        FAULTS + "short_writes_are_finished",
    ),
    # -- epochs, and what is published
    Mutant(
        "a compaction keeps the epoch",
        "_engine/engine.py",
        "max(meta.epoch, view.epoch) + 1",
        "max(meta.epoch, view.epoch)",
        G + "g5_frames_of_an_older_epoch_stay_dead",
    ),
    Mutant(
        "recovery keeps the epoch",
        "_engine/recovery.py",
        "epoch = meta.epoch + 2",
        "epoch = meta.epoch",
        ARENAS + "a_recovery_that_dies_before_it_has_replaced_the_logs_is_done_again[1-True]",
    ),
    Mutant(
        "a compaction is published before it is committed",
        "_engine/engine.py",
        "        batches = view.newer_than(meta.epoch)\n",
        "        self.begin_epoch(epoch)\n        header.writing = 1\n"
        "        batches = view.newer_than(meta.epoch)\n",
        KILLS + "survived_by_a_live_peer[compaction]",
    ),
    Mutant(
        "a large record leaves an older one in the overlay",
        "_engine/engine.py",
        "self.fold()  # otherwise readers",
        "pass  # otherwise readers",
        "_engine/test_compaction.py::test_no_older_record_hides_a_large_one",
    ),
    Mutant(
        "a cleared progress is not folded",
        "_engine/compaction.py",
        "if progress[key] is None:",
        "if False:",
        G + "g5_progress_that_was_cleared_does_not_come_back",
    ),
    Mutant(
        "a store that is open counts as closed cleanly",
        "_engine/recovery.py",
        "            incarnation=meta.incarnation,\n        )\n",
        "            incarnation=meta.incarnation,\n            clean=True,\n        )\n",
        G + "g2_progress_survives_a_kill",
    ),
    Mutant(
        "a closed store is not marked as clean",
        "_engine/closing.py",
        "engine.fold(clean=True, ",
        "engine.fold(",
        G + "g9_one_file_at_rest_and_known_files_while_open",
    ),
    Mutant(
        "a reader does not ask what has been published",
        "_engine/engine.py",
        "if overlay.state == self.header.state and (",
        "if True and (",
        G + "g4_a_read_sees_the_write_acked_before_it",
    ),
    Mutant(
        "a vacuum does not tell the others",
        "_engine/vacuum.py",
        "    identity.publish_table(engine.header, table)\n",
        "    pass\n",
        G + "g4_a_read_sees_the_write_acked_before_it",
    ),
    Mutant(
        "a writer does not notice a vacuum",
        "_engine/engine.py",
        "if header.incarnation != self.incarnation:\n            with self.view_lock:",
        "if False:\n            with self.view_lock:",
        IDENTITY + "a_process_that_has_the_table_open_is_present_on_it[follows_to_write-alone]",
    ),
    Mutant(
        "a reader does not go over to a vacuum's table",
        "_engine/engine.py",
        "if header.incarnation != self.incarnation:\n                    self.sheltered_write",
        "if False:\n                    self.sheltered_write",
        IDENTITY + "a_process_that_has_the_table_open_is_present_on_it[follows_to_read-alone]",
    ),
    Mutant(
        "a vacuum does not notice a compaction",
        "_engine/vacuum.py",
        "        view.epoch != copy.meta.epoch\n        or not files.is_at",
        "        not files.is_at",
        "_engine/test_vacuum.py::test_a_compaction_behind_the_copy_makes_a_vacuum_begin_again",
    ),
    Mutant(
        "a vacuum forgets what was written during its copy",
        "_engine/vacuum.py",
        "    _fold_changes(copy, view, folded, epoch, incarnation)\n    copy.close()",
        "    copy.close()",
        VACUUM + "writes_during_the_copy_are_kept[20-False]",
    ),
]
