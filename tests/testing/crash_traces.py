"""Traces written by hand, in the words of strace, for tests of what is made of them."""

from __future__ import annotations

from logstore.testing.crash.disk import DiskState
from logstore.testing.crash.filesystem import FileSystem
from logstore.testing.crash.operations import History, Node
from logstore.testing.crash.states import Builder, candidates
from logstore.testing.crash.strace import parse
from logstore.testing.crash.tracker import Tracker, unknown_calls

ROOT = "/w"
ACKS = "/acks"


def quoted(text: str | bytes) -> str:
    """As strace -xx writes it, without the quotes."""
    data = text.encode() if isinstance(text, str) else text
    return "".join(f"\\x{byte:02x}" for byte in data)


def fd(number: int, path: str) -> str:
    return f"{number}<{quoted(f'{ROOT}/{path}' if path else ROOT)}>"


CWD = f"AT_FDCWD<{quoted(ROOT)}>"


def opened(number: int, path: str, flags: str = "O_RDWR|O_CREAT", pid: int = 1) -> str:
    mode = ", 0600" if "O_CREAT" in flags or "O_TMPFILE" in flags else ""
    return f'{pid} openat({CWD}, "{quoted(path)}", {flags}{mode}) = {fd(number, path)}'


def pwrite(number: int, path: str, data: bytes, offset: int, pid: int = 1) -> str:
    return (
        f'{pid} pwrite64({fd(number, path)}, "{quoted(data)}", {len(data)}, {offset}) = {len(data)}'
    )


def write(number: int, path: str, data: bytes, pid: int = 1) -> str:
    return f'{pid} write({fd(number, path)}, "{quoted(data)}", {len(data)}) = {len(data)}'


def synced(number: int, path: str, call: str = "fsync", pid: int = 1) -> str:
    return f"{pid} {call}({fd(number, path)}) = 0"


def told(line: str, pid: int = 1) -> str:
    data = quoted(line + "\n")
    return f'{pid} write(9<{quoted(ACKS)}>, "{data}", {len(line) + 1}) = {len(line) + 1}'


def renamed(old: str, new: str, pid: int = 1) -> str:
    return f'{pid} rename("{quoted(old)}", "{quoted(new)}") = 0'


def unlinked(path: str, pid: int = 1) -> str:
    return f'{pid} unlink("{quoted(path)}") = 0'


def understood(
    *lines: str,
    base: dict[str, bytes] | None = None,
    fs: str = "posix",
    volatile: tuple[str, ...] = (),
    happened: bool = False,
) -> tuple[History, FileSystem]:
    """The history of a trace that starts with the files of `base`."""
    nodes = {0: Node(0, "dir", 0o700)}
    for name, data in (base or {}).items():
        number = len(nodes)
        nodes[number] = Node(number, "file", 0o600, base=data, label=name)
        nodes[0].entries[name] = number
    calls = parse(lines)
    tree = FileSystem(nodes, fs=fs, volatile=volatile)
    taken = frozenset(unknown_calls(calls)) if happened else frozenset()
    tracker = Tracker(
        calls, tree, watched=ROOT.encode(), acks=ACKS.encode(), cwd=ROOT.encode(), happened=taken
    )
    return tracker.run(), tree


def shown(state: DiskState) -> dict[str, bytes]:
    """Paths and contents of a state; directories are None and links are left out."""
    return {
        file.path: file.data.ljust(file.size, b"\0") for file in state.files if file.kind == "file"
    }


def states_at(
    history: History, point: int, *, fs: str = "posix", bound: int = 1 << 16, limit: int = 1 << 16
) -> list[dict[str, bytes]]:
    """All different trees that a crash just after `point` can leave."""
    builder = Builder(history, journaled=fs == "ext4", seed=0)
    found: dict[bytes, dict[str, bytes]] = {}
    for count, name in enumerate(candidates(builder.space(point), seed=0, bound=bound)):
        if count >= limit:
            break
        state = builder.state(name)
        found[state.digest] = shown(state)
    return list(found.values())


LAST = 1 << 40
"""A point after every trace."""
