"""What processes of a real store do, held against the rules of the model, step by step.

python -m fuzz.model.replay              a run of a few hundred writes, with kills
python -m fuzz.model.replay --rounds 100 --seed 7

The trace (``recording.py``) must be one that the rules allow: each step by a process that has the
locks for it, and none before what it depends on.  The model shows that these rules are enough; a
replay shows that the engine keeps them.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import logstore
from fuzz.model.recording import WORDS, Kill, Recorder
from fuzz.processes import Child, Talk, start
from logstore._engine.frames import OFFSET_MAX, PROGRESS
from logstore._engine.log import FIRST_OFFSET
from logstore._engine.options import LARGE_BYTES

WRITER, FLUSH, FOLD = "writer", "flush", "fold"
ORDER = (WRITER, FLUSH, FOLD)
WORKERS = 3  # one is not killed, one at any step, one at a step of these
MOMENTS = (
    *("write", "appended", "sealed", "state", "fold", "folded", "flush", "flushed", "writing"),
    *("renamed", "incarnation", "flush failed", "failure", "new log", "log_id", "copy folded"),
)
COMPACT_AT, SYNC_S = 1 << 14, 0.01


class WrongStepError(Exception):
    """A step that the rules do not allow."""


class Record(NamedTuple):
    """A frame of a record."""

    end: int
    kind: int
    key: str
    time_us: int


class Frames(NamedTuple):
    """What a log has."""

    epoch: int
    end: int  # of the whole frames
    said: int | None  # by START
    begins: int  # behind START
    records: tuple[Record, ...]


NO_FRAMES = Frames(0, FIRST_OFFSET, None, 0, ())


class Copied(NamedTuple):
    """A copy of the table that a vacuum makes."""

    of: int  # the table's epoch
    epoch: int
    records: int  # how many of the open log's are in it


class Rules:
    """The state of a store, as a trace has made it; takes one step after the other."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._locks: dict[str, tuple[int, int]] = {}  # which process and thread has it
        self._reset()

    def _reset(self) -> None:
        self._words = dict.fromkeys(WORDS, 0)
        self._logs = [NO_FRAMES, NO_FRAMES]
        self._needs: list[int] = []  # where frames end that need a flush, in this epoch
        self._flushing: dict[int, int] = {}  # by process: up to where its flush goes
        self._flushed = FIRST_OFFSET
        self._on_disk = FIRST_OFFSET  # SYNCED of the open epoch; the word is of the next one first
        self._epochs = {0}  # those that the table may have: two behind a death in a commit
        self._folding: dict[int, int] = {}
        self._synced = False  # whether the holder of the fold lock has synced the table
        self._writer = 0  # who has set ``writing``
        # Flushes that have failed.
        self._has_to_tell: set[int] = set()  # the processes that have to store LOG_FAILED
        self._is_known_to_have_failed = False  # to who has the writer lock: before it was taken
        self._failures: dict[int, int] = {}  # by epoch: up to where it was published
        self._new_logs: set[bool] = set()  # that were put into place since
        self._is_replaced = False
        # Vacuums.
        self._copies: dict[int, Copied] = {}
        self._is_renamed = False  # a copy is in the place of the table, and not published
        self._is_named = True  # and the directory is synced
        # What is told to callers.
        self._own: dict[tuple[int, int], list[tuple[int, int]]] = {}  # by thread: its frames' ends
        self._large: dict[int, bool] = {}  # by process: whether its large record is in the table

    def take(self, line: list[Any]) -> None:
        """Take one step.  Raises WrongStepError."""
        self._pid, self._thread, what, *rest = line
        getattr(self, "on_" + what.replace(" ", "_"))(*rest)
        self.counts[what] += 1

    # -- conditions -----------------------------------------------------------------------------

    def _must(self, condition: object, rule: str) -> None:
        if not condition and self._words["ready"]:
            raise WrongStepError(rule)

    def _has(self, *names: str) -> bool:
        return all(self._locks.get(name, (0, 0))[0] == self._pid for name in names)

    def _word(self, name: str) -> tuple[int, int]:
        return self._words[name] >> 32, self._words[name] & OFFSET_MAX

    def _is_whole(self, epoch: int, end: int) -> bool:
        """Whether the log has whole frames of an epoch up to an offset."""
        log = self._logs[epoch & 1]
        return end == FIRST_OFFSET or (log.epoch == epoch and log.end >= end)

    # -- locks and deaths -----------------------------------------------------------------------

    def on_lock(self, name: str) -> None:
        if name in self._locks:
            raise WrongStepError("two processes have one lock")
        later = ORDER[ORDER.index(name) + 1 :]
        if any(self._locks.get(each) == (self._pid, self._thread) for each in later):
            raise WrongStepError("locks are taken in another order")
        self._locks[name] = self._pid, self._thread
        self._synced = self._synced and name != FOLD
        if name == WRITER:
            self._is_known_to_have_failed = self._words["log_failed"] != 0

    def on_unlock(self, name: str) -> None:
        if not self._has(name):
            raise WrongStepError("a lock is given back that another process has")
        if name == FLUSH:
            self._flushing.pop(self._pid, None)
            self._must(self._pid not in self._has_to_tell, "no caller was told of a failed flush")
        del self._locks[name]

    def on_kill(self) -> None:
        self._locks = {name: who for name, who in self._locks.items() if who[0] != self._pid}
        self._flushing.pop(self._pid, None)
        self._has_to_tell.discard(self._pid)
        self._copies.pop(self._pid, None)
        self.on_unfolded()

    # -- the logs -------------------------------------------------------------------------------

    def on_write(
        self, odd: bool, log_id: int, offset: int, epoch: int, said: int | None, found: list[Any]
    ) -> None:
        words = self._words
        self._must(self._has(WRITER), "frames are written without the writer lock")
        self._must(words["writing"] and self._writer == self._pid, "WRITING is not set")
        self._must(odd == epoch & 1, "a frame is in the log of other epochs")
        self._must(not self._is_known_to_have_failed, "a log is written that has failed")
        self._must(log_id == words["log_id"], "a log is written that was replaced")
        self._must(not self._is_sealed(epoch), "a frame is behind a sealed log's end")
        state, appended = self._word("state"), self._word("appended")
        records = tuple(Record(*each) for each in found)
        end = records[-1].end
        if said is None:
            self._must(appended == (epoch, offset), "a frame is not behind what is appended")
            self._must(state[0] == epoch, "a frame of an epoch that is not open")
            before = self._logs[odd]
            start = before if before.epoch == epoch else NO_FRAMES
            is_in_order = all(a.time_us < b.time_us for a, b in pairwise(start.records + records))
            self._must(is_in_order, "times do not grow")
            self._logs[odd] = start._replace(epoch=epoch, end=end, records=start.records + records)
            self._own.setdefault((self._pid, self._thread), []).append((epoch, end))
            return
        self._must(self._has(FLUSH), "a log is sealed without the flush lock")
        self._must(not words["sealed"], "a log is sealed while the other one is")
        self._must(not words["flushing"], "a log is sealed while a flush is not over")
        self._must(state == appended == (epoch - 1, said), "START names another end")
        self._must(words["synced"] == said, "a log is sealed that is not flushed")
        self._must(self._epochs == {epoch - 1}, "a log is used again that the table lacks")
        self._must(offset == FIRST_OFFSET, "START is not the first frame")
        self._logs[odd] = Frames(epoch, end, said, end, ())

    def _is_sealed(self, epoch: int) -> bool:
        return self._words["sealed"] >> 32 == epoch > 0

    def _records(self, epoch: int, end: int) -> list[Record]:
        """The records of an epoch up to an offset."""
        log = self._logs[epoch & 1]
        return [each for each in log.records if log.epoch == epoch and each.end <= end]

    def on_flush(self, odd: bool, log_id: int) -> None:
        self._must(self._has(FLUSH) and self._words["flushing"], "a flush without FLUSHING")
        self._must(log_id == self._words["log_id"], "a log is flushed that was replaced")
        self._flushing[self._pid] = self._logs[odd].end

    def on_flushed(self, odd: bool, log_id: int) -> None:
        if self._word("state")[0] & 1 == odd and log_id == self._words["log_id"]:
            self._flushed = max(self._flushed, self._flushing.pop(self._pid, FIRST_OFFSET))

    def on_flush_failed(self) -> None:
        self._flushing.pop(self._pid, None)
        self._has_to_tell.add(self._pid)

    def on_failure(self, state: int) -> None:
        self._must(self._has(*ORDER), "a failure is noted without the locks")
        self._must(state == self._words["state"], "a failure is noted of another state")
        self._failures[state >> 32] = state & OFFSET_MAX

    def on_new_log(self, odd: bool) -> None:
        self._must(self._has(*ORDER) and self._words["log_failed"], "a log is replaced in use")
        self._must(self._is_empty(), "a log is replaced before the table has its frames")
        self._new_logs.add(odd)

    def _is_empty(self) -> bool:
        """Whether a new epoch has begun, with nothing in its log."""
        epoch, end = self._word("state")
        is_begun = self._words["appended"] == self._words["state"] and end == FIRST_OFFSET
        return is_begun and self._epochs == {epoch}

    # -- the table ------------------------------------------------------------------------------

    def on_fold(self, epoch: int, incarnation: int, newest: int, *large: list[Any]) -> None:
        words = self._words
        self._must(self._has(FOLD), "the table is written without the fold lock")
        self._must(not self._is_renamed, "a fold where a vacuum has died")
        self._must(incarnation == words["incarnation"], "a fold into a table that was replaced")
        opened, sealed = self._word("state")[0], self._word("sealed")[0]
        is_beside = sealed > 0 and epoch == sealed + 1 and sealed in self._epochs
        is_of_all = (
            self._has(*ORDER)
            and words["writing"]
            and epoch in {max(opened, found) + 1 for found in self._epochs}
        )
        self._must(is_beside or is_of_all, "a fold into a table that lacks an epoch before it")
        if is_of_all:
            expected = {self._newest(found) for found in self._epochs}
            self._must(newest in expected, "a fold of something else than what is appended")
            is_noted = self._failures.get(opened) == self._word("state")[1]
            is_over = not words["log_failed"] or max(self._epochs) > opened
            self._must(is_over or is_noted, "a fold behind a failed flush that is not noted")
        else:
            sealed_records = self._records(*self._word("sealed"))
            self._must(newest == _newest(sealed_records), "a fold of not all that is sealed")
        for key, time_us in large:
            self._must(is_of_all, "a large record goes into the table beside writers")
            known = self._to_fold(min(self._epochs))
            hidden = {each.key for each in known if each.kind != PROGRESS}
            self._must(key not in hidden, "a log hides a large result")
            self._must(time_us > _newest(known), "a large record is older than the log")
            self._large[self._pid] = False
        self._folding[self._pid] = epoch
        self._synced = False

    def _to_fold(self, epoch: int) -> list[Record]:
        """The records that a table of an epoch lacks, and that may be folded."""
        opened, sealed = self._word("state")[0], self._word("sealed")[0]
        found = self._records(*self._word("sealed")) if epoch <= sealed else []
        if epoch <= opened:
            is_whole = not self._words["log_failed"] and self._word("appended")[0] == opened
            found += self._records(opened, self._word("appended" if is_whole else "state")[1])
        return found

    def _newest(self, epoch: int) -> int:
        return _newest(self._to_fold(epoch))

    def on_folded(self, epoch: int) -> None:
        self._folding.pop(self._pid, None)
        self._epochs = {epoch}
        if self._pid in self._large:
            self._large[self._pid] = True
            self.counts["large"] += 1

    def on_unfolded(self) -> None:
        self._large.pop(self._pid, None)
        epoch = self._folding.pop(self._pid, None)
        if epoch is not None:
            self._epochs.add(epoch)

    def on_table_synced(self) -> None:
        self._synced = self._has(FOLD)

    # -- a vacuum -------------------------------------------------------------------------------

    def on_copied(self, epoch: int, incarnation: int) -> None:
        self._must(incarnation == self._words["incarnation"], "a copy of a table that was replaced")
        self._copies[self._pid] = Copied(epoch, epoch, 0)

    def on_copy_folded(self, start: int, end: int, epoch: int, incarnation: int) -> None:
        copy = self._copies[self._pid]
        self._must(start == copy.records, "a copy lacks some records")
        self._copies[self._pid] = copy._replace(epoch=epoch, records=end)

    def on_renamed(self) -> None:
        words, copy = self._words, self._copies.pop(self._pid)
        self._must(self._has(*ORDER), "the table is exchanged without the locks")
        self._must(words["writing"] and self._writer == self._pid, "WRITING is not set")
        is_settled = not words["sealed"] and not words["log_failed"] and not words["flushing"]
        self._must(is_settled, "the table is exchanged beside a log that it lacks")
        epoch, end = self._word("state")
        self._must(words["state"] == words["appended"], "the table is exchanged unpublished")
        self._must(self._epochs == {copy.of} == {epoch}, "a copy of the table of another epoch")
        self._must(
            copy.records == len(self._records(epoch, end)), "a copy lacks the newest records"
        )
        self._must(copy.epoch == epoch + 1, "a copy has no new epoch")
        self._epochs = {copy.epoch}
        self._is_renamed, self._is_named = True, False

    def on_directory_synced(self) -> None:
        self._is_named = True

    # -- the words ------------------------------------------------------------------------------

    def on_store(self, name: str, value: int) -> None:
        rule: Callable[[int], None] | None = getattr(self, f"on_store_{name}", None)
        if rule is not None:
            rule(value)
        self._words[name] = value

    def on_store_ready(self, value: int) -> None:
        if not value:
            self._reset()
        else:  # a process that was alone has recovered
            self._epochs = {self._word("state")[0]}

    def on_store_incarnation(self, value: int) -> None:
        self._must(self._has(WRITER), "INCARNATION is stored without the writer lock")
        if value == self._words["incarnation"]:
            return  # a process goes over to the table
        self._must(self._is_renamed, "INCARNATION is stored of no new table")
        self._must(self._is_named, "a new table is published before its name is on the disk")
        self._must(value == self._words["incarnation"] + 1, "INCARNATION skips a table")
        self._is_renamed = False

    def on_store_writing(self, value: int) -> None:
        self._must(self._has(WRITER), "WRITING is stored without the writer lock")
        if self._words["writing"] and self._writer != self._pid:
            self._must(self._has(*ORDER), "a write goes on where a process has died in one")
            self.counts["recovery"] += 1
        self._writer = self._pid if value else 0

    def on_store_flushing(self, value: int) -> None:
        self._must(self._has(FLUSH), "FLUSHING is stored without the flush lock")
        self._must(self._pid not in self._has_to_tell, "FLUSHING is stored behind a failed flush")
        if value:
            is_over = self._words["flushing"] or self._words["log_failed"]
            self._must(not is_over, "a flush where one has failed, or a process has died")

    def on_store_unsynced(self, value: int) -> None:
        self._must(self._has(WRITER), "UNSYNCED is stored without the writer lock")
        epoch, end = self._word("appended")
        if value > end:
            self._must(self._is_whole(epoch, value), "UNSYNCED is beyond the frames")
            self._needs.append(value)

    def on_store_appended(self, value: int) -> None:
        self._must(self._has(WRITER), "APPENDED is stored without the writer lock")
        self._must(self._words["writing"], "APPENDED is stored without WRITING")
        if value >> 32 == self._word("appended")[0]:
            self._must(value > self._words["appended"], "APPENDED goes back")
            self._must(self._is_whole(value >> 32, value & OFFSET_MAX), "APPENDED before frames")
        else:
            self._must(value == self._words["state"], "APPENDED of an epoch before its STATE")

    def on_store_synced(self, value: int) -> None:
        self._must(self._has(FLUSH), "SYNCED is stored without the flush lock")
        if value == FIRST_OFFSET and self._has(WRITER) and self._words["writing"]:
            return  # of the next epoch
        self._must(self._words["flushing"], "SYNCED is stored without FLUSHING")
        self._must(self._pid not in self._has_to_tell, "SYNCED is stored behind a failed flush")
        self._must(value <= self._flushed, "SYNCED is beyond what was flushed")
        self._on_disk = value

    def on_store_state(self, value: int) -> None:
        words = self._words
        self._must(self._has(FLUSH), "STATE is stored without the flush lock")
        epoch, end = value >> 32, value & OFFSET_MAX
        if epoch == self._word("state")[0]:
            self._must(value > words["state"], "STATE goes back")
            self._must(value <= words["appended"], "STATE is beyond APPENDED")
            self._must(not words["flushing"], "published before the flush is over")
            self._must(not words["log_failed"], "published although a flush has failed")
            unsafe = [need for need in self._needs if words["synced"] < need <= end]
            self._must(not unsafe, "published before the flush")
            return
        self._must(self._has(WRITER) and words["writing"], "an epoch begins without WRITING")
        self._must(epoch > self._word("state")[0], "STATE goes back to an epoch")
        if self._is_sealed(epoch - 1):
            log, sealed_end = self._logs[epoch & 1], self._word("sealed")[1]
            is_start = log.epoch == epoch and log.said == sealed_end and log.begins == end
            self._must(is_start, "an epoch begins without its START")
            self.counts["seal"] += 1
        else:
            self._must(self._has(FOLD), "an epoch begins without the fold lock or a sealed log")
            self._must(not words["sealed"], "an epoch begins while an older log is sealed")
            self._must(self._epochs == {epoch}, "an epoch begins that the table does not have")
            self._must(not self._is_renamed, "an epoch begins before its table is published")
            self._must(end == FIRST_OFFSET, "an epoch begins behind frames")
            self.counts["fold of everything"] += 1
        self._needs = []
        self._flushed = self._on_disk = FIRST_OFFSET

    def on_store_sealed(self, value: int) -> None:
        words = self._words
        if value:
            self._must(self._has(WRITER, FLUSH) and words["writing"], "SEALED without the locks")
            self._must(not words["sealed"], "SEALED is stored twice")
            is_all = value == words["state"] == words["appended"]
            self._must(is_all, "SEALED is not all that is appended")
            epoch, end = (value >> 32) + 1, value & OFFSET_MAX
            log = self._logs[epoch & 1]
            is_start = log.epoch == epoch and log.said == end
            self._must(is_start, "SEALED is stored before START is written")
        elif words["sealed"]:
            self._must(self._has(FOLD), "SEALED is cleared without the fold lock")
            if self._synced:  # it has found the epoch of a dead process
                self._epochs = {max(self._epochs)}
            is_there = min(self._epochs) > self._word("sealed")[0]
            self._must(is_there, "SEALED is cleared before the table has the log")
            self.counts["sealed log folded"] += 1

    def on_store_folding(self, value: int) -> None:
        self._must(self._has(FOLD), "FOLDING is stored without the fold lock")

    def on_store_log_failed(self, value: int) -> None:
        if value:
            self._has_to_tell.discard(self._pid)
            self._is_replaced = False
            self._new_logs = set()
        else:
            self._must(self._has(*ORDER), "LOG_FAILED is cleared without the locks")
            self._is_known_to_have_failed = False
            is_over = self._is_replaced or not self._words["log_failed"]
            self._must(is_over, "LOG_FAILED is cleared before the logs are replaced")

    def on_store_log_id(self, value: int) -> None:
        self._must(self._has(*ORDER) and self._words["log_failed"], "logs are replaced in use")
        self._must(self._new_logs == {False, True}, "LOG_ID is stored before the logs are there")
        self._must(self._is_empty(), "logs are replaced before the table has their frames")
        self._logs = [NO_FRAMES, NO_FRAMES]
        self._is_replaced = True

    # -- what is told to callers ----------------------------------------------------------------

    def on_acked(self, is_durable: bool, is_large: bool) -> None:
        own = self._own.pop((self._pid, self._thread), [])
        in_table = self._large.pop(self._pid, False)
        opened, committed = self._word("state")
        for epoch, end in own:
            if epoch == opened:
                self._must(end <= committed, "acked before it is published")
                is_synced = not is_durable or end <= self._on_disk
                self._must(is_synced, "acked before it is on the disk")
            else:
                is_lost = end > self._failures.get(epoch, end)
                self._must(not is_lost, "acked although its flush has failed")
        self._must(own or in_table or not is_large, "a large record is acked, and is nowhere")

    def on_refused(self) -> None:
        own = self._own.pop((self._pid, self._thread), [])
        self._large.pop(self._pid, None)
        for epoch, end in own:
            is_lost = end > self._failures.get(epoch, end) and epoch < self._word("state")[0]
            self._must(is_lost, "told to have failed, and may be there")


