"""Processes beside the test's, which run the code that a test gives them."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
CHILD_S = 280


def run_child(code: str, *arguments: object) -> list[str]:
    """Run a program in a process of its own, which must end well; return the lines it wrote."""
    child = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=CHILD_S,
    )
    assert (child.returncode, child.stderr) == (0, ""), child.stdout + child.stderr
    return child.stdout.splitlines()


class PeerError(Exception):
    """What the code run by a peer raised."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message


class Peer:
    """A process beside the test's; dies with the test."""

    def __init__(self, prefix: tuple[str, ...] = ()) -> None:
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-X", "faulthandler", "-m", "tests.support.peer_process"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.run(
            "import fcntl, os, signal, sys, threading, time\n"
            "import lmdb, logstore\n"
            "from tests.support import boundary, inside\n"
            "inside.no_idle_compaction().start()\n"
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def begin(self, code: str) -> None:
        """Let it run some code, and do not wait for that to end."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(code) + "\n")
        self.process.stdin.flush()

    def end(self) -> Any:
        """The value of what was begun.  Raises PeerError, or EOFError if the process has died."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise EOFError(f"the peer has died: {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"], answer["message"])
        try:
            return ast.literal_eval(answer["value"])
        except (ValueError, SyntaxError):
            return answer["value"]

    def run(self, code: str) -> Any:
        """Run some code there; the value of its last expression."""
        self.begin(code)
        return self.end()

    def open(self, path: Path | str, **options: object) -> None:
        """Open a store there, under the name ``store``."""
        words = "".join(f", {name}={value!r}" for name, value in options.items())
        self.run(f"store = logstore.open({str(path)!r}{words})")

    def die(self, code: str, *, at: str | None = None) -> None:
        """Let it run some code in which it dies, where it calls the function ``at``."""
        if at is not None:
            self.run(f"boundary.die_at({at!r})")
        with pytest.raises(EOFError):
            self.run(code)

    def stop(self) -> None:
        """Stop it where it is, until :meth:`resume`."""
        os.kill(self.pid, signal.SIGSTOP)
        self.wait_until_stopped()

    def wait_until_stopped(self) -> None:
        """Wait until it is stopped, by itself or by another process."""
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def stop_with_the_writer_lock(self) -> None:
        """Stop it as if in a write of its ``store``, until :meth:`resume_and_unlock`."""
        self.run(
            "import fcntl, struct\n"
            "lock = open(store.path + '-shm', 'r+b')\n"
            "byte = struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 1, 0)\n"
            "fcntl.fcntl(lock, fcntl.F_OFD_SETLK, byte)"
        )
        self.stop()

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def resume_and_unlock(self) -> None:
        """Let it go on and give the writer lock back."""
        self.resume()
        self.run("lock = None")

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()

    def close(self) -> int:
        """End it by the end of its input; return its exit status."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        status = self.process.wait(100)
        self.process.stdout.close()
        return status
