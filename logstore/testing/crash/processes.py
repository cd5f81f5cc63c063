"""Descriptor tables and working directories of the traced processes. Pure.

Rules: a thread shares its parent's table and directory, a forked child gets copies (of the table,
not of the open files, whose offsets stay shared), and execve closes what is marked so. Only files
and directories below the watched directory are kept; all else is absent from the tables.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from logstore.testing.crash.strace import Syscall, flags_of

__all__ = ["OpenFile", "Process", "Processes"]


@dataclass(slots=True, eq=False)
class OpenFile:
    """An open file description: shared by duplicated and inherited descriptors."""

    node: int
    append: bool
    dsync: bool
    writable: bool
    offset: int = 0


@dataclass(slots=True, eq=False)
class _Directory:
    path: bytes


@dataclass(slots=True, eq=False)
class _Table:
    files: dict[int, OpenFile] = field(default_factory=dict)
    close_on_exec: set[int] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class Process:
    """One traced thread, with what it shares with others."""

    table: _Table
    directory: _Directory
    maps: list[tuple[int, int, int]]  # start, end, node of shared maps of watched files

    @property
    def cwd(self) -> bytes:
        return self.directory.path

    @cwd.setter
    def cwd(self, path: bytes) -> None:
        self.directory.path = path

    def get(self, number: int) -> OpenFile | None:
        """The watched file behind a descriptor, if it is one."""
        return self.table.files.get(number)

    def put(self, number: int, file: OpenFile | None, *, close_on_exec: bool) -> None:
        """Sets a descriptor; None for a file that is not watched."""
        self.drop(number)
        if file is not None:
            self.table.files[number] = file
            if close_on_exec:
                self.table.close_on_exec.add(number)

    def drop(self, number: int) -> None:
        """Closes a descriptor."""
        self.table.files.pop(number, None)
        self.table.close_on_exec.discard(number)

    def drop_range(self, first: int, last: int) -> None:
        """Closes all descriptors from first to last, both included."""
        for number in [n for n in self.table.files if first <= n <= last]:
            self.drop(number)

    def mark(self, number: int, close_on_exec: bool) -> None:
        """Sets or clears close-on-exec."""
        if close_on_exec and number in self.table.files:
            self.table.close_on_exec.add(number)
        else:
            self.table.close_on_exec.discard(number)

    def executed(self) -> None:
        """The process runs another program: its maps and marked descriptors are gone."""
        own = _Table(dict(self.table.files))
        for number in self.table.close_on_exec:
            own.files.pop(number, None)
        self.table = own
        self.maps = []


class Processes:
    """All traced threads. A child is made on its first call, which can precede its parent's
    return."""

    def __init__(self, calls: list[Syscall], cwd: bytes) -> None:
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
