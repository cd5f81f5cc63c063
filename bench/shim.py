"""Builds, steers and reads the preloaded shim of `shim.c` (see there for what it models)."""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

CONTROL_VARIABLE = "BENCH_SHIM_CONTROL"

# The layout of `struct control` in shim.c.
CONTROL = struct.Struct("=6Q")
DELAY = struct.Struct("=Q")
assert CONTROL.size == 48


class ShimUnavailableError(Exception):
    """There is no compiler here, or it failed; the message says which."""


@dataclass(frozen=True, slots=True)
class Flushes:
    """How many calls of each kind have made data durable."""

    fsyncs: int
    fdatasyncs: int
    msyncs: int
    range_syncs: int
    synced_writes: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.fsyncs + self.fdatasyncs + self.msyncs + self.range_syncs + self.synced_writes


def build(directory: Path) -> Path:
    """Compile the shim into `directory` and return the library's path.

    Raises ShimUnavailableError when there is no C compiler or it fails.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise ShimUnavailableError("no C compiler (cc, gcc or clang) was found")
    library = directory / "flush-shim.so"
    source = Path(__file__).with_name("shim.c")
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ShimUnavailableError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return library


class Control:
    """The shared page that steers the shim in a tree of processes.

    The creator passes `environment()` to the processes it starts; a process inside the tree
    attaches to the same page with `from_environment()`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            path.write_bytes(bytes(CONTROL.size))
        fd = os.open(path, os.O_RDWR)
        try:
            self._map = mmap.mmap(fd, CONTROL.size)
        finally:
            os.close(fd)

    @classmethod
    def from_environment(cls) -> Control | None:
        """The page this process was started with, or None when it runs without the shim."""
        path = os.environ.get(CONTROL_VARIABLE)
        return cls(Path(path)) if path else None

    def environment(self, library: Path) -> dict[str, str]:
        """What a process needs in its environment to be slowed and counted."""
        return {"LD_PRELOAD": str(library), CONTROL_VARIABLE: str(self.path)}

    def set_delay(self, seconds: float) -> None:
        """Delay every flush of the tree by `seconds` from now on."""
        DELAY.pack_into(self._map, 0, int(seconds * 1e6))

    def flushes(self) -> Flushes:
        """The counters so far."""
        return Flushes(*CONTROL.unpack_from(self._map, 0)[1:])

    def steers(self, pid: int) -> bool:
        """Whether process `pid` has the page mapped: otherwise it is not slowed and not counted."""
        return f"{self.path.resolve()}\n" in Path(f"/proc/{pid}/maps").read_text()

    def close(self) -> None:
        """Unmap the page."""
        self._map.close()
