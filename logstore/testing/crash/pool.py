"""Worker processes that build states by name and judge them.

Rules:
- A worker is forked from the explorer, once, and so has the recording and the check in memory; it
  is told names and answers with verdicts, in order.
- The first name that a worker has not answered is the one it is at: if the worker dies or is silent
  for too long, that state has failed, the worker is replaced and the others are given out again.
- Only `Pool` is used by others, from one thread.
"""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import time
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from types import FrameType

from logstore.testing.crash.checking import Check, run_check
from logstore.testing.crash.materialise import write_state
from logstore.testing.crash.states import Builder

__all__ = ["Pool", "Settings", "Verdict"]

_WINDOW = 16
_GRACE_S = 5.0
_END_S = 1.0  # for the states that the workers are at when it is over


@dataclass(slots=True)
class Settings:
    """How states are judged. `root` is an existing directory that the pool may fill."""

    check: Check
    root: Path
    isolation: str
    timeout_s: float
    base_acks: bytes


@dataclass(slots=True)
class Verdict:
    """What became of a state: `message` is None if it passed."""

    name: str
    message: str | None


@dataclass(slots=True, eq=False)
class _Worker:
    process: ForkProcess
    pipe: Connection
    names: deque[str] = field(default_factory=deque)
    silent_since: float = 0.0


class Pool:
    """A number of workers. Use it as a context manager: leaving it ends them."""

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
            worker.pipe.close()  # a worker ends when it has judged the state that it is at
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
            # A caller with threads is told so by `explore_recording`'s text, once is enough.
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        theirs.close()
        return _Worker(process, ours, silent_since=time.monotonic())

    @property
    def waiting(self) -> int:
        """How many states have been given out and not been judged."""
        return sum(len(worker.names) for worker in self._workers)

    @property
    def hungry(self) -> bool:
        """Whether another state should be given out now."""
        return any(len(worker.names) < _WINDOW for worker in self._workers)

    def give(self, name: str) -> None:
        """Hands a state to the worker with the fewest."""
        worker = min(self._workers, key=lambda w: len(w.names))
        if not worker.names:
            worker.silent_since = time.monotonic()
        worker.names.append(name)
        try:
            worker.pipe.send(name)
        except OSError:
            pass  # it has died: `verdicts` will see it

    def verdicts(self, *, patient: bool) -> Iterator[Verdict]:
        """What has been judged by now; waits for something, a short time, if patient."""
        ready = wait([worker.pipe for worker in self._workers], 0.5 if patient else 0)
        now = time.monotonic()
        for index, worker in enumerate(self._workers):
            if worker.pipe in ready:
                try:
                    while worker.pipe.poll():
                        name, message = worker.pipe.recv()
                        worker.names.popleft()
                        worker.silent_since = now
                        yield Verdict(name, message)
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
            yield Verdict(at, reason or f"the worker that ran the check died: exit code {code}")
        for name in worker.names:
            self.give(name)


def _serve(
    pipe: Connection, other: Connection, builder: Builder, settings: Settings, home: Path
) -> None:
    """The life of a worker."""
    other.close()
    if settings.isolation != "inline" or not callable(settings.check):
        # The check is a process of its own then, and must not outlive its worker.
        signal.signal(signal.SIGTERM, _leave)
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
            return  # nobody wants to know any more


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def judge(builder: Builder, name: str, settings: Settings, directory: Path) -> str | None:
    """Writes a state into a directory that does not exist yet and runs the check on it.

    Returns None if it passes, else why not. The directory is left as the check leaves it.
    """
    state = builder.state(name)
    acks = settings.base_acks + builder.acks()
    write_state(state, directory)
    return run_check(
        settings.check, directory, acks, isolation=settings.isolation, timeout_s=settings.timeout_s
    )
