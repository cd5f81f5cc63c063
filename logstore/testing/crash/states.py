"""Selection, order and names of crash states. Pure.

A state's name is `POINT.KIND` and a number. POINT is the crash point, and KIND is one of:
- `e`: the n-th of all states of the point, enumerated (the point has few);
- `f`: the n-th of a fixed family: no operation kept, all kept, every prefix, every operation torn
  at sectors and pages, every operation lost or kept alone, names without data, sizes without data,
  and more;
- `r`: the n-th random state, from a generator seeded with seed, point and n. A recording, a seed
  and a name give exactly one state, whatever the bounds of the run.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from logstore.testing.crash.disk import (
    PAGE,
    SECTOR,
    VOLATILE,
    Choice,
    Cursor,
    DiskState,
    FileVersions,
)
from logstore.testing.crash.operations import FileOp, History, NameOp

__all__ = ["Builder", "Space", "StateError", "candidates", "describe", "parse_name"]

_NAME = re.compile(r"(-?\d+)\.([efr])(\d+)\Z")
_NAMES_COUNTED_MAX = 10
_TEARS_MAX = 8


class StateError(ValueError):
    """The name of a state is invalid in this recording."""


@dataclass(slots=True, eq=False)
class _Op:
    node: int
    number: int
    op: FileOp
    made: list[tuple[int, int]]  # (sector, version)


Keep = bool | frozenset[int]  # all sectors of an operation, none, or a set


@dataclass(slots=True, frozen=True)
class _Plan:
    """The operations kept in one state of the family.

    `here` is a position among the operations: with "before", the operations up to it are kept.
    `keep` is the fate of the operation at `here`, if different.
    """

    base: str
    here: int = 0
    keep: Keep | None = None
    names: tuple[int, ...] = ()
    sizes: str = "kept"
    fate: str = "absent"


class Space:
    """All states of the current point of a cursor. Use it before the cursor moves on."""

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self.point = cursor.point
        self.names: list[NameOp] = cursor.names
        self._needs = _needs(self.names, cursor.journaled)
        self.ops: list[_Op] = []
        self.volatile: list[int] = []
        self._volatile_tops: dict[int, dict[int, int]] = {}
        nodes = cursor.history.nodes
        for node in sorted(cursor.reachable()):
            file = cursor.files.get(node)
            if file is None:
                continue
            found = [
                _Op(node, number, op, file.versions.by_op[number])
                for number, op in sorted(file.pending.items())
                if op.end <= cursor.point or _all_begun(file.versions, number, cursor.point)
            ]
            if nodes[node].volatile:
                self.volatile.append(node)
                self._volatile_tops[node] = dict(pair for op in found for pair in op.made)
            else:
                self.ops += found
        self.ops.sort(key=lambda item: item.op.end)
        self._sectors: dict[tuple[int, int], list[int]] = {}
        self._sizes: dict[int, list[int]] = {}
        for item in self.ops:
            file = cursor.files[item.node]
            for sector, version in item.made:
                floor = file.floor.get(sector, 0)
                if version > floor:
                    self._sectors.setdefault((item.node, sector), [floor]).append(version)
            size = file.versions.size_of_op[item.number]
            if item.op.resizes and size > file.size_floor:
                self._sizes.setdefault(item.node, [file.size_floor]).append(size)
        self._name_sets = self._count_names()

    # -- enumeration --------------------------------------------------------------------------

    def _count_names(self) -> list[frozenset[int]] | None:
        count = len(self.names)
        if self.cursor.journaled:
            return [frozenset(range(n)) for n in range(count + 1)]
        if count > _NAMES_COUNTED_MAX:
            return None
        masks = (frozenset(i for i in range(count) if mask >> i & 1) for mask in range(1 << count))
        return [kept for kept in masks if all(self._needs[i] <= kept for i in kept)]

    @property
    def total(self) -> int | None:
        """The number of enumerable states; None if there are too many."""
        if self._name_sets is None:
            return None
        total = len(self._name_sets) << len(self.volatile)
        for versions in (*self._sectors.values(), *self._sizes.values()):
            total *= len(versions)
            if total > 1 << 40:
                return None
        return total

    def counted(self, number: int) -> Choice:
        """Return the n-th state. The fates of volatile files change fastest, names slowest."""
        rest = number
        choice = Choice(noise=number)
        for node in self.volatile:
            rest, known = divmod(rest, 2)
            if known:
                choice.volatile[node] = "known"
                choice.tops[node] = self._volatile_tops[node]
        for (node, sector), versions in self._sectors.items():
            rest, index = divmod(rest, len(versions))
            if index:
                choice.tops.setdefault(node, {})[sector] = versions[index]
        for node, versions in self._sizes.items():
            rest, index = divmod(rest, len(versions))
            choice.sizes[node] = versions[index]
        if self._name_sets is None or rest >= len(self._name_sets):
            raise StateError(f"point {self.point} has no state e{number}")
        choice.names = self._name_sets[rest]
        return choice

    # -- the family ---------------------------------------------------------------------------

    @cached_property
    def family(self) -> list[_Plan]:
        """The fixed family, states most likely to fail first."""
        names = tuple(range(len(self.names)))
        plans: list[_Plan] = []
        for fate in ("absent", "known") if self.volatile else ("absent",):
            plans.append(_Plan("none", names=(), fate=fate))
            plans.append(_Plan("every", names=names, fate=fate))
        plans.append(_Plan("none", names=names))
        plans.append(_Plan("every", names=()))
        plans.append(_Plan("none", names=names, sizes="all"))
        plans.append(_Plan("every", names=names, sizes="none"))
        plans.append(_Plan("none", names=(), sizes="all"))
        fates = VOLATILE if self.volatile else ("absent",)
        order = sorted(
            [(item.op.end, 0, i) for i, item in enumerate(self.ops)]
            + [(change.end, 1, i) for i, change in enumerate(self.names)]
        )
        for position in reversed(range(len(order))):
            fate = fates[position % len(fates)]
            before = tuple(index for _, what, index in order[:position] if what == 1)
            _, what, here = order[position]
            if what == 1:
                first = sum(1 for _, kind, _ in order[:position] if kind == 0)
                plans.append(_Plan("before", first, names=before, fate=fate))
                plans += self._name_plans(here, before, fate)
                continue
            plans.append(_Plan("before", here, names=before, fate=fate))
            for torn in _tears(self.ops[here].made):
                plans.append(_Plan("before", here, torn, names=before))
                plans.append(_Plan("every", here, torn, names=names, fate=fate))
            plans.append(_Plan("every", here, False, names=names, fate=fate))
            plans.append(_Plan("none", here, True, names=names))
            plans.append(_Plan("none", here, True, names=(), sizes="all"))
        return plans

    def _name_plans(self, here: int, before: tuple[int, ...], fate: str) -> list[_Plan]:
        others = tuple(i for i in range(len(self.names)) if i != here)
        return [
            _Plan("every", names=before),
            _Plan("none", names=(*before, here), sizes="all"),
            _Plan("every", names=others),
            _Plan("every", names=(here, *self._needs[here]), fate=fate),
        ]

    def planned(self, number: int) -> Choice:
        """Return the n-th state of the family."""
        if number >= len(self.family):
            raise StateError(f"point {self.point} has no state f{number}")
        plan = self.family[number]
        kept: list[Keep] = [
            plan.base == "every" or (plan.base == "before" and index < plan.here)
            for index in range(len(self.ops))
        ]
        if plan.keep is not None:
            kept[plan.here] = plan.keep
        return self._choice(kept, plan.names, sizes=plan.sizes, fate=plan.fate)

    def _choice(
        self,
        kept: Sequence[Keep],
        names: Iterable[int],
        *,
        sizes: str = "kept",
        fate: str = "absent",
        noise: int = 0,
    ) -> Choice:
        chosen = set(names)
        for index in sorted(chosen):
            if not self._needs[index] <= chosen:
                chosen.discard(index)
        choice = Choice(names=frozenset(chosen), noise=noise)
        for item, keep in zip(self.ops, kept, strict=True):
            if keep is False:
                continue
            tops = choice.tops.setdefault(item.node, {})
            for sector, version in item.made:
                if keep is True or (isinstance(keep, frozenset) and sector in keep):
                    tops[sector] = version
            if sizes == "kept" and item.node in self._sizes:
                size = self.cursor.files[item.node].versions.size_of_op[item.number]
                choice.sizes[item.node] = max(size, self._sizes[item.node][0])
        if sizes == "all":
            choice.sizes = {node: versions[-1] for node, versions in self._sizes.items()}
        for node in self.volatile:
            choice.volatile[node] = fate
            choice.tops[node] = self._volatile_tops[node]
        return choice

    # -- random states ------------------------------------------------------------------------

    def drawn(self, seed: int, number: int) -> Choice:
        """Return the n-th random state."""
        rng = random.Random(f"{seed}:{self.point}:{number}")
        share = rng.choice((0.1, 0.3, 0.5, 0.7, 0.9))
        names: list[int] = []
        name_share = rng.choice((0.0, 0.5, 0.9, 1.0))
        if self.cursor.journaled:
            names = list(range(rng.randint(0, len(self.names))))
        else:
            for index in range(len(self.names)):
                if self._needs[index] <= set(names) and rng.random() < name_share:
                    names.append(index)
        grain = rng.choice(("op", "page", "sector", "sector"))
        kept: list[Keep] = [self._drawn_keep(rng, item, grain, share) for item in self.ops]
        choice = self._choice(kept, names, noise=number)
        way = rng.randrange(4)
        for node, versions in self._sizes.items():
            if way == 0:
                choice.sizes[node] = rng.choice(versions)
            elif way == 1:
                choice.sizes[node] = versions[-1]
        for node in self.volatile:
            choice.volatile[node] = rng.choice(VOLATILE)
        return choice

    def _drawn_keep(self, rng: random.Random, item: _Op, grain: str, share: float) -> Keep:
        if grain == "op" or len(item.made) <= 1:
            return rng.random() < share
        unit = 1 if grain == "sector" else PAGE // SECTOR
        groups = dict.fromkeys(sector // unit for sector, _ in item.made)
        lucky = {group for group in groups if rng.random() < share}
        return frozenset(sector for sector, _ in item.made if sector // unit in lucky)


def _all_begun(versions: FileVersions, number: int, point: int) -> bool:
    """Whether the sectors of an unfinished write have no data of writes that begin later."""
    return all(
        versions.ops[maker].start <= point
        for sector, version in versions.by_op[number]
        for maker in versions.makers[sector][:version]
    )


def _needs(names: list[NameOp], journaled: bool) -> list[frozenset[int]]:
    """Return, for each pending change, the earlier changes that it requires on the disk."""
    if journaled:
        return [frozenset(range(index)) for index in range(len(names))]
    needs: list[frozenset[int]] = []
    last: dict[tuple[int, str], frozenset[int]] = {}
    for index, change in enumerate(names):
        keys = [(directory, name) for directory, name, _ in change.changes]
        own = frozenset().union(*(last.get(key, frozenset()) for key in keys))
        needs.append(own)
        for key in keys:
            last[key] = own | {index}
    return needs


def _tears(made: list[tuple[int, int]]) -> list[frozenset[int]]:
    """Return the ways to tear a write, at pages and sectors: its head kept, or its tail."""
    sectors = [sector for sector, _ in made]
    if len(sectors) < 2:
        return []
    pages = [i for i in range(1, len(sectors)) if sectors[i] % (PAGE // SECTOR) == 0]
    places = [1, len(sectors) - 1, *pages[:2], *pages[-2:], len(sectors) // 2]
    torn: dict[frozenset[int], None] = {}
    for place in dict.fromkeys(places):
        torn[frozenset(sectors[:place])] = None
        torn[frozenset(sectors[place:])] = None
    return list(torn)[:_TEARS_MAX]


def candidates(space: Space, *, seed: int, bound: int) -> Iterator[str]:
    """Yield names of states, best first.

    The iterator ends if the point has at most `bound` states; otherwise it is infinite.
    """
    total = space.total
    if total is not None and total <= bound:
        numbers = list(range(total))
        random.Random(f"{seed}:{space.point}").shuffle(numbers)
        numbers.sort(key=lambda n: n not in (0, total - 1))
        for number in numbers:
            yield f"{space.point}.e{number}"
        return
    for number in range(len(space.family)):
        yield f"{space.point}.f{number}"
    for number in itertools.count():
        yield f"{space.point}.r{number}"


class Builder:
    """Build states by name.

    The same point again or a later point is cheap. An earlier point starts again from the
    beginning.
    """

    def __init__(self, history: History, *, journaled: bool, seed: int) -> None:
        self.cursor = Cursor(history, journaled=journaled)
        self.seed = seed
        self._space: Space | None = None

    def space(self, point: int) -> Space:
        """Return all states of a point; move the cursor there."""
        if self._space is None or self._space.point != point:
            self.cursor.move(point)
            self._space = Space(self.cursor)
        return self._space

    def choice(self, name: str) -> Choice:
        """Return the choice of a name. Raise StateError if the name is invalid."""
        point, kind, number = parse_name(name)
        space = self.space(point)
        if kind == "e":
            return space.counted(number)
        return space.drawn(self.seed, number) if kind == "r" else space.planned(number)

    def state(self, name: str) -> DiskState:
        """Return the disk of a state name."""
        return self.cursor.state(self.choice(name))

    def acks(self) -> bytes:
        """Return the bytes acknowledged up to the cursor's point."""
        return bytes(self.cursor.ack_bytes)


