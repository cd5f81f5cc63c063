"""Mutants that change nothing that a user or a peer can see, each with the reason.

Rules: an entry names the function and the changed lines before and after, without indentation, so
that it outlives what is around it.  A change of such a line takes the entry away or writes it
for the new line; ``make test`` tells of an entry that fits nothing.  A mutant that only costs time
or memory is listed, because it changes no behaviour.  What tests could see if somebody wrote them
has no place here.
"""

from __future__ import annotations

from typing import NamedTuple

from fuzz.mutant_points import COMPARISON, CONSTANT, EXCEPT, STATEMENT, Point

ANY = "any other value but 0"
OR_EQUAL = "< for <=, > for >=, and the reverse"
WIDER = "a handler of more"


class Equivalent(NamedTuple):
    """One mutant, or several alike in one function."""

    file: str  # below logstore/
    function: str
    kind: str
    old: str  # with ANY, the name of a constant of the module
    new: str
    why: str

    def fits(self, point: Point, source: str) -> bool:
        """Whether the entry is about this mutant."""
        if self[:3] != (point.file, point.function, point.kind):
            return False
        old, new = point.lines(source)
        if self.new == ANY:
            old, new = old.partition(" = ")[0], ANY if " = 0 << " not in new else new
        elif self.new == WIDER:
            new = WIDER
        elif self.new == OR_EQUAL and point.new in ("<", "<=", ">", ">=") and point.variant == 0:
            new = OR_EQUAL
        return (self.old, self.new) == (old, new)


