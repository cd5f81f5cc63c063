"""Faults of what is checked before it is believed, and of limits."""

from __future__ import annotations

from fuzz.mutant_lists.mutant import Mutant

G = "test_guarantees.py::test_"
FAULTS = "crash/test_faults.py::test_"
REPLACED = "test_replaced_files.py::test_"
IDENTITY = "_engine/test_identity.py::test_"
FILES = "_engine/test_files.py::test_"
CHAINS = "_engine/test_chains.py::test_"
UPGRADE = "_engine/test_upgrade.py::test_"

MUTANTS = [
    # -- checks
    Mutant(
        "a frame's checksum is not compared",
        "_engine/frames.py",
        "    if zlib.crc32(memoryview(data)[at + 4 : end], seed) != crc:\n        return None\n",
        "",
        G + "g6_a_damaged_frame_that_was_acked_is_an_error_at_opening",
    ),
    Mutant(
        "a frame's checksum does not know its store",
        "_engine/frames.py",
        "    return zlib.crc32(uuid)",
        "    return 0",
        "_engine/test_frames.py::test_a_frame_of_another_store_does_not_check",
    ),
    Mutant(
        "a frame's epoch is not compared",
        "_engine/frames.py",
        "        frame_epoch != epoch\n        or length",
        "        length",
        G + "g5_frames_of_an_older_epoch_stay_dead",
    ),
    Mutant(
        "a frame's key may be longer than any key",
        "_engine/frames.py",
        "        or not 0 < key_length <= KEY_BYTES_MAX\n",
        "        or not 0 < key_length\n",
        "_engine/test_frames.py::test_a_frame_with_a_key_over_the_limit_is_not_found",
    ),
    Mutant(
        "a frame's time may be beyond any that can be shown",
        "_engine/frames.py",
        "not 0 < time_us <= TIME_MAX",
        "False",
        "test_forged.py::test_a_forged_frame_is_a_torn_tail",
    ),
    Mutant(
        "a frame's key may be any bytes",
        "_engine/frames.py",
        "if not is_text(key):",
        "if False:",
        "test_forged.py::test_a_forged_frame_is_a_torn_tail",
    ),
    Mutant(
        "a record's key may be any bytes",
        "_engine/records.py",
        "not is_text(key)",
        "False",
        "test_forged.py::test_a_forged_record_is_damage_of_its_task_alone",
    ),
    Mutant(
        "times go on behind the last one",
        "_engine/groups.py",
        "if time_us > TIME_MAX:",
        "if False:",
        "test_forged.py::test_behind_the_last_time_writing_is_refused_and_reading_goes_on",
    ),
    Mutant(
        "a damaged time in an index is the newest",
        "_engine/table.py",
        "while placed and TIME.unpack(cursor.key())[0] > TIME_MAX:",
        "while False:",
        "test_forged.py::test_a_damaged_time_in_an_index_does_not_end_all_writing",
    ),
    Mutant(
        "a record's checksum is not compared",
        "_engine/records.py",
        "if found != crc:",
        "if False:",
        G + "g6_a_damaged_record_is_an_error_and_the_rest_works",
    ),
    Mutant(
        "damage below what was synced counts as a torn tail",
        "_engine/frames.py",
        "        elif frame.synced_through > bad:\n            return frame\n",
        "",
        G + "g6_a_damaged_frame_that_was_acked_is_an_error_at_opening",
    ),
    Mutant(
        "a torn tail counts as damage",
        "_engine/frames.py",
        "        elif frame.synced_through > bad:\n            return frame\n",
        "        else:\n            return frame\n",
        "_engine/test_frames.py::"
        "test_damage_before_a_frame_that_was_not_flushed_behind_it_is_a_torn_tail",
    ),
    Mutant(
        "a live reader does not notice a damaged frame",
        "_engine/logview.py",
        "if whole_to != end:",
        "if False:",
        G + "g6_a_damaged_frame_is_an_error_for_a_live_reader",
    ),
    Mutant(
        "the header of an earlier boot is trusted",
        "_engine/header.py",
        "            and (self.boot_low, self.boot_high) == _halves(system.boot_id())\n",
        "",
        "_engine/test_header.py::test_a_header_of_an_earlier_boot_is_not_live",
    ),
    Mutant(
        "a log of a later version is salvaged",
        "_engine/salvage.py",
        "if header is not None:",
        "if False:",
        "test_bad_input.py::test_a_log_of_a_later_format_is_refused_and_untouched",
    ),
    Mutant(
        "a salvage lets LMDB near damaged pages",
        "_engine/salvage.py",
        "            verify_pages(path)",
        "            pass",
        "test_bad_input.py::"
        "test_salvage_beside_a_damaged_table_touches_nothing[all below the roots]",
    ),
    Mutant(
        "a log of another store is taken",
        "_engine/log.py",
        "if header.uuid != uuid:",
        "if False:",
        "_engine/test_log.py::test_opening_the_log_of_another_store_names_both",
    ),
    # -- format version 2
    Mutant(
        "a frame of a later kind is taken for a torn tail",
        "_engine/frames.py",
        "    if kind > KIND_MAX or (rare",
        "    if kind > KIND_MAX:\n        return None\n    if (rare",
        CHAINS + "a_frame_of_a_later_version_is_refused_and_untouched[False-6-0]",
    ),
    Mutant(
        "flags of a later version are not looked at",
        "_engine/frames.py",
        "    if kind > KIND_MAX or (rare",
        "    if kind > KIND_MAX or (False",
        CHAINS + "a_frame_of_a_later_version_is_refused_and_untouched[False-1-64]",
    ),
    Mutant(
        "a chain without an end counts as far as it goes",
        "_engine/frames.py",
        "        if not frame.more:\n            end, count",
        "        if True:\n            end, count",
        CHAINS + "a_chain_without_its_end_is_absent_as_a_whole[38-1]",
    ),
    Mutant(
        "a salvage takes the beginning of a chain",
        "_engine/salvage.py",
        "frames.find_chains(",
        "frames.find_frames(",
        CHAINS + "a_chain_whose_middle_is_damaged_below_a_flush_is_an_error_and_not_salvaged",
    ),
    Mutant(
        "a search joins frames with damage between them into a chain",
        "_engine/frames.py",
        "        if chain and chain[-1].end != frame.offset:\n            chain.clear()\n",
        "",
        CHAINS + "a_chain_whose_middle_is_damaged_below_a_flush_is_an_error_and_not_salvaged",
    ),
    Mutant(
        "a flush in the middle of a chain proves damage behind it",
        "_engine/frames.py",
        "            bad = frame.end\n",
        "            pass\n",
        "_engine/test_frames.py::test_a_flush_in_the_middle_of_a_chain_proves_nothing_of_its_rest",
    ),
    Mutant(
        "the flag of a chain goes into the table",
        "_engine/frames.py",
        "flags & _ENTRY_FLAGS, time_us",
        "flags, time_us",
        CHAINS + "a_whole_chain_in_the_middle_of_the_log_is_recovered[rw]",
    ),
    Mutant(
        "the start of an arena is a task",
        "_engine/frames.py",
        " for frame in frames if frame.entry.kind != START]",
        " for frame in frames]",
        CHAINS + "a_start_is_no_task_and_an_end_of_a_result_is_one",
    ),
    Mutant(
        "features are not looked at",
        "_engine/table.py",
        "        if unknown:\n",
        "        if False:\n",
        "test_bad_input.py::test_a_table_with_features_that_are_not_known_is_refused_and_untouched",
    ),
    # -- the upgrade
    Mutant(
        "a fold keeps the version of the table",
        "_engine/compaction.py",
        "            version=FORMAT_VERSION,\n",
        "",
        UPGRADE + "opening_an_old_store_alone_upgrades_it[crashed]",
    ),
    Mutant(
        "an old log stays",
        "_engine/recovery.py",
        "            logs = Logs.create(path, meta.uuid, arena_bytes(options))\n    except",
        "            if meta.version < FORMAT_VERSION:\n"
        "                logs = Logs.open(path, meta.uuid)\n            else:\n"
        "                logs = Logs.create(path, meta.uuid, arena_bytes(options))\n    except",
        UPGRADE + "opening_an_old_store_alone_upgrades_it[crashed]",
    ),
    Mutant(
        "an old log is replaced before it is folded",
        "_engine/recovery.py",
        "            Logs.create_odd(path, meta.uuid, arena_bytes(options))\n",
        "            Logs.create(path, meta.uuid, arena_bytes(options)).close()\n",
        UPGRADE + "an_old_store_whose_fold_fails_is_as_it_was",
    ),
    Mutant(
        "a log of the version before is refused",
        "_engine/log.py",
        "if not frames.OLDEST_VERSION <= header.version <= frames.FORMAT_VERSION:",
        "if header.version != frames.FORMAT_VERSION:",
        UPGRADE + "an_old_store_with_a_torn_log_is_upgraded_without_the_torn_frame",
    ),
    Mutant(
        "a store that an older version has open is joined",
        "_engine/joining.py",
        "if table is not None and table.meta.version != FORMAT_VERSION:",
        "if False:",
        UPGRADE + "a_store_that_an_older_version_has_open_is_not_joined[rw]",
    ),
    # -- a table and a log that do not belong together
    Mutant(
        "a backup is taken for the table of a newer log",
        "_engine/recovery.py",
        "    return log.newest > meta.epoch - meta.clean",
        "    return not meta.clean and log.newest > meta.epoch",
        REPLACED + "a_table_older_than_its_log_is_refused[a backup-rw]",
    ),
    Mutant(
        "an older copy is taken for the table of a newer log",
        "_engine/recovery.py",
        "    return log.newest > meta.epoch - meta.clean",
        "    return meta.clean and log.newest >= meta.epoch",
        REPLACED + "a_table_older_than_its_log_is_refused[a copy-rw]",
    ),
    Mutant(
        "a backup may be as old as the log's epoch",
        "_engine/recovery.py",
        "    return log.newest > meta.epoch - meta.clean",
        "    return log.newest > meta.epoch",
        IDENTITY + "a_backup_put_back_beside_a_log_that_went_on_is_refused",
    ),
    Mutant(
        "a salvage goes on with a table that is older than its log",
        "_engine/salvage.py",
        "    newest = refuse_older(path, meta)  # what",
        "    newest = dict.fromkeys(logs, 0)  # what",
        REPLACED + "a_table_older_than_its_log_is_refused[a copy-rw]",
    ),
    Mutant(
        "the log of another store is not kept",
        "_engine/recovery.py",
        "if header is not None and header.uuid != meta.uuid:",
        "if False:",
        REPLACED + "the_log_of_another_store_beside_a_closed_table_is_kept",
    ),
    Mutant(
        "a log that the user gives up is not kept",
        "_engine/recovery.py",
        "    if is_newer:\n",
        "    if False:\n",
        REPLACED + "a_table_older_than_its_log_is_refused[a copy-rw]",
    ),
    Mutant(
        "the name of a log that is kept is not synced",
        "_engine/files.py",
        "durability.sync_directory(os.path.dirname(path))",
        "pass",
        FILES + "the_name_of_a_file_that_is_kept_is_on_the_disk",
    ),
    # -- files, errors, the event loop, bounds
    Mutant(
        "the files of a dead peer stay",
        "_engine/closing.py",
        "            remove_leftovers(path)\n",
        "",
        G + "g9_what_a_dead_peer_left_goes_too",
    ),
    Mutant(
        "all users may read the files",
        "_engine/files.py",
        "MODE = 0o600\n",
        "MODE = 0o644\n",
        G + "g9_one_file_at_rest_and_known_files_while_open",
    ),
    Mutant(
        "a full disk is an error like any other",
        "_engine/systemerrors.py",
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
        "_codec/values.py",
        "max_depth=_CBOR_DEPTH_MAX",
        "max_depth=1 << 30",
        G + "g10_hostile_bytes_are_refused_in_bounded_memory",
    ),
]
