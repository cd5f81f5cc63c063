"""W13: 1, 2, 4 and 8 taskiq worker processes with 8 results in flight each, on modelled disks.

Each process has taskiq's own Receiver, as `taskiq worker` has, and hands it messages: it parses
one, runs the task, awaits `set_result` and acknowledges the message, eight at a time. There is no
broker between processes, so that results are all that the workers share. A latency is that of a
whole task, from the message to the end of `set_result`.

What taskiq itself can do on these cores, with results thrown away, is measured once per number of
processes, in the first round and at the first delay. No store gains more over one process.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from ..children import Channel
from ..measure import Metrics
from ..payloads import return_value, task_id
from ..peers.backend_peer import BackendPeer
from .base import Metric, Slice, Workload
from .w05_contention import METRICS as CONTENTION_METRICS
from .w05_contention import Lane, contention_slice, together
from .w12_writers import modelled, variants, writers_of

IN_FLIGHT = 8
TASK_NAME = "bench"
ID = "0" * 32


async def _work(lane: Lane, discard: bool, channel: Channel) -> None:
    from taskiq import InMemoryBroker, TaskiqMessage
    from taskiq.receiver import Receiver
    from taskiq.result_backends.dummy import DummyResultBackend

    peer = lane.peer.async_class(lane.place)
    assert isinstance(peer, BackendPeer)
    await peer.open()
    try:
        broker = InMemoryBroker()
        broker = broker.with_result_backend(DummyResultBackend() if discard else peer.backend)
        payload = return_value(1)

        @broker.task(task_name=TASK_NAME)
        async def task() -> dict[str, Any]:
            return payload

        receiver = Receiver(broker, max_async_tasks=IN_FLIGHT)
        message = TaskiqMessage(task_id=ID, task_name=TASK_NAME, labels={}, args=[], kwargs={})
        template = broker.formatter.dumps(message).message
        numbers = itertools.count()

        async def handle() -> None:
            fresh = task_id(f"w{lane.number}", next(numbers))
            await receiver.callback(template.replace(ID.encode(), fresh.encode()), raise_err=True)
            lane.wrote()

        await together(lane, channel, handle, IN_FLIGHT)
    finally:
        await peer.close()


def work(channel: Channel) -> None:
    """The role of a worker process."""
    setup = channel.receive()
    assert setup is not None
    asyncio.run(_work(Lane(setup), setup["discard"], channel))


def workers_slice(part: Slice, workers: int, *, discard: bool = False) -> Metrics:
    """Let `workers` processes work; with `discard` their results are thrown away."""
    seconds = part.profile.contention_s
    return contention_slice(
        part,
        workers,
        readers=0,
        role=f"{__name__}:work",
        # A figure without a disk is steady sooner.
        seconds=seconds / 2 if discard else seconds,
        setup={"discard": discard},
    )


def _limit(part: Slice, workers: int) -> Metrics:
    """What `workers` processes do that keep no result, unless that is known already."""
    found: dict[int, float] = part.kept.setdefault("limits", {})
    if workers in found or part.peer.about.role != "own":
        return {}
    rate = workers_slice(part, workers, discard=True)["set_ops_per_s"]
    assert isinstance(rate, float)
    found[workers] = rate
    alone = found.get(1)
    return {"limit_per_s": rate, **({"limit_over_one": rate / alone} if alone else {})}


def run(part: Slice, variant: str) -> Metrics:
    metrics = modelled(part, variant, lambda workers: workers_slice(part, workers))
    return metrics | _limit(part, writers_of(variant))


WORKLOAD = Workload(
    name="W13",
    title="taskiq workers with 8 results in flight each, on a modelled disk",
    variants=variants,
    run=run,
    pace="slow",
    shimmed=True,
    only=frozenset({"logstore", "redis-always"}),
    metrics=(
        Metric("set_ops_per_s", "results per second", "higher"),
        Metric("over_one", "results per second over one process", "higher", 2, compared=False),
        Metric("limit_per_s", "tasks per second, results thrown away", "higher", compared=False),
        Metric("limit_over_one", "the same over one process", "higher", 2, compared=False),
        Metric("flushes_per_set", "flush calls per result", "lower", 3),
        Metric("set_p50_us", "task p50, us", "lower"),
        Metric("set_p99_us", "task p99, us", "lower"),
        Metric("set_p999_us", "task p99.9, us", "lower"),
        CONTENTION_METRICS[8],
        Metric("flush_us", "one bare write and flush, us", "lower", compared=False),
    ),
)