def parse_name(name: str) -> tuple[int, str, int]:
    """Return point, kind and number. Raise StateError."""
    match = _NAME.match(name)
    if match is None:
        raise StateError(f"{name!r} is not a state name such as 120.e3, 120.f0 or 120.r17")
    return int(match[1]), match[2], int(match[3])


def describe(builder: Builder, name: str) -> list[str]:
    """Describe which unsynced operations are on the disk in a state: one line per operation."""
    choice = builder.choice(name)
    cursor = builder.cursor
    space = builder.space(cursor.point)
    lines = [
        f"{'kept' if index in choice.names else 'lost'}: {change.label}"
        for index, change in enumerate(space.names)
    ]
    for item in space.ops:
        file = cursor.files[item.node]
        label = cursor.history.nodes[item.node].label
        tops = choice.tops.get(item.node, {})
        kept = sum(tops.get(s, file.floor.get(s, 0)) >= version for s, version in item.made)
        what = f"{len(item.op.data)} bytes at {item.op.offset}"
        if item.op.resizes and not item.op.data:
            what = f"size {item.op.size_before} to {item.op.size_after}"
        lines.append(f"{kept} of {len(item.made)} sectors kept: {label}: {what}")
    for node, size in choice.sizes.items():
        label = cursor.history.nodes[node].label
        lines.append(f"size on disk: {label}: {cursor.files[node].versions.sizes[size]}")
    for node, fate in choice.volatile.items():
        lines.append(f"volatile, {fate}: {cursor.history.nodes[node].label}")
    return lines
