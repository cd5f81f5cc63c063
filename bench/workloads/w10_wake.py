"""W10: from the acknowledgement in one process to the waiter's wake-up in another; and the CPU
that waiting on a thousand ids costs.

A backend that cannot push is polled by taskiq's own `wait_result` at its default interval of
0.2 s: that is what its users have. Both processes read CLOCK_MONOTONIC, which is one clock for
the whole machine.
"""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

from ..children import Channel, Child, Message
from ..counters import cpu_seconds
from ..measure import Metrics
from ..payloads import result, task_id
from ..peers import load
from ..peers.base import AsyncPeer, Place
from ..stats import quantile
from .base import Metric, Slice, Workload

WAITING = 1000
# Longer than taskiq's polling interval, so that an acknowledgement falls anywhere within it.
PAUSES_S = (0.1, 0.4)
REPLY_TIMEOUT_S = 60.0
CANCEL_TIMEOUT_S = 3.0


def _peer(setup: Message) -> AsyncPeer:
    place = Place(Path(setup["directory"]), setup["url"], setup["space"])
    return load(setup["peer"]).async_class(place)


async def _produce(channel: Channel) -> None:
    setup = await asyncio.to_thread(channel.receive)
    assert setup is not None
    peer = _peer(setup)
    await peer.open()
    channel.send({"ready": True})
    while (order := await asyncio.to_thread(channel.receive)) is not None:
        # The pause is part of the workload: it places the acknowledgement within the waiter's
        # polling interval at random.
        await asyncio.sleep(order["pause_s"])
        await peer.set(order["id"], result(1))
        channel.send({"acknowledged_ns": time.monotonic_ns()})
    await peer.close()


def produce(channel: Channel) -> None:
    """The role of the process that sets results."""
    asyncio.run(_produce(channel))


async def _await_many(peer: AsyncPeer, seconds: float, channel: Channel) -> None:
    """Report the share of a core that waiting on WAITING ids costs, once all of them wait."""
    waiters = [
        asyncio.create_task(peer.wait(task_id("never", number))) for number in range(WAITING)
    ]
    await asyncio.sleep(0.5)
    cpu_before, before = cpu_seconds(), time.monotonic()
    await asyncio.sleep(seconds)
    share = (cpu_seconds() - cpu_before) / (time.monotonic() - before)
    failed = [waiter for waiter in waiters if waiter.done()]
    if failed:
        raise RuntimeError(f"{len(failed)} waiters ended: {failed[0].exception()!r}")
    # Before they are cancelled: a pool of connections may take its time over that.
    channel.send({"share": share})
    for waiter in waiters:
        waiter.cancel()
    await asyncio.wait(waiters, timeout=CANCEL_TIMEOUT_S)


async def _wait(channel: Channel) -> None:
    setup = await asyncio.to_thread(channel.receive)
    assert setup is not None
    peer = _peer(setup)
    await peer.open()
    channel.send({"ready": True})
    while (order := await asyncio.to_thread(channel.receive)) is not None:
        if "seconds" in order:
            await _await_many(peer, order["seconds"], channel)
            continue
        channel.send({"waiting": True})
        await peer.wait(order["id"])
        channel.send({"woke_ns": time.monotonic_ns()})
    await peer.close()


def wait(channel: Channel) -> None:
    """The role of the process that waits."""
    asyncio.run(_wait(channel))


def run(part: Slice, variant: str) -> Metrics:
    place = part.place()
    producer = Child(f"{__name__}:produce", search_path=part.search_path)
    waiter = Child(f"{__name__}:wait", search_path=part.search_path)
    dice = random.Random(part.round)
    delays_ms = []
    try:
        setup = {
            "peer": part.peer.about.name,
            "directory": str(place.directory),
            "url": place.url,
            "space": place.space,
        }
        for child in (producer, waiter):
            child.send(setup)
            child.receive(REPLY_TIMEOUT_S)
        for number in range(part.profile.wake_ups):
            wanted = task_id(place.space, number)
            waiter.send({"id": wanted})
            waiter.receive(REPLY_TIMEOUT_S)
            producer.send({"id": wanted, "pause_s": dice.uniform(*PAUSES_S)})
            acknowledged: int = producer.receive(REPLY_TIMEOUT_S)["acknowledged_ns"]
            woke: int = waiter.receive(REPLY_TIMEOUT_S)["woke_ns"]
            delays_ms.append((woke - acknowledged) / 1e6)
        seconds = part.profile.waiting_s
        waiter.send({"seconds": seconds})
        share = waiter.receive(REPLY_TIMEOUT_S + seconds)["share"]
    finally:
        producer.close()
        waiter.close()
        part.discard(place)
    ordered = sorted(delays_ms)
    return {
        "wake_p50_ms": quantile(ordered, 0.5),
        "wake_max_ms": ordered[-1],
        "waiting_cpu_percent": share * 100,
    }


WORKLOAD = Workload(
    name="W10",
    title="wake-up in another process; CPU of waiting on 1,000 ids",
    variants=lambda profile: ["wait"],
    run=run,
    pace="long",
    only=frozenset(
        {
            "logstore",
            "logstore-async",
            "aiosqlite-full",
            "honker-full",
            "file",
            "redis-always",
            "postgres",
        }
    ),
    metrics=(
        Metric("wake_p50_ms", "acknowledgement to wake-up, median, ms", "lower", 2),
        Metric("wake_max_ms", "the longest, ms", "lower", 2),
        Metric("waiting_cpu_percent", "CPU while waiting, % of a core", "lower", 2),
    ),
)
