"""The table of the effects of system calls; the other effects modules fill it. Pure.

Rules: an effect is called when its call ends, and only for successful calls. It gets the watched
files that the call's descriptors referred to when the call began.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import dataclass

from logstore.testing.crash.filesystem import FileSystem
from logstore.testing.crash.processes import OpenFile, Process
from logstore.testing.crash.strace import AT_FDCWD, Syscall, bytes_of, fd_of

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


class Tracking:
    """The part of the tracker that an effect may use."""

    def __init__(self, tree: FileSystem, watched: bytes, acks: bytes) -> None:
        self.tree = tree
        self.watched = watched
        self.acks = acks
        self.mapped: dict[int, str] = {}  # files whose content can change without a call

    def below(self, path: bytes | None) -> str | None:
        """Return an absolute path relative to the watched directory, or None if it is outside."""
        if path is None or not (path + b"/").startswith(self.watched + b"/"):
            return None
        return path[len(self.watched) + 1 :].decode("utf-8", "surrogateescape")

    def path(self, moment: Moment, number: int = 0, *, skip: int = 0) -> str | None:
        """Return a path argument relative to the watched directory, or None if it is outside.

        It is the path with this number behind the first `skip` arguments.  In the calls `...at`,
        the descriptor of a directory is before each path.
        """
        at = not moment.arg(skip).startswith('"')
        index = skip + (2 * number + 1 if at else number)
        base = moment.process.directory.path
        if at:
            fd = fd_of(moment.arg(index - 1))
            if fd.path is not None:
                base = fd.path
                if fd.number == AT_FDCWD:
                    moment.process.directory.path = fd.path
        return self.below(posixpath.normpath(posixpath.join(base, bytes_of(moment.arg(index)))))

    def node(self, moment: Moment) -> int | None:
        """Return the watched file of a call, by its descriptor or its path, or None."""
        if moment.call.name in ("fchmod", "ftruncate"):
            file = moment.files.get(0)
            return None if file is None else file.node
        where = self.path(moment)
        return None if where is None else self.tree.lookup(where, follow=True)

    def map(self, node: int) -> None:
        """Note that a file's content can change without a call."""
        self.mapped.setdefault(node, self.tree.path_of(node))


Effect = Callable[[Tracking, Moment], None]
EFFECTS: dict[str, Effect] = {}


def effect(*names: str) -> Callable[[Effect], Effect]:
    """Register a function in the table under the names of its calls."""

    def register(function: Effect) -> Effect:
        for name in names:
            EFFECTS[name] = function
        return function

    return register
