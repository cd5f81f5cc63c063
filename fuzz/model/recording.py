"""Recording what a process of a real store does to the words, logs, locks and table, step by step.

Rules: nothing of the engine is changed; its functions are wrapped from outside, in a process that
is made for it.  A step and its line are one: both are made under a lock on the file of the trace,
so the order of its lines is that of the steps of all processes.  Flushes and commits take longer:
they have a line before and one behind.  A process that is to be killed at a step kills itself
there, so it is known exactly how far it has come.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from logstore._engine import durability, engine, frames, locks, sealing
from logstore._engine.header import SharedHeader
from logstore._engine.header import _Fields as Fields
from logstore._engine.log import Log

T = TypeVar("T")

LOCKS = {"writer": locks.WRITER, "flush": locks.FLUSH, "fold": locks.FOLD}
WORDS = (
    *("ready", "state", "appended", "synced", "unsynced", "sealed", "writing", "flushing"),
    *("log_failed", "folding", "log_id"),
)


class Kill(NamedTuple):
    """When a process kills itself."""

    of: str  # a kind of steps, or the name of a word or lock; empty for all steps
    at: int  # behind so many of these


class Recorder:
    """One process's side of a trace."""

    def __init__(self, path: Path, kill: Kill | None = None) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
        self._lock = threading.RLock()
        self._kill = kill
        self._seen = 0  # how many of the steps that are counted
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
        self._wrap_table()

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

        def recorded_write(log: Log, data: bytes, offset: int) -> None:
            self.step(
                lambda: write(log, data, offset),
                lambda _: ["write", log.path.endswith("2"), offset, *_frames_in(data, offset)],
            )

        def recorded_sync(log: Log) -> None:
            self.note("flush", log.path.endswith("2"))
            sync(log)
            self.note("flushed", log.path.endswith("2"))

        setattr(Log, "write", recorded_write)  # noqa: B010 -- mypy knows a method
        setattr(Log, "sync", recorded_sync)  # noqa: B010

    def _wrap_table(self) -> None:
        fold_into, sync_data = vars(engine)["fold_into"], durability.sync_data

        def recorded_fold(*arguments: Any, epoch: int, **options: Any) -> int:
            self.note("fold", epoch)
            try:
                value: int = fold_into(*arguments, epoch=epoch, **options)
            except BaseException:
                self.note("unfolded")
                raise
            self.note("folded", epoch)
            return value

        def recorded_sync(fd: int) -> None:
            sync_data(fd)
            if "-log" not in os.readlink(f"/proc/self/fd/{fd}"):
                self.note("table synced")

        for module in (engine, sealing):
            vars(module)["fold_into"] = recorded_fold
        vars(durability)["sync_data"] = recorded_sync


def _frames_in(data: bytes, offset: int) -> tuple[int, int, int | None]:
    """The epoch of some frames, where they end, and what a START says."""
    _, length, epoch, _, kind, _, key_length, _, _ = frames.FRAME.unpack_from(data)
    said = None
    if kind == frames.START:
        said = int.from_bytes(data[frames.FRAME.size + key_length : length], "little")
    return epoch, offset + len(data), said
