"""Faults of the engine, one edit each, with the test that is expected to notice.

Rules: ``old`` stands exactly once in its file, and is as short as that allows, which ``make test``
checks: who changes the code changes its mutant.  Each fault is one that somebody could make: a
sync, a check, a lock, an order or a flag that is gone.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One fault."""

    what: str
    file: str  # below logstore/
    old: str
    new: str
    test: str  # its node's id below tests/


G = "test_guarantees.py::test_"
KILLS = "crash/test_kill_points.py::test_"
FAULTS = "crash/test_faults.py::test_"
PROCESSES = "crash/test_processes.py::test_"
FORKS = "crash/test_fork.py::test_"
VACUUM = "crash/test_vacuum.py::test_"
REPLACED = "test_replaced_files.py::test_"
IDENTITY = "engine/test_identity.py::test_"
COMMIT = "engine/test_commit.py::test_"
SHELTER = "engine/test_shelter.py::test_"
FILES = "engine/test_files.py::test_"
PRESENT = IDENTITY + "a_process_that_has_the_table_open_is_present_on_it"
NAMELESS = REPLACED + "a_table_without_a_name_is_rescued"
DURABLE = G + "g1_whatever_is_acked_is_on_the_disk"
TAKEOVER = G + "g1_a_takeover_syncs_the_name_that_a_dead_vacuum_left"

