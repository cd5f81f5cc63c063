"""Parse the output of strace into a typed list of system calls. Pure: no files, no processes.

Rules:
- The text must come from `strace -f -y -xx`. All strings, including paths, are then in hex, so they
  cannot be mistaken for syntax. A file descriptor is followed by its path in angle brackets.
- Time is the line number: a call starts at `2 * line` of its first line and ends at `2 * line + 1`
  of the line with its return. So a crash can be inside a call even if the call is on one line. The
  effect of a call is between the two; its guarantees hold from its end.
- A truncated string or an unreadable line raises TraceError, because no bytes may be lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = [
    "Fd",
    "Syscall",
    "TraceError",
    "bytes_of",
    "fd_of",
    "flags_of",
    "integer_of",
    "iov_bytes_of",
    "parse",
]


class TraceError(Exception):
    """The trace cannot be understood.

    Or it has a call whose effect on the disk cannot be known.
    """


@dataclass(frozen=True, slots=True)
class Syscall:
    """One system call of one thread.

    `result` is None if it is unknown, because the thread was killed inside the call. `error` is the
    name of the error (`ENOENT`) of a failed call, else None.
    """

    pid: int
    name: str
    args: tuple[str, ...]
    result: int | None
    error: str | None
    result_path: bytes | None
    start: int
    end: int

    @property
    def unknown(self) -> bool:
        """Whether the thread was killed inside the call, so that its outcome is unknown."""
        return self.result is None and self.error is None


@dataclass(frozen=True, slots=True)
class Fd:
    """A file descriptor argument: its number (-100 for AT_FDCWD) and its path."""

    number: int
    path: bytes | None


AT_FDCWD = -100

_LINE = re.compile(r"(\d+)\s+(?:\d+\.\d+ )?(.*)\Z", re.DOTALL)
_RESUMED = re.compile(r"<\.\.\. (\w+|\?\?\?) resumed>")
_KILLED = "???"  # strace did not see which call it was
_UNFINISHED = (" <unfinished ...>", " <detached ...>")
_TOKEN = re.compile(r'"[^"]*"(?:\.\.\.)?|[()\[\]{},]')
_RESULT = re.compile(
    r"\s*=\s*(?P<value>0x[0-9a-f]+|-?\d+|\?)"
    r"(?:<(?P<path>[^>]*)>(?:\(deleted\))?)?"
    r"(?:\s+(?P<error>E[A-Z0-9]+)\b)?"
)
_FD = re.compile(r"(AT_FDCWD|-?\d+)(?:<([^>]*)>)?")
_STRING = re.compile(r'"([^"]*)"(\.\.\.)?')
_HEX_ONLY = re.compile(r"(?:\\x[0-9a-f]{2})*\Z")


def parse(lines: Iterable[str]) -> list[Syscall]:
    """Return the calls of a trace, in the order of their ends.

    Calls without a return (their thread was killed) end with their thread, or with the trace. Raise
    TraceError with the line number for lines that cannot be read.
    """
    calls: list[Syscall] = []
    open_calls: dict[int, tuple[str, int]] = {}
    number = -1
    for number, raw in enumerate(lines):
        match = _LINE.match(raw.rstrip("\n"))
        if match is None:
            raise TraceError(f"line {number + 1} of the trace has no process id: {raw[:120]!r}")
        pid, text = int(match[1]), match[2]
        if text.startswith(("---", "???")):  # a signal, or killed before the call was known
            continue
        if text.startswith("+++"):
            _end_of_thread(open_calls, pid, 2 * number + 1, calls)
            continue
        start = 2 * number
        resumed = _RESUMED.match(text)
        if resumed is not None:
            if pid not in open_calls:
                # With execve the leader takes over from the thread that called it.
                if resumed[1] in ("execve", _KILLED):
                    continue
                raise TraceError(f"line {number + 1}: {resumed[1]} resumed, but it never began")
            head, start = open_calls.pop(pid)
            text = head + text[resumed.end() :]
        if text.endswith(_UNFINISHED):  # detached: killed here; the arguments may be invalid
            open_calls[pid] = (text.rpartition(" <")[0], start)
            continue
        calls.append(_call(pid, text, start, 2 * number + 1))
    for pid in list(open_calls):
        _end_of_thread(open_calls, pid, 2 * number + 3, calls)
    calls.sort(key=lambda call: call.end)
    return calls


def _end_of_thread(
    open_calls: dict[int, tuple[str, int]], pid: int, end: int, calls: list[Syscall]
) -> None:
    pending = open_calls.pop(pid, None)
    if pending is not None:
        text, start = pending
        name = text.partition("(")[0]
        if name not in ("exit", "exit_group"):
            calls.append(_call(pid, text.rstrip(", ") + ") = ?", start, end))


def _call(pid: int, text: str, start: int, end: int) -> Syscall:
    name, paren, rest = text.partition("(")
    if not paren or not name.isidentifier():
        raise TraceError(f"line {start // 2 + 1} of the trace is not a system call: {text[:120]!r}")
    args, tail = _split(rest, start)
    match = _RESULT.match(tail)
    if match is None:
        raise TraceError(f"line {start // 2 + 1}: {name} has no result: {tail[:120]!r}")
    value, error = match["value"], match["error"]
    result = None if value == "?" else int(value, 0)
    path = match["path"]
    return Syscall(
        pid=pid,
        name=name,
        args=args,
        result=None if error else result,
        error=error,
        result_path=None if path is None else _unhex(path),
        start=start,
        end=end,
    )


def _split(text: str, start: int) -> tuple[tuple[str, ...], str]:
    """Return the top-level arguments, and the text after the closing parenthesis."""
    args: list[str] = []
    depth = 0
    begin = 0
    for token in _TOKEN.finditer(text):
        mark = token[0][0]
        if mark in "([{":
            depth += 1
        elif mark == "," and depth == 0:
            args.append(text[begin : token.start()].strip())
            begin = token.end()
        elif mark in ")]}":
            if depth == 0:
                last = text[begin : token.start()].strip()
                if last:
                    args.append(last)
                return tuple(args), text[token.end() :]
            depth -= 1
    raise TraceError(
        f"line {start // 2 + 1} of the trace has no closing parenthesis: {text[:120]!r}"
    )


def _unhex(text: str) -> bytes:
    if _HEX_ONLY.match(text):
        return bytes.fromhex(text.replace("\\x", ""))
    return text.encode()  # other descriptors are not in hex: `pipe:[123]`, `anon_inode:[eventfd]`


def bytes_of(arg: str) -> bytes:
    """Return the bytes of a string argument. Raise TraceError if strace truncated it."""
    match = _STRING.match(arg)
    if match is None:
        raise TraceError(f"not a string: {arg[:120]!r}")
    if match[2]:
        raise TraceError(
            f"strace truncated a string of over {len(match[1]) // 4} bytes: increase -s"
        )
    return bytes.fromhex(match[1].replace("\\x", ""))


def iov_bytes_of(arg: str) -> bytes:
    """Return the joined bytes of an array of buffers. Raise TraceError if strace truncated it."""
    if not arg.startswith("["):
        raise TraceError(f"not an array of buffers: {arg[:120]!r}")
    if arg.endswith("...]"):
        raise TraceError("strace truncated an array of buffers: increase -s")
    return b"".join(bytes_of(match[0]) for match in _STRING.finditer(arg))


def fd_of(arg: str) -> Fd:
    """Return a file descriptor with its path. Raise TraceError for other arguments."""
    match = _FD.match(arg)
    if match is None:
        raise TraceError(f"not a file descriptor: {arg[:120]!r}")
    number = AT_FDCWD if match[1] == "AT_FDCWD" else int(match[1])
    return Fd(number, None if match[2] is None else _unhex(match[2]))


def integer_of(arg: str) -> int:
    """Parse a decimal, hex or octal number, also in brackets (first of `[12] => [15]`)."""
    text = arg.lstrip("[").split("]")[0].strip()
    if text.startswith("0") and text.isdigit():
        return int(text, 8)
    try:
        return int(text, 0)
    except ValueError:
        raise TraceError(f"not a number: {arg[:120]!r}") from None


def flags_of(arg: str) -> frozenset[str]:
    """Return the names in an or-ed set of flags; unnamed bits stay a number."""
    return frozenset(part.strip() for part in arg.split("|"))
