"""W16: what the size of the log costs and saves.

A process opens a store that holds many results already, writes fresh ones in groups, and measures
itself. Then it writes until one log is sealed and the other is full, holds the fold lock meanwhile,
as a process that was stopped in a fold does, and kills itself. A fresh process opens the store.
"""

from __future__ import annotations

import os
import resource
import signal
from itertools import islice
from pathlib import Path
from time import perf_counter_ns, process_time

from ..children import Channel, Child, Message
from ..measure import Metrics
from ..payloads import pairs
from ..peers.base import Place
from ..peers.logstore_peer import StorePeer
from .base import Metric, Slice, Workload
from .w06_size import REPLY_TIMEOUT_S, VALUE_BYTES, read_all

GROUP = 32
FULL_SHARE = 0.9  # of two logs


def _place(setup: Message) -> Place:
    return Place(
        Path(setup["directory"]),
        space=setup["space"],
        value_bytes=VALUE_BYTES,
        log_bytes=setup["log_bytes"],
    )


def write(channel: Channel) -> None:
    """The role of the process that writes, and dies when both logs are full."""
    setup = channel.receive()
    assert setup is not None
    peer = StorePeer(_place(setup))
    peer.open()
    to_fill = 4 * setup["log_bytes"] // VALUE_BYTES
    fresh = pairs(setup["fresh"], setup["results"] + to_fill, VALUE_BYTES)
    peer.write_group(islice(fresh, GROUP))  # what is made once is there
    memory, written, busy_s = _memory_bytes(), _written_bytes(), process_time()
    largest = memory
    for _ in range(setup["results"] // GROUP):
        peer.write_group(islice(fresh, GROUP))
        largest = max(largest, _memory_bytes())
    found = {
        "bytes": (_written_bytes() - written) / setup["results"],
        "cpu_us": (process_time() - busy_s) / setup["results"] * 1e6,
        "memory_mib": (largest - memory) / (1 << 20),
    }
    peer.hold_folds()
    while peer.log_bytes() < 2 * FULL_SHARE * setup["log_bytes"]:
        peer.write_group(islice(fresh, GROUP))
    channel.send(found)
    os.kill(os.getpid(), signal.SIGKILL)


def reopen(channel: Channel) -> None:
    """The role of a process that opens the store."""
    setup = channel.receive()
    assert setup is not None
    peer = StorePeer(_place(setup))
    before = perf_counter_ns()
    peer.open()
    opened_ms = (perf_counter_ns() - before) / 1e6
    recovered = peer.recovered_frames()
    peer.close()
    channel.send({"opened_ms": opened_ms, "recovered": recovered})


def _memory_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        words = file.read().split()
    return (int(words[1]) - int(words[2])) * resource.getpagesize()  # resident, without files


def _written_bytes() -> int:
    with open("/proc/self/io", encoding="ascii") as file:
        return int(dict(line.split(": ") for line in file)["write_bytes"])


def _ask(part: Slice, role: str, setup: Message) -> Message:
    child = Child(f"{__name__}:{role}", search_path=part.search_path)
    try:
        child.send(setup)
        return child.receive(REPLY_TIMEOUT_S)
    finally:
        child.close()


def run(part: Slice, variant: str) -> Metrics:
    place = part.place()
    assert part.peer.sync_class is not None
    peer = part.peer.sync_class(place)
    peer.open()
    peer.preload(pairs(place.space, part.profile.large_results, VALUE_BYTES))
    peer.close()
    setup: Message = {
        "directory": str(place.directory),
        "space": place.space,
        "fresh": f"{place.space}+",
        "results": part.profile.log_results,
        "log_bytes": int(variant.removesuffix(" KiB")) << 10,
    }
    written = _ask(part, "write", setup)
    read_all(place.directory)
    opened = _ask(part, "reopen", setup)
    part.discard(place)
    return {
        "bytes_per_result": written["bytes"],
        "cpu_us": written["cpu_us"],
        "memory_mib": written["memory_mib"],
        "recovery_ms": opened["opened_ms"],
        "recovered_frames": opened["recovered"],
    }


WORKLOAD = Workload(
    name="W16",
    title="what the size of the log costs and saves",
    variants=lambda profile: [f"{size} KiB" for size in profile.log_sizes_kib],
    run=run,
    pace="tail",
    side="sync",
    only=frozenset({"logstore"}),
    metrics=(
        Metric("bytes_per_result", "bytes written per result", "lower"),
        Metric("cpu_us", "processor time per result, us", "lower", 1),
        Metric("memory_mib", "memory beside the start, MiB", "lower", 1),
        Metric("recovery_ms", "open after a kill with both logs full, ms", "lower", 1),
        Metric("recovered_frames", "frames in the logs", "lower"),
    ),
)