def _newest(records: Iterable[Record]) -> int:
    return max((each.time_us for each in records), default=0)


def check(lines: Iterable[str]) -> Counter[str]:
    """Take all steps of a trace; return how often each was taken.  Raises WrongStepError."""
    rules = Rules()
    for number, line in enumerate(lines, 1):
        try:
            rules.take(json.loads(line))
        except WrongStepError as error:
            raise WrongStepError(f"step {number}: {error}: {line.strip()}") from None
    return rules.counts


# -- a run ----------------------------------------------------------------------------------------


class Run:
    """Some processes that write to a store, of which some are killed, and their trace."""

    def __init__(self, place: Path, seed: int, plant: Callable[[], None] | None = None) -> None:
        self._rng = random.Random(seed)
        self._place = place
        self._plant = plant  # changes the engine in each process
        self._path = place / "app.db"
        self._children: list[Child] = []
        self.trace = place / "trace"
        self.kills = self.writes = 0

    def make(self, rounds: int, writes: int) -> None:
        """Let new processes make so many writes each in each round, beside one that stays."""
        keeper = self._start(None, 0)
        try:
            if not keeper.lines():
                raise RuntimeError(f"the store is not opened: {keeper.error}")
            for number in range(rounds):
                kills = (
                    None,
                    Kill("", self._rng.randrange(5, 20 * writes)),
                    Kill(MOMENTS[number % len(MOMENTS)], self._rng.randrange(1, 5)),
                )
                workers = [self._start(kill, writes) for kill in kills]
                self.writes += writes * len(workers)
                for worker in workers:
                    self._end(worker)
        finally:
            self._end(keeper)
        report = logstore.check(self._path)
        if not report.ok:
            raise RuntimeError(f"the store is damaged: {report.problems}")

    def _start(self, kill: Kill | None, writes: int) -> Child:
        name, seed = f"process-{len(self._children)}", self._rng.randrange(1 << 30)
        child = start(
            name,
            lambda talk: self._work(talk, kill, seed, writes),
            self._place / f"{name}-error",
            self._children,
        )
        self._children.append(child)
        return child

    def _end(self, child: Child) -> None:
        code = child.end()
        if code == -signal.SIGKILL:
            self.kills += 1
        elif code:
            raise RuntimeError(f"{child.name}: {code}: {child.error}")

    def _work(self, talk: Talk, kill: Kill | None, seed: int, writes: int) -> None:
        """Be one process of the store."""
        rng = random.Random(seed)
        recorder = Recorder(self.trace, kill, rng.randrange(1, writes) if writes else 0)
        recorder.install()
        if self._plant is not None:
            self._plant()
        store = logstore.open(self._path, compact_at=COMPACT_AT, sync_interval_s=SYNC_S)
        talk.say("open")
        for _ in range(writes):
            _write(store, rng, recorder)
        if not writes:
            talk.hear()  # the end
        with suppress(logstore.WriteError):  # it may be this flush that fails
            store.close()


