"""Descriptor tables and working directories of the traced processes. Pure.

Rules: a thread shares the table and directory of its parent. A forked child gets copies of the
table, but shares the open files and their offsets. execve closes descriptors with close-on-exec.
The tables have only files and directories below the watched directory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from logstore.testing.crash.strace import Syscall, flags_of

__all__ = ["OpenFile", "Process", "Processes"]


@dataclass(slots=True, eq=False)
class OpenFile:
    """An open file description, shared by duplicated and inherited descriptors."""

    node: int
    append: bool
    dsync: bool
    writable: bool
    offset: int = 0


@dataclass(slots=True, eq=False)
class _Directory:
    path: bytes  # the working directory


@dataclass(slots=True, eq=False)
class _Table:
    files: dict[int, OpenFile] = field(default_factory=dict)
    close_on_exec: set[int] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class Process:
    """One traced thread, with the state that it shares with other threads."""

    table: _Table
    directory: _Directory
    maps: list[tuple[int, int, int]]  # (start, end, node) of shared maps of watched files

    def get(self, number: int) -> OpenFile | None:
        """Return the watched file of a descriptor, or None."""
        return self.table.files.get(number)

    def put(self, number: int, file: OpenFile | None, *, close_on_exec: bool) -> None:
        """Set a descriptor; None means a file that is not watched."""
        self.drop(number)
        if file is not None:
            self.table.files[number] = file
            if close_on_exec:
                self.table.close_on_exec.add(number)

    def drop(self, number: int) -> None:
        """Close a descriptor."""
        self.table.files.pop(number, None)
        self.table.close_on_exec.discard(number)

    def drop_range(self, first: int, last: int) -> None:
        """Close all descriptors from first to last, inclusive."""
        for number in [n for n in self.table.files if first <= n <= last]:
            self.drop(number)

    def mark(self, number: int, close_on_exec: bool) -> None:
        """Set or clear close-on-exec."""
        if close_on_exec and number in self.table.files:
            self.table.close_on_exec.add(number)
        else:
            self.table.close_on_exec.discard(number)

    def executed(self) -> None:
        """Apply execve: drop the maps and the descriptors with close-on-exec."""
        own = _Table(dict(self.table.files))
        for number in self.table.close_on_exec:
            own.files.pop(number, None)
        self.table = own
        self.maps = []


class Processes:
    """All traced threads.

    A child is added at its first call, which can come before the return of its parent's fork.
    """

    def __init__(self, calls: Sequence[Syscall], cwd: bytes) -> None:
        self._first_cwd = cwd
        self._threads: dict[int, Process] = {}
        self._born: dict[int, tuple[int, frozenset[str]]] = {}
        for call in calls:
            if call.name in ("clone", "clone3", "fork", "vfork") and call.result:
                self._born.setdefault(call.result, (call.pid, _clone_flags(call)))

    def __getitem__(self, pid: int) -> Process:
        thread = self._threads.get(pid)
        if thread is None:
            thread = self._threads[pid] = self._new(pid)
        return thread

    def _new(self, pid: int) -> Process:
        if pid not in self._born:
            return Process(_Table(), _Directory(self._first_cwd), [])
        parent_pid, flags = self._born[pid]
        parent = self[parent_pid]
        table = parent.table
        if "CLONE_FILES" not in flags:
            table = _Table(dict(table.files), set(table.close_on_exec))
        directory = parent.directory
        if "CLONE_FS" not in flags:
            directory = _Directory(directory.path)
        maps = parent.maps if "CLONE_VM" in flags else list(parent.maps)
        return Process(table, directory, maps)


def _clone_flags(call: Syscall) -> frozenset[str]:
    text = ",".join(call.args)
    _, _, flags = text.partition("flags=")
    return flags_of(flags.split(",")[0].rstrip("}"))
