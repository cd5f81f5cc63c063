"""The possible disk contents after a power cut: versions of sectors, sizes and names. Pure.

Rules:
- A sector of 512 bytes is written atomically. Each write makes a new version of its sectors. The
  disk may hold any version of a sector from the newest synced one to the newest one, independently
  of other sectors. This covers lost, reordered and torn writes.
- The size of a file has its own versions. A size without its data shows zeros; data beyond the size
  is not visible.
- Truncation and the new size are one change. If it is on the disk, the truncated data is gone. If
  it is not, later writes beyond the cut are not on the disk either.
- Names: any set of the unsynced changes, but never a later change of an entry without an earlier
  one. With a journal: a prefix of all changes.
- A volatile file may be absent or have any content: see `VOLATILE`.
"""

from __future__ import annotations

import hashlib
import random
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from logstore.testing.crash.operations import NEVER, FileOp, History, NameOp

__all__ = ["SECTOR", "VOLATILE", "Choice", "Cursor", "DiskFile", "DiskState", "FileVersions"]

SECTOR = 512
PAGE = 4096
_ZERO_SECTOR = bytes(SECTOR)
_ZERO_PAGE = bytes(PAGE)

VOLATILE = ("absent", "known", "zeros", "empty", "noise")
"""The possible fates of a volatile file.

It is absent, has the content that system calls wrote, zeros of its size, no content, or noise.
"""