# Constants of a module that decide only how long something takes, or how much is done at once.
_TUNING = [
    ("_codec/values.py", "how much the decoder reads at once", ["_READ_SIZE"]),
    ("_engine/checking.py", "how soon a check looks again", ["_RETRY_S"]),
    ("_engine/commitqueue.py", "how soon a lost wake-up is noticed", ["RECHECK_S"]),
    ("_engine/compaction.py", "how much one step of purging does", ["PURGE_MIN", "PURGE_S"]),
    ("_engine/counters.py", "the mean is over one of 512 groups more", ["GROUP_SIZES_KEPT"]),
    ("_engine/futex.py", "how soon a thread without futex looks again", ["_POLL_S"]),
    ("_engine/lmdbfile.py", "a map that is full is enlarged", ["MAP_BYTES", "MAP_BYTES_MIN"]),
    ("_engine/lmdbfile.py", "how much a map is rounded up", ["MAP_UNIT"]),
    ("_engine/lmdbfile.py", "a table has seven databases", ["DATABASES_MAX"]),
    ("_engine/lmdbfile.py", "how often a file that changes is looked at", ["LOOKS"]),
    ("_engine/log.py", "by how much a full log grows at once", ["GROW_BYTES"]),
    ("_engine/maintenance.py", "how soon the thread looks again", ["STILL_S", "LOCK_S", "CHECK_S"]),
    ("_engine/metapages.py", "the tree of the greatest file has fewer levels", ["_DEPTH_MAX"]),
    ("_engine/notify.py", "how soon a lost wake-up is noticed", ["TIMEOUT_S"]),
    ("_engine/opening.py", "how soon an opening is tried again", ["_RETRY_S"]),
    ("_engine/pages.py", "how much is read at once", ["SLICE_BYTES"]),
    ("_engine/presence.py", "how long a closing process is waited for", ["_RETRY_S", "_LEAVING_S"]),
    ("_engine/publishing.py", "how soon the death of a process is noticed", ["RECHECK_S"]),
    ("_engine/shelter.py", "how soon an interrupt is noticed", ["START_S", "SLICE_S"]),
    ("_engine/systemerrors.py", "the memory beside a stack, at a guess", ["SPARE_BYTES"]),
    ("_engine/table.py", "how much one lookup reads", ["BATCH_KEYS", "BATCH_BYTES"]),
    ("_engine/table.py", "how much one listing reads", ["LOOKED_AT_MAX", "LISTING_KEYS"]),
    ("_engine/vacuum.py", "how much one round does", ["ROUNDS_MAX", "LAST_ROUND_KEYS"]),
    ("_engine/vacuum.py", "how much of a copy is synced at once", ["SYNC_BYTES"]),
    ("_engine/writerlock.py", "how soon the death of a process is noticed", ["RECHECK_S"]),
    ("_loops/handover.py", "how soon a lost call is made again", ["PATIENCE_S, PATIENCE_S_MAX"]),
    ("_loops/waiters.py", "how long what is not needed is kept", ["IDLE_S", "SWEEP_MIN"]),
    ("aio.py", "how many tasks one hand-over has", ["TASKS_BATCH"]),
    ("taskiq/results/atomic.py", "how many names are tried", ["_ATTEMPTS_MAX"]),
]
# Comparisons of two readings of a clock.
_CLOCKS = [
    ("_engine/checking.py", "_check_copy", "if time.monotonic() > deadline:"),
    ("_engine/commitqueue.py", "CommitQueue._follow", "if left <= 0:"),
    ("_engine/compaction.py", "Fold._budget", "while time.perf_counter() < until_s:"),
    (
        *("_engine/deferral.py", "Deferral.is_held"),
        "0 < self._header.held_until_ns(each) - now_ns <= HOLD_NS",
    ),
    (
        *("_engine/futex.py", "SharedWord._poll"),
        "while self.value == seen and (left := end - time.monotonic()) > 0:",
    ),
    ("_engine/maintenance.py", "Maintenance._tick", "if now - self._looked >= FILES_S:"),
    (
        *("_engine/maintenance.py", "Maintenance._tick"),
        "if header.log_failed or (header.writing and now - self._since >= STILL_S):",
    ),
    ("_engine/maintenance.py", "Maintenance._tick", "idle = now - self._since >= IDLE_S"),
    (
        *("_engine/maintenance.py", "Maintenance._tidy_up"),
        "looks = pauses or now - self._checked >= CHECK_S",
    ),
    ("_engine/notify.py", "Notifier._work", "if monotonic() - looked_at >= TIMEOUT_S:"),
    ("_engine/opening.py", "open_engine", "if time.monotonic() > deadline:"),
    ("_engine/presence.py", "wait_for_table", "if time.monotonic() > deadline:"),
    ("_engine/publishing.py", "Publisher.publish", "if left <= 0:"),
    ("_engine/publishing.py", "Publisher.with_lock", "if left <= 0:"),
    ("_engine/shelter.py", "acquire", "if left <= SLICE_S:"),
    ("_engine/writerlock.py", "WriterLock.acquire", "if left <= 0:"),
    ("_loops/waiters.py", "Waiters.recheck", "elif monotonic() - self._idle_since >= IDLE_S:"),
    ("store.py", "Store.wait_ready", "if left is not None and left <= 0:"),
    (
        *("taskiq/results/inmemory.py", "InmemoryResultBackend.is_result_ready"),
        "if left is not None and left <= 0:",
    ),
    (
        *("taskiq/results/waiting.py", "current_wait"),
        "return Wait(left + _OVERTIME_S) if left > 0 else None",
    ),
]
# Comparisons with a limit of what is done at once, or by the thread of the event loop.
_LIMITS = [
    ("_engine/table.py", "Table.get_results.some", "if size > BATCH_BYTES:"),
    ("_engine/vacuum.py", "_copy_and_exchange.pulse", "if written - synced >= SYNC_BYTES:"),
    ("aio.py", "AsyncStore._decode", "if len(payload) <= SMALL_BYTES:"),
    (
        *("aio.py", "AsyncStore.get_result"),
        "if len(entry.payload) <= SMALL_BYTES and self._handle.dec_hook is None:",
    ),
    (
        *("taskiq/results/logstore.py", "LogStoreResultBackend.get_result"),
        'if len(data["data"]) > SMALL_BYTES:',
    ),
]
# Loops that rest between two looks at a clock or a file.
_PAUSES = [
    ("_engine/checking.py", "_check_copy", "_RETRY_S"),
    ("_engine/futex.py", "SharedWord._poll", "min(_POLL_S, left)"),
    ("_engine/opening.py", "open_engine", "_RETRY_S"),
    ("_engine/presence.py", "wait_for_table", "_RETRY_S"),
    ("_engine/publishing.py", "Publisher._gather", "GATHER_STEP_S"),
]
# Handlers: what else could be raised in their block has the same end.
_AS_IT_IS = "everything else is raised as it is"
_ONLY_THAT = "nothing else is raised there"
_INTERRUPT = "an interrupt is raised as it is"
_THREAD = "in that thread no signal handler runs, and nothing else is raised"
_HANDLERS = [
    *(
        ("_engine/groups.py", name, "except Exception as exc:", _INTERRUPT)
        for name in ("commit_group", "_append", "_publish", "_resolve")
    ),
    ("_engine/engine.py", "Engine.sheltered_write", "except Exception as exc:", _AS_IT_IS),
    ("_engine/engine.py", "Engine._with_writer_lock", "except Exception as exc:", _AS_IT_IS),
    ("store.py", "open.open_lease", "except Exception as exc:", _AS_IT_IS),
    ("_engine/maintenance.py", "Maintenance._run", "except Exception as exc:", _THREAD),
    ("_engine/notify.py", "Notifier._work", "except Exception:", _THREAD),
    ("_engine/notify.py", "_call", "except Exception:", _THREAD),
    ("_loops/waiters.py", "Waiters._is_settled", "except Exception:", _THREAD),
    (
        "_arguments.py",
        "file_path",
        "except OSError as exc:  # the current directory is gone",
        _AS_IT_IS,
    ),
    ("_engine/commitqueue.py", "CommitQueue.run", "except RuntimeError:", _ONLY_THAT),
    ("_engine/commitqueue.py", "CommitQueue._follow", "except RuntimeError:", _ONLY_THAT),
    ("_engine/commitqueue.py", "CommitQueue._follow", "except ValueError:", _ONLY_THAT),
    ("_engine/commitqueue.py", "_wake", "except RuntimeError:", _ONLY_THAT),
    ("_engine/engine.py", "Engine.in_turn", "except RuntimeError:", _ONLY_THAT),
    (
        *("_engine/engine.py", "Engine.compact"),
        *("except (OSError, lmdb.Error, OpenError) as exc:", _AS_IT_IS),
    ),
    *(
        (*place, "except lmdb.Error:", "to open the table again changes nothing in it")
        for place in (
            ("_engine/engine.py", "Engine.fold_unverified"),
            ("_engine/sealing.py", "_fold_sealed"),
        )
    ),
    ("_engine/frames.py", "is_text", "except UnicodeDecodeError:", _ONLY_THAT),
    (
        *("_engine/lmdbfile.py", "inspect_file"),
        "except (CorruptTableError, FormatVersionError, TruncatedFileError):",
        "the file is looked at again, which raises the same",
    ),
    ("_engine/lmdbfile.py", "_look_at", "except OSError as exc:", _AS_IT_IS),
    ("_engine/log.py", "Log.open", "except OSError as exc:", _AS_IT_IS),
    ("_engine/log.py", "read_whole", "except OSError as exc:", _AS_IT_IS),
    ("_engine/logview.py", "LogView.under_lock", "except RuntimeError:", _ONLY_THAT),
    ("_engine/places.py", "check_directory", "except OSError as exc:", _AS_IT_IS),
    ("_engine/presence.py", "open_presence", "except OSError as exc:", _AS_IT_IS),
    ("_engine/salvage.py", "salvage_at_rest", "except (OSError, lmdb.Error) as exc:", _AS_IT_IS),
    ("_engine/threads.py", "Signal.set", "except RuntimeError:", _ONLY_THAT),
    ("_loops/handover.py", "Worker._next_token", "except queue.Empty:", _ONLY_THAT),
    ("progress.py", "decode_progress", "except ValueError as error:", _ONLY_THAT),
    ("_loops/handover.py", "_withdraw", "except ValueError:", _ONLY_THAT),
    (
        *("aio.py", "AsyncStore._set", "except BudgetExceededError as error:"),
        "a thread encodes it again, which raises the same",
    ),
    (
        *("aio.py", "AsyncStore._set_in_thread", "except BudgetExceededError:"),
        "it is encoded again, which raises the same",
    ),
]


