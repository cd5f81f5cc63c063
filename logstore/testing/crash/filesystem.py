"""The file system as the workload saw it, rebuilt from the trace. Pure: no real file is changed.

Rules:
- It holds the content in memory (the page cache) and records each change as an operation. The
  durable times of the operations alone say which of it is on the disk.
- A sync covers the operations that ended before it began, and takes effect when it ends.
- `fs="posix"`: a sync of a file does not cover its directory entry, and a sync of a directory
  covers only the entries of that directory. `fs="ext4"`: one journal; any sync of a file or
  directory also covers all earlier changes of names, and names reach the disk in order.
- A write through an O_DSYNC descriptor syncs the written range and the file's size only.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

from logstore.testing.crash.operations import NEVER, FileOp, History, NameOp, Node
from logstore.testing.crash.strace import TraceError

__all__ = ["FileSystem"]

_LINKS_MAX = 40


class FileSystem:
    """The live tree below the watched directory.

    Not thread-safe. An instance is for one pass over a trace.
    """

    def __init__(self, nodes: dict[int, Node], *, fs: str, volatile: Iterable[str]) -> None:
        if fs not in ("posix", "ext4"):
            raise ValueError(f"fs is {fs!r}, expected 'posix' or 'ext4'")
        self.journaled = fs == "ext4"
        self.volatile_globs = tuple(volatile)
        self.history = History(nodes, [], [], [], [])
        self.content: dict[int, bytearray] = {}
        self.entries: dict[int, dict[str, int]] = {}
        self._unsynced: dict[int, list[FileOp]] = {}
        self._unsynced_names: list[NameOp] = []
        for node in nodes.values():
            self._enter(node)
        self._mark_volatile()

    # -- looking up ---------------------------------------------------------------------------

    def lookup(self, path: str, *, follow: bool) -> int | None:
        """Return the node at a path relative to the watched directory ("" is the root), or None."""
        return self.locate(path, follow=follow)[2]

    def locate(self, path: str, *, follow: bool, depth: int = 0) -> tuple[int, str, int | None]:
        """Return directory, last name and node (None: no such entry) of a relative path."""
        if depth > _LINKS_MAX:
            raise TraceError(f"too many symbolic links at {path!r}")
        parts = [part for part in path.split("/") if part not in ("", ".")]
        here, above = 0, [0]
        if not parts:
            return 0, "", 0
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            if part == "..":
                above = above[:-1] or [0]
                here = above[-1]
                if last:
                    return here, "", here
                continue
            if here not in self.entries:
                raise TraceError(f"{path!r} leads through a file that is not a directory")
            node = self.entries[here].get(part)
            kind = "" if node is None else self.history.nodes[node].kind
            if node is not None and kind == "link" and (follow or not last):
                target = self.history.nodes[node].target
                if target.startswith("/"):
                    raise TraceError(f"{path!r}: symbolic link to the absolute path {target!r}")
                front = "/".join(parts[:index])
                return self.locate(
                    "/".join([front, target, *parts[index + 1 :]]), follow=follow, depth=depth + 1
                )
            if last:
                return here, part, node
            if node is None:
                raise TraceError(f"the directory of {path!r} is not known")
            here = node
            above.append(node)
        raise AssertionError("unreachable")

    def path_of(self, number: int) -> str:
        """Return a path of a node, relative to the watched directory, for messages."""
        for path, node in self.walk():
            if node == number:
                return path
        return f"(unlinked file {number})"

    def walk(self, directory: int = 0, front: str = "") -> Iterable[tuple[str, int]]:
        """Yield every (path, node) below a directory, sorted by name."""
        for name, node in sorted(self.entries[directory].items()):
            yield front + name, node
            if node in self.entries:
                yield from self.walk(node, f"{front}{name}/")

    # -- names --------------------------------------------------------------------------------

    def new_node(self, kind: str, mode: int, target: str = "") -> Node:
        """Return a new node without a directory entry."""
        node = Node(len(self.history.nodes), kind, mode, target=target)
        self.history.nodes[node.number] = node
        self._enter(node)
        return node

    def change_names(
        self, start: int, end: int, label: str, *changes: tuple[int, str, int | None]
    ) -> None:
        """Set or remove directory entries, atomically."""
        nodes = self.history.nodes
        for directory, name, node in changes:
            if node is None:
                self.entries[directory].pop(name, None)
            else:
                self.entries[directory][name] = node
                front = nodes[directory].label
                nodes[node].label = f"{front}/{name}" if front else name
        self._mark_volatile()
        op = NameOp(start, end, changes, label=label)
        # The existence of a volatile file is a separate choice, so its creation needs none.
        if all(node is not None and nodes[node].volatile for _, _, node in changes):
            op.durable = start
        else:
            self._unsynced_names.append(op)
        self.history.name_ops.append(op)

    def _mark_volatile(self) -> None:
        if not self.volatile_globs:
            return
        for path, number in self.walk():
            node = self.history.nodes[number]
            if node.kind == "file" and any(
                fnmatch.fnmatch(path, glob) or fnmatch.fnmatch(path.rpartition("/")[2], glob)
                for glob in self.volatile_globs
            ):
                node.volatile = True

    # -- contents -----------------------------------------------------------------------------

    def size(self, number: int) -> int:
        """Return the size in bytes as the workload sees it."""
        return len(self.content[number])

    def write(
        self, number: int, start: int, end: int, offset: int, data: bytes, *, dsync: bool = False
    ) -> None:
        """Write bytes at an offset; extend the file if needed."""
        if not data:
            return
        content = self.content[number]
        before = len(content)
        if offset > before:
            content.extend(bytes(offset - before))
        content[offset : offset + len(data)] = data
        op = FileOp(number, start, end, offset, data, before, len(content))
        self._record(op)
        if dsync:
            self._sync_range(op)

    def resize(self, number: int, start: int, end: int, size: int) -> None:
        """Truncate the file, or extend it with zeros."""
        content = self.content[number]
        before = len(content)
        if size == before:
            return
        if size < before:
            del content[size:]
        else:
            content.extend(bytes(size - before))
        self._record(FileOp(number, start, end, size, b"", before, size))

    # -- syncs --------------------------------------------------------------------------------

    def sync(self, number: int, start: int, end: int) -> None:
        """Apply the guarantees of fsync or fdatasync of a file or directory."""
        if number in self.entries:
            self._sync_names(start, end, None if self.journaled else number)
            return
        left = []
        for op in self._unsynced.get(number, []):
            if op.end <= start:
                op.durable = min(op.durable, end)
                op.size_durable = min(op.size_durable, end)
            else:
                left.append(op)
        self._unsynced[number] = left
        if self.journaled:
            self._sync_names(start, end, None)

    def sync_all(self, start: int, end: int) -> None:
        """Apply the guarantees of sync and syncfs."""
        for number in list(self._unsynced):
            self.sync(number, start, end)
        self._sync_names(start, end, None)

    def finish(self) -> History:
        """Return the complete history. Call once, after the last call of the trace."""
        self.history.file_ops.sort(key=lambda op: op.end)
        self.history.name_ops.sort(key=lambda op: op.end)
        # A durable change of an entry includes all earlier changes of the same entry. They may come
        # from a rename whose other directory was never synced.
        latest: dict[tuple[int, str], int] = {}
        for op in reversed(self.history.name_ops):
            keys = [(directory, name) for directory, name, _ in op.changes]
            op.durable = min([op.durable, *(latest.get(key, NEVER) for key in keys)])
            for key in keys:
                latest[key] = op.durable
        return self.history

    def _sync_names(self, start: int, end: int, directory: int | None) -> None:
        left = []
        for op in self._unsynced_names:
            # A rename between directories is durable when its new name is durable.
            made = {where for where, _, node in op.changes if node is not None}
            places = made or {where for where, _, _ in op.changes}
            if op.end <= start and (directory is None or places == {directory}):
                op.durable = min(op.durable, end)
            else:
                left.append(op)
        self._unsynced_names = left

    def _sync_range(self, written: FileOp) -> None:
        first, last = written.offset, written.offset + len(written.data)
        for op in self._unsynced[written.node]:
            if op.end > written.start and op is not written:
                continue
            op.size_durable = min(op.size_durable, written.end)
            inside = first <= op.offset and op.offset + len(op.data) <= last
            if op is written or op.cuts or inside:
                op.durable = min(op.durable, written.end)

    def _record(self, op: FileOp) -> None:
        self.history.file_ops.append(op)
        self._unsynced.setdefault(op.node, []).append(op)

    def _enter(self, node: Node) -> None:
        if node.kind == "dir":
            self.entries[node.number] = dict(node.entries)
        elif node.kind == "file":
            self.content[node.number] = bytearray(node.base)