def _write(store: logstore.Store, rng: random.Random, recorder: Recorder) -> None:
    """One call, and what it tells."""
    key, drawn = f"task-{rng.randrange(8)}", rng.random()
    is_large = 0.5 < drawn < 0.6
    try:
        if is_large:
            store.set_result(key, bytes(LARGE_BYTES))
        elif drawn < 0.5:
            store.set_result(key, "x" * rng.randrange(6000))
        elif drawn < 0.8:
            store.set_progress(key, logstore.TaskProgress(status="y" * rng.randrange(200)))
        elif drawn < 0.9:
            store.delete_result(key)
        elif drawn < 0.95:
            store.compact()
        else:
            store.vacuum()
    except logstore.StoreBusyError:
        return  # another vacuum
    except logstore.WriteError:
        recorder.note("refused")
    else:
        recorder.note("acked", not 0.6 <= drawn < 0.8, is_large)


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz.model.replay", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--writes", type=int, default=20, help="of each process in a round")
    parser.add_argument("--keep", type=Path, help="a directory for the store and its trace")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="logstore-replay-") as temporary:
        run = Run(options.keep or Path(temporary), options.seed)
        run.make(options.rounds, options.writes)
        with run.trace.open() as lines:
            counts = check(lines)
    print(f"seed {options.seed}: {run.writes} writes, {run.kills} kills")
    print(*(f"{count:>8,} {what}" for what, count in sorted(counts.items())), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
