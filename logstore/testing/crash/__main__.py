"""The command line: `python -m logstore.testing.crash --workload W --check C --dir D`.

Exit codes: 0 every state passed, 1 violations, 2 invalid arguments, workload or trace.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from logstore.testing.crash.call import command_of, python_path
from logstore.testing.crash.checking import Check, resolve
from logstore.testing.crash.explorer import explore, replay
from logstore.testing.crash.recording import (
    ACKS_VARIABLE,
    DIRECTORY_VARIABLE,
    Recording,
    WorkloadError,
)
from logstore.testing.crash.states import Builder, describe
from logstore.testing.crash.strace import TraceError

__all__ = ["main"]

_EPILOG = """W, C and the setup are commands, or functions: python:module:function or
python:file.py:function. In commands, {dir} is replaced by the directory and, in C, {acks} by the
file of acknowledged lines. Both are also in the variables LOGSTORE_CRASH_DIR and
LOGSTORE_CRASH_ACKS. The workload acknowledges its work by appending whole lines to the file
LOGSTORE_CRASH_ACKS (logstore.testing.crash.tell does that). The check must exit with 0 if all
acknowledged data is there, and otherwise print a message and exit with another code.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m logstore.testing.crash",
        description="Explore the disk states that a power cut can leave behind.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--workload", metavar="W", help="the workload to run once under strace")
    add("--check", metavar="C", help="the check to run on each state")
    add("--dir", metavar="D", help="the directory to watch; its contents count as durable")
    add("--setup", metavar="S", help="setup to run first on the directory, without strace")
    add("--volatile", metavar="GLOB", action="append", default=[],
        help="a file (name or glob) never trusted after a crash; may be repeated")  # fmt: skip
    add("--fs", choices=("posix", "ext4"), default="posix",
        help="guarantees of sync: posix (strict) or ext4 (a journal, ordered names)")  # fmt: skip
    add("--acks-from-stdout", action="store_true", help="the acks are on the standard output")
    add("--seed", type=int, default=0, help="seed for random states")
    add("--bound", type=int, default=256, help="enumerate points with at most this many states")
    add("--max-states", type=int, default=10_000, help="stop after this many different states")
    add("--max-seconds", type=float, help="stop after this time")
    add("--max-violations", type=int, default=10, help="stop after this many violations")
    add("--workers", type=int, help="number of processes; one per CPU by default")
    add("--timeout", type=float, default=30.0, metavar="SECONDS", help="time limit for one check")
    add("--inline", action="store_true", help="check many states in one process (functions only)")
    add("--keep", action="store_true", help="keep violating states in the recording")
    add("--recording", metavar="PATH", help="where to keep the recording")
    add("--replay", metavar="RECORDING", help="rebuild one state of a recording")
    add("--state", metavar="NAME", help="the state to replay")
    add("--into", metavar="PATH", help="where to put the replayed state; it is not removed")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        if options.replay is not None:
            return _replay(parser, options)
        return _explore(parser, options)
    except (WorkloadError, TraceError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _replay(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.state is None or (options.check is None and options.into is None):
        parser.error("--replay needs --state, and --check or --into or both")
    recording = Recording.load(options.replay)
    builder = Builder(recording.history, journaled=recording.journaled, seed=options.seed)
    print(f"state {options.state}:")
    for line in describe(builder, options.state):
        print(f"    {line}")
    check = None if options.check is None else _check(options.check)
    message = replay(
        options.replay, options.state, check, seed=options.seed, into=options.into,
        timeout_s=options.timeout,
    )  # fmt: skip
    if check is not None:
        print("passes" if message is None else f"VIOLATION: {message}")
    return 0 if message is None else 1


def _explore(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.workload is None or options.check is None or options.dir is None:
        parser.error("--workload, --check and --dir are needed (or --replay)")
    directory = Path(options.dir).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    base_acks = b"" if options.setup is None else _set_up(options.setup, directory)
    result = explore(
        _command(options.workload, directory), _check(options.check), directory,
        recording=options.recording, fs=options.fs, volatile=options.volatile,
        base_acks=base_acks, env=python_path(), acks_from_stdout=options.acks_from_stdout,
        seed=options.seed, bound=options.bound, max_states=options.max_states,
        max_seconds=options.max_seconds, max_violations=options.max_violations,
        workers=options.workers, isolation="inline" if options.inline else "fork",
        state_timeout_s=options.timeout, keep=options.keep,
    )  # fmt: skip
    print(result)
    return 0 if result.ok else 1


def _set_up(text: str, directory: Path) -> bytes:
    with tempfile.NamedTemporaryFile(prefix="crash-setup-") as acks:
        environ = {**os.environ, **python_path()}
        environ |= {ACKS_VARIABLE: acks.name, DIRECTORY_VARIABLE: str(directory)}
        done = subprocess.run(_command(text, directory), env=environ, check=False)
        if done.returncode != 0:
            raise WorkloadError(f"the setup exited with {done.returncode}")
        return Path(acks.name).read_bytes()


def _command(text: str, directory: Path) -> list[str]:
    if text.startswith("python:"):
        return command_of(text.removeprefix("python:"), directory)
    return [word.replace("{dir}", str(directory)) for word in shlex.split(text)]


def _check(text: str) -> Check:
    if text.startswith("python:"):
        if "" not in sys.path and os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        return resolve(text.removeprefix("python:"))
    return shlex.split(text)


if __name__ == "__main__":
    sys.exit(main())
