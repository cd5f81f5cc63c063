"""Histories: the calls of each client on each key, with times and results.

Rules:
- Times are of CLOCK_MONOTONIC in nanoseconds, one clock for all processes of a host. The time of
  the call is taken before any other step, the time of the return after all other steps.
- In a directory, each recorder appends to its own file: one line before the operation starts and
  one line after it. So the operations of a killed process are known, and their outcome is unknown.
- An operation that raised has an unknown outcome, unless it is declared to have had no effect.
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
"""The result of an operation that may have taken effect, or may do so later or never."""


@dataclass(slots=True, eq=False)
class Operation:
    """One operation. Times are in nanoseconds; `returned` is None if the outcome is unknown.

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
        """Whether the outcome is unknown."""
        return self.returned is None

    def __str__(self) -> str:
        argument = "" if self.argument is None else repr(self.argument)
        text = f"{self.name}({argument})"
        return f"{text} -> {UNKNOWN if self.unknown else self.result!r}"


class Recording:
    """A running operation; the context manager returned by `Recorder.operation`."""

    def __init__(self, recorder: Recorder, number: int, operation: Operation) -> None:
        self._recorder = recorder
        self._number = number
        self._operation = operation
        self._settled = False

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the outcome unknown without a call of `returned` or `did_nothing`."""

    def returned(self, result: object = None) -> None:
        """Record the result, and the time of the return."""
        now = time.monotonic_ns()
        self._settle(result, now, nothing=False)

    def did_nothing(self) -> None:
        """Record that the operation failed and never has an effect."""
        self._settle(None, time.monotonic_ns(), nothing=True)

    def _settle(self, result: object, now: int, *, nothing: bool) -> None:
        if self._settled:
            raise RuntimeError("the outcome of this operation has been recorded already")
        self._settled = True
        self._recorder._settle(self._number, self._operation, result, now, nothing=nothing)


class Recorder:
    """Record operations in memory, or into a new file of a directory that processes share.

    Many threads and tasks of one process may use it; after a fork, make a new one. `client` names
    the caller (each thread or task that is a separate client passes its own name to `operation`).
    Values recorded into a directory must be JSON values.
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
        """Begin an operation.

        Use it as `with recorder.operation(...) as op:` and call `op.returned`.
        """
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
        """Call and record a function.

        For an exception in `missing`, record MISSING and return None. Other exceptions leave the
        outcome unknown and are raised to the caller.
        """
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
        """Await and record a coroutine, as `call`; a cancelled one has an unknown outcome."""
        with self.operation(key, name, argument, client=client) as operation:
            try:
                result = await function()
            except missing:
                operation.returned(MISSING)
                return None
            operation.returned(result)
            return result

    def history(self) -> list[Operation]:
        """Return the operations recorded in memory. Empty for a recorder with a directory."""
        with self._lock:
            return list(self._operations)

    def close(self) -> None:
        """Close the file. Nothing can be recorded afterwards."""
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
        # One write per line in append mode, so that lines of threads do not mix.
        os.write(self._fd, json.dumps(line, separators=(",", ":")).encode() + b"\n")


def freeze(value: object) -> Any:
    """Return a hashable form of a JSON value; equal values have equal forms."""
    if isinstance(value, dict):
        return ("dict", *sorted((freeze(k), freeze(v)) for k, v in value.items()))
    if isinstance(value, list | tuple):
        return tuple(freeze(item) for item in value)
    return value


def load_history(
    places: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
) -> list[Operation]:
    """Return all operations of a directory (its `*.history` files), or of the given files.

    An incomplete last line, as left by a killed process, is skipped. Raise OSError, and ValueError
    with file and line number for any other damaged line.
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
