"""Fuzzer of what the taskiq backends read: the file backend's files, and stored outcomes.

Invariants: any bytes in a file are the result or progress of its task, or a ResultDamagedError that
names the file; any value in a store is a result or a ResultDamagedError; the rest of taskiq can
use what came back (its log, its error, raising and printing it).  Nothing is imported because of
what was read.  Time and memory are in proportion to the input.

The first byte of an input says what the rest is: a result's file, a progress's file, or the bytes
of a stored value.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

from taskiq.result import TaskiqResult

from fuzz.child import error_label
from fuzz.command import main
from fuzz.fuzz_values import SAMPLES
from fuzz.target import Run, Target, expect
from logstore._codec.values import decode_value, encode_value
from logstore.errors import DecodeError
from logstore.progress import TaskProgress
from logstore.taskiq.errors import ResultDamagedError
from logstore.taskiq.outcome.outcome import decode_outcome, encode_outcome
from logstore.taskiq.outcome.revival import exception_policy
from logstore.taskiq.results.file import FileResultBackend
from logstore.taskiq.results.json_file import render

TASK = "job-1"
_RESULT, _PROGRESS, _VALUE = range(3)
_ALLOWED = exception_policy("faithful")
_ERRORS: list[BaseException] = [
    *(ValueError("x"), KeyError(("a", 1)), OSError(2, "no", "file"), SystemExit(3)),
    *(ValueError(object()), OSError(2, "no", Path("file")), RuntimeError([KeyError(1)], 2)),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
]
if sys.version_info >= (3, 11):
    _ERRORS.append(ExceptionGroup("g", [TypeError(1)]))  # noqa: F821


def _outcomes() -> list[dict[str, Any]]:
    values = [sample for sample in SAMPLES if not isinstance(sample, str) or sample.isprintable()]
    results = [
        TaskiqResult(is_err=False, return_value=value, execution_time=0.5, log="l", labels={"a": 1})
        for value in (values, {"rows": values[:5]}, None)
    ]
    for error in _ERRORS:
        chained: BaseException = error
        if not isinstance(error, SystemExit):
            chained = RuntimeError("outer")
            chained.__cause__ = error
        results.append(
            TaskiqResult(is_err=True, return_value=None, execution_time=1.0, error=chained)
        )
    return [encode_outcome(result) for result in results]


def seeds() -> Sequence[bytes]:
    """Files and values of results that hold every type and several errors."""
    found = [bytes((_RESULT,)) + render("result", TASK, outcome) for outcome in _outcomes()]
    found += [bytes((_VALUE,)) + encode_value(outcome) for outcome in _outcomes()]
    for progress in (TaskProgress(0.5, "s", 1, 2, {"k": [1]}), TaskProgress.from_state("S", {1})):
        found.append(bytes((_PROGRESS,)) + render("progress", TASK, progress.to_dict()))
    deep = b"[" * 3000 + b"]" * 3000
    return [
        *found,
        bytes((_RESULT,)) + deep,
        bytes((_RESULT,)) + b'{"a":' * 900 + b"1" + b"}" * 900,
    ]


def seal(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """Put a file's checksum right, so that what is behind it is read."""
    try:
        document = json.loads(bytes(data[1:]))
        line = json.dumps(
            document["content"], ensure_ascii=False, separators=(",", ":"), allow_nan=False
        )
        document["crc32"] = f"{crc32(line.encode('utf-8', 'surrogatepass')):08x}"
        data[1:] = json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")
    except (ValueError, KeyError, TypeError, RecursionError):
        return


def change_node(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """Put another JSON value somewhere into a file, and its checksum right."""
    try:
        document = json.loads(bytes(data[1:]))
    except (ValueError, RecursionError):
        return
    if not isinstance(document, (dict, list)):
        return
    node: Any = document
    for _ in range(rng.randint(1, 8)):
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            break
        key = rng.choice(keys)
        if not isinstance(node[key], (dict, list)) or rng.random() < 0.15:
            node[key] = rng.choice(
                (
                    None,
                    0,
                    -1,
                    1.5,
                    10**400,
                    "",
                    "x",
                    "\ud800",
                    [],
                    [[]],
                    {},
                    {"$type": "dict"},
                    True,
                )
                if rng.random() < 0.6
                else (document, node, list(document))[1:]
            )
            break
        node = node[key]
    try:
        data[1:] = json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):  # it holds itself now
        return
    seal(rng, data, corpus)


class Files:
    """A file backend whose files are replaced by inputs."""

    def __init__(self, directory: Path) -> None:
        self.backend: FileResultBackend[Any] = FileResultBackend(directory)
        self.result = directory / f"{TASK}.result.json"
        self.progress = directory / f"{TASK}.progress.json"

    def run(self, data: bytes) -> str:
        """Read an input as what its first byte says."""
        if not data:
            return "empty"
        modules = set(sys.modules)
        read = (self.read_result, self.read_progress, read_value)[data[0] % 3]
        label = read(data[1:])
        # The decoder of JSON knows other encodings of text too.
        imported = {name for name in sys.modules if name[:9] != "encodings"} - modules
        expect(not imported, f"imported: {imported}")
        return label

    def read_result(self, data: bytes) -> str:
        """A result's file."""
        self.result.write_bytes(data)
        try:
            result = self.backend._get_result(TASK, True)
        except ResultDamagedError as error:
            expect(str(self.result) in str(error), f"the message names no file: {error}")
            return error_label(error)
        return use(result)

    def read_progress(self, data: bytes) -> str:
        """A progress's file."""
        self.progress.write_bytes(data)
        try:
            coroutine = self.backend.get_progress(TASK)
            progress = run_inline(coroutine)
        except ResultDamagedError as error:
            expect(str(self.progress) in str(error), f"the message names no file: {error}")
            return error_label(error)
        expect(isinstance(progress.state, str), "a state that is no str")
        return f"progress {type(progress.meta).__name__}"


def read_value(data: bytes) -> str:
    """A stored value."""
    try:
        value = decode_value(data)
    except DecodeError:
        return "no value"
    try:
        result = decode_outcome(value, _ALLOWED, with_logs=True)
    except ResultDamagedError as error:
        return error_label(error)
    return use(result)


def use(result: TaskiqResult[Any]) -> str:
    """What taskiq and its users do with a result."""
    expect(isinstance(result.is_err, bool), "is_err is no bool")
    repr(result.return_value)
    if result.error is None:
        return f"value {type(result.return_value).__name__}"
    expect(isinstance(result.error, Exception), "an error that ends its client")
    try:
        result.raise_for_error()
    except Exception as error:
        expect(isinstance(str(error), str), "an error without a text")
        return f"error {type(error).__name__}"
    raise AssertionError("an error that is not raised")


def run_inline(coroutine: Any) -> Any:
    """The outcome of a coroutine whose only wait is for a function in a thread."""
    import asyncio

    original = asyncio.to_thread

    async def call(function: Any, /, *arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named)

    asyncio.to_thread = call
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    finally:
        asyncio.to_thread = original
    raise AssertionError("the coroutine waits for something else")


@contextmanager
def session() -> Iterator[Run]:
    """A directory, and everything imported that a first result imports."""
    with tempfile.TemporaryDirectory(prefix="logstore-fuzz-") as directory:
        files = Files(Path(directory))
        for data in seeds():
            for kind in range(3):
                try:
                    files.run(bytes((kind,)) + data[1:])
                except AssertionError:
                    continue
        yield files.run


TARGET = Target("outcomes", seeds, session, batch=200, mutations=(seal, change_node, change_node))

if __name__ == "__main__":
    main(TARGET)
