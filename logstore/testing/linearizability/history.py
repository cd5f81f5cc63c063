"""Histories: which client called what on which key, when, and what came back.

Rules:
- Times are of CLOCK_MONOTONIC in nanoseconds, one clock for all processes of a host. The time of
  the call is taken before anything else happens, that of the return after everything.
- In a directory, each recorder appends to a file of its own, one line before the operation starts
  and one after it; so what a killed process was at is known, and its outcome is unknown.
- An operation that raised has an unknown outcome, unless it is declared to have done nothing.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

__all__ = ["MISSING", "UNKNOWN", "Operation", "Recorder", "Recording", "load_history"]

T = TypeVar("T")


class _Mark:
    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


MISSING: Final = _Mark("missing")
"""The result of a read that found nothing."""

UNKNOWN: Final = _Mark("unknown")
"""The result of an operation that may have taken effect, may still do so later, or never."""


@dataclass(slots=True, eq=False)
class Operation:
    """One operation. Times in nanoseconds; `returned` is None when the outcome is unknown.

    `argument` and `result` must be hashable for the models (lists and dicts are frozen on loading).
    """

    client: str
    key: str
    name: str
    argument: Any
    result: Any
    called: int
    returned: int | None

    @property
    def unknown(self) -> bool:
        """Whether nobody knows if it took effect."""
        return self.returned is None

    def __str__(self) -> str:
        argument = "" if self.argument is None else repr(self.argument)
        text = f"{self.name}({argument})"
        return f"{text} -> {UNKNOWN if self.unknown else self.result!r}"


class Recording:
    """An operation under way; a context manager that `Recorder.operation` gives out."""

    def __init__(self, recorder: Recorder, number: int, operation: Operation) -> None:
        self._recorder = recorder
        self._number = number
        self._operation = operation
        self._settled = False

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        """Without `returned` or `did_nothing` the outcome stays unknown."""

    def returned(self, result: object = None) -> None:
        """Notes the result, and that the operation has returned by now."""
        now = time.monotonic_ns()
        self._settle(result, now, nothing=False)

    def did_nothing(self) -> None:
        """Notes that the operation failed and certainly had and will have no effect."""
        self._settle(None, time.monotonic_ns(), nothing=True)

    def _settle(self, result: object, now: int, *, nothing: bool) -> None:
        if self._settled:
            raise RuntimeError("the outcome of this operation has been recorded already")
        self._settled = True
        self._recorder._settle(self._number, self._operation, result, now, nothing=nothing)


class Recorder:
    """Records operations in memory, or into a new file of a directory that processes share.

    May be used by many threads and tasks of one process; after a fork, make a new one. `client`
    names who calls (each thread or task that is a client of its own passes its own name to
    `operation`). Values must be of JSON's kinds when they go into a directory.
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None, client: str = "") -> None:
        self.client = client or f"process {os.getpid()}"
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._operations: list[Operation] = []
        self._fd = -1
        if directory is not None:
            name = f"{os.getpid()}-{time.monotonic_ns()}.history"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            self._fd = os.open(Path(directory) / name, flags, 0o600)

    def operation(
        self, key: str, name: str, argument: object = None, *, client: str | None = None
    ) -> Recording:
        """Begins an operation: use it as `with recorder.operation(...) as op:`, call
        `op.returned`."""
        called = time.monotonic_ns()
        who = self.client if client is None else client
        operation = Operation(who, key, name, freeze(argument), UNKNOWN, called, None)
        number = next(self._numbers)
        if self._fd >= 0:
            self._write({"i": number, "c": who, "k": key, "n": name, "a": argument, "t": called})
        else:
            with self._lock:
                self._operations.append(operation)
        return Recording(self, number, operation)

    def call(
        self,
        key: str,
        name: str,
        function: Callable[[], T],
        argument: object = None,
        *,
        missing: tuple[type[Exception], ...] = (),
        client: str | None = None,
    ) -> T | None:
        """Runs and records a function. Exceptions in `missing` mean the result MISSING and give
        None; all others leave the outcome unknown and go on to the caller."""
        with self.operation(key, name, argument, client=client) as operation:
            try:
                result = function()
            except missing:
                operation.returned(MISSING)
                return None
            operation.returned(result)
            return result

    async def call_async(
        self,
        key: str,
        name: str,
        function: Callable[[], Awaitable[T]],
        argument: object = None,
        *,
        missing: tuple[type[Exception], ...] = (),
        client: str | None = None,
    ) -> T | None:
        """The same for a coroutine; a cancelled one has an unknown outcome."""
        with self.operation(key, name, argument, client=client) as operation:
            try:
                result = await function()
            except missing:
                operation.returned(MISSING)
                return None
            operation.returned(result)
            return result

    def history(self) -> list[Operation]:
        """What was recorded in memory so far. Empty for a recorder with a directory."""
        with self._lock:
            return list(self._operations)

    def close(self) -> None:
        """Closes the file; nothing can be recorded into it afterwards."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _settle(
        self, number: int, operation: Operation, result: object, now: int, *, nothing: bool
    ) -> None:
        if self._fd >= 0:
            if nothing:
                self._write({"i": number, "t": now, "x": 1})
            elif result is MISSING:
                self._write({"i": number, "t": now, "m": 1})
            else:
                self._write({"i": number, "t": now, "r": result})
        elif nothing:
            with self._lock:
                self._operations.remove(operation)
        else:
            operation.result = freeze(result)
            operation.returned = now

    def _write(self, line: dict[str, object]) -> None:
        # One write per line into a file opened for appending: lines of threads do not mix.
        os.write(self._fd, json.dumps(line, separators=(",", ":")).encode() + b"\n")


def freeze(value: object) -> Any:
    """A hashable stand-in that is equal for equal values of JSON's kinds."""
    if isinstance(value, dict):
        return ("dict", *sorted((freeze(k), freeze(v)) for k, v in value.items()))
    if isinstance(value, list | tuple):
        return tuple(freeze(item) for item in value)
    return value


def load_history(
    places: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
) -> list[Operation]:
    """All operations of a directory (its `*.history` files), or of the files given.

    A last line that a killed process did not finish is left out. Raises OSError, and ValueError for
    a line that is damaged elsewhere, naming file and line.
    """
    if isinstance(places, str | os.PathLike):
        files = sorted(Path(places).glob("*.history"))
    else:
        files = [Path(place) for place in places]
    operations: list[Operation] = []
    for file in files:
        operations += _load(file)
    operations.sort(key=lambda operation: operation.called)
    return operations


def _load(file: Path) -> list[Operation]:
    operations: dict[int, Operation] = {}
    lines = file.read_bytes().split(b"\n")
    for number, text in enumerate(lines[:-1], 1):
        try:
            line = json.loads(text)
            index = line["i"]
            if "k" in line:
                operations[index] = Operation(
                    line["c"], line["k"], line["n"], freeze(line["a"]), UNKNOWN, line["t"], None
                )
            elif "x" in line:
                del operations[index]
            else:
                operation = operations[index]
                operation.result = MISSING if "m" in line else freeze(line["r"])
                operation.returned = line["t"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}, line {number}: not a line of a history: {error}") from None
    return list(operations.values())
