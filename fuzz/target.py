"""What a fuzz file provides: a name, inputs to begin from, and a function that runs one.

Rules: a session is entered in a child process and left there; its function returns for every
input, after checking all that it can, and raises :class:`Violation` (or any exception that is not
a documented answer) when an invariant is broken.  The string it returns names what happened, so
that inputs that do something new are kept to mutate from.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from fuzz.mutator import Mutation

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
FINDINGS = HERE / "findings"

Run = Callable[[bytes], str]
Session = Callable[[], AbstractContextManager[Run]]


class Violation(AssertionError):
    """An invariant of the fuzzed code does not hold for this input."""


@dataclass(frozen=True)
class Target:
    """One fuzzer."""

    name: str
    seeds: Callable[[], Sequence[bytes]]
    session: Session
    batch: int = 200  # executions in one child; 1 for code that may take the process down
    bytes_max: int = 1 << 14
    seconds_max: float = 20.0  # of one execution, before it counts as a hang
    cpu_seconds_max: float = 2.0
    memory_base_bytes: int = 24 << 20
    memory_factor: int = 200  # bytes of memory for each byte of input
    mutations: tuple[Mutation, ...] = ()
    known: Callable[[bytes, str], str] = lambda data, problem: ""
    """Which limitation, named in the documentation, a problem with an input is; "" if none."""

    def memory_bytes_max(self, size: int) -> int:
        """How much memory an input of ``size`` bytes may cost."""
        return self.memory_base_bytes + self.memory_factor * size

    def corpus(self) -> list[bytes]:
        """What to begin from: the target's own seeds, and all that is committed."""
        committed = stored(FINDINGS, self.name) + stored(CORPUS, self.name)
        return [*self.seeds(), *map(load, committed)]


def stored(directory: Path, name: str) -> list[Path]:
    """The files of a target in a directory, in a fixed order."""
    place = directory / name
    return sorted(path for path in place.iterdir() if path.is_file()) if place.is_dir() else []


def load(path: Path) -> bytes:
    """The input in a file; one whose name ends in ``.z`` is compressed."""
    data = path.read_bytes()
    return zlib.decompress(data) if path.suffix == ".z" else data


def save(path: Path, data: bytes) -> Path:
    """Put an input into a file, compressed if that makes it much smaller; which file."""
    packed = zlib.compress(data, 9)
    if len(packed) < len(data) // 2 and len(data) > 1024:
        path, data = path.with_name(path.name + ".z"), packed
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def expect(holds: bool, message: str) -> None:
    """Raise :class:`Violation` unless ``holds``; the message says what was expected."""
    if not holds:
        raise Violation(message)
