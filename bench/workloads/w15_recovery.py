"""W15: opening a large store after a process was killed with a full log.

A process opens the store, writes until the log is as full as it gets, and kills itself; what it
had acknowledged it has told. A fresh process then opens the store and asks for one result: that is
the time of the recovery. It looks for everything that was acknowledged, and counts what is missing
as an error. A third process opens the store that the second has closed, for comparison.

How full the log gets is seen, not computed: the process watches the log through some compactions
first. The files are read before each opening, so that all are measured from the page cache.
"""

from __future__ import annotations

import os
import signal
from itertools import islice
from pathlib import Path
from time import perf_counter_ns

from ..children import Channel, Child, Message
from ..measure import Metrics
from ..payloads import pairs, task_id
from ..peers.base import Place
from ..peers.logstore_peer import StorePeer
from .base import Metric, Slice, Workload
from .w06_size import REPLY_TIMEOUT_S, VALUE_BYTES, read_all

GROUP = 64
# How many times the log is seen to become empty before "as full as it gets" is known.
WATCHED_COMPACTIONS = 2
FULL_SHARE = 0.95
# In case it never gets as full again.
WRITES_MAX = 100_000


def _place(setup: Message) -> Place:
    return Place(Path(setup["directory"]), space=setup["space"], value_bytes=VALUE_BYTES)


def fill_the_log(channel: Channel) -> None:
    """The role of the process that writes, and dies when its log is full."""
    setup = channel.receive()
    assert setup is not None
    peer = StorePeer(_place(setup))
    peer.open()
    fresh = pairs(setup["fresh"], WRITES_MAX, VALUE_BYTES)
    written = emptied = fullest = before = 0
    while group := list(islice(fresh, GROUP)):
        peer.write_group(group)
        written += len(group)
        now = peer.log_bytes()
        emptied += now < before
        before, fullest = now, max(now, fullest)
        if emptied >= WATCHED_COMPACTIONS and now >= FULL_SHARE * fullest:
            break
    channel.send({"acknowledged": written, "log_bytes": before})
    os.kill(os.getpid(), signal.SIGKILL)


def reopen(channel: Channel) -> None:
    """The role of a process that opens the store, and looks for what was acknowledged."""
    setup = channel.receive()
    assert setup is not None
    peer = StorePeer(_place(setup))
    wanted = [task_id(setup["fresh"], number) for number in range(setup["acknowledged"])]
    before = perf_counter_ns()
    peer.open()
    peer.ready(wanted[-1])
    opened_ms = (perf_counter_ns() - before) / 1e6
    missing = sum(not peer.ready(one) for one in wanted)
    recovered = peer.recovered_frames()
    peer.close()
    channel.send({"opened_ms": opened_ms, "missing": missing, "recovered": recovered})


def _ask(part: Slice, role: str, place: Place, setup: Message) -> Message:
    read_all(place.directory)
    child = Child(f"{__name__}:{role}", search_path=part.search_path)
    try:
        child.send({"directory": str(place.directory), "space": place.space, **setup})
        return child.receive(REPLY_TIMEOUT_S)
    finally:
        child.close()


def _filled(part: Slice) -> Place:
    place: Place | None = part.kept.get("store")
    if place is None:
        assert part.peer.sync_class is not None
        place = part.kept["store"] = part.place()
        peer = part.peer.sync_class(place)
        peer.open()
        peer.preload(pairs(place.space, part.profile.large_results, VALUE_BYTES))
        peer.close()
    return place


def run(part: Slice, variant: str) -> Metrics:
    place = _filled(part)
    setup: Message = {"fresh": f"{place.space}+{part.round}"}
    killed = _ask(part, "fill_the_log", place, setup)
    setup["acknowledged"] = killed["acknowledged"]
    recovered = _ask(part, "reopen", place, setup)
    clean = _ask(part, "reopen", place, setup)
    if not recovered["recovered"] or clean["recovered"]:
        raise RuntimeError("the first opening had nothing to recover, or the second had")
    return {
        "recovery_ms": recovered["opened_ms"],
        "clean_open_ms": clean["opened_ms"],
        "recovered_frames": recovered["recovered"],
        "log_mib": killed["log_bytes"] / (1 << 20),
        "errors": float(recovered["missing"] + clean["missing"]),
    }


WORKLOAD = Workload(
    name="W15",
    title="recovery after a kill with a full log, over the results in the store",
    variants=lambda profile: [str(profile.large_results)],
    run=run,
    pace="tail",
    side="sync",
    only=frozenset({"logstore"}),
    metrics=(
        Metric("recovery_ms", "open after the kill, ms", "lower", 2),
        Metric("clean_open_ms", "open after a close, ms", "lower", 2),
        Metric("log_mib", "log when it was killed, MiB", "lower", 2),
        Metric("recovered_frames", "frames in the log", "lower"),
        Metric("errors", "acknowledged and missing", "lower"),
    ),
)