MUTANTS = [
    # -- syncs
    Mutant(
        "a commit is not flushed",
        "engine/log.py",
        "osdep.sync_data(self.fd)",
        "pass",
        G + "g1_an_ack_comes_after_the_flush_behind_the_write",
    ),
    Mutant(
        "a commit is flushed twice",
        "engine/log.py",
        "osdep.sync_data(self.fd)",
        "osdep.sync_data(self.fd), osdep.sync_data(self.fd)",
        G + "g7_a_commit_is_one_write_and_one_flush",
    ),
    Mutant(
        "the flush comes before the write",
        "engine/groups.py",
        "            if data:\n                log.write(data, start)\n"
        "            if must_sync:\n                log.sync()\n",
        "            if must_sync:\n                log.sync()\n"
        "            if data:\n                log.write(data, start)\n",
        G + "g1_an_ack_comes_after_the_flush_behind_the_write",
    ),
    Mutant(
        "a new log is not synced",
        "engine/log.py",
        "            osdep.sync_file(fd)\n            os.rename(temporary, path)",
        "            os.rename(temporary, path)",
        "engine/test_log.py::"
        "test_a_new_log_is_on_the_disk_before_it_gets_its_name_and_its_name_after",
    ),
    Mutant(
        "a new log gets its name before it is synced",
        "engine/log.py",
        "            osdep.sync_file(fd)\n            os.rename(temporary, path)\n",
        "            os.rename(temporary, path)\n            osdep.sync_file(fd)\n",
        "engine/test_log.py::"
        "test_a_new_log_is_on_the_disk_before_it_gets_its_name_and_its_name_after",
    ),
    Mutant(
        "the name of a new log is not synced",
        "engine/log.py",
        "osdep.sync_directory(os.path.dirname(path))",
        "pass",
        DURABLE,
    ),
    Mutant(
        "the name of a vacuumed table is not synced",
        "engine/vacuum.py",
        "    osdep.sync_directory(os.path.dirname(path))\n    # The lock file",
        "    # The lock file",
        DURABLE,
    ),
    Mutant(
        "a live peer does not sync a dead vacuum's rename",
        "engine/engine.py",
        "osdep.sync_directory(os.path.dirname(self.path))",
        "pass",
        TAKEOVER + "[a live peer]",
    ),
    Mutant(
        "a joiner does not sync a dead vacuum's rename",
        "engine/opening.py",
        "osdep.sync_directory(os.path.dirname(table.path))",
        "pass",
        TAKEOVER + "[a joiner]",
    ),
    Mutant(
        "recovery does not sync a dead vacuum's rename",
        "engine/opening.py",
        "        osdep.sync_directory(os.path.dirname(path))\n        log = Log.open",
        "        log = Log.open",
        TAKEOVER + "[the next]",
    ),
    Mutant(
        "a backup's name is not synced",
        "engine/copying.py",
        "        osdep.sync_directory(os.path.dirname(destination))\n",
        "",
        DURABLE,
    ),
    Mutant(
        "no thread flushes progress",
        "engine/maintenance.py",
        "if words[SYNCED] < words[STATE] & OFFSET_MAX:",
        "if False:",
        G + "g2_progress_is_flushed_within_the_interval",
    ),
    Mutant(
        "progress costs a flush",
        "engine/groups.py",
        "must_sync=any(write.sync for write in writes)",
        "must_sync=True",
        G + "g2_progress_costs_no_flush",
    ),
    Mutant(
        "what was only written counts as synced",
        "engine/groups.py",
        "if must_sync:\n                words[SYNCED] = end",
        "if True:\n                words[SYNCED] = end",
        G + "g2_progress_is_flushed_within_the_interval",
    ),
    # -- the order of a commit
    Mutant(
        "a group is published before it is flushed",
        "engine/groups.py",
        "log.sync()",
        "engine.header.publish(epoch, end), log.sync()",
        G + "g3_nobody_sees_a_result_before_its_flush",
    ),
    Mutant(
        "a group whose flush has failed is published",
        "engine/groups.py",
        "engine.recover_quietly()\n            raise",
        "engine.recover_quietly()",
        G + "g3_nothing_shows_when_the_flush_fails",
    ),
    Mutant(
        "an append does not say that it is under way",
        "engine/groups.py",
        "words[WRITING] = 1",
        "pass",
        G + "g5_nothing_behind_a_dead_writers_frames_comes_to_life",
    ),
    Mutant(
        "an interrupted append is not recovered from",
        "engine/engine.py",
        "if words[WRITING] or words[LOG_FAILED]:",
        "if words[LOG_FAILED]:",
        TAKEOVER + "[a live peer that ends]",
    ),
    Mutant(
        "of an interrupted append only the WRITING word is cleared",
        "engine/engine.py",
        "if words[WRITING] or words[LOG_FAILED]:",
        "words[WRITING] = 0\n        if words[LOG_FAILED]:",
        G + "g5_nothing_behind_a_dead_writers_frames_comes_to_life",
    ),
    Mutant(
        "a log whose flush has failed is used further",
        "engine/groups.py",
        "words[LOG_FAILED] = 1",
        "pass",
        G + "g3_nothing_shows_when_the_flush_fails",
    ),
    Mutant(
        "a group goes on after a segment has failed",
        "engine/groups.py",
        "if words[WRITING] or words[LOG_FAILED]:",
        "if False:",
        FAULTS + "a_group_does_not_go_on_with_a_failed_log",
    ),
    Mutant(
        "an error does not reach the caller",
        "engine/groups.py",
        "        else:\n            for write in writes:",
        "        finally:\n            for write in writes:",
        G + "g3_nothing_shows_when_the_flush_fails",
    ),
    Mutant(
        "a leader commits one caller's writes at a time",
        "engine/commit.py",
        "while queue:",
        "while False:",
        G + "g7_callers_that_wait_share_a_flush",
    ),
    Mutant(
        "the arena of a new log is not filled",
        "engine/log.py",
        "            _fill(fd, FIRST_OFFSET, size)\n",
        "",
        G + "g7_the_log_keeps_its_size",
    ),
    Mutant(
        "a short write is taken for a whole one",
        "engine/osdep.py",
        "    if written != len(data):",
        "    if False:",
        FAULTS + "short_writes_are_finished",
    ),
    # -- checks
    Mutant(
        "a frame's checksum is not compared",
        "engine/frames.py",
        "    if zlib.crc32(memoryview(data)[at + 4 : end], seed) != crc:\n        return None\n",
        "",
        G + "g6_a_damaged_frame_that_was_acked_is_an_error_at_opening",
    ),
    Mutant(
        "a frame's checksum does not know its store",
        "engine/frames.py",
        "    return zlib.crc32(uuid)",
        "    return 0",
        "engine/test_frames.py::test_a_frame_of_another_store_does_not_check",
    ),
    Mutant(
        "a frame's epoch is not compared",
        "engine/frames.py",
        "        frame_epoch != epoch\n        or length",
        "        length",
        G + "g5_frames_of_an_older_epoch_stay_dead",
    ),
    Mutant(
        "a frame's key may be longer than any key",
        "engine/frames.py",
        "        or not 0 < key_length <= KEY_BYTES_MAX\n",
        "        or not 0 < key_length\n",
        "engine/test_frames.py::test_a_frame_with_a_key_over_the_limit_is_not_found",
    ),
    Mutant(
        "a frame's time may be beyond any that can be shown",
        "engine/frames.py",
        "not 0 < time_us <= TIME_MAX",
        "False",
        "test_forged.py::test_a_forged_frame_is_a_torn_tail",
    ),
    Mutant(
        "a frame's key may be any bytes",
        "engine/frames.py",
        "if not is_text(key):",
        "if False:",
        "test_forged.py::test_a_forged_frame_is_a_torn_tail",
    ),
    Mutant(
        "a record's key may be any bytes",
        "engine/records.py",
        "not is_text(key)",
        "False",
        "test_forged.py::test_a_forged_record_is_damage_of_its_task_alone",
    ),
    Mutant(
        "times go on behind the last one",
        "engine/groups.py",
        "if time_us > TIME_MAX:",
        "if False:",
        "test_forged.py::test_behind_the_last_time_writing_is_refused_and_reading_goes_on",
    ),
    Mutant(
        "a damaged time in an index is the newest",
        "engine/table.py",
        "while placed and TIME.unpack(cursor.key())[0] > TIME_MAX:",
        "while False:",
        "test_forged.py::test_a_damaged_time_in_an_index_does_not_end_all_writing",
    ),
    Mutant(
        "a record's checksum is not compared",
        "engine/records.py",
        "if found != crc:",
        "if False:",
        G + "g6_a_damaged_record_is_an_error_and_the_rest_works",
    ),
    Mutant(
        "damage below what was synced counts as a torn tail",
        "engine/frames.py",
        "        if frame.synced_through > base + stop:\n            return frame\n",
        "        continue\n",
        G + "g6_a_damaged_frame_that_was_acked_is_an_error_at_opening",
    ),
    Mutant(
        "a torn tail counts as damage",
        "engine/frames.py",
        "        if frame.synced_through > base + stop:\n            return frame\n",
        "        return frame\n",
        "engine/test_frames.py::"
        "test_damage_before_a_frame_that_was_not_flushed_behind_it_is_a_torn_tail",
    ),
    Mutant(
        "a live reader does not notice a damaged frame",
        "engine/engine.py",
        "if end != committed:",
        "if False:",
        G + "g6_a_damaged_frame_is_an_error_for_a_live_reader",
    ),
    Mutant(
        "the header of an earlier boot is trusted",
        "engine/header.py",
        "            and (words[W_BOOT], words[W_BOOT + 1]) == _halves(osdep.boot_id())\n",
        "",
        "engine/test_header.py::test_a_header_of_an_earlier_boot_is_not_live",
    ),
    Mutant(
        "a log of a later version is salvaged",
        "salvage.py",
        "if header is not None:",
        "if False:",
        "test_bad_input.py::test_a_log_of_a_later_format_is_refused_and_untouched",
    ),
    Mutant(
        "a salvage lets LMDB near damaged pages",
        "salvage.py",
        "            verify_pages(path)",
        "            pass",
        "test_bad_input.py::test_salvage_beside_a_damaged_table_touches_nothing",
    ),
    Mutant(
        "a log of another store is taken",
        "engine/log.py",
        "if header.uuid != uuid:",
        "if False:",
        "engine/test_log.py::test_opening_the_log_of_another_store_names_both",
    ),
    # -- epochs, and what is published
    Mutant(
        "a compaction keeps the epoch",
        "engine/engine.py",
        "max(meta.epoch, view.epoch) + 1",
        "max(meta.epoch, view.epoch)",
        G + "g5_frames_of_an_older_epoch_stay_dead",
    ),
    Mutant(
        "recovery keeps the epoch",
        "engine/opening.py",
        "    epoch = meta.epoch + 1\n",
        "    epoch = meta.epoch\n",
        G + "g5_frames_that_a_recovery_has_folded_stay_dead",
    ),
    Mutant(
        "a compaction is published before it is committed",
        "engine/engine.py",
        "        batches: list[Batch] = []\n",
        "        self.begin_epoch(epoch)\n        words[WRITING] = 1\n"
        "        batches: list[Batch] = []\n",
        KILLS + "survived_by_a_live_peer[compaction]",
    ),
    Mutant(
        "a large record leaves an older one in the overlay",
        "engine/engine.py",
        "self.fold()  # else readers",
        "pass  # else readers",
        G + "g4_no_older_record_hides_a_large_one",
    ),
    Mutant(
        "a cleared progress is not folded",
        "engine/compaction.py",
        "if progress[key] is None:",
        "if False:",
        G + "g5_progress_that_was_cleared_does_not_come_back",
    ),
    Mutant(
        "a store that is open counts as closed cleanly",
        "engine/opening.py",
        "            incarnation=meta.incarnation,\n        )\n",
        "            incarnation=meta.incarnation,\n            clean=True,\n        )\n",
        G + "g2_progress_survives_a_kill",
    ),
    Mutant(
        "a closed store is not marked as clean",
        "engine/opening.py",
        "engine.fold(clean=True)",
        "engine.fold()",
        G + "g9_one_file_at_rest_and_known_files_while_open",
    ),
    Mutant(
        "a reader does not ask what has been published",
        "engine/engine.py",
        "if overlay.state == self.header.words[STATE]:",
        "if True:",
        G + "g4_a_read_sees_the_write_acked_before_it",
    ),
    Mutant(
        "a vacuum does not tell the others",
        "engine/vacuum.py",
        "    words[INCARNATION] = engine.incarnation = incarnation\n",
        "    engine.incarnation = incarnation\n",
        G + "g4_a_read_sees_the_write_acked_before_it",
    ),
    Mutant(
        "a writer does not notice a vacuum",
        "engine/engine.py",
        "if words[INCARNATION] != self.incarnation:",
        "if False:",
        G + "g4_a_read_sees_the_write_acked_before_it",
    ),
    Mutant(
        "a vacuum does not notice a compaction",
        "engine/vacuum.py",
        "if view.epoch != copy.meta.epoch:\n",
        "if False:\n",
        VACUUM + "writes_during_the_copy_are_kept[20-True]",
    ),
    Mutant(
        "a vacuum forgets what was written during its copy",
        "engine/vacuum.py",
        "    _fold_changes(copy, view, folded, len(view.changed), epoch, incarnation)\n",
        "    _fold_changes(copy, view, 0, 0, epoch, incarnation)\n",
        VACUUM + "writes_during_the_copy_are_kept[20-False]",
    ),
    # -- locks
    Mutant(
        "the writer lock is not taken",
        "engine/log.py",
        "        return osdep.try_lock(self.fd)\n",
        "        return True\n",
        PROCESSES + "a_stopped_lock_holder",
    ),
    Mutant(
        "the lock of a replaced log counts",
        "engine/lock.py",
        "if words[LOG_ID] == log.log_id:\n                    break",
        "if True:\n                    break",
        G + "g3_nothing_shows_when_the_flush_fails",
    ),
    Mutant(
        "a waiter that is slow to wake up misses its turn",
        "engine/lock.py",
        "patience_s = min(max(FAIRNESS_S_MIN, self._held_s), FAIRNESS_S_MAX)",
        "patience_s = FAIRNESS_S_MIN",
        "engine/test_lock.py::"
        "test_the_last_holder_lets_a_waiter_go_first_for_as_long_as_it_held_the_lock",
    ),
    Mutant(
        "a release wakes nobody",
        "engine/lock.py",
        "            header.releases.wake()\n",
        "            pass\n",
        "engine/test_lock.py::test_who_waits_is_woken_by_the_release",
    ),
    Mutant(
        "the maintenance thread stands in the way of writers that get on",
        "engine/maintenance.py",
        "(words[WRITING] and now - self._since >= STILL_S)",
        "words[WRITING]",
        "engine/test_maintenance.py::"
        "test_a_write_that_is_under_way_is_left_alone_and_one_that_stands_still_recovered",
    ),
    Mutant(
        "two vacuums at a time",
        "engine/vacuum.py",
        "if words[VACUUM] and not engine.vacuum_is_dead():",
        "if False:",
        VACUUM + "one_vacuum_at_a_time",
    ),
    Mutant(
        "a process that closes takes itself for the last one",
        "engine/opening.py",
        "        if alone:\n            engine.fold(clean=True)",
        "        alone = True\n        if alone:\n            engine.fold(clean=True)",
        G + "g9_one_file_at_rest_and_known_files_while_open",
    ),
    Mutant(
        "a presence lock counts on a file that has gone",
        "engine/opening.py",
        '        if not _is_at(fd, path + "-shm"):\n            return None\n',
        "",
        PROCESSES + "an_opener_that_is_overtaken_begins_again",
    ),
    Mutant(
        "a process that opens alone keeps no presence lock on the header",
        "engine/opening.py",
        "                and osdep.try_lock(fd, shared=True)\n",
        "                and not osdep.unlock(fd)\n",
        G + "g9_one_file_at_rest_and_known_files_while_open",
    ),
    # -- the presence lock on the table
    Mutant(
        "a process that joins takes no presence lock on the table",
        "engine/table.py",
        "if not osdep.try_lock(self.fd, shared=True):",
        "if False:",
        PRESENT + "[comes_alone-joined]",
    ),
    Mutant(
        "a process that joins does not ask whether another is alone with the table",
        "engine/table.py",
        "if not osdep.try_lock(self.fd, shared=True):",
        "if osdep.try_lock(self.fd, shared=True) is None:",
        IDENTITY + "a_process_does_not_join_while_another_is_alone_with_the_table",
    ),
    Mutant(
        "a process that opens alone keeps no presence lock on the table",
        "engine/opening.py",
        "                osdep.try_lock(table_fd, shared=True)\n",
        "                not osdep.unlock(table_fd)\n",
        PRESENT + "[comes_alone-alone]",
    ),
    Mutant(
        "a process takes itself for alone beside one that is present on the table",
        "engine/opening.py",
        "if osdep.try_lock(fd) and _is_at(fd, path):",
        "if _is_at(fd, path):",
        PRESENT + "[comes_alone-alone]",
    ),
    Mutant(
        "a process that closes does not ask who is present on the table",
        "engine/opening.py",
        "            and osdep.try_lock(engine.table.fd)\n",
        "",
        IDENTITY + "a_process_that_closes_beside_one_on_the_table_alone_is_not_the_last",
    ),
    Mutant(
        "a vacuum renames a file on which it is not present",
        "engine/vacuum.py",
        "osdep.try_lock(fd, shared=True)",
        "osdep.unlock(fd)",
        IDENTITY + "a_vacuumed_file_is_locked_from_the_moment_it_is_the_table",
    ),
    # -- the identity of the files
    Mutant(
        "a compaction does not look at the files",
        "engine/engine.py",
        "        identity.verify(self)\n        self.fold_unverified(extra",
        "        self.fold_unverified(extra",
        IDENTITY + "a_compaction_finds_that_the_table_was_replaced",
    ),
    Mutant(
        "a recovery does not look at the files",
        "engine/engine.py",
        "        identity.verify(self)\n        if files.identity",
        "        if files.identity",
        IDENTITY + "a_recovery_finds_that_the_table_was_replaced",
    ),
    Mutant(
        "a vacuum does not look what it renames its file over",
        "engine/vacuum.py",
        "    identity.verify(engine)\n",
        "",
        IDENTITY + "a_vacuum_puts_its_file_over_the_own_table_only",
    ),
    Mutant(
        "a process that closes does not look at the files",
        "engine/opening.py",
        "        identity.verify(engine)\n",
        "",
        IDENTITY + "closing_beside_another_process_finds_that_the_table_was_replaced",
    ),
    Mutant(
        "the maintenance thread does not look at the files",
        "engine/maintenance.py",
        "if identity.is_suspect(engine):",
        "if False:",
        REPLACED + "a_process_that_only_reads_notices_too",
    ),
    Mutant(
        "the header's identity is not compared",
        "engine/identity.py",
        'if files.identity(path + "-shm") != files.identity(engine.presence_fd):',
        "if False:",
        IDENTITY + "a_compaction_finds_that_a_side_file_was_removed[-shm]",
    ),
    Mutant(
        "the lock file's identity is not compared",
        "engine/identity.py",
        'elif files.identity(path + "-lock") != table.lock_identity:',
        "elif False:",
        IDENTITY + "a_compaction_finds_that_a_side_file_was_removed[-lock]",
    ),
    Mutant(
        "a log that is gone is written further",
        "engine/identity.py",
        "engine.header.words[LOG_FAILED] = 1",
        "pass",
        REPLACED + "a_log_that_is_removed_is_made_again_and_nothing_is_lost",
    ),
    Mutant(
        "any table of the store is taken for a dead vacuum's",
        "engine/identity.py",
        "return (found.meta.uuid, found.meta.incarnation) == expected",
        "return found.meta.uuid == expected[0]",
        IDENTITY + "a_copy_of_the_table_in_its_place_is_no_vacuum_of_it",
    ),
    Mutant(
        "the file in the place of the log is overwritten",
        "engine/engine.py",
        'files.keep_aside(self.log.path, "replaced")',
        "pass",
        REPLACED + "a_file_in_the_place_of_the_log_is_kept",
    ),
    Mutant(
        "a copy is not synced",
        "engine/copying.py",
        "        osdep.sync_file(fd)\n",
        "",
        DURABLE,
    ),
    Mutant(
        "a rescue forgets what is in the log only",
        "engine/identity.py",
        "copy_closed(engine.table, destination, [(view.results, view.progress)])",
        "copy_closed(engine.table, destination)",
        NAMELESS + "[removed-closed at once]",
    ),
    Mutant(
        "a rescue leaves the log, for the table that will be there",
        "engine/identity.py",
        "        (engine.log.path, engine.log.identity),\n",
        "",
        REPLACED + "a_table_that_was_renamed_gets_everything_folded_into_it",
    ),
    Mutant(
        "a rescue removes what lies in the place of the own files",
        "engine/identity.py",
        "if files.identity(path) == mine:",
        "if True:",
        REPLACED + "a_side_file_that_goes_costs_nothing_and_ends_all_calls[-shm-replaced]",
    ),
    Mutant(
        "a table that was renamed is rescued as if it had no name",
        "engine/identity.py",
        "    if named is None:\n",
        "    if True:\n",
        REPLACED + "a_table_that_was_renamed_gets_everything_folded_into_it",
    ),
    Mutant(
        "a rescue that fails counts as done",
        "engine/opening.py",
        "    if not replaced:\n        raise error",
        "    if False:\n        raise error",
        REPLACED + "a_rescue_that_finds_no_space_is_tried_again",
    ),
    Mutant(
        "a process whose files were replaced keeps its presence locks",
        "engine/identity.py",
        "    let_go(engine)\n",
        "",
        IDENTITY + "a_process_that_lost_its_table_lets_others_open_the_path",
    ),
    Mutant(
        "a writer does not notice that the files were replaced",
        "engine/engine.py",
        "        if words[REPLACED]:\n            raise identity.replaced_error(self)\n"
        "        if words[INCARNATION]",
        "        if words[INCARNATION]",
        REPLACED + "all_processes_of_a_store_stop_and_one_rescues",
    ),
    Mutant(
        "a reader does not notice that the files were replaced",
        "engine/engine.py",
        "            if words[REPLACED]:\n",
        "            if False:\n",
        REPLACED + "a_side_file_that_goes_costs_nothing_and_ends_all_calls[-shm-removed]",
    ),
    Mutant(
        "a read of the table does not notice that the files were replaced",
        "engine/engine.py",
        "if self.header.words[REPLACED]:",
        "if False:",
        IDENTITY + "a_read_that_goes_past_the_log_says_that_the_table_was_replaced",
    ),
    Mutant(
        "a file is closed before LMDB has forgotten it",
        "engine/table.py",
        "            self._close_environment()\n            fd, self.fd = self.fd, -1\n",
        "            if self.fd >= 0:\n                files.close(self.fd)\n"
        "            fd = self.fd = -1\n            self._close_environment()\n",
        REPLACED + "closing_a_replaced_table_keeps_its_inode_until_lmdb_has_forgotten_it",
    ),
    Mutant(
        "an environment is closed while others are opened",
        "engine/table.py",
        "            with environments:\n                self._env.close()",
        "            if True:\n                self._env.close()",
        "engine/test_table.py::test_one_environment_at_a_time_is_opened_or_closed",
    ),
    Mutant(
        "an environment is opened while others are closed",
        "engine/table.py",
        "        with environments:\n            env = open_environment(self.path",
        "        if True:\n            env = open_environment(self.path",
        "engine/test_table.py::test_one_environment_at_a_time_is_opened_or_closed",
    ),
    # -- a table and a log that do not belong together
    Mutant(
        "a backup is taken for the table of a newer log",
        "engine/opening.py",
        "        if newest > meta.epoch - meta.clean:",
        "        if newest > meta.epoch - meta.clean and not meta.clean:",
        REPLACED + "a_table_older_than_its_log_is_refused[a backup-rw]",
    ),
    Mutant(
        "an older copy is taken for the table of a newer log",
        "engine/opening.py",
        "        if newest > meta.epoch - meta.clean:",
        "        if newest > meta.epoch - meta.clean and meta.clean:",
        REPLACED + "a_table_older_than_its_log_is_refused[a copy-rw]",
    ),
    Mutant(
        "a backup may be as old as the log's epoch",
        "engine/opening.py",
        "        if newest > meta.epoch - meta.clean:",
        "        if newest > meta.epoch:",
        IDENTITY + "a_backup_put_back_beside_a_log_that_went_on_is_refused",
    ),
    Mutant(
        "the log of another store is not kept",
        "engine/opening.py",
        "    if is_others or is_newer:\n",
        "    if is_newer:\n",
        REPLACED + "the_log_of_another_store_beside_a_closed_table_is_kept",
    ),
    Mutant(
        "a log that the user gives up is not kept",
        "engine/opening.py",
        "    if is_others or is_newer:\n",
        "    if is_others:\n",
        REPLACED + "a_table_older_than_its_log_is_refused[a copy-rw]",
    ),
    Mutant(
        "the name of a log that is kept is not synced",
        "engine/files.py",
        "osdep.sync_directory(os.path.dirname(path))",
        "pass",
        FILES + "the_name_of_a_file_that_is_kept_is_on_the_disk",
    ),
    # -- incarnations
    Mutant(
        "a process joins with a table that has been vacuumed meanwhile",
        "engine/opening.py",
        "                if (table.inode, table.meta.incarnation, incarnation) == (\n",
        "                if True or (table.inode, table.meta.incarnation, incarnation) == (\n",
        IDENTITY + "a_table_that_is_vacuumed_while_a_process_joins_is_opened_again",
    ),
    Mutant(
        "a reader takes over a table that is not published",
        "engine/engine.py",
        "if table.meta.incarnation == incarnation == self.header.words[INCARNATION]:",
        "if True:",
        IDENTITY + "a_reader_does_not_take_over_a_table_that_is_not_published",
    ),
    # -- opening files
    Mutant(
        "a symbolic link is followed",
        "engine/files.py",
        " | os.O_NOFOLLOW",
        "",
        REPLACED + "a_side_files_name_that_leads_elsewhere_is_never_followed[-shm-a link]",
    ),
    Mutant(
        "LMDB follows a symbolic link",
        "engine/lmdbfile.py",
        "if os.path.islink(path):",
        "if False:",
        IDENTITY + "a_link_in_the_place_of_the_lock_file_is_not_followed_by_a_process_that_joins",
    ),
    Mutant(
        "a pipe in the place of a file is waited for",
        "engine/files.py",
        " | os.O_NONBLOCK",
        "",
        REPLACED + "a_side_files_name_that_leads_elsewhere_is_never_followed[-log-a pipe]",
    ),
    Mutant(
        "a new file does not get the mode of the store",
        "engine/files.py",
        "os.fchmod(fd, mode)",
        "pass",
        REPLACED + "new_files_get_the_mode_of_the_store",
    ),
    Mutant(
        "a new file does not get the owner of the store",
        "engine/files.py",
        "os.fchown(fd, *ids)",
        "pass",
        FILES + "a_new_file_gets_the_owner_group_and_mode_of_another[as root]",
    ),
    Mutant(
        "a new file does not get the group of the store",
        "engine/files.py",
        "for ids in ((owner, group), (-1, group)):",
        "for ids in ((owner, group),):",
        FILES + "a_new_file_gets_the_owner_group_and_mode_of_another[as a user]",
    ),
    Mutant(
        "a file that is there gets the mode of the store",
        "engine/files.py",
        "if is_new and like is not None:",
        "if like is not None:",
        FILES + "a_file_that_is_there_keeps_its_mode",
    ),
    # -- the committer
    Mutant(
        "a lone writer whose commit raises keeps the lead",
        "engine/commit.py",
        "            finally:\n                try:\n"
        "                    lead.release()  # the first",
        "            except ArithmeticError:\n                pass\n            else:\n"
        "                try:\n                    lead.release()  # the first",
        COMMIT + "a_leader_whose_commit_raises_gives_the_lead_back[True]",
    ),
    Mutant(
        "a follower whose commit raises keeps the lead",
        "engine/commit.py",
        "                        self._lead_with(batch)\n                        continue\n"
        "                finally:\n",
        "                        self._lead_with(batch)\n"
        "                except ArithmeticError:\n                    pass\n"
        "                else:\n",
        COMMIT + "a_leader_whose_commit_raises_gives_the_lead_back[False]",
    ),
    Mutant(
        "a batch that was taken is committed twice",
        "engine/commit.py",
        "if batch.taken:",
        "if False:",
        COMMIT + "a_batch_that_was_taken_is_not_committed_again_though_its_leader_never_said_so",
    ),
    Mutant(
        "a follower is not told that it has been committed",
        "engine/commit.py",
        "        batch.done = True\n        _wake(batch)\n",
        "        batch.done = True\n",
        COMMIT + "a_follower_is_woken[with the group]",
    ),
    Mutant(
        "a leader leaves without waking the next one",
        "engine/commit.py",
        "_wake(self._queue[0])",
        "pass",
        COMMIT + "a_follower_is_woken[to lead]",
    ),
    Mutant(
        "a batch whose time is over stays in the queue",
        "engine/commit.py",
        "queue.remove(batch)",
        "pass",
        COMMIT + "a_follower_whose_time_is_over_leaves_the_queue_and_the_rest_goes_on",
    ),
    Mutant(
        "a write within a commit of the same thread is begun",
        "engine/commit.py",
        "if self.is_led_here():",
        "if False:",
        "engine/test_reentry.py::test_a_handler_that_writes_amid_a_write_is_refused_and_nothing_is_lost",
    ),
    # -- exclusive work
    Mutant(
        "exclusive work that raises keeps the commit lock",
        "engine/engine.py",
        "            return self._with_writer_lock(work, recover, timeout_s, deadline)\n"
        "        finally:\n            try:\n                lock.release()",
        "            value = self._with_writer_lock(work, recover, timeout_s, deadline)\n"
        "            lock.release()\n            return value\n"
        "        finally:\n            try:\n                pass",
        "engine/test_engine.py::test_exclusive_work_that_raises_keeps_no_lock",
    ),
    Mutant(
        "exclusive work that raises keeps the writer lock",
        "engine/engine.py",
        "            writer_lock.about_to_release()\n            return value\n        finally:\n"
        "            try:\n                osdep.flock(self.log.fd, osdep.LOCK_UN)",
        "            writer_lock.about_to_release()\n"
        "            osdep.flock(self.log.fd, osdep.LOCK_UN)\n            return value\n"
        "        finally:\n            try:\n                pass",
        "engine/test_engine.py::test_exclusive_work_that_raises_keeps_no_lock",
    ),
    # -- the shelter from signal handlers
    Mutant(
        "work is not sheltered",
        "engine/shelter.py",
        "    if not is_exposed():\n        return work()\n",
        "    if True:\n        return work()\n",
        SHELTER + "interrupted_work_is_done_to_its_end_and_its_value_discarded",
    ),
    Mutant(
        "the end of interrupted work is not waited for",
        "engine/shelter.py",
        "while not job.ended:",
        "while not job.ended and interrupt is None:",
        SHELTER + "interrupted_work_is_done_to_its_end_and_its_value_discarded",
    ),
    Mutant(
        "work that was given up is done all the same",
        "engine/shelter.py",
        "        if not self.claim.acquire(blocking=False):\n            return",
        "        if self.claim.acquire(blocking=False) is None:\n            return",
        SHELTER + "work_that_is_given_up_before_it_has_begun_is_never_done[error0]",
    ),
    Mutant(
        "work that was interrupted is done twice",
        "engine/shelter.py",
        "    if not job.ended and _is_of_start(interrupt):\n",
        "    if job.ended or _is_of_start(interrupt):\n",
        SHELTER + "interrupted_work_is_done_to_its_end_and_its_value_discarded",
    ),
    Mutant(
        "a handler's error is taken for a thread that cannot be started",
        "engine/shelter.py",
        "isinstance(exc, RuntimeError) and trace is not None and trace.tb_next is None",
        "isinstance(exc, RuntimeError) and trace is not None",
        SHELTER + "work_that_is_given_up_before_it_has_begun_is_never_done[error1]",
    ),
    Mutant(
        "an interrupt is swallowed",
        "engine/shelter.py",
        "    raise interrupt\n",
        "    return job.value  # type: ignore\n",
        SHELTER + "interrupted_work_is_done_to_its_end_and_its_value_discarded",
    ),
    Mutant(
        "the value of interrupted work is lost",
        "engine/shelter.py",
        "        sheltered(lambda: discard(value))\n",
        "        del value\n",
        SHELTER + "interrupted_work_is_done_to_its_end_and_its_value_discarded",
    ),
    Mutant(
        "a wait goes on when its caller was interrupted",
        "engine/shelter.py",
        "    if job is not None and job.interrupted:\n",
        "    if False:\n",
        SHELTER + "a_wait_within_interrupted_work_ends",
    ),
    # -- forks
    Mutant(
        "a child goes on with its parent's handles",
        "engine/registry.py",
        "slot.shared.engine.after_fork_in_child()",
        "pass",
        FORKS + "fork_while_threads_commit_read_and_compact",
    ),
    Mutant(
        "a child unlocks what its parent has locked",
        "engine/engine.py",
        "self.closed = self.forked = True",
        "self.closed = self.forked = True; osdep.unlock(self.presence_fd)",
        FORKS + "a_closed_handle_in_the_child_leaves_the_parents_locks",
    ),
    Mutant(
        "a fork does not wait for threads that are inside LMDB",
        "engine/table.py",
        "    while True:\n        for table in [table",
        "    while not environments.acquire():\n        for table in [table",
        FORKS + "fork_while_threads_commit_read_and_compact",
    ),
    Mutant(
        "the files that a child inherits are not closed",
        "engine/files.py",
        "    for fd in _open:\n        os.close(fd)\n",
        "",
        FILES + "a_child_has_no_file_of_the_store_open_from_the_beginning",
    ),
    Mutant(
        "no child closes what it inherits",
        "engine/files.py",
        "os.register_at_fork(after_in_child=close_inherited)",
        "pass",
        FILES + "a_child_has_no_file_of_the_store_open_from_the_beginning",
    ),
    Mutant(
        "a fork does not wait for readers of a table that was replaced",
        "engine/engine.py",
        "        self._retired.append(self.table)\n",
        "        from logstore.engine.table import _tables\n\n"
        "        _tables.discard(self.table)\n        self._retired.append(self.table)\n",
        REPLACED + "a_fork_while_a_replaced_table_is_read",
    ),
    # -- files, errors, the event loop, bounds
    Mutant(
        "the files of a dead peer stay",
        "engine/opening.py",
        '            osdep.remove(path + "-log")\n            _remove_leftovers(path)\n',
        '            osdep.remove(path + "-log")\n            osdep.remove(path + "-lock")\n',
        G + "g9_what_a_dead_peer_left_goes_too",
    ),
    Mutant(
        "all users may read the files",
        "engine/files.py",
        "MODE = 0o600\n",
        "MODE = 0o644\n",
        G + "g9_one_file_at_rest_and_known_files_while_open",
    ),
    Mutant(
        "a full disk is an error like any other",
        "engine/failures.py",
        "    if kind is _FULL:\n        return DiskFullError(\n",
        "    if False:\n        return DiskFullError(\n",
        FAULTS + "a_failing_call[commits-ENOSPC from then on]",
    ),
    Mutant(
        "the event loop reads the table",
        "aio.py",
        "entry = await self._found(key)",
        "entry = self._store.result_entry(key)",
        G + "g8_no_verb_touches_a_file_on_the_loop",
    ),
    Mutant(
        "values may be nested as deep as they like",
        "codec.py",
        "max_depth=_CBOR_DEPTH_MAX",
        "max_depth=1 << 30",
        G + "g10_hostile_bytes_are_refused_in_bounded_memory",
    ),
]
