"""W6: what stores of 10^4 to 10^7 results cost: set, get, newest 50, open, memory, bytes.

The store is filled once and then opened by a fresh process for every round, because memory that
an earlier slice has freed would hide what this one needs. Before that its files are read once, so
that all are measured from the page cache. Its sets add to the store: a few thousand per round.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from time import perf_counter_ns

from ..children import Channel, Child
from ..counters import directory_bytes, private_bytes
from ..measure import Metrics, closed_loop
from ..payloads import Ids, pairs, task_id, value
from ..peers import WRITE_ONLY, load
from ..peers.base import Place
from .base import Metric, Slice, Workload

VALUE_BYTES = 300
ID_BYTES = 32
NEWEST = 50
NEWEST_RUNS = 20
REPLY_TIMEOUT_S = 120.0
READ_BYTES = 1 << 22
# Beyond this only the embedded stores whose cost over size is the question.
LARGE = 1_000_000
AT_LARGE = frozenset({"logstore", "lmdb", "sqlite-full"})


def measure(channel: Channel) -> None:
    """The role of the process that opens the filled store and measures it."""
    setup = channel.receive()
    assert setup is not None
    sync_class = load(setup["peer"]).sync_class
    assert sync_class is not None
    place = Place(Path(setup["directory"]), space=setup["space"], value_bytes=VALUE_BYTES)
    count: int = setup["count"]
    seconds: float = setup["seconds"]
    dice = random.Random(setup["round"])
    wanted = [task_id(place.space, dice.randrange(count)) for _ in range(20_000)]
    fresh = Ids(f"{place.space}+{setup['round']}")
    fresh.fill(10_000)
    payload = value(VALUE_BYTES)
    peer = sync_class(place)
    memory_before = private_bytes()
    before = perf_counter_ns()
    peer.open()
    peer.ready(wanted[0])
    opened_ms = (perf_counter_ns() - before) / 1e6
    turn = itertools.cycle(wanted)

    def get() -> None:
        if peer.get(next(turn)) is None:
            raise AssertionError("a stored result is missing")

    got = closed_loop(get, seconds).metrics()
    put = closed_loop(lambda: peer.set(fresh.take(), payload), seconds).metrics()
    metrics: Metrics = {
        "get_p50_us": got["p50_us"],
        "get_p99_us": got["p99_us"],
        "set_p50_us": put["p50_us"],
        "set_p99_us": put["p99_us"],
        "open_ms": opened_ms,
        "memory_mib": (private_bytes() - memory_before) / (1 << 20),
    }
    if peer.newest(NEWEST) is not None:
        before = perf_counter_ns()
        for _ in range(NEWEST_RUNS):
            if peer.newest(NEWEST) != NEWEST:
                raise AssertionError("the newest results are missing")
        metrics["newest_ms"] = (perf_counter_ns() - before) / 1e6 / NEWEST_RUNS
    peer.close()
    channel.send({"metrics": metrics})


def _filled(part: Slice, count: int) -> tuple[Place, float]:
    """The store of `count` results, filled on the first round, and its bytes per result."""
    key = f"filled {count}"
    if key not in part.kept:
        assert part.peer.sync_class is not None
        place = part.place(value_bytes=VALUE_BYTES)
        peer = part.peer.sync_class(place)
        peer.open()
        peer.preload(pairs(place.space, count, VALUE_BYTES))
        peer.close()
        part.kept[key] = (place, directory_bytes(place.directory) / count)
    filled: tuple[Place, float] = part.kept[key]
    return filled


def read_all(directory: Path) -> None:
    """Bring the files into the page cache, from which a busy or thrifty kernel takes them."""
    for path in directory.rglob("*"):
        if path.is_file():
            with open(path, "rb", buffering=0) as file:
                while file.read(READ_BYTES):
                    pass


def run(part: Slice, variant: str) -> Metrics:
    count = int(variant)
    place, bytes_per_result = _filled(part, count)
    read_all(place.directory)
    child = Child(f"{__name__}:measure", search_path=part.search_path)
    try:
        child.send(
            {
                "peer": part.peer.about.name,
                "directory": str(place.directory),
                "space": place.space,
                "count": count,
                "seconds": part.profile.slice_s,
                "round": part.round,
            }
        )
        metrics: Metrics = child.receive(REPLY_TIMEOUT_S)["metrics"]
    finally:
        child.close()
    metrics["bytes_per_result"] = bytes_per_result
    metrics["bytes_ratio"] = bytes_per_result / (VALUE_BYTES + ID_BYTES)
    return metrics


WORKLOAD = Workload(
    name="W6",
    title="cost over store size",
    variants=lambda profile: [str(count) for count in profile.store_sizes],
    run=run,
    pace="slow",
    side="sync",
    without=WRITE_ONLY | {"sqlite-normal", "diskcache-normal"},
    takes_part=lambda variant, peer: int(variant) < LARGE or peer in AT_LARGE,
    metrics=(
        Metric("set_p50_us", "set median, us", "lower", 1),
        Metric("get_p50_us", "get median, us", "lower", 1),
        Metric("newest_ms", "newest 50, ms", "lower", 3),
        Metric("open_ms", "open, ms", "lower", 2),
        Metric("memory_mib", "private memory, MiB", "lower", 2),
        Metric("bytes_per_result", "bytes on disk per result", "lower"),
    ),
)
