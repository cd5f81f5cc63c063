"""The operations of a workload on the disk: the typed result of reading its trace.

Rules:
- Times are those of `strace.py`. An operation may be on the disk from `start` on. It is complete in
  memory from `end` on, and certainly on the disk from its `durable` time on.
- The operations of a history are in the order of their ends. They are applied in this order.
- `NEVER` as a durable time means that no sync covered the operation.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

__all__ = ["NEVER", "Ack", "FileOp", "History", "NameOp", "Node"]

NEVER = sys.maxsize


@dataclass(slots=True, eq=False)
class FileOp:
    """A change of one file's content: `data` at `offset`, then the size becomes `size_after`.

    `durable` is for the data, `size_durable` for the size: a sync of a later range of the same file
    (O_DSYNC) makes the size durable without the data. A truncation has no data.
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
        """Whether the operation changes the size."""
        return self.size_after != self.size_before

    @property
    def cuts(self) -> bool:
        """Whether the operation makes the file shorter."""
        return self.size_after < self.size_before


@dataclass(slots=True, eq=False)
class NameOp:
    """An atomic change of directory entries: `(directory, name) -> node or None`."""

    start: int
    end: int
    changes: tuple[tuple[int, str, int | None], ...]
    durable: int = NEVER
    label: str = ""


@dataclass(slots=True, eq=False)
class Ack:
    """Bytes that the workload acknowledged, from `start` on."""

    start: int
    data: bytes


@dataclass(slots=True, eq=False)
class Node:
    """A file, directory or symbolic link.

    `base` and `entries` are from before the trace.
    """

    number: int
    kind: str  # "file", "dir" or "link"
    mode: int
    base: bytes = b""
    entries: dict[str, int] = field(default_factory=dict)
    target: str = ""
    volatile: bool = False
    label: str = ""  # its last path, for messages


@dataclass(slots=True, eq=False)
class History:
    """All information of a recording about the disk. Node 0 is the watched directory."""

    nodes: dict[int, Node]
    file_ops: list[FileOp]
    name_ops: list[NameOp]
    acks: list[Ack]
    warnings: list[str]
