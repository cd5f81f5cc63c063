"""W5: two writer processes and two reader processes on one store at once.

Closed loops all four, so on a machine with fewer than four cores they also wait for each other's
time slices. A writer publishes, in a page shared with the readers, how many of its results have
been acknowledged; a reader asks for one of the last thousand of those, and an answer other than
that result is an error.

All four await the peer on an event loop of their own, one call at a time, with a TaskiqResult, as
in W2 and W3: a peer that is synchronous is called by a thread pool.
"""

from __future__ import annotations

import asyncio
import mmap
import random
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from ..children import Channel, Child, Message
from ..measure import Metrics, Samples, closed_lanes
from ..payloads import result, task_id
from ..peers import WRITE_ONLY, load
from ..peers.base import Place
from ..stats import quantile
from .base import Metric, Slice, Workload

WRITERS = 2
READERS = 2
RECENT = 1000
START_TIMEOUT_S = 60.0
COUNT = struct.Struct("=Q")


class Acknowledged:
    """How many results each writer has had acknowledged: one page, made before they start."""

    @staticmethod
    def create(path: Path, writers: int) -> None:
        """Make the page, all counts zero."""
        path.write_bytes(bytes(COUNT.size * writers))

    def __init__(self, path: Path) -> None:
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    def publish(self, writer: int, count: int) -> None:
        COUNT.pack_into(self._map, writer * COUNT.size, count)

    def count(self, writer: int) -> int:
        acknowledged: int = COUNT.unpack_from(self._map, writer * COUNT.size)[0]
        return acknowledged


class Lane:
    """One process's part: an operation on its peer, and how many of them went wrong."""

    def __init__(self, setup: dict[str, Any]) -> None:
        place = dict(setup["place"])
        place["directory"] = Path(place["directory"])
        self.place = Place(**place)
        self.number: int = setup["number"]
        self.seconds: float = setup["seconds"]
        self.writers: int = setup["writers"]
        self.writes = self.number < self.writers
        self.acknowledged = Acknowledged(Path(setup["counts"]))
        self.peer = load(setup["peer"])
        self.errors: list[str] = []
        self.written = 0
        self.dice = random.Random(self.number)

    def next_written(self) -> str:
        return task_id(f"w{self.number}", self.written)

    def wrote(self) -> None:
        self.written += 1
        self.acknowledged.publish(self.number, self.written)

    def next_read(self) -> str:
        writer = self.dice.randrange(self.writers)
        count = self.acknowledged.count(writer)
        if not count:
            writer, count = 0, self.acknowledged.count(0)
        # Before the first acknowledgement there is nothing to read: the seeded first result.
        number = count - 1 - self.dice.randrange(min(count, RECENT)) if count else 0
        return task_id(f"w{writer}", number)

    def failed(self, error: BaseException | str) -> None:
        self.errors.append(repr(error)[:200])

    def reply(self, samples: Samples) -> Message:
        return {
            "latencies_ns": samples.latencies_ns,
            "elapsed_ns": samples.elapsed_ns,
            "written": self.written,
            "errors": len(self.errors),
            "first_error": self.errors[0] if self.errors else None,
        }


async def together(
    lane: Lane, channel: Channel, operation: Callable[[], Awaitable[None]], at_once: int = 1
) -> None:
    """Wait for the others, run closed loops over `operation`, and tell what was measured."""

    async def guarded() -> None:
        try:
            await operation()
        except Exception as error:
            lane.failed(error)

    channel.send({"ready": True})
    await asyncio.to_thread(channel.receive)
    samples = await closed_lanes(guarded, at_once, lane.seconds)
    channel.send(lane.reply(samples))
    # Open until all have replied: what closing costs is no part of what is counted.
    await asyncio.to_thread(channel.receive)


async def _run(lane: Lane, channel: Channel) -> None:
    peer = lane.peer.async_class(lane.place)
    payload = result(1)
    await peer.open()
    try:

        async def write() -> None:
            await peer.set(lane.next_written(), payload)
            lane.wrote()

        async def read() -> None:
            if (await peer.get(lane.next_read())).return_value != payload.return_value:
                lane.failed("an acknowledged result was missing or wrong")

        await together(lane, channel, write if lane.writes else read)
    finally:
        await peer.close()


