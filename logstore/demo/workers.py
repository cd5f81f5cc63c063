"""``taskiq worker`` commands as the demo runs them: started, killed, stopped, their logs kept.

A command is two processes: taskiq's process manager, and the worker process that executes the
tasks.  The manager starts a worker process again when it finds it dead, after one to two seconds.

Rules: each command is a session (and so a process group) of its own: a Ctrl-C at the terminal
reaches the demo alone, and nothing of the group outlives :meth:`WorkerCommand.stop` or
:meth:`WorkerCommand.kill_group`.  A pid that was read from the store is only ever signalled after
it was seen to belong to the group.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import logstore
from logstore.demo import tasks

# taskiq looks for a stop signal once a second, then the worker gets its own time to finish.
STOP_TIMEOUT_S = 8.0
POLL_INTERVAL_S = 0.02
# After so many dead worker processes the manager gives up and exits: a broken set-up ends quickly.
FAILURES_MAX = 3
LOG_LINES_SHOWN = 40
_GONE = (b"Z", b"X")


class WorkerCommand:
    """One ``taskiq worker`` command with one worker process."""

    def __init__(self, name: str, *, directory: Path, store_path: Path, address: str) -> None:
        self.name = name
        self.log_path = directory / f"worker-{name}.log"
        # Nothing is ever written to it: it ends when the demo does, in whichever way, and then so
        # does the command.
        inherited, write_end = os.pipe()
        self._lifeline: int | None = write_end
        environment = {
            **os.environ,
            tasks.STORE_VARIABLE: str(store_path),
            tasks.ADDRESS_VARIABLE: address,
            tasks.WORKER_VARIABLE: name,
            tasks.LIFELINE_VARIABLE: str(inherited),
        }
        command = [sys.executable, "-m", "taskiq", "worker", "logstore.demo.tasks:broker"]
        command += ["--workers", "1", "--max-async-tasks", "1"]
        command += ["--max-fails", str(FAILURES_MAX)]
        # Workers run the package that this process runs, installed or not.
        command += ["--app-dir", str(Path(logstore.__file__).parent.parent)]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=environment,
                start_new_session=True,
                pass_fds=[inherited],
            )
        os.close(inherited)

    @property
    def manager_pid(self) -> int:
        """The pid of taskiq's process manager, which is also the id of the process group."""
        return self._process.pid

    def exit_status(self) -> int | None:
        """Return the manager's exit status, or None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float) -> int:
        """Wait for the manager to exit by itself; return its status.

        Raises ``subprocess.TimeoutExpired`` if it does not; blocks the calling thread.
        """
        return self._process.wait(timeout_s)

    async def kill_worker_process(
        self,
        pid: int,
        *,
        amid: Callable[[], Awaitable[bool]] | None = None,
        timeout_s: float = 30.0,
    ) -> bool:
        """SIGKILL the worker process ``pid`` of this command and wait until it is gone.

        With ``amid`` it is stopped first; if what it should be amid of is over by then, it goes on
        and False is returned.  Raises ``ValueError`` if the pid is not of this command,
        ``TimeoutError`` if it lives on.
        """
        if not self._owns(pid):
            raise ValueError(f"pid {pid} is not a process of worker {self.name}")
        if amid is not None:
            os.kill(pid, signal.SIGSTOP)
            goes_on = True
            try:
                await _poll(lambda: _state(pid) in (b"T", *_GONE), timeout_s)
                goes_on = not await amid()
            finally:
                if goes_on:
                    os.kill(pid, signal.SIGCONT)
            if goes_on:
                return False
        os.kill(pid, signal.SIGKILL)
        if not await _poll(lambda: _state(pid) in _GONE, timeout_s):
            raise TimeoutError(f"pid {pid} is still there {timeout_s} s after SIGKILL")
        return True

    async def stop(self, *, timeout_s: float = STOP_TIMEOUT_S) -> bool:
        """Let the command finish its running task and exit; return False if it had to be killed."""
        if self.exit_status() is None:
            self._process.terminate()
        in_time = await _poll(lambda: self.exit_status() is not None, timeout_s)
        self.kill_group()
        return in_time

    def kill_group(self) -> None:
        """SIGKILL whatever is left of the command and reap it; idempotent."""
        if self._lifeline is None:
            return  # the group's id may be somebody else's by now
        try:
            os.killpg(self.manager_pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
        os.close(self._lifeline)
        self._lifeline = None

    def log_tail(self) -> str:
        """Return the last lines of the command's log."""
        try:
            text = self.log_path.read_text(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-LOG_LINES_SHOWN:])

    def _owns(self, pid: int) -> bool:
        try:
            return os.getpgid(pid) == self.manager_pid
        except ProcessLookupError:
            return False


async def _poll(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Wait until the condition holds; return False if it did not within the time."""
    deadline_s = time.monotonic() + timeout_s
    while not (holds := condition()) and time.monotonic() < deadline_s:  # noqa: ASYNC110
        await asyncio.sleep(POLL_INTERVAL_S)  # processes of others: there is nothing to wait on
    return holds


def _state(pid: int) -> bytes:
    """Return the state of a process, as one letter (a zombie only waits to be reaped)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b"X"
    # The state follows the command's name, which is in parentheses and may hold some itself.
    return stat.rpartition(b")")[2].split()[0]
