"""Faults between threads and processes: locks, the commit queue, signal handlers, forks."""

from __future__ import annotations

from fuzz.mutant_lists.mutant import Mutant

G = "test_guarantees.py::test_"
PROCESSES = "crash/test_processes.py::test_"
FORKS = "crash/test_fork.py::test_"
VACUUM = "crash/test_vacuum.py::test_"
REPLACED = "test_replaced_files.py::test_"
COMMIT = "_engine/test_commitqueue.py::test_"
SHELTER = "_engine/test_shelter.py::test_"
FILES = "_engine/test_files.py::test_"
READERS = "_engine/test_readers.py::test_"
BESIDE_FOLDS = (
    "_engine/test_beside_folds.py::test_readers_of_all_processes_get_whole_values_beside_folds"
)

MUTANTS = [
    # -- readers
    Mutant(
        "a fold does not wait for readers",
        "_engine/readers.py",
        "            if not left:\n",
        "            if True:\n",
        BESIDE_FOLDS + "[folds]",
    ),
    Mutant(
        "a reader does not look whether a commit was under way when it began",
        "_engine/table.py",
        "if not sequence & 1:",
        "if True:",
        BESIDE_FOLDS + "[folds]",
    ),
    Mutant(
        "a reader does not look whether there was a commit while it began",
        "_engine/table.py",
        "if before == self._sequence == words[SEQUENCE]:",
        "if before == self._sequence:",
        READERS + "a_reader_begins_again_if_there_is_a_commit_while_it_begins[its snapshot]",
    ),
    Mutant(
        "a reader that does not know its snapshot does not look for a commit either",
        "_engine/table.py",
        "            if words[SEQUENCE] == sequence:\n                if not sequence",
        "            if True:\n                if not sequence",
        READERS + "a_reader_begins_again_if_there_is_a_commit_while_it_begins[nothing]",
    ),
    Mutant(
        "a commit leaves the sequence as it is",
        "_engine/readers.py",
        "(words[SEQUENCE] + 1 | 1) & _WORD_MAX",
        "words[SEQUENCE]",
        READERS + "the_next_commit_moves_a_sequence_that_a_dead_process_has_left",
    ),
    Mutant(
        "a commit after a dead one makes the sequence even",
        "_engine/readers.py",
        "(words[SEQUENCE] + 1 | 1) & _WORD_MAX",
        "(words[SEQUENCE] + 1) & _WORD_MAX",
        READERS + "the_next_commit_moves_a_sequence_that_a_dead_process_has_left",
    ),
    Mutant(
        "a reader shows what is not on the disk",
        "_engine/table.py",
        "if has_new and not self._readers.wait_for_commit(sequence):",
        "if False:",
        READERS + "a_reader_sees_what_the_log_does_not_have_only_when_it_is_on_the_disk[True]",
    ),
    Mutant(
        "a reader does not put on the disk what a dead process has committed",
        "_engine/table.py",
        "                    durability.sync_data(self.fd)\n                time",
        "                    pass\n                time",
        READERS + "a_reader_sees_what_the_log_does_not_have_only_when_it_is_on_the_disk[False]",
    ),
    Mutant(
        "the next commit does not put on the disk what a dead process has committed",
        "_engine/table.py",
        "if readers.is_cut_short():",
        "if False:",
        READERS + "the_next_commit_first_puts_on_the_disk_what_a_dead_process_has_committed",
    ),
    Mutant(
        "a large record may be seen before it is on the disk",
        "_engine/engine.py",
        "has_new = extra is not None",
        "has_new = False",
        READERS + "only_a_fold_of_what_the_log_has_on_the_disk_is_seen_at_once",
    ),
    Mutant(
        "a reader's slot does not say which snapshot it has",
        "_engine/table.py",
        "words[slot] = self._shown = self._table | snapshot",
        "words[slot] = self._table",
        READERS + "a_table_is_opened_as_by_a_reader_of_any_table",
    ),
    Mutant(
        "a slot is not cleared",
        "_engine/table.py",
        "                    self._words[self._slot] = 0\n            except",
        "                    pass\n            except",
        "_engine/test_table.py::test_no_read_transaction_outlives_a_read",
    ),
    Mutant(
        "a fold waits for the readers of another table",
        "_engine/readers.py",
        "word & ~_SNAPSHOT_MAX in (table, ANY_TABLE) and",
        "",
        READERS + "only_readers_of_an_old_snapshot_of_the_table_are_waited_for",
    ),
    Mutant(
        "a fold does not wait for a table that is being opened",
        "_engine/readers.py",
        "in (table, ANY_TABLE)",
        "in (table,)",
        READERS + "only_readers_of_an_old_snapshot_of_the_table_are_waited_for",
    ),
    Mutant(
        "a fold waits for readers of the newest snapshot",
        "_engine/readers.py",
        "_SNAPSHOT_MAX < newest",
        "_SNAPSHOT_MAX <= newest",
        READERS + "only_readers_of_an_old_snapshot_of_the_table_are_waited_for",
    ),
    Mutant(
        "a fold waits for the dead",
        "_engine/readers.py",
        "if _is_older(self.words[index], table, newest) and not self._clear_if_dead(index)",
        "if _is_older(self.words[index], table, newest)",
        READERS + "a_dead_reader_is_not_waited_for_and_its_slot_is_cleared",
    ),
    Mutant(
        "the process itself is taken for dead",
        "_engine/readers.py",
        "if index in self._mine or not self._try_lock(index):",
        "if not self._try_lock(index):",
        READERS + "the_threads_of_the_process_itself_are_waited_for",
    ),
    Mutant(
        "a forked child gives its parent's slot back",
        "_engine/table.py",
        "table.fd = table._slot = -1",
        "table.fd = -1",
        READERS + "a_forked_child_neither_holds_nor_frees_the_slots_of_its_parent",
    ),
    Mutant(
        "a slot keeps what a dead process has left",
        "_engine/readers.py",
        "                    self.words[index] = 0  # of a process that died\n",
        "",
        READERS + "a_slot_that_was_given_back_or_whose_process_has_ended_is_used_again",
    ),
    Mutant(
        "a fork waits for a fold that waits for readers",
        "_engine/table.py",
        "        readers.wait_for_old(self.path, self._table, newest, wait_s)  # a fork does not\n"
        "        with self._writing:\n",
        "        with self._writing:\n"
        "            readers.wait_for_old(self.path, self._table, newest, wait_s)\n",
        READERS + "a_fork_does_not_wait_for_a_fold_that_waits_for_readers",
    ),
    Mutant(
        "a fold that was put off leaves the store to be recovered",
        "_engine/engine.py",
        "            header.writing = was_writing\n",
        "            pass\n",
        READERS + "a_compaction_that_is_asked_for_says_why_it_cannot_be_had",
    ),
    Mutant(
        "a fold that was put off is tried again at once",
        "_engine/sealing.py",
        "        engine.deferral.put_off()\n",
        "",
        READERS + "a_fold_that_was_put_off_is_tried_again_only_after_a_while",
    ),
    Mutant(
        "a compaction that was put off is tried again at once",
        "_engine/engine.py",
        "            self.deferral.put_off()\n",
        "",
        READERS + "a_compaction_that_was_put_off_is_tried_again_only_after_a_while",
    ),
    # -- locks
    Mutant(
        "the writer lock is not taken",
        "_engine/writerlock.py",
        "if locks.try_lock_byte(self._lock_fd, locks.WRITER):",
        "if True:",
        PROCESSES + "a_stopped_lock_holder",
    ),
    Mutant(
        "a writer does not open the logs that another process has made",
        "_engine/engine.py",
        "        if header.log_id != self.logs.log_id:\n            with",
        "        if False:\n            with",
        "_engine/test_moments.py::test_a_log_that_a_peer_has_replaced_is_opened_by_the_next_write",
    ),
    Mutant(
        "a waiter that is slow to wake up misses its turn",
        "_engine/writerlock.py",
        "patience_s = min(max(FAIRNESS_S_MIN, self._held_s), FAIRNESS_S_MAX)",
        "patience_s = FAIRNESS_S_MIN",
        "_engine/test_writerlock.py::"
        "test_the_last_holder_lets_a_waiter_go_first_for_as_long_as_it_held_the_lock",
    ),
    Mutant(
        "a release wakes no waiter",
        "_engine/writerlock.py",
        "            header.releases.wake()\n",
        "            pass\n",
        "_engine/test_writerlock.py::test_who_waits_is_woken_by_the_release",
    ),
    Mutant(
        "the maintenance thread is in the way of writers that make progress",
        "_engine/maintenance.py",
        "(header.writing and now - self._since >= STILL_S)",
        "header.writing",
        "_engine/test_maintenance.py::"
        "test_a_write_that_is_under_way_is_left_alone_and_one_that_makes_no_progress_recovered",
    ),
    Mutant(
        "a writer opens a vacuum's table while a reader opens it",
        "_engine/engine.py",
        "with self.view_lock:  # LMDB must not",
        "if True:  # LMDB must not",
        "_engine/test_vacuum.py::test_a_reader_and_a_writer_follow_anothers_vacuum_at_once",
    ),
    Mutant(
        "two vacuums at a time",
        "_engine/vacuum.py",
        'if is_taken(engine, "vacuum", temporary):',
        "if False:",
        VACUUM + "one_vacuum_at_a_time",
    ),
    Mutant(
        "a process that closes takes itself for the last one",
        "_engine/closing.py",
        "        if alone:\n            engine.fold(clean=True,",
        "        alone = True\n        if alone:\n            engine.fold(clean=True,",
        G + "g9_one_file_at_rest_and_known_files_while_open",
    ),
    Mutant(
        "a presence lock counts on a file that has gone",
        "_engine/opening.py",
        '        if not files.is_at(fd, path + "-shm"):\n            return None\n',
        "",
        "_engine/test_opening.py::test_an_opener_that_is_overtaken_begins_again",
    ),
    Mutant(
        "a process that opens alone keeps no presence lock on the header",
        "_engine/opening.py",
        "                and locks.try_lock(fd, shared=True)\n",
        "                and not locks.unlock(fd)\n",
        G + "g9_one_file_at_rest_and_known_files_while_open",
    ),
    Mutant(
        "each handle of a file has an engine of its own",
        "_engine/registry.py",
        "            shared.handles += 1\n            return lease\n",
        "            shared.handles += 1\n",
        "_engine/test_registry.py::test_a_store_is_opened_once_however_many_handles_there_are",
    ),
    Mutant(
        "the first of two handles that is closed closes the engine",
        "_engine/registry.py",
        "if shared.handles > 1:",
        "if False:",
        "test_store.py::test_one_of_two_handles_may_close_first",
    ),
    Mutant(
        "a store that could not be closed is forgotten",
        "_engine/registry.py",
        "if shared.engine.closed:",
        "if True:",
        "test_replaced_files.py::"
        "test_a_rescue_that_found_no_space_is_tried_again_when_the_interpreter_ends",
    ),
    # -- the commit queue
    Mutant(
        "a lone writer whose commit raises keeps the lead",
        "_engine/commitqueue.py",
        "            finally:\n                try:\n"
        "                    lead.release()  # the first",
        "            except ArithmeticError:\n                pass\n            else:\n"
        "                try:\n                    lead.release()  # the first",
        COMMIT + "a_leader_whose_commit_raises_gives_the_lead_back[True]",
    ),
    Mutant(
        "a follower whose commit raises keeps the lead",
        "_engine/commitqueue.py",
        "                        self._lead_with(batch)\n                        continue\n"
        "                finally:\n",
        "                        self._lead_with(batch)\n"
        "                except ArithmeticError:\n                    pass\n"
        "                else:\n",
        COMMIT + "a_leader_whose_commit_raises_gives_the_lead_back[False]",
    ),
    Mutant(
        "a batch that was taken is committed twice",
        "_engine/commitqueue.py",
        "if batch.taken:",
        "if False:",
        COMMIT + "a_batch_that_was_taken_is_not_committed_again_though_its_leader_never_said_so",
    ),
    Mutant(
        "a follower is not told that it has been committed",
        "_engine/commitqueue.py",
        "        batch.done = True\n        _wake(batch)\n",
        "        batch.done = True\n",
        COMMIT + "a_follower_is_woken[with the group]",
    ),
    Mutant(
        "a leader leaves without waking the next one",
        "_engine/commitqueue.py",
        "self._wake_next()",
        "pass",
        COMMIT + "a_follower_is_woken[to lead]",
    ),
    Mutant(
        "a batch whose time is over stays in the queue",
        "_engine/commitqueue.py",
        "queue.remove(batch)",
        "pass",
        COMMIT + "a_follower_whose_time_is_over_leaves_the_queue_and_the_rest_goes_on",
    ),
    Mutant(
        "a write within a commit of the same thread is begun",
        "_engine/commitqueue.py",
        "if self.is_led_here():",
        "if False:",
        COMMIT + "a_commit_within_a_commit_of_the_same_thread_is_refused",
    ),
    # -- exclusive work
    Mutant(
        "exclusive work that raises keeps the commit lock",
        "_engine/engine.py",
        "            return work(deadline)\n"
        "        finally:\n            try:\n                lock.release()",
        "            value = work(deadline)\n            lock.release()\n            return value\n"
        "        finally:\n            try:\n                pass",
        "_engine/test_engine.py::test_exclusive_work_that_raises_keeps_no_lock",
    ),
    Mutant(
        "exclusive work that raises keeps the writer lock",
        "_engine/engine.py",
        "            writer_lock.about_to_release()\n            return value\n"
        "        finally:\n            try:\n"
        "                locks.fcntl_call(self.presence_fd, locks.SETLK, locks.WRITER.unlocked)",
        "            writer_lock.about_to_release()\n"
        "            locks.unlock_byte(self.presence_fd, locks.WRITER)\n"
        "            return value\n        finally:\n            try:\n                pass",
        "_engine/test_engine.py::test_exclusive_work_that_raises_keeps_no_lock",
    ),
    # -- the shelter from signal handlers
    Mutant(
        "work is not sheltered",
        "_engine/shelter.py",
        "    if not is_exposed():\n        return work()\n",
        "    if True:\n        return work()\n",
        SHELTER + "interrupted_work_is_done_to_its_end_and_its_value_discarded",
    ),
    Mutant(
        "the end of interrupted work is not waited for",
        "_engine/shelter.py",
        "while not job.ended:",
        "while not job.ended and interrupt is None:",
        SHELTER + "interrupted_work_is_done_to_its_end_and_its_value_discarded",
    ),
    Mutant(
        "work that was given up is done all the same",
        "_engine/shelter.py",
        "        if not self.claim.acquire(blocking=False):\n            return",
        "        if self.claim.acquire(blocking=False) is None:\n            return",
        SHELTER + "work_that_is_given_up_before_it_has_begun_is_never_done[error0]",
    ),
    Mutant(
        "work that was interrupted is done twice",
        "_engine/shelter.py",
        "    if not job.ended and _is_of_start(interrupt):\n",
        "    if job.ended or _is_of_start(interrupt):\n",
        SHELTER + "interrupted_work_is_done_to_its_end_and_its_value_discarded",
    ),
    Mutant(
        "a handler's error is taken for a thread that cannot be started",
        "_engine/shelter.py",
        "isinstance(exc, RuntimeError) and trace is not None and trace.tb_next is None",
        "isinstance(exc, RuntimeError) and trace is not None",
        SHELTER + "work_that_is_given_up_before_it_has_begun_is_never_done[error1]",
    ),
    Mutant(
        "an interrupt is swallowed",
        "_engine/shelter.py",
        "    raise interrupt\n",
        "    return job.value  # type: ignore\n",
        SHELTER + "interrupted_work_is_done_to_its_end_and_its_value_discarded",
    ),
    Mutant(
        "the value of interrupted work is lost",
        "_engine/shelter.py",
        "        sheltered(lambda: discard(value))\n",
        "        del value\n",
        SHELTER + "interrupted_work_is_done_to_its_end_and_its_value_discarded",
    ),
    Mutant(
        "a wait goes on when its caller was interrupted",
        "_engine/shelter.py",
        "    if job is not None and job.interrupted:\n",
        "    if False:\n",
        SHELTER + "a_wait_within_interrupted_work_ends",
    ),
    # -- forks
    Mutant(
        "a child goes on with its parent's handles",
        "_engine/registry.py",
        "slot.shared.engine.after_fork_in_child()",
        "pass",
        FORKS + "fork_while_threads_commit_read_and_compact",
    ),
    Mutant(
        "a child unlocks what its parent has locked",
        "_engine/engine.py",
        "self.closed = self.forked = True",
        "self.closed = self.forked = True; locks.unlock(self.presence_fd)",
        FORKS + "a_closed_handle_in_the_child_leaves_the_parents_locks",
    ),
    Mutant(
        "a fork does not wait for threads that are inside LMDB",
        "_engine/table.py",
        "    while True:\n        for table in [table",
        "    while not environments.acquire():\n        for table in [table",
        FORKS + "fork_while_threads_commit_read_and_compact",
    ),
    Mutant(
        "the files that a child inherits are not closed",
        "_engine/files.py",
        "    for fd in _open:\n        os.close(fd)\n",
        "",
        FILES + "a_child_has_no_file_of_the_store_open_from_the_beginning",
    ),
    Mutant(
        "no child closes what it inherits",
        "_engine/files.py",
        "os.register_at_fork(after_in_child=close_inherited)",
        "pass",
        FILES + "a_child_has_no_file_of_the_store_open_from_the_beginning",
    ),
    Mutant(
        "a fork does not wait for readers of a table that was replaced",
        "_engine/engine.py",
        "        self._retired.append(self.table)\n",
        "        from logstore._engine.table import _tables\n\n"
        "        _tables.discard(self.table)\n        self._retired.append(self.table)\n",
        "_engine/test_vacuum.py::test_a_fork_while_a_replaced_table_is_read",
    ),
]
