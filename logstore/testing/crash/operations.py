"""What a workload did to the disk: the typed result of reading its trace, and nothing more.

Rules:
- Times are those of `strace.py`: an operation may be on the disk from `start` on, has surely been
  made (in memory) from `end` on, and is surely on the disk from its `durable` time on.
- A history's operations are in the order of their ends, which is the order in which they are
  applied.
- `NEVER` as a durable time means that no sync ever covered the operation.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

__all__ = ["NEVER", "Ack", "FileOp", "History", "NameOp", "Node"]

NEVER = sys.maxsize


@dataclass(slots=True, eq=False)
class FileOp:
    """A change of one file's content: `data` at `offset`, then the size goes to `size_after`.

    `durable` is for the data, `size_durable` for the size: a sync of a later range of the same file
    (O_DSYNC) makes the size durable without the data. A file that is cut has no data here.
    """

    node: int
    start: int
    end: int
    offset: int
    data: bytes
    size_before: int
    size_after: int
    durable: int = NEVER
    size_durable: int = NEVER

    @property
    def resizes(self) -> bool:
        """Whether the size is another one afterwards."""
        return self.size_after != self.size_before

    @property
    def cuts(self) -> bool:
        """Whether the file gets shorter."""
        return self.size_after < self.size_before


@dataclass(slots=True, eq=False)
class NameOp:
    """A change of directory entries, all of it or nothing: `(directory, name) -> node or None`."""

    start: int
    end: int
    changes: tuple[tuple[int, str, int | None], ...]
    durable: int = NEVER
    label: str = ""


@dataclass(slots=True, eq=False)
class Ack:
    """Bytes that the workload told the outside, from `start` on."""

    start: int
    data: bytes


@dataclass(slots=True, eq=False)
class Node:
    """A file, directory or symbolic link. `base` and `entries` are as they were before the
    trace."""

    number: int
    kind: str  # "file", "dir" or "link"
    mode: int
    base: bytes = b""
    entries: dict[str, int] = field(default_factory=dict)
    target: str = ""
    volatile: bool = False
    label: str = ""  # the path that it had last, for messages


@dataclass(slots=True, eq=False)
class History:
    """Everything that a recording says about the disk. Node 0 is the watched directory."""

    nodes: dict[int, Node]
    file_ops: list[FileOp]
    name_ops: list[NameOp]
    acks: list[Ack]
    warnings: list[str]