def lane(channel: Channel) -> None:
    """The role of a writer or reader process."""
    setup = channel.receive()
    assert setup is not None
    asyncio.run(_run(Lane(setup), channel))


async def _seed(part: Slice, place: Place, writers: int) -> None:
    """Create the store, and a first result of each writer for a reader that is early."""
    peer = part.peer.async_class(place)
    await peer.open()
    for writer in range(writers):
        await peer.set(task_id(f"w{writer}", 0), result(1))
    await peer.close()


def _pooled(replies: list[Message], prefix: str) -> Metrics:
    if not replies:
        return {}
    ordered = sorted(taken / 1000 for reply in replies for taken in reply["latencies_ns"])
    elapsed_s = max(reply["elapsed_ns"] for reply in replies) / 1e9
    return {
        f"{prefix}_ops_per_s": len(ordered) / elapsed_s,
        f"{prefix}_p50_us": quantile(ordered, 0.5),
        f"{prefix}_p99_us": quantile(ordered, 0.99),
        f"{prefix}_p999_us": quantile(ordered, 0.999),
    }


def contention_slice(
    part: Slice,
    writers: int = WRITERS,
    readers: int = READERS,
    *,
    role: str = f"{__name__}:lane",
    seconds: float | None = None,
    setup: Message | None = None,
) -> Metrics:
    """Start the processes, let them go together, and pool what they measured.

    `role` is what each of them does, and `setup` what it is told beside what all are told.
    """
    seconds = part.profile.contention_s if seconds is None else seconds
    place = part.place()
    # Not below the peer's own directory: for some peers every file there is theirs.
    counts = place.directory.with_suffix(".counts")
    Acknowledged.create(counts, writers)
    asyncio.run(_seed(part, place, writers))
    children: list[Child] = []
    try:
        for number in range(writers + readers):
            child = Child(role, search_path=part.search_path)
            children.append(child)
            child.send(
                {
                    "peer": part.peer.about.name,
                    "number": number,
                    "writers": writers,
                    "seconds": seconds,
                    "counts": str(counts),
                    "place": {
                        "directory": str(place.directory),
                        "url": place.url,
                        "space": place.space,
                    },
                    **(setup or {}),
                }
            )
        for child in children:
            child.receive(START_TIMEOUT_S)
        before = part.flushes()
        for child in children:
            child.send({"go": True})
        timeout_s = START_TIMEOUT_S + 3 * seconds
        replies = [child.receive(timeout_s) for child in children]
        flushes = part.flushes() - before
    finally:
        for child in children:
            child.close()
        counts.unlink(missing_ok=True)
        part.discard(place)
    firsts = [reply["first_error"] for reply in replies if reply["first_error"]]
    if firsts:
        part.kept.setdefault("notes", []).append(firsts[0])
    # Both with the warm-up.
    written = sum(reply["written"] for reply in replies)
    counted = part.control is not None and written
    return {
        **_pooled(replies[:writers], "set"),
        **_pooled(replies[writers:], "get"),
        **({"flushes_per_set": flushes / written} if counted else {}),
        "errors": float(sum(reply["errors"] for reply in replies)),
    }


def run(part: Slice, variant: str) -> Metrics:
    return contention_slice(part)


METRICS = (
    Metric("set_ops_per_s", "sets per second", "higher"),
    Metric("set_p50_us", "set p50, us", "lower"),
    Metric("set_p99_us", "set p99, us", "lower"),
    Metric("set_p999_us", "set p99.9, us", "lower"),
    Metric("get_ops_per_s", "gets per second", "higher"),
    Metric("get_p50_us", "get p50, us", "lower"),
    Metric("get_p99_us", "get p99, us", "lower"),
    Metric("get_p999_us", "get p99.9, us", "lower"),
    Metric("errors", "errors", "lower", compared=False),
)

WORKLOAD = Workload(
    name="W5",
    title="two writer and two reader processes",
    variants=lambda profile: ["2w+2r"],
    run=run,
    pace="slow",
    without=WRITE_ONLY | {"logstore-async"},
    metrics=METRICS,
)
