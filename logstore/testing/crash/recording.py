"""Run a workload under strace, and keep the data needed to rebuild its crash states.

Rules:
- A recording is a directory: `trace` (the output of strace), `base/` (the watched directory before
  the workload), `acks` (the lines acknowledged before it) and `meta.json`. It does not depend on
  absolute paths, so it can be moved and read on another machine.
- After the workload, the final tree of the model must equal the real tree. Otherwise TraceError
  says where they differ. So a gap in the model shows as an error, not as a pass.
- Only the workload runs here, as a child of strace. Only the workload may change the watched
  directory.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from logstore.testing.crash.disk import Choice, Cursor
from logstore.testing.crash.filesystem import FileSystem
from logstore.testing.crash.materialise import write_state
from logstore.testing.crash.operations import History, Node
from logstore.testing.crash.strace import Syscall, TraceError, parse
from logstore.testing.crash.tracker import CALLS, Tracker, unknown_calls

__all__ = ["ACKS_VARIABLE", "DIRECTORY_VARIABLE", "Recording", "WorkloadError", "record"]

ACKS_VARIABLE = "LOGSTORE_CRASH_ACKS"
DIRECTORY_VARIABLE = "LOGSTORE_CRASH_DIR"
_STRING_BYTES_MAX = 1 << 26
_UNKNOWN_MAX = 6
_NOWHERE = Path(os.devnull)


class WorkloadError(Exception):
    """The workload or strace failed, so there is nothing to explore."""


@dataclass(slots=True)
class _Meta:
    watched: str
    acks: str
    cwd: str
    workload: list[str]
    fs: str
    volatile: list[str]
    happened: list[int] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Recording:
    """The recorded and parsed run of a workload. Made by `record` or `Recording.load`."""

    path: Path
    history: History
    base_acks: bytes
    fs: str
    workload: list[str]

    @property
    def journaled(self) -> bool:
        """Whether names reach the disk in order, as on ext4."""
        return self.fs == "ext4"

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recording:
        """Read a recording from its directory.

        Raise OSError, or TraceError if it is incomplete.
        """
        place = Path(path)
        meta = _Meta(**json.loads((place / "meta.json").read_text()))
        history = _tracker(_calls(place), place, meta, meta.happened).run()
        return _recording(place, history, meta)


def record(
    workload: Sequence[str],
    directory: str | os.PathLike[str],
    into: str | os.PathLike[str],
    *,
    fs: str = "posix",
    volatile: Sequence[str] = (),
    base_acks: bytes = b"",
    env: Mapping[str, str] | None = None,
    timeout_s: float = 600.0,
    acks_from_stdout: bool = False,
    exit_codes: Sequence[int] = (0,),
) -> Recording:
    """Run a command once under strace and return its operations on the files below `directory`.

    The existing contents of the directory count as on the disk. The command acknowledges its work
    by appending lines to the file named in the variable LOGSTORE_CRASH_ACKS (or, with
    `acks_from_stdout`, to its standard output). LOGSTORE_CRASH_DIR names the directory. `into` is
    created and kept. The lines in `base_acks` count as acknowledged from the start.

    Raise WorkloadError if strace is missing, the command exits with a code that is not in
    `exit_codes`, or runs longer than `timeout_s` seconds (it is then killed). Raise TraceError if
    the trace cannot be understood; see the rules of the module.
    """
    strace = shutil.which("strace")
    if strace is None:
        raise WorkloadError("the program strace is not installed")
    watched = Path(os.path.realpath(directory))
    watched.mkdir(parents=True, exist_ok=True)
    place = Path(os.path.realpath(into))
    if place == watched or watched in place.parents:
        raise ValueError(
            f"the recording {place} must not be inside the watched directory {watched}"
        )
    place.mkdir(parents=True)
    before = Cursor(History(_nodes(watched), [], [], [], []))
    write_state(before.state(Choice()), place / "base")  # with its hard links
    (place / "acks").write_bytes(base_acks)
    acks = place / "told"
    acks.write_bytes(b"")
    meta = _Meta(str(watched), str(acks), os.getcwd(), list(workload), fs, list(volatile))
    command = [strace, "-f", "-y", "-xx", "--seccomp-bpf", "-s", str(_STRING_BYTES_MAX)]
    command += ["-e", "raw=read,readv", "-e", "trace=" + ",".join(f"?{name}" for name in CALLS)]
    command += ["-e", "signal=none", "-o", str(place / "trace"), "--", *workload]
    environ = {**os.environ, **(env or {})}
    environ |= {ACKS_VARIABLE: str(acks), DIRECTORY_VARIABLE: str(watched)}
    _run(command, environ, acks if acks_from_stdout else None, timeout_s, exit_codes, place)
    return _understand(place, watched, meta)


def _run(
    command: list[str],
    environ: Mapping[str, str],
    stdout: Path | None,
    timeout_s: float,
    exit_codes: Sequence[int],
    place: Path,
) -> None:
    with (place / "stderr").open("wb") as stderr, (stdout or _NOWHERE).open("ab") as output:
        process = subprocess.Popen(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=stderr,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(timeout_s)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise WorkloadError(f"the workload ran longer than {timeout_s} s") from None
            raise
    if code not in exit_codes:
        text = (place / "stderr").read_text(errors="replace").strip()
        raise WorkloadError(f"the workload exited with {code}: {text[-2000:]}")


def _understand(place: Path, watched: Path, meta: _Meta) -> Recording:
    calls = _calls(place)
    unknown = unknown_calls(calls)[:_UNKNOWN_MAX]
    problem = ""
    # If a thread was killed inside a call, the real tree shows whether the call took effect.
    for count in range(len(unknown) + 1):
        for happened in itertools.combinations(unknown, count):
            tracker = _tracker(calls, place, meta, happened)
            try:
                history = tracker.run()
            except TraceError as error:
                if not happened:
                    raise
                problem = problem or str(error)
                continue
            found = _difference(tracker.tree, watched)
            if not found:
                meta.happened = list(happened)
                (place / "meta.json").write_text(json.dumps(asdict(meta), indent=1))
                return _recording(place, history, meta)
            problem = problem or found
    raise TraceError(f"the trace does not explain the contents of {watched}: {problem}")


def _calls(place: Path) -> list[Syscall]:
    with (place / "trace").open(encoding="ascii", errors="surrogateescape") as lines:
        return parse(lines)


def _tracker(
    calls: Sequence[Syscall], place: Path, meta: _Meta, happened: Sequence[int]
) -> Tracker:
    return Tracker(
        calls,
        FileSystem(_nodes(place / "base"), fs=meta.fs, volatile=meta.volatile),
        watched=os.fsencode(meta.watched),
        acks=os.fsencode(meta.acks),
        cwd=os.fsencode(meta.cwd),
        happened=frozenset(happened),
    )


def _recording(place: Path, history: History, meta: _Meta) -> Recording:
    return Recording(place, history, (place / "acks").read_bytes(), meta.fs, meta.workload)


def _nodes(base: Path) -> dict[int, Node]:
    """Return the tree of a directory as nodes; hard links share one node."""
    nodes = {0: Node(0, "dir", 0o700)}
    seen: dict[tuple[int, int], int] = {}

    def enter(directory: Path, number: int, front: str) -> None:
        for entry in sorted(directory.iterdir()):
            info = entry.lstat()
            key = (info.st_dev, info.st_ino)
            kind = _kind(info.st_mode)
            if kind == "":
                continue
            if key not in seen or kind == "dir":
                seen[key] = len(nodes)
                node = Node(len(nodes), kind, info.st_mode & 0o7777, label=front + entry.name)
                nodes[node.number] = node
                if kind == "file":
                    node.base = entry.read_bytes()
                elif kind == "link":
                    node.target = os.readlink(entry)
                else:
                    enter(entry, node.number, f"{front}{entry.name}/")
            nodes[number].entries[entry.name] = seen[key]

    enter(base, 0, "")
    return nodes


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "dir"
    return "link" if stat.S_ISLNK(mode) else ""


def _difference(tree: FileSystem, watched: Path) -> str:
    """Return the first difference between the model and the real directory, or ""."""
    expected = dict(tree.walk())
    for path, number in expected.items():
        node = tree.history.nodes[number]
        real = watched / os.fsdecode(path)
        try:
            kind = _kind(real.lstat().st_mode)
        except FileNotFoundError:
            return f"{path} is missing"
        if kind != node.kind:
            return f"{path} should be a {node.kind}, but is a {kind or 'special file'}"
        if kind == "file" and not node.volatile:
            data = real.read_bytes()
            model = tree.content[number]
            if data != model:
                at = next(
                    (i for i, (a, b) in enumerate(zip(data, model, strict=False)) if a != b), 0
                )
                return (
                    f"{path} has {len(data)} bytes, the model {len(model)}; "
                    f"the first difference is at {at}"
                )
    for real in sorted(watched.rglob("*")):
        path = os.fspath(real.relative_to(watched))
        if path not in expected and _kind(real.lstat().st_mode):
            return f"{path} is there and the trace does not show how"
    return ""
