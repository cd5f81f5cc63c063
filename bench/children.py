"""Processes of the bench: started with a role, spoken to in lines of JSON.

A role is a function ``module:name`` that takes a Channel. Its standard output is kept for the
protocol alone: what a library prints goes to standard error. Each child leads a session of its
own, so that ending it ends what it started (a redis-server, its own children) and nothing else.
"""

from __future__ import annotations

import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any, TypeAlias

Message: TypeAlias = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent

# The engine's directory comes before the bench's, so that another revision of the library can be
# measured by this revision of the bench.
PROGRAM = (
    "import sys; sys.path[:0] = sys.argv[1].split(chr(0x1f)); "
    "from bench.children import main; main(sys.argv[2], sys.argv[1].split(chr(0x1f)))"
)


class ChildFailedError(Exception):
    """The child died, timed out, or reported an error."""


class Channel:
    """The child's end: lines in, lines out."""

    def __init__(self, reader: IO[str], writer: IO[str], search_path: list[str]) -> None:
        self._reader = reader
        self._writer = writer
        # What to hand on when the child starts children of its own.
        self.search_path = search_path

    def receive(self) -> Message | None:
        """The next message, or None when the parent has closed its end."""
        line = self._reader.readline()
        if not line:
            return None
        message: Message = json.loads(line)
        return message

    def send(self, message: Message) -> None:
        """Send `message` to the parent."""
        self._writer.write(json.dumps(message) + "\n")
        self._writer.flush()


def main(role: str, search_path: list[str]) -> None:
    """Run `role` over standard input and output: the entry point of a child."""
    writer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    module, _, name = role.partition(":")
    channel = Channel(sys.stdin, writer, search_path)
    try:
        getattr(importlib.import_module(module), name)(channel)
    except Exception as error:
        traceback.print_exc()
        channel.send({"error": f"{role}: {type(error).__name__}: {error}"})
        sys.exit(1)


class Child:
    """The parent's end of one child."""

    def __init__(
        self,
        role: str,
        *,
        search_path: list[str] | None = None,
        environment: Mapping[str, str] | None = None,
        errors: Path | None = None,
        own_session: bool = False,
    ) -> None:
        """Start `role`. `errors` is where its standard error goes; None: to ours."""
        self.role = role
        self._own_session = own_session
        self._errors = errors
        path = "\x1f".join(search_path or [str(ROOT)])
        with open(errors, "ab") if errors is not None else nullcontext() as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, path, role],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, **(environment or {})},
                start_new_session=own_session,
                text=True,
                bufsize=1,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin: IO[str] = self._process.stdin
        self._stdout: IO[str] = self._process.stdout

    def send(self, message: Message) -> None:
        """Send `message`; raises ChildFailedError when the child has gone."""
        try:
            self._stdin.write(json.dumps(message) + "\n")
            self._stdin.flush()
        except (BrokenPipeError, ValueError) as error:
            raise ChildFailedError(f"{self.role} has ended{self._last_words()}") from error

    def receive(self, timeout_s: float) -> Message:
        """The next message.

        Raises ChildFailedError when the child ends, reports an error or takes longer.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            if not selector.select(timeout_s):
                raise ChildFailedError(f"{self.role} gave no answer within {timeout_s:g} s")
        line = self._stdout.readline()
        if not line:
            raise ChildFailedError(f"{self.role} has ended{self._last_words()}")
        message: Message = json.loads(line)
        if "error" in message:
            raise ChildFailedError(message["error"])
        return message

    def _last_words(self) -> str:
        if self._errors is None or not self._errors.exists():
            return ""
        lines = self._errors.read_text(errors="replace").strip().splitlines()
        return ": " + " | ".join(lines[-3:]) if lines else ""

    def close(self, timeout_s: float = 10.0) -> None:
        """Ask the child to end by closing its input; kill it when it does not."""
        try:
            self._stdin.close()
        except BrokenPipeError:
            pass
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        self._stdout.close()

    def kill(self) -> None:
        """End the child at once, and its session when it leads one."""
        if self._own_session:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        else:
            self._process.kill()
        self._process.wait()
