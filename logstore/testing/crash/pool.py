"""Worker processes that build states by name and judge them.

Rules:
- A worker is forked once from the explorer, so it has the recording and the check in memory. It
  receives names and answers with verdicts, in order.
- The worker is busy with the first name that it has not answered. If the worker dies or is silent
  for too long, this state has failed, the worker is replaced, and the other names are sent again.
- Other modules use only `Pool`, from one thread.
"""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import sys
import time
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import TypeAlias

from logstore.testing.crash.checking import Check, run_check
from logstore.testing.crash.materialise import write_state
from logstore.testing.crash.states import Builder

__all__ = ["Pool", "Settings", "Verdict"]

_WINDOW = 16
_GRACE_S = 5.0
_END_S = 1.0  # for the states in progress at the end


@dataclass(slots=True)
class Settings:
    """Settings for judging states. `root` is an existing directory for the files of the pool."""

    check: Check
    root: Path
    isolation: str
    timeout_s: float
    base_acks: bytes


Verdict: TypeAlias = tuple[str, str | None]
"""The name of a state, and why it failed or None."""


@dataclass(slots=True, eq=False)
class _Worker:
    process: ForkProcess
    pipe: Connection
    names: deque[str] = field(default_factory=deque)
    silent_since: float = 0.0


class Pool:
    """A number of workers. Use it as a context manager: the exit ends them."""

    def __init__(self, builder: Builder, settings: Settings, count: int) -> None:
        self._builder = builder
        self._settings = settings
        self._context = multiprocessing.get_context("fork")
        self._made = 0
        self._workers = [self._start() for _ in range(count)]

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self._workers:
            worker.pipe.close()  # a worker ends after its current state
        deadline = time.monotonic() + _END_S
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.exitcode is None:
                worker.process.terminate()
        for worker in self._workers:
            worker.process.join(_GRACE_S)
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        self._made += 1
        home = self._settings.root / f"w{self._made}"
        home.mkdir()
        process = self._context.Process(
            target=_serve, args=(theirs, ours, self._builder, self._settings, home), daemon=False
        )
        with warnings.catch_warnings():
            # The docstring of `explore_recording` warns callers with threads already.
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        theirs.close()
        return _Worker(process, ours, silent_since=time.monotonic())

    @property
    def waiting(self) -> int:
        """The number of states that have been given out and not been judged."""
        return sum(len(worker.names) for worker in self._workers)

    @property
    def hungry(self) -> bool:
        """Whether the pool can take another state now."""
        return any(len(worker.names) < _WINDOW for worker in self._workers)

    def give(self, name: str) -> None:
        """Send a state to the worker with the fewest states."""
        worker = min(self._workers, key=lambda w: len(w.names))
        if not worker.names:
            worker.silent_since = time.monotonic()
        worker.names.append(name)
        try:
            worker.pipe.send(name)
        except OSError:
            pass  # it has died; `verdicts` handles this

    def verdicts(self, *, patient: bool) -> Iterator[Verdict]:
        """Yield the verdicts that have arrived; wait for a short time first, if patient."""
        ready = wait([worker.pipe for worker in self._workers], 0.5 if patient else 0)
        now = time.monotonic()
        for index, worker in enumerate(self._workers):
            if worker.pipe in ready:
                try:
                    while worker.pipe.poll():
                        name, message = worker.pipe.recv()
                        worker.names.popleft()
                        worker.silent_since = now
                        yield name, message
                except (EOFError, OSError):
                    yield from self._replace(index, "")
                    continue
            limit = self._settings.timeout_s + _GRACE_S
            if worker.names and now - worker.silent_since > limit:
                yield from self._replace(
                    index, f"the check ran longer than {self._settings.timeout_s} s"
                )

    def _replace(self, index: int, reason: str) -> Iterator[Verdict]:
        worker = self._workers[index]
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()
        code = worker.process.exitcode
        self._workers[index] = self._start()
        if worker.names:
            at = worker.names.popleft()
            yield at, reason or f"the worker that ran the check died: exit code {code}"
        for name in worker.names:
            self.give(name)


def _serve(
    pipe: Connection, other: Connection, builder: Builder, settings: Settings, home: Path
) -> None:
    """Run the loop of a worker."""
    other.close()
    if settings.isolation != "inline" or not callable(settings.check):
        # The check runs in its own process then, and must end with its worker.
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    number = 0
    while True:
        try:
            name = pipe.recv()
        except (EOFError, OSError, KeyboardInterrupt):
            return
        number += 1
        directory = home / str(number)
        try:
            message = judge(builder, name, settings, directory)
        except KeyboardInterrupt:
            return
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        try:
            pipe.send((name, message))
        except OSError:
            return  # the pool has closed the pipe


def judge(builder: Builder, name: str, settings: Settings, directory: Path) -> str | None:
    """Write a state into a directory that does not exist yet and run the check on it.

    Return None if it passes, else the reason. The directory is not removed after the check.
    """
    state = builder.state(name)
    acks = settings.base_acks + builder.acks()
    write_state(state, directory)
    return run_check(
        settings.check, directory, acks, isolation=settings.isolation, timeout_s=settings.timeout_s
    )
