"""The table of what each system call does; the other modules called effects fill it. Pure.

Rules: an effect is called when its call ends, only for calls that succeeded, with the watched files
that the call's descriptors stood for when it began.
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
    """A call with the thread that made it and the watched files its descriptors stood for."""

    call: Syscall
    process: Process
    files: dict[int, OpenFile]  # by argument position

    def arg(self, index: int) -> str:
        """An argument as strace wrote it."""
        return self.call.args[index]


class Tracking(Protocol):
    """What an effect may use of the tracker."""

    tree: FileSystem
    watched: bytes
    acks: bytes

    def inside(self, path: bytes | None) -> bool:
        """Whether an absolute path is the watched directory or below it."""

    def relative(self, moment: Moment, path: bytes, dirfd: str | None = None) -> str | None:
        """A path argument relative to the watched directory, or None if it leads elsewhere."""

    def mapped(self, node: int) -> None:
        """Notes that a file's content can change without a call."""


Effect = Callable[[Tracking, Moment], None]
EFFECTS: dict[str, Effect] = {}


def effect(*names: str) -> Callable[[Effect], Effect]:
    """Enters a function into the table, under the names of its calls."""

    def register(function: Effect) -> Effect:
        for name in names:
            EFFECTS[name] = function
        return function

    return register
