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
from pathlib import Path
from typing import Any, NamedTuple

import logstore
from fuzz.model.recording import WORDS, Kill, Recorder
from fuzz.processes import Child, Talk, start
from logstore._engine.frames import OFFSET_MAX
from logstore._engine.log import FIRST_OFFSET

WRITER, FLUSH, FOLD = "writer", "flush", "fold"
ORDER = (WRITER, FLUSH, FOLD)
WORKERS = 3  # one is not killed, one at any step, one at a step of these
MOMENTS = ("write", "appended", "sealed", "state", "fold", "folded", "flush", "flushed", "writing")
COMPACT_AT, SYNC_S = 1 << 14, 0.01


class WrongStepError(Exception):
    """A step that the rules do not allow."""


class Frames(NamedTuple):
    """What a log has."""

    epoch: int
    end: int  # of the whole frames
    said: int | None  # by START
    begins: int  # behind START


NO_FRAMES = Frames(0, FIRST_OFFSET, None, 0)


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
        self._epochs = {0}  # those that the table may have: two behind a death in a commit
        self._folding: dict[int, int] = {}
        self._synced = False  # whether the holder of the fold lock has synced the table
        self._writer = 0  # who has set ``writing``

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

    def on_unlock(self, name: str) -> None:
        if not self._has(name):
            raise WrongStepError("a lock is given back that another process has")
        if name == FLUSH:
            self._flushing.pop(self._pid, None)
        del self._locks[name]

    def on_kill(self) -> None:
        self._locks = {name: who for name, who in self._locks.items() if who[0] != self._pid}
        self._flushing.pop(self._pid, None)
        epoch = self._folding.pop(self._pid, None)
        if epoch is not None:
            self._epochs.add(epoch)

    # -- the logs -------------------------------------------------------------------------------

    def on_write(self, odd: bool, offset: int, epoch: int, end: int, said: int | None) -> None:
        words = self._words
        self._must(self._has(WRITER), "frames are written without the writer lock")
        self._must(words["writing"] and self._writer == self._pid, "WRITING is not set")
        self._must(odd == epoch & 1, "a frame is in the log of other epochs")
        self._must(not words["log_failed"], "a log is written that has failed")
        self._must(not self._is_sealed(epoch), "a frame is behind a sealed log's end")
        state, appended = self._word("state"), self._word("appended")
        if said is None:
            self._must(appended == (epoch, offset), "a frame is not behind what is appended")
            self._must(state[0] == epoch, "a frame of an epoch that is not open")
            before = self._logs[odd]
            start = before if before.epoch == epoch else NO_FRAMES
            self._logs[odd] = Frames(epoch, end, start.said, start.begins)
            return
        self._must(self._has(FLUSH), "a log is sealed without the flush lock")
        self._must(not words["sealed"], "a log is sealed while the other one is")
        self._must(not words["flushing"], "a log is sealed while a flush is not over")
        self._must(state == appended == (epoch - 1, said), "START names another end")
        self._must(words["synced"] == said, "a log is sealed that is not flushed")
        self._must(self._epochs == {epoch - 1}, "a log is used again that the table lacks")
        self._must(offset == FIRST_OFFSET, "START is not the first frame")
        self._logs[odd] = Frames(epoch, end, said, end)

    def _is_sealed(self, epoch: int) -> bool:
        return self._words["sealed"] >> 32 == epoch > 0

    def on_flush(self, odd: bool) -> None:
        self._must(self._has(FLUSH) and self._words["flushing"], "a flush without FLUSHING")
        self._flushing[self._pid] = self._logs[odd].end

    def on_flushed(self, odd: bool) -> None:
        if self._word("state")[0] & 1 == odd:
            self._flushed = max(self._flushed, self._flushing.pop(self._pid, FIRST_OFFSET))

    # -- the table ------------------------------------------------------------------------------

    def on_fold(self, epoch: int) -> None:
        words = self._words
        self._must(self._has(FOLD), "the table is written without the fold lock")
        opened, sealed = self._word("state")[0], self._word("sealed")[0]
        is_beside = sealed > 0 and epoch == sealed + 1 and sealed in self._epochs
        is_of_all = (
            self._has(*ORDER)
            and words["writing"]
            and epoch in {max(opened, found) + 1 for found in self._epochs}
        )
        self._must(is_beside or is_of_all, "a fold into a table that lacks an epoch before it")
        self._folding[self._pid] = epoch
        self._synced = False

    def on_folded(self, epoch: int) -> None:
        self._folding.pop(self._pid, None)
        self._epochs = {epoch}

    def on_unfolded(self) -> None:
        epoch = self._folding.pop(self._pid, None)
        if epoch is not None:
            self._epochs.add(epoch)

    def on_table_synced(self) -> None:
        self._synced = self._has(FOLD)

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

    def on_store_writing(self, value: int) -> None:
        self._must(self._has(WRITER), "WRITING is stored without the writer lock")
        if self._words["writing"] and self._writer != self._pid:
            self._must(self._has(*ORDER), "a write goes on where a process has died in one")
            self.counts["recovery"] += 1
        self._writer = self._pid if value else 0

    def on_store_flushing(self, value: int) -> None:
        self._must(self._has(FLUSH), "FLUSHING is stored without the flush lock")
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
        self._must(value <= self._flushed, "SYNCED is beyond what was flushed")

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
            self._must(end == FIRST_OFFSET, "an epoch begins behind frames")
            self.counts["fold of everything"] += 1
        self._needs = []
        self._flushed = FIRST_OFFSET

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
        self._must(self._has(*ORDER) if not value else True, "LOG_FAILED is cleared without locks")

    def on_store_log_id(self, value: int) -> None:
        self._must(self._has(*ORDER) and self._words["log_failed"], "logs are replaced in use")
        self._logs = [NO_FRAMES, NO_FRAMES]


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
        Recorder(self.trace, kill).install()
        if self._plant is not None:
            self._plant()
        rng = random.Random(seed)
        with logstore.open(self._path, compact_at=COMPACT_AT, sync_interval_s=SYNC_S) as store:
            talk.say("open")
            for _ in range(writes):
                _write(store, rng)
            if not writes:
                talk.hear()  # the end


def _write(store: logstore.Store, rng: random.Random) -> None:
    key, drawn = f"task-{rng.randrange(20)}", rng.random()
    if drawn < 0.6:
        store.set_result(key, "x" * rng.randrange(6000))
    elif drawn < 0.85:
        store.set_progress(key, logstore.TaskProgress(status="y" * rng.randrange(200)))
    elif drawn < 0.97:
        store.delete_result(key)
    else:
        store.compact()


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
