"""Recording what a process of a real store does to the words, logs, locks and table, step by step.

Rules: nothing of the engine is changed; its functions are wrapped from outside, in a process that
is made for it.  A step and its line are one: both are made under a lock on the file of the trace,
so the order of its lines is that of the steps of all processes.  Flushes and commits take longer:
they have a line before and one behind.  A process that is to be killed at a step kills itself
there, so it is known exactly how far it has come.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from logstore._engine import durability, engine, frames, locks, sealing, vacuum
from logstore._engine.engine import Engine
from logstore._engine.header import SharedHeader
from logstore._engine.header import _Fields as Fields
from logstore._engine.log import Log
from logstore._engine.overlay import Batch, Overlay
from logstore._engine.table import Table

T = TypeVar("T")

LOCKS = {"writer": locks.WRITER, "flush": locks.FLUSH, "fold": locks.FOLD}
WORDS = (
    *("ready", "state", "appended", "synced", "unsynced", "sealed", "writing", "flushing"),
    *("log_failed", "folding", "log_id", "incarnation"),
)


class Kill(NamedTuple):
    """When a process kills itself."""

    of: str  # a kind of steps, or the name of a word or lock; empty for all steps
    at: int  # behind so many of these


class Recorder:
    """One process's side of a trace.

    Its flush of the number ``fails`` fails.
    """

    def __init__(self, path: Path, kill: Kill | None = None, fails: int = 0) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
        self._lock = threading.RLock()
        self._kill = kill
        self._seen = 0  # how many of the steps that are counted
        self._fails = fails
        self._flushes = 0
        self._extra: Batch | None = None  # what goes into the table past the log
        self._held: set[str] = set()

    def step(self, work: Callable[[], T], line: Callable[[T], list[Any] | None]) -> T:
        """Do what is one step, and write its line, if it has one."""
        with self._lock:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            try:
                value = work()
                found = line(value)
                if found:
                    self._write(found)
                    if self._kill is not None and self._kill.of in ("", *found[:2]):
                        self._seen += 1
                        if self._seen == self._kill.at:
                            self._write(["kill"])
                            os.kill(os.getpid(), signal.SIGKILL)
                return value
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def note(self, *words: Any) -> None:
        """Write a line about something that is no step."""
        self.step(lambda: None, lambda _: list(words))

    def _write(self, words: list[Any]) -> None:
        line = [os.getpid(), threading.get_ident(), *words]
        os.write(self._fd, json.dumps(line).encode() + b"\n")

    # -- what is wrapped ------------------------------------------------------------------------

    def install(self) -> None:
        """Wrap the engine's functions in this process."""
        self._wrap_locks()
        for name in WORDS:
            self._wrap_word(name)
        self._wrap_log()
        self._wrap_failures()
        self._wrap_table()
        self._wrap_vacuum()
        self._wrap_names()

    def _wrap_locks(self) -> None:
        call = locks.fcntl_call
        taken = {lock.locked: name for name, lock in LOCKS.items()}
        given = {lock.unlocked: name for name, lock in LOCKS.items()}

        def fcntl_call(fd: int, command: int, argument: Any = 0) -> Any:
            if command != locks.SETLK or (argument not in taken and argument not in given):
                return call(fd, command, argument)

            def line(_: Any) -> list[Any] | None:
                if argument in taken:
                    self._held.add(taken[argument])
                    return ["lock", taken[argument]]
                if given[argument] not in self._held:
                    return None
                self._held.discard(given[argument])
                return ["unlock", given[argument]]

            return self.step(lambda: call(fd, command, argument), line)

        vars(locks)["fcntl_call"] = fcntl_call

    def _wrap_word(self, name: str) -> None:
        field = getattr(Fields, name)

        def load(header: SharedHeader) -> int:
            value: int = field.__get__(header, SharedHeader)
            return value

        def store(header: SharedHeader, value: int) -> None:
            self.step(lambda: field.__set__(header, value), lambda _: ["store", name, int(value)])

        setattr(SharedHeader, name, property(load, store))

    def _wrap_log(self) -> None:
        write, sync = Log.write, Log.sync

        def name(log: Log) -> list[int]:
            return [log.path.endswith("2"), log.log_id]

        def recorded_write(log: Log, data: bytes, offset: int) -> None:
            self.step(
                lambda: write(log, data, offset),
                lambda _: ["write", *name(log), offset, *_frames_in(data, offset)],
            )

        def recorded_sync(log: Log) -> None:
            self.note("flush", *name(log))
            self._flushes += 1
            if self._flushes == self._fails:
                self.note("flush failed")
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            sync(log)
            self.note("flushed", *name(log))

        setattr(Log, "write", recorded_write)  # noqa: B010 -- mypy knows a method
        setattr(Log, "sync", recorded_sync)  # noqa: B010

    def _wrap_failures(self) -> None:
        add_failure = SharedHeader.add_failure

        def recorded_failure(header: SharedHeader) -> None:
            self.step(lambda: add_failure(header), lambda _: ["failure", header.state])

        setattr(SharedHeader, "add_failure", recorded_failure)  # noqa: B010

    def _wrap_table(self) -> None:
        fold_into, sync_data = vars(engine)["fold_into"], durability.sync_data
        fold_unverified = Engine.fold_unverified

        def recorded_fold(
            table: Table, batches: list[Batch], *more: Any, epoch: int, **options: Any
        ) -> int:
            large = self._extra
            past_log = [] if large is None else [batch for batch in batches if batch is large]
            through_log = [batch for batch in batches if batch is not large]
            self.note(
                "fold",
                epoch,
                options["incarnation"],
                max(map(_newest, through_log), default=0),
                *[
                    [key.decode(), entry.time_us]
                    for results, _ in past_log
                    for key, entry in results.items()
                ],
            )
            try:
                value: int = fold_into(table, batches, *more, epoch=epoch, **options)
            except BaseException:
                self.note("unfolded")
                raise
            self.note("folded", epoch)
            return value

        def recorded_extra(self_: Engine, *, extra: Batch | None = None, **options: Any) -> None:
            self._extra = extra
            try:
                fold_unverified(self_, extra=extra, **options)
            finally:
                self._extra = None

        def recorded_sync(fd: int) -> None:
            sync_data(fd)
            if "-log" not in os.readlink(f"/proc/self/fd/{fd}"):
                self.note("table synced")

        for module in (engine, sealing):
            vars(module)["fold_into"] = recorded_fold
        setattr(Engine, "fold_unverified", recorded_extra)  # noqa: B010
        vars(durability)["sync_data"] = recorded_sync

    def _wrap_vacuum(self) -> None:
        open_copy, fold_changes = vars(vacuum)["open_copy"], vars(vacuum)["_fold_changes"]

        def recorded_copy(fd: int, path: str) -> Table:
            copy: Table = open_copy(fd, path)
            self.note("copied", copy.meta.epoch, copy.meta.incarnation)
            return copy

        def recorded_fold(
            copy: Table, view: Overlay, folded: vacuum.Folded, epoch: int, incarnation: int
        ) -> None:
            fold_changes(copy, view, folded, epoch, incarnation)
            self.note("copy folded", folded.changed, len(view.changed), epoch, incarnation)

        vars(vacuum)["open_copy"] = recorded_copy
        vars(vacuum)["_fold_changes"] = recorded_fold

    def _wrap_names(self) -> None:
        rename, sync_directory = os.rename, durability.sync_directory

        def recorded_rename(before: str, after: str) -> None:
            def line(_: None) -> list[Any] | None:
                if before.endswith("-vacuum"):
                    return ["renamed"]
                return ["new log", after.endswith("2")] if "-log" in after else None

            self.step(lambda: rename(before, after), line)

        def recorded_sync(directory: str) -> None:
            sync_directory(directory)
            self.note("directory synced")

        vars(os)["rename"] = recorded_rename
        vars(durability)["sync_directory"] = recorded_sync


def _newest(batch: Batch) -> int:
    """The newest time in what is folded, 0 if there is nothing."""
    results, progress = batch
    entries = [*results.values(), *(entry for entry in progress.values() if entry is not None)]
    return max((entry.time_us for entry in entries), default=0)


def _frames_in(data: bytes, offset: int) -> tuple[int, int | None, list[list[Any]]]:
    """The epoch of some frames, what a START says, and of each its end, kind, key and time."""
    found: list[list[Any]] = []
    said, at, epoch = None, 0, 0
    while at < len(data):
        _, length, epoch, _, kind, _, key_length, time_us, _ = frames.FRAME.unpack_from(data, at)
        key_at, at = at + frames.FRAME.size, at + length
        if kind == frames.START:
            said = int.from_bytes(data[key_at + key_length : at], "little")
        found.append([offset + at, kind, data[key_at : key_at + key_length].decode(), time_us])
    return epoch, said, found
