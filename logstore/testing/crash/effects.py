"""The table of the effects of system calls; the other effects modules fill it. Pure.

Rules: an effect is called when its call ends, and only for successful calls. It gets the watched
files that the call's descriptors referred to when the call began.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from logstore.testing.crash.filesystem import FileSystem
from logstore.testing.crash.processes import OpenFile, Process
from logstore.testing.crash.strace import Syscall

__all__ = ["EFFECTS", "Effect", "Moment", "Tracking", "effect"]


@dataclass(slots=True, eq=False)
class Moment:
    """A call with its thread and the watched files of its descriptors."""

    call: Syscall
    process: Process
    files: dict[int, OpenFile]  # by argument position

    def arg(self, index: int) -> str:
        """Return an argument as strace wrote it."""
        return self.call.args[index]


class Tracking(Protocol):
    """The part of the tracker that an effect may use."""

    tree: FileSystem
    watched: bytes
    acks: bytes

    def inside(self, path: bytes | None) -> bool:
        """Whether an absolute path is the watched directory or below it."""

    def relative(self, moment: Moment, path: bytes, dirfd: str | None = None) -> str | None:
        """Return a path argument relative to the watched directory, or None if it is outside."""

    def mapped(self, node: int) -> None:
        """Note that a file's content can change without a call."""


Effect = Callable[[Tracking, Moment], None]
EFFECTS: dict[str, Effect] = {}


def effect(*names: str) -> Callable[[Effect], Effect]:
    """Register a function in the table under the names of its calls."""

    def register(function: Effect) -> Effect:
        for name in names:
            EFFECTS[name] = function
        return function

    return register
