"""What the campaigns share: seeds, a place to work, a progress line, findings and figures.

Rules: everything that is drawn comes from the seed, which is the commit's unless one is given;
every finding says what was found, with which seed and by which command it is found again; what a
campaign made, it removes, but for what a finding needs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

__all__ = [
    "Bar",
    "Findings",
    "add_common",
    "commit_seed",
    "duration",
    "end_tidily",
    "undisturbed",
    "workplace",
]

ROOT = Path(__file__).resolve().parent.parent
FIXED_SEED = 20240229
_AGAIN_S = 8.0  # longer than the explorer takes to end its workers
_BAR_S = 0.25
_BAR_WIDTH = 30


def commit_seed() -> int:
    """A seed that the commit decides, or a fixed one where there is no repository."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return int(done.stdout[:8], 16)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return FIXED_SEED


def add_common(parser: argparse.ArgumentParser) -> None:
    """The options that every campaign has."""
    parser.add_argument("--seed", type=int, help="of everything that is drawn; else the commit's")
    parser.add_argument(
        "--minutes", type=float, default=600.0, help="begin nothing new after that time"
    )
    parser.add_argument(
        "--findings", type=Path, default=ROOT / "build" / "findings",
        help="where what a finding needs is kept",
    )  # fmt: skip
    parser.add_argument("--first", action="store_true", help="end with the first finding")


class _Ending:
    """What the signal handlers and the parts that they must not interrupt know of each other."""

    held = 0  # how many such parts are under way
    asked = False  # a signal came meanwhile
    tidying = False  # the campaign ends


def end_tidily() -> None:
    """Let SIGTERM end a campaign as Ctrl-C does: nothing is left running or lying about.

    An exception that a handler raises is lost where Python can only ignore exceptions, as in the
    hooks around a fork; so it is raised again later, unless the tidying up has begun by then.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        if _Ending.tidying:
            return
        if _Ending.held:
            _Ending.asked = True
            return
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGALRM, leave)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """What SIGTERM does not interrupt: it ends the campaign behind the block."""
    _Ending.held += 1
    try:
        yield
    finally:
        _Ending.held -= 1
        if _Ending.asked and not _Ending.held and not _Ending.tidying:
            _Ending.asked = False
            raise SystemExit(128 + signal.SIGTERM)


@contextlib.contextmanager
def workplace(prefix: str) -> Iterator[Path]:
    """A directory that goes with the block; in FUZZ_DIR, or in memory where there is such a place,
    for what a process leaves behind is the same on any file system."""
    memory = os.environ.get("FUZZ_DIR", "/dev/shm")
    directory = memory if os.access(memory, os.W_OK) else None
    place = ""
    try:
        with undisturbed():
            place = tempfile.mkdtemp(prefix=prefix, dir=directory)
        yield Path(place)
    except SystemExit:
        _Ending.tidying = True
        raise
    finally:
        with undisturbed():
            shutil.rmtree(place, ignore_errors=True)


class Findings:
    """What was found, written at once to standard error and counted for the exit code."""

    def __init__(self, place: Path, *, first: bool = False) -> None:
        self.place = place
        self.count = 0
        self._first = first

    @property
    def enough(self) -> bool:
        """Whether one was found and no more are wanted."""
        return self._first and self.count > 0

    def tell(self, what: str, *, seed: int, command: str) -> None:
        """Tells one finding."""
        self.count += 1
        print(f"\nFINDING (seed {seed}): {what}\n  again: {command}", file=sys.stderr, flush=True)

    def keep(self, directory: Path, name: str) -> Path:
        """Keeps a directory that a finding needs."""
        self.place.mkdir(parents=True, exist_ok=True)
        target = self.place / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(directory, target, symlinks=True)
        return target


class Bar:
    """A progress line, on a terminal only."""

    def __init__(self, total: float, what: str) -> None:
        self._total = max(total, 1e-9)
        self._what = what
        self._shown = sys.stderr.isatty()
        self._begun = time.monotonic()
        self._next = 0.0

    def update(self, done: float, text: str = "") -> None:
        """Shows the line, if it is time."""
        now = time.monotonic()
        if not self._shown or now < self._next:
            return
        self._next = now + _BAR_S
        share = min(1.0, done / self._total)
        bar = ("#" * int(share * _BAR_WIDTH)).ljust(_BAR_WIDTH, "-")
        left = (now - self._begun) * (1 - share) / share if share else 0.0
        sys.stderr.write(
            f"\r[{bar}] {done:.0f}/{self._total:.0f} {self._what}, {duration(left)} left, "
            f"{text}\x1b[K"
        )
        sys.stderr.flush()

    def close(self) -> None:
        """Removes the line."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def duration(seconds: float) -> str:
    """Seconds for people."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{seconds:.1f} s"
