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
        "            osdep.sync_directory(os.path.dirname(path))\n        table = Table(",
        "            pass\n        table = Table(",
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
        "engine/vacuum.py",
        "        osdep.sync_directory(os.path.dirname(destination))\n",
        "",
        DURABLE,
    ),
    Mutant(
        "nobody flushes progress",
        "engine/maintenance.py",
        "elif words[SYNCED] < committed:",
        "elif False:",
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
        "group[1:], self._queue = self._queue, []",
        "pass",
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
        "            if view.epoch == copy.meta.epoch:\n",
        "            if True:\n",
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
        "(words[WRITING] and now - since >= STILL_S)",
        "words[WRITING]",
        "engine/test_maintenance.py::"
        "test_a_write_that_is_under_way_is_left_alone_and_one_that_stands_still_recovered",
    ),
    Mutant(
        "two vacuums at a time",
        "engine/vacuum.py",
        "        if words[VACUUM] and not engine.vacuum_is_dead():\n",
        "        if False:\n",
        VACUUM + "one_vacuum_at_a_time",
    ),
    Mutant(
        "whoever closes takes itself for the last one",
        "engine/opening.py",
        '            alone = osdep.try_lock(fd) and _is_at(fd, path + "-shm")\n',
        "            alone = True\n",
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
        "who opens alone keeps no presence lock",
        "engine/opening.py",
        "                osdep.try_lock(fd, shared=True)\n                and _is_at",
        "                not osdep.unlock(fd)\n                and _is_at",
        G + "g9_one_file_at_rest_and_known_files_while_open",
    ),
    # -- forks
    Mutant(
        "a child goes on with its parent's handles",
        "engine/registry.py",
        "        shared.engine.after_fork_in_child()\n",
        "        pass\n",
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
        "a fork does not wait for a commit",
        "engine/registry.py",
        "    for shared in _open.values():\n        shared.engine.before_fork()\n",
        "    for shared in _open.values():\n        shared.engine.commit_lock.acquire(timeout=0)\n"
        "        shared.engine.view_lock.acquire()\n        shared.engine.table.hold_reads()\n",
        FORKS + "fork_while_threads_commit_read_and_compact",
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
        "everybody may read the files",
        "engine/log.py",
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
