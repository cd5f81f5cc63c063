"""Checks of crash states, and how they are run and stopped.

Rules:
- A check gets the directory of the state, which it may change, and the acknowledged lines. It
  passes by returning (or exiting with 0) and fails by raising (or exiting with another code).
- "fork": each state is checked in a child forked from the worker, so checks cannot affect each
  other.
- "inline": many states are checked in one process, for checks that leave nothing behind (no
  threads, no open files). If a check hangs or dies, the worker ends too; the state counts as
  failed.
- A command runs in its own process group, which is killed when its time is over.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, TypeAlias

__all__ = ["Check", "CheckFunction", "in_shell", "name_of", "resolve", "run_check", "told_lines"]

CheckFunction = Callable[[Path, list[str]], object]
Check: TypeAlias = CheckFunction | Sequence[str]
"""A function of directory and acknowledged lines, or a command.

In a command, `{dir}` and `{acks}` are replaced by the state's directory and a file of the
acknowledged lines (both are also in the environment).
"""

_MESSAGE_BYTES_MAX = 16_000


def run_check(
    check: Check, directory: Path, acks: bytes, *, isolation: str, timeout_s: float
) -> str | None:
    """Judge a state: return None if it passes, else the reason. Never raise errors of the check."""
    if not callable(check):
        return _run_command(check, directory, acks, timeout_s)
    if isolation == "inline":
        return _call(check, directory, acks)
    return _run_forked(check, directory, acks, timeout_s)


def told_lines(acks: bytes) -> list[str]:
    """Return the complete acknowledged lines."""
    return acks[: acks.rfind(b"\n") + 1].decode("utf-8", "surrogateescape").splitlines()


def _call(check: CheckFunction, directory: Path, acks: bytes) -> str | None:
    try:
        check(directory, told_lines(acks))
    except Exception as error:
        frames = "".join(traceback.format_exception(error))
        text = f"{type(error).__name__}: {error}\n{frames}"[:_MESSAGE_BYTES_MAX]
        return text.encode(errors="replace").decode()
    return None


def _run_forked(check: CheckFunction, directory: Path, acks: bytes, timeout_s: float) -> str | None:
    reading, writing = Pipe(duplex=False)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        status = 70
        try:
            reading.close()
            os.setpgid(0, 0)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            writing.send(_call(check, directory, acks))
            status = 0
        finally:
            os._exit(status)
    writing.close()
    try:
        if not reading.poll(timeout_s):
            return f"the check ran longer than {timeout_s} s"
        message: str | None = reading.recv()
        return message
    except (EOFError, OSError):
        pass
    finally:
        reading.close()
        # Also when this process is terminated. Processes left by the check are killed too.
        for kill in (os.kill, os.killpg):
            _kill(kill, child)
        _, status = os.waitpid(child, 0)
    return f"the check's process ended without a result: {_ending(status)}"


def _kill(kill: Callable[[int, int], None], number: int) -> None:
    """Kill a child that has not been waited for, or its process group if it has one by now."""
    try:
        kill(number, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def _ending(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _run_command(
    command: Sequence[str], directory: Path, acks: bytes, timeout_s: float
) -> str | None:
    told = directory.with_name(directory.name + ".acks")
    told.write_bytes(acks[: acks.rfind(b"\n") + 1])
    words = [w.replace("{dir}", str(directory)).replace("{acks}", str(told)) for w in command]
    environ = {
        **os.environ,
        "LOGSTORE_CRASH_DIR": str(directory),
        "LOGSTORE_CRASH_ACKS": str(told),
    }
    process = subprocess.Popen(
        words, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return f"the check ran longer than {timeout_s} s"
    finally:
        _kill(os.killpg, process.pid)  # also all processes left in its session
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        told.unlink()
    if process.returncode == 0:
        return None
    text = output[-_MESSAGE_BYTES_MAX:].decode(errors="replace").strip()
    return f"exit code {process.returncode}: {text}"


def name_of(function: Callable[..., object]) -> str | None:
    """Return the `module:function` or `file.py:function` to import a function by, or None."""
    name = getattr(function, "__qualname__", "")
    module = getattr(function, "__module__", None)
    if not name or "<" in name or module is None:
        return None
    if module != "__main__":
        return f"{module}:{name}"
    file = getattr(sys.modules["__main__"], "__file__", None)
    return None if file is None else f"{os.path.abspath(file)}:{name}"


def resolve(name: str) -> Callable[..., Any]:
    """Return the function of a `module:function` or `file.py:function`. Raise ValueError."""
    place, colon, attribute = name.rpartition(":")
    if not colon:
        raise ValueError(f"{name!r}: expected module:function or file.py:function")
    if place.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        if spec is None or spec.loader is None:
            raise ValueError(f"{place} cannot be imported")
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(Path(place).stem, module)
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    found: Any = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ValueError(f"{name!r}: no such function")
    function: Callable[..., Any] = found
    return function


def in_shell(check: Check) -> str | None:
    """Return the check in the form of `--check`, or None for a function without a name."""
    if callable(check):
        name = name_of(check)
        return None if name is None else "python:" + name
    return shlex.join(check)
