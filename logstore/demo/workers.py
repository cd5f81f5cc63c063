"""The ``taskiq worker`` commands of the demo: starting, killing and stopping them, and their logs.

A command is two processes: taskiq's process manager, and the worker process that executes the
tasks.  The manager restarts a dead worker process after one to two seconds.

Rules: each command has its own session, and so its own process group.  A Ctrl-C at the terminal
reaches only the demo, and no process of the group survives :meth:`WorkerCommand.stop` or
:meth:`WorkerCommand.kill_group`.  A pid from the store is signalled only if it belongs to the
group.
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

# taskiq checks for a stop signal once a second; then the worker needs time to finish.
STOP_TIMEOUT_S = 8.0
POLL_INTERVAL_S = 0.02
# After this number of dead worker processes the manager exits: a broken set-up fails quickly.
FAILURES_MAX = 3
LOG_LINES_SHOWN = 40
_GONE = (b"Z", b"X")


class WorkerCommand:
    """One ``taskiq worker`` command with one worker process."""

    def __init__(self, name: str, *, directory: Path, store_path: Path, address: str) -> None:
        self.name = name
        self.log_path = directory / f"worker-{name}.log"
        # Nothing is written to this pipe.  It closes when the demo ends, for any reason; then the
        # command ends too.
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
        # Workers import the same package as this process, installed or not.
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
        """The pid of taskiq's process manager, which is also the process group id."""
        return self._process.pid

    def exit_status(self) -> int | None:
        """Return the manager's exit status, or None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float) -> int:
        """Wait for the manager to exit; return its exit status.

        Raises ``subprocess.TimeoutExpired`` after ``timeout_s``.  Blocks the calling thread.
        """
        return self._process.wait(timeout_s)

    async def kill_worker_process(
        self,
        pid: int,
        *,
        only_if: Callable[[], Awaitable[bool]] | None = None,
        timeout_s: float = 30.0,
    ) -> bool:
        """SIGKILL the worker process ``pid`` of this command and wait until it is gone.

        With ``only_if``, the process is stopped first and killed only if ``only_if()`` is true.
        Otherwise it continues, and the method returns False.  Raises ``ValueError`` if the pid is
        not of this command, ``TimeoutError`` if the process does not die.
        """
        if not self._owns(pid):
            raise ValueError(f"pid {pid} is not a process of worker {self.name}")
        if only_if is not None:
            os.kill(pid, signal.SIGSTOP)
            goes_on = True
            try:
                await _poll(lambda: _state(pid) in (b"T", *_GONE), timeout_s)
                goes_on = not await only_if()
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
        """Let the command finish its task and exit; return False if it had to be killed."""
        if self.exit_status() is None:
            self._process.terminate()
        in_time = await _poll(lambda: self.exit_status() is not None, timeout_s)
        self.kill_group()
        return in_time

    def kill_group(self) -> None:
        """SIGKILL the remaining processes of the command and reap them; idempotent."""
        if self._lifeline is None:
            return  # the group id may have been reused
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
    """Wait until the condition is true; return False after the time-out."""
    deadline_s = time.monotonic() + timeout_s
    while not (holds := condition()) and time.monotonic() < deadline_s:  # noqa: ASYNC110
        await asyncio.sleep(POLL_INTERVAL_S)  # not child processes, so they cannot be waited for
    return holds


def _state(pid: int) -> bytes:
    """Return the state of a process as one letter; Z is a zombie, X means that it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b"X"
    # The state follows the command's name in parentheses; the name may contain parentheses too.
    return stat.rpartition(b")")[2].split()[0]
