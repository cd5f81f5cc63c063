"""Faults of the files: which process is present on them, and whether they are the store's."""

from __future__ import annotations

from fuzz.mutant_lists.mutant import Mutant

REPLACED = "test_replaced_files.py::test_"
IDENTITY = "_engine/test_identity.py::test_"
FILES = "_engine/test_files.py::test_"
PRESENT = IDENTITY + "a_process_that_has_the_table_open_is_present_on_it"
NAMELESS = REPLACED + "a_table_without_a_name_is_rescued"

MUTANTS = [
    # -- the presence lock on the table
    Mutant(
        "a process that joins takes no presence lock on the table",
        "_engine/table.py",
        "if not locks.try_lock(self.fd, shared=True):",
        "if False:",
        PRESENT + "[comes_alone-joined]",
    ),
    Mutant(
        "a process that joins does not ask whether another is alone with the table",
        "_engine/table.py",
        "if not locks.try_lock(self.fd, shared=True):",
        "if locks.try_lock(self.fd, shared=True) is None:",
        IDENTITY + "a_process_does_not_join_while_another_is_alone_with_the_table",
    ),
    Mutant(
        "a process that opens alone keeps no presence lock on the table",
        "_engine/opening.py",
        "                locks.try_lock(table_fd, shared=True)\n",
        "                not locks.unlock(table_fd)\n",
        PRESENT + "[comes_alone-alone]",
    ),
    Mutant(
        "a process takes itself for alone beside one that is present on the table",
        "_engine/presence.py",
        "if locks.try_lock(fd) and files.is_at(fd, path):",
        "if files.is_at(fd, path):",
        PRESENT + "[comes_alone-alone]",
    ),
    Mutant(
        "a process that closes does not ask who is present on the table",
        "_engine/closing.py",
        "            and wait_for_table(engine.table.fd)\n",
        "",
        IDENTITY + "a_process_that_closes_beside_one_on_the_table_alone_is_not_the_last",
    ),
    Mutant(
        "a vacuum renames a file on which it is not present",
        "_engine/vacuum.py",
        "locks.try_lock(fd, shared=True)",
        "locks.unlock(fd)",
        IDENTITY + "a_vacuumed_file_is_locked_from_the_moment_it_is_the_table",
    ),
    # -- the identity of the files
    Mutant(
        "a compaction does not look at the files",
        "_engine/engine.py",
        "        identity.verify(self)\n        self.fold_unverified(extra",
        "        self.fold_unverified(extra",
        IDENTITY + "a_compaction_finds_that_the_table_was_replaced",
    ),
    Mutant(
        "a recovery does not look at the files",
        "_engine/engine.py",
        "        identity.verify(self)\n        if files.identity",
        "        if files.identity",
        IDENTITY + "a_recovery_finds_that_the_table_was_replaced",
    ),
    Mutant(
        "a vacuum does not look what it renames its file over",
        "_engine/vacuum.py",
        "    identity.verify(engine)\n",
        "",
        IDENTITY + "a_vacuum_puts_its_file_over_the_own_table_only",
    ),
    Mutant(
        "a process that closes does not look at the files",
        "_engine/closing.py",
        "        identity.verify(engine)\n",
        "",
        IDENTITY + "closing_beside_another_process_finds_that_the_table_was_replaced",
    ),
    Mutant(
        "the maintenance thread does not look at the files",
        "_engine/maintenance.py",
        "if identity.is_suspect(engine):",
        "if False:",
        REPLACED + "a_process_that_only_reads_notices_too",
    ),
    Mutant(
        "the header's identity is not compared",
        "_engine/identity.py",
        'if files.identity(path + "-shm") != files.identity(engine.presence_fd):',
        "if False:",
        IDENTITY + "a_compaction_finds_that_a_side_file_was_removed[-shm]",
    ),
    Mutant(
        "a log that is gone is written further",
        "_engine/identity.py",
        "engine.header.log_failed = 1",
        "pass",
        REPLACED + "a_log_that_is_removed_is_made_again_and_nothing_is_lost",
    ),
    Mutant(
        "any table of the store is taken for a dead vacuum's",
        "_engine/identity.py",
        "return (found.meta.uuid, found.meta.incarnation) == expected",
        "return found.meta.uuid == expected[0]",
        IDENTITY + "a_copy_of_the_table_in_its_place_is_no_vacuum_of_it",
    ),
    Mutant(
        "the file in the place of the log is overwritten",
        "_engine/engine.py",
        'files.keep_aside(log.path, "replaced")',
        "pass",
        REPLACED + "a_file_in_the_place_of_the_log_is_kept",
    ),
    Mutant(
        "a copy is not synced",
        "_engine/closedcopy.py",
        "        durability.sync_file(fd)\n",
        "",
        "_engine/test_closedcopy.py::"
        "test_a_copy_is_on_the_disk_before_it_gets_its_name_and_its_name_after",
    ),
    Mutant(
        "a copy overwrites a file",
        "_engine/closedcopy.py",
        "os.link(temporary, destination)",
        "os.replace(temporary, destination), os.link(destination, temporary)",
        "_engine/test_closedcopy.py::test_a_copy_never_overwrites_a_file",
    ),
    Mutant(
        "a rescue forgets what is in the log only",
        "_engine/identity.py",
        "engine.table.copy_to, engine.overlay)",
        "engine.table.copy_to, Overlay(engine.overlay.epoch))",
        NAMELESS + "[removed-closed at once]",
    ),
    Mutant(
        "a rescue leaves the log, for the table that will be there",
        "_engine/identity.py",
        "        *((log.path, log.identity) for log in engine.logs.both),\n",
        "",
        REPLACED + "a_table_that_was_renamed_gets_everything_folded_into_it",
    ),
    Mutant(
        "a rescue removes what lies in the place of the own files",
        "_engine/identity.py",
        "if files.identity(path) == mine:",
        "if True:",
        REPLACED + "a_side_file_that_goes_costs_nothing_and_ends_all_calls[-shm-replaced]",
    ),
    Mutant(
        "a table that was renamed is rescued as if it had no name",
        "_engine/identity.py",
        "    if named is None:\n",
        "    if True:\n",
        REPLACED + "a_table_that_was_renamed_gets_everything_folded_into_it",
    ),
    Mutant(
        "a rescue that fails counts as done",
        "_engine/closing.py",
        "    if not replaced:\n        raise error",
        "    if False:\n        raise error",
        REPLACED + "a_rescue_that_finds_no_space_is_tried_again",
    ),
    Mutant(
        "a process whose files were replaced keeps its presence locks",
        "_engine/identity.py",
        "    locks.unlock(engine.presence_fd)\n    if engine.table.fd >= 0:\n"
        "        locks.unlock(engine.table.fd)\n",
        "    pass\n",
        IDENTITY + "a_process_that_lost_a_file_lets_others_open_the_path[-shm]",
    ),
    Mutant(
        "a writer does not notice that the files were replaced",
        "_engine/engine.py",
        "        if header.replaced:\n            raise identity.replaced_error(self)\n"
        "        if header.log_id",
        "        if header.log_id",
        REPLACED + "all_processes_of_a_store_stop_and_one_rescues",
    ),
    Mutant(
        "a reader does not notice that the files were replaced",
        "_engine/engine.py",
        "            if header.replaced:\n",
        "            if False:\n",
        REPLACED + "a_side_file_that_goes_costs_nothing_and_ends_all_calls[-shm-removed]",
    ),
    Mutant(
        "a read of the table does not notice that the files were replaced",
        "_engine/engine.py",
        "if self.header.replaced:",
        "if False:",
        IDENTITY + "a_read_that_goes_past_the_log_says_that_the_table_was_replaced",
    ),
    Mutant(
        "a file is closed before LMDB has forgotten it",
        "_engine/table.py",
        "            self._close_environment()\n            self._give_slot_back()\n"
        "            fd, self.fd = self.fd, -1\n",
        "            if self.fd >= 0:\n                files.close(self.fd)\n"
        "            fd = self.fd = -1\n            self._close_environment()\n"
        "            self._give_slot_back()\n",
        "_engine/test_vacuum.py::"
        "test_closing_a_replaced_table_keeps_its_inode_until_lmdb_has_forgotten_it",
    ),
    Mutant(
        "an environment is closed while others are opened",
        "_engine/table.py",
        "            with environments:\n                self._env.close()",
        "            if True:\n                self._env.close()",
        "_engine/test_table.py::test_one_environment_at_a_time_is_opened_or_closed",
    ),
    Mutant(
        "an environment is opened while others are closed",
        "_engine/table.py",
        "        with environments:\n            env = open_environment(self.path",
        "        if True:\n            env = open_environment(self.path",
        "_engine/test_table.py::test_one_environment_at_a_time_is_opened_or_closed",
    ),
    # -- incarnations
    Mutant(
        "a table is taken over that has been vacuumed meanwhile",
        "_engine/identity.py",
        "if found == published and published[:2] == (header.incarnation, header.table_inode):",
        "if True:",
        IDENTITY + "a_reader_does_not_take_over_a_table_that_is_not_published",
    ),
    Mutant(
        "a table is taken over before it is published",
        "_engine/identity.py",
        "found = (table.meta.incarnation, table.inode, table.meta.uuid)",
        "found = (*published[:2], table.meta.uuid)",
        IDENTITY + "a_reader_does_not_take_over_a_table_that_is_not_published",
    ),
    # -- opening files
    Mutant(
        "a symbolic link is followed",
        "_engine/files.py",
        " | os.O_NOFOLLOW",
        "",
        FILES + "a_symbolic_link_is_not_opened",
    ),
    Mutant(
        "a pipe in the place of a file is waited for",
        "_engine/files.py",
        " | os.O_NONBLOCK",
        "",
        REPLACED + "a_side_files_name_that_leads_elsewhere_is_never_followed[-log-a pipe]",
    ),
    Mutant(
        "a new file does not get the mode of the store",
        "_engine/files.py",
        "os.fchmod(fd, mode)",
        "pass",
        REPLACED + "new_files_get_the_mode_of_the_store",
    ),
    Mutant(
        "a new file does not get the owner of the store",
        "_engine/files.py",
        "os.fchown(fd, *ids)",
        "pass",
        FILES + "a_new_file_gets_the_owner_group_and_mode_of_another[as root]",
    ),
    Mutant(
        "a new file does not get the group of the store",
        "_engine/files.py",
        "for ids in ((owner, group), (-1, group)):",
        "for ids in ((owner, group),):",
        FILES + "a_new_file_gets_the_owner_group_and_mode_of_another[as a user]",
    ),
    Mutant(
        "a file that is there gets the mode of the store",
        "_engine/files.py",
        "if is_new and like is not None:",
        "if like is not None:",
        FILES + "a_file_that_is_there_keeps_its_mode",
    ),
]