class FileVersions:
    """All versions of all sectors and of the size of one file. Immutable once made.

    `sectors[s]` lists the contents of sector s; version 0 is its content before the trace.
    `by_op[op]` lists the (sector, version) pairs that an operation made. A write makes no version
    of a sector that it does not change.
    """

    def __init__(self, base: bytes, ops: Sequence[FileOp]) -> None:
        self.base = base
        self.ops = list(ops)
        self.sectors: dict[int, list[bytes]] = {}
        self.makers: dict[int, list[int]] = {}  # op numbers, parallel to sectors[s][1:]
        self.by_op: list[list[tuple[int, int]]] = []
        self.sizes: list[int] = [len(base)]
        self.size_makers: list[int] = [-1]
        self.size_of_op: list[int] = []
        for number, op in enumerate(self.ops):
            self.by_op.append(self._cut(number, op) if op.cuts else self._write(number, op))
            if op.resizes:
                self.sizes.append(op.size_after)
                self.size_makers.append(number)
            self.size_of_op.append(len(self.sizes) - 1)

    def _newest(self, sector: int) -> bytes:
        known = self.sectors.get(sector)
        if known is not None:
            return known[-1]
        return self.base[sector * SECTOR : (sector + 1) * SECTOR].ljust(SECTOR, b"\0")

    def _add(
        self, number: int, sector: int, content: bytes, *, even_same: bool = False
    ) -> list[tuple[int, int]]:
        before = self._newest(sector)
        if content == before and not even_same:
            return []
        versions = self.sectors.setdefault(sector, [before])
        versions.append(content)
        self.makers.setdefault(sector, []).append(number)
        return [(sector, len(versions) - 1)]

    def _write(self, number: int, op: FileOp) -> list[tuple[int, int]]:
        made: list[tuple[int, int]] = []
        end = op.offset + len(op.data)
        for sector in range(op.offset // SECTOR, -(-end // SECTOR)):
            first = sector * SECTOR
            low, high = max(op.offset, first), min(end, first + SECTOR)
            piece = op.data[low - op.offset : high - op.offset]
            if high - low < SECTOR:
                old = self._newest(sector)
                piece = old[: low - first] + piece + old[high - first :]
            made += self._add(number, sector, piece)
        return made

    def _cut(self, number: int, op: FileOp) -> list[tuple[int, int]]:
        made: list[tuple[int, int]] = []
        first = op.size_after // SECTOR
        in_base = range(first, -(-len(self.base) // SECTOR))
        for sector in sorted({*in_base, *(s for s in self.sectors if s >= first)}):
            keep = max(0, op.size_after - sector * SECTOR)
            content = self._newest(sector)[:keep].ljust(SECTOR, b"\0")
            made += self._add(number, sector, content, even_same=True)
        return made


@dataclass(slots=True, eq=False)
class Choice:
    """One possible outcome of a crash at one point.

    `tops`: by file and sector, the version on the disk (sectors not named have their floor
    version). `sizes`: by file, the version of the size. `names`: positions in the cursor's pending
    changes. `volatile`: by file, one of `VOLATILE` (absent if not named); `noise` is the seed of
    the noise.
    """

    tops: dict[int, dict[int, int]] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    names: frozenset[int] = frozenset()
    volatile: dict[int, str] = field(default_factory=dict)
    noise: int = 0


@dataclass(slots=True, frozen=True)
class DiskFile:
    """A file, directory or symbolic link in a state.

    `data` has no zeros at its end; `size` is the real size.
    """

    path: str
    kind: str
    mode: int
    node: int
    data: bytes
    size: int
    target: str


@dataclass(slots=True, frozen=True)
class DiskState:
    """A directory tree that a crash can leave.

    A directory comes before its entries. `digest` identifies the contents.
    """

    files: tuple[DiskFile, ...]
    digest: bytes


class _FileCursor:
    """One file at the point of the cursor: the durable content and the possible content."""

    def __init__(self, versions: FileVersions) -> None:
        self.versions = versions
        self.image = bytearray(versions.base)
        self.floor: dict[int, int] = {}
        self.size_floor = 0
        self.pending: dict[int, FileOp] = {}
        self.newest_size = 0
        self._digests: dict[int, tuple[bytes, bytes]] = {}  # by size, of the durable content

    def begin(self, number: int) -> None:
        self.pending[number] = self.versions.ops[number]
        self.newest_size = max(self.newest_size, self.versions.size_of_op[number])

    def settle(self, number: int, data: bool) -> None:
        """Mark the data of an operation (data) or its size (not data) as durable."""
        if not data:
            self.size_floor = max(self.size_floor, self.versions.size_of_op[number])
            return
        self._digests.clear()
        for sector, version in self.versions.by_op[number]:
            if version > self.floor.get(sector, 0):
                self.floor[sector] = version
                _patch(self.image, sector, self.versions.sectors[sector][version])

    def drop_settled(self, point: int) -> None:
        done = [n for n, op in self.pending.items() if max(op.durable, op.size_durable) <= point]
        for number in done:
            del self.pending[number]

    def digest(self, tops: Mapping[int, int], size_version: int) -> tuple[bytes, bytes, int]:
        """Return digest, bytes (without zeros at the end) and size; cached if all is durable."""
        size = self.versions.sizes[size_version]
        if not tops:
            known = self._digests.get(size_version)
            if known is not None:
                return known[0], known[1], size
        image = bytearray(self.image)
        for sector, version in self._consistent(tops, size_version).items():
            if version != self.floor.get(sector, 0):
                _patch(image, sector, self.versions.sectors[sector][version])
        del image[size:]
        data = _without_zeros(image)
        digest = hashlib.blake2b(data, digest_size=16).digest()
        if not tops and not any(op.cuts for op in self.pending.values()):
            self._digests[size_version] = digest, data
        return digest, data, size

    def _consistent(self, tops: Mapping[int, int], size_version: int) -> Mapping[int, int]:
        cuts = [number for number, op in self.pending.items() if op.cuts]
        if not cuts:
            return tops
        fixed = dict(tops)
        made_by = self.versions.size_makers[size_version]
        for number in sorted(cuts):
            op = self.versions.ops[number]
            if number <= made_by:
                for sector, version in self.versions.by_op[number]:
                    fixed[sector] = max(fixed.get(sector, self.floor.get(sector, 0)), version)
            else:
                first = op.size_after // SECTOR
                for sector in [s for s in fixed if s >= first]:
                    # The newest version of the sector that is older than the cut.
                    limit = bisect_left(self.versions.makers.get(sector, []), number)
                    fixed[sector] = max(
                        min(fixed[sector], limit), min(self.floor.get(sector, 0), limit)
                    )
        return fixed


class Cursor:
    """The disk at one crash point after another: `move` to a point, then read and build states.

    Moving forward is cheap; moving back starts again from the beginning. Not thread-safe.
    """

    def __init__(self, history: History, *, journaled: bool = False) -> None:
        self.history = history
        self.journaled = journaled
        ops: dict[int, list[FileOp]] = {}
        for op in history.file_ops:
            ops.setdefault(op.node, []).append(op)
        self._versions = {
            number: FileVersions(node.base, ops.get(number, []))
            for number, node in history.nodes.items()
            if node.kind == "file"
        }
        self._steps = self._plan()
        self.acks = sorted(history.acks, key=lambda ack: ack.start)
        self._reset()

    def _plan(self) -> list[tuple[int, int, int, int]]:
        """Return a list of (point, event, node, number).

        Events: 0 a file operation begins, 1 its data is durable, 2 its size is durable, 3 a change
        of names begins, 4 it is durable.
        """
        steps: list[tuple[int, int, int, int]] = []
        for node, versions in self._versions.items():
            for number, op in enumerate(versions.ops):
                steps.append((op.start, 0, node, number))
                steps.append((op.durable, 1, node, number))
                steps.append((op.size_durable, 2, node, number))
        for number, change in enumerate(self.history.name_ops):
            steps.append((change.start, 3, 0, number))
            steps.append((change.durable, 4, 0, number))
        steps.sort()
        return steps

    def _reset(self) -> None:
        self.point = -1
        self._next = 0
        self._next_ack = 0
        self.files = {n: _FileCursor(versions) for n, versions in self._versions.items()}
        self.entries = {
            n: dict(node.entries) for n, node in self.history.nodes.items() if node.kind == "dir"
        }
        self._pending_names: dict[int, NameOp] = {}
        self.ack_bytes = bytearray()

    def points(self) -> list[int]:
        """Return all points at which the possible states change; the first is -1."""
        moments = {-1, *(ack.start for ack in self.acks)}
        moments.update(step[0] for step in self._steps)
        moments.discard(NEVER)
        return sorted(moments)

    def move(self, point: int) -> None:
        """Go to the moment just after `point`."""
        if point < self.point:
            self._reset()
        touched: set[int] = set()
        while self._next < len(self._steps) and self._steps[self._next][0] <= point:
            _, what, node, number = self._steps[self._next]
            self._next += 1
            if what == 0:
                self.files[node].begin(number)
            elif what in (1, 2):
                self.files[node].settle(number, data=what == 1)
                touched.add(node)
            elif what == 3:
                self._pending_names[number] = self.history.name_ops[number]
            else:
                change = self._pending_names.pop(number)
                _apply_names(self.entries, change)
        for node in touched:
            self.files[node].drop_settled(point)
        while self._next_ack < len(self.acks) and self.acks[self._next_ack].start <= point:
            self.ack_bytes += self.acks[self._next_ack].data
            self._next_ack += 1
        self.point = point

    @property
    def names(self) -> list[NameOp]:
        """The pending changes of names, in order; choices refer to them by position."""
        return [self._pending_names[number] for number in sorted(self._pending_names)]

    def reachable(self) -> set[int]:
        """Return the nodes that are in some state of this point."""
        found = {node for entries in self.entries.values() for node in entries.values()}
        for change in self._pending_names.values():
            found.update(node for _, _, node in change.changes if node is not None)
        return found

    def state(self, choice: Choice) -> DiskState:
        """Return the disk state of a choice."""
        entries = self.entries
        if choice.names:
            entries = {number: dict(names) for number, names in entries.items()}
            pending = self.names
            for position in sorted(choice.names):
                _apply_names(entries, pending[position])
        hasher = hashlib.blake2b(digest_size=16)
        files: list[DiskFile] = []

        def collect(directory: int, front: str) -> None:
            for name, number in sorted(entries[directory].items()):
                node = self.history.nodes[number]
                path = front + name
                data, size, digest = b"", 0, b""
                if node.kind == "file":
                    mode = choice.volatile.get(number, "absent") if node.volatile else "known"
                    if mode == "absent":
                        continue
                    file = self.files[number]
                    version = choice.sizes.get(number, file.size_floor)
                    if mode == "known":
                        digest, data, size = file.digest(choice.tops.get(number, {}), version)
                    else:
                        size = file.versions.sizes[max(version, file.newest_size)]
                        data, size = _volatile(mode, size, f"{choice.noise}:{path}")
                        digest = hashlib.blake2b(data, digest_size=16).digest()
                head = f"{path}\0{node.kind}\0{node.target}\0{size}\0"
                hasher.update(head.encode("utf-8", "surrogateescape") + digest)
                files.append(DiskFile(path, node.kind, node.mode, number, data, size, node.target))
                if node.kind == "dir":
                    collect(number, path + "/")

        collect(0, "")
        return DiskState(tuple(files), hasher.digest())


def _apply_names(entries: dict[int, dict[str, int]], change: NameOp) -> None:
    for directory, name, node in change.changes:
        if node is None:
            entries[directory].pop(name, None)
        else:
            entries[directory][name] = node


def _patch(image: bytearray, sector: int, content: bytes) -> None:
    first = sector * SECTOR
    if len(image) < first:
        image.extend(bytes(first - len(image)))
    image[first : first + SECTOR] = content


def _without_zeros(image: bytearray) -> bytes:
    end = len(image)
    while end >= PAGE and image.endswith(_ZERO_PAGE, 0, end):
        end -= PAGE
    tail = max(0, end - PAGE)
    return bytes(image[:tail]) + bytes(image[tail:end]).rstrip(b"\0")


def _volatile(mode: str, size: int, seed: str) -> tuple[bytes, int]:
    if mode == "empty":
        return b"", 0
    if mode == "noise":
        return random.Random(seed).randbytes(size), size
    return b"", size