EQUIVALENTS: list[Equivalent] = [
    *(
        Equivalent(file, function, EXCEPT, old, WIDER, why)
        for file, function, old, why in _HANDLERS
    ),
    *(
        Equivalent(file, "", CONSTANT, name, ANY, why)
        for file, why, names in _TUNING
        for name in names
    ),
    *(
        Equivalent(file, function, COMPARISON, old, OR_EQUAL, "two readings are never equal")
        for file, function, old in _CLOCKS
    ),
    *(
        Equivalent(file, function, STATEMENT, f"time.sleep({pause})", "pass", "it looks more often")
        for file, function, pause in _PAUSES
    ),
    *(
        Equivalent(file, function, COMPARISON, old, OR_EQUAL, "of that many bytes, both will do")
        for file, function, old in _LIMITS
    ),
    Equivalent(
        *("_engine/files.py", "adopt_owner", EXCEPT, "except OSError:", WIDER),
        "the path has been opened, or is a descriptor: os.stat raises nothing else",
    ),
    Equivalent(
        *("_engine/vacuum.py", "backup", EXCEPT),
        *("except (OSError, lmdb.Error, OpenError) as exc:", WIDER, _AS_IT_IS),
    ),
    Equivalent(
        *("taskiq/outcome/walk.py", "_is_in", EXCEPT, "except TypeError as error:", WIDER),
        "the key is of plain types by then, whose hashes raise nothing else",
    ),
    Equivalent(
        *("_engine/engine.py", "Engine.after_fork_in_child", CONSTANT),
        "log.fd = -1  # files.py closes it with all others",
        *("log.fd = -2  # files.py closes it with all others", "no descriptor is negative"),
    ),
    Equivalent(
        *("taskiq/outcome/models.py", "model_to_mapping", STATEMENT),
        *("dumped: dict[str, Any] = {}", "pass", "it is read only if there are such fields"),
    ),
    Equivalent(
        *("taskiq/outcome/revival.py", "decode_error", COMPARISON),
        "if not isinstance(records, list) or not 0 < len(records) <= _RECORDS_MAX:",
        "if not isinstance(records, list) or not 0 <= len(records) <= _RECORDS_MAX:",
        "the first of no records is an error too",
    ),
    Equivalent(
        *("_engine/reading.py", "BaseEngine.listing", CONSTANT),
        "size = LISTING_KEYS if first is None else min(max(first, 1), LISTING_KEYS)",
        "size = LISTING_KEYS if first is None else min(max(first, 0), LISTING_KEYS)",
        "of a list of none, nothing is asked for",
    ),
    Equivalent(
        *("_engine/logview.py", "LogView.look_ahead", COMPARISON),
        "if epoch == self.overlay.epoch and appended > start:",
        *("if epoch == self.overlay.epoch and appended >= start:", "it reads no bytes"),
    ),
    Equivalent(
        *("_engine/publishing.py", "Publisher.publish", CONSTANT),
        "found = self._try_publish(epoch, end if flush else 0)",
        "found = self._try_publish(epoch, end if flush else 1)",
        "no frame ends before offset 4096",
    ),
    Equivalent(
        *("_engine/log.py", "Log.reserve", COMPARISON),
        *("if end <= self.size:", "if end < self.size:"),
        "the size is looked at again, and is enough",
    ),
    Equivalent(
        *("_engine/checking.py", "_check_record", CONSTANT, "return 0", "return 1"),
        "the sum is looked at only where there is no problem",
    ),
    Equivalent(
        *("_engine/records.py", "decode_mark", COMPARISON),
        *("if 0 < result_us <= TIME_MAX:", "if 0 < result_us < TIME_MAX:"),
        "the code for all other marks gives the same",
    ),
    Equivalent(
        *("_engine/system.py", "can_reserve", CONSTANT),
        "mmap.mmap(-1, size, flags=flags, prot=0).close()  # without access it takes no memory",
        "mmap.mmap(-1, size, flags=flags, prot=1).close()  # without access it takes no memory",
        "what can only be read takes no memory either",
    ),
    Equivalent(
        *("_engine/records.py", "encode_meta", CONSTANT),
        *("body = META.pack(*meta, 0)[:-4]", "body = META.pack(*meta, 1)[:-4]"),
        "that is the place of the checksum, which is cut off",
    ),
    Equivalent(
        *("_engine/frames.py", "encode_log_header", CONSTANT),
        "body = LOG_HEADER.pack(MAGIC, FORMAT_VERSION, 0, uuid, log_id, 0)[:-4]",
        "body = LOG_HEADER.pack(MAGIC, FORMAT_VERSION, 0, uuid, log_id, 1)[:-4]",
        "that is the place of the checksum, which is cut off",
    ),
]
