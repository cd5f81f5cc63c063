"""Child processes for campaigns: forked, talked to by lines, and never left behind.

Rules: a child is forked from a process without threads that has everything imported; it gets two
pipes, dies with its parent, and leaves by `os._exit`. What it raised is in its error file.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from fuzz.campaign import undisturbed

__all__ = ["Child", "Talk", "mount_at", "run_and_leave", "start", "wait_for_lines"]

_PR_SET_PDEATHSIG = 1
_CLONE_NEWNS, _CLONE_NEWPID = 0x00020000, 0x20000000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_LIBC = ctypes.CDLL(None, use_errno=True)


class Talk:
    """The child's side: whole lines to and from the parent."""

    def __init__(self, reading: int, writing: int, errors: Path) -> None:
        self._errors = errors
        self._reading = os.fdopen(reading, "r", encoding="utf-8")
        self._writing = writing

    def say(self, line: str) -> None:
        """One line to the parent, in one write."""
        os.write(self._writing, line.encode() + b"\n")

    def hear(self) -> str | None:
        """The parent's next line, None when it will say no more."""
        line = self._reading.readline()
        return line[:-1] if line else None

    def fail(self) -> None:
        """End this process at once, with the exception that is being handled in its error file.
        From any thread."""
        self._errors.write_text(traceback.format_exc())
        os._exit(1)


class Child:
    """The parent's side of a child."""

    def __init__(self, pid: int, name: str, reading: int, writing: int, errors: Path) -> None:
        self.pid = pid
        self.name = name
        self.fd = reading
        self._writing = writing
        self._errors = errors
        self._rest = b""
        self._status: int | None = None

    @property
    def error(self) -> str:
        """What it raised, if it did."""
        return self._errors.read_text() if self._errors.exists() else ""

    def lines(self) -> list[str] | None:
        """What it has said since, without waiting for more than there is; None at the end."""
        part = os.read(self.fd, 1 << 16)
        if not part:
            return None
        *whole, self._rest = (self._rest + part).split(b"\n")
        return [line.decode() for line in whole]

    def say(self, line: str) -> None:
        """One line to the child. Does nothing if it has gone."""
        try:
            os.write(self._writing, line.encode() + b"\n")
        except BrokenPipeError:
            pass

    def hush(self) -> None:
        """Say no more: the child's `hear` returns None."""
        if self._writing >= 0:
            os.close(self._writing)
            self._writing = -1

    def signal(self, number: int) -> None:
        """Send a signal, unless it has been waited for."""
        if self._status is None:
            os.kill(self.pid, number)

    def end(self) -> int:
        """Wait for its end; the exit code, negative for a signal. The pipe stays readable."""
        self.hush()
        with undisturbed():  # else it would be waited for again
            if self._status is None:
                _, status = os.waitpid(self.pid, 0)
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def drain(self) -> list[str]:
        """Everything that it has written and that was not read. After its end; closes the pipe."""
        found: list[str] = []
        while (more := self.lines()) is not None:
            found += more
        os.close(self.fd)
        return found


def start(
    name: str,
    work: Callable[[Talk], None],
    errors: Path,
    others: Iterable[Child] = (),
    *,
    contained: bool = False,
) -> Child:
    """Forks a child that does some work. It closes its copies of the pipes of `others`.

    A contained one has a namespace of its own for pids, as in a container: its pid is 1 there.
    """
    if contained:
        _contain_the_next()
    child_reads, to_say = os.pipe()
    parent_reads, child_says = os.pipe()
    parent = 0 if contained else os.getpid()  # a parent outside of the namespace has no pid
    pid = os.fork()
    if pid:
        os.close(child_reads)
        os.close(child_says)
        return Child(pid, name, parent_reads, to_say, errors)
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        os.close(parent_reads)
        os.close(to_say)
        for other in others:
            os.close(other.fd)
            other.hush()
        work(Talk(child_reads, child_says, errors))
        status = 0
    except BaseException:
        errors.write_text(traceback.format_exc())
    finally:
        os._exit(status)


def _contain_the_next() -> None:
    """The next child is the first process of a new namespace for pids. Raises OSError."""
    with open("/proc/self/ns/pid", "rb") as own:  # a process cannot go from one new to the next
        _called("setns", own.fileno(), _CLONE_NEWPID)
    _called("unshare", _CLONE_NEWPID)


def mount_at(place: Path, directory: Path) -> None:
    """Let this process, and no other, see a directory at another place too. Raises OSError."""
    _called("unshare", _CLONE_NEWNS)
    _called("mount", b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
    place.mkdir(exist_ok=True)
    _called("mount", bytes(directory), bytes(place), None, _MS_BIND, None)


def _called(name: str, *arguments: object) -> None:
    if getattr(_LIBC, name)(*arguments):
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}; this needs root")


def run_and_leave(work: Callable[[], object]) -> NoReturn:
    """In a forked child: do something and end the process, with 0, or with 1 and a traceback."""
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def wait_for_lines(children: Iterable[Child], seconds: float) -> dict[str, list[str]]:
    """What children say within a time, by name. Ends early when one of them has ended."""
    heard: dict[str, list[str]] = {}
    by_fd = {child.fd: child for child in children}
    deadline = time.monotonic() + seconds
    while True:
        left = deadline - time.monotonic()
        ready, _, _ = select.select(list(by_fd), [], [], max(0.0, left))
        for fd in ready:
            lines = by_fd[fd].lines()
            if lines is None:
                return heard
            heard.setdefault(by_fd[fd].name, []).extend(lines)
        if left <= 0:
            return heard
