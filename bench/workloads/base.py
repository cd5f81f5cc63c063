"""What a workload is, and what a slice of it is given."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..measure import Metrics
from ..payloads import Ids
from ..peers import Peer
from ..peers.base import Place
from ..profiles import Profile
from ..shim import Control

Better = Literal["higher", "lower"]
Pace = Literal["short", "slow", "long", "tail"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of a workload as the reports show it."""

    key: str
    label: str
    better: Better
    digits: int = 0
    # Shown with how good a peer is beside us.
    compared: bool = True


@dataclass(slots=True)
class Slice:
    """One measurement's surroundings, in the worker process of one peer and workload."""

    peer: Peer
    profile: Profile
    round: int
    base: Path
    search_path: list[str]
    url: str = ""
    server_pid: int | None = None
    server_directory: Path | None = None
    control: Control | None = None
    # What a workload keeps from one round to the next, such as a preloaded store.
    kept: dict[str, Any] = field(default_factory=dict)
    used_spaces: list[str] = field(default_factory=list)
    counter: itertools.count[int] = field(default_factory=itertools.count)

    def place(self, value_bytes: int = 300, ttl_s: int | None = None) -> Place:
        """A fresh, empty place."""
        space = f"s{self.base.name.replace('-', '_')}_{next(self.counter)}"
        directory = self.base / space
        directory.mkdir(parents=True)
        self.used_spaces.append(space)
        return Place(directory, self.url, space, value_bytes, ttl_s)

    def discard(self, place: Place) -> None:
        """Delete what a place holds on the disk; a server's part is deleted with the worker."""
        shutil.rmtree(place.directory, ignore_errors=True)

    def flushes(self) -> int:
        """The flushes so far of this worker, its children and its server; 0 without the shim."""
        return 0 if self.control is None else self.control.flushes().total

    def ids(self, place: Place, count: int = 20_000) -> Ids:
        """Fresh ids of the place, `count` of them ready."""
        ids = Ids(place.space)
        ids.fill(count)
        return ids


@dataclass(frozen=True, slots=True)
class Workload:
    """A workload: its variants, who takes part, and how a slice runs."""

    name: str
    title: str
    variants: Callable[[Profile], list[str]]
    run: Callable[[Slice, str], Metrics]
    metrics: tuple[Metric, ...]
    # Which side of a peer is called; who has no synchronous one has no part in a "sync" workload.
    side: Literal["sync", "async"] = "async"
    # Runs under the flush shim: without a compiler it is skipped.
    shimmed: bool = False
    # How many rounds of it a profile has: many short slices, or fewer, whose figures are steadier.
    pace: Pace = "short"
    only: frozenset[str] | None = None
    without: frozenset[str] = frozenset()
    # Peers that are durable and do not promise it of what this workload writes.
    not_durable: frozenset[str] = frozenset()
    # Peers of which a variant has none: (variant, peer) -> whether it takes part.
    takes_part: Callable[[str, str], bool] = lambda variant, peer: True
