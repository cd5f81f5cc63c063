"""The process that measures one peer in one workload: it lives for all of the rounds.

It keeps what is not to be measured (imports, a server, a preloaded store) from one round to the
next, and holds nothing open between two slices, so that it is quiet while another peer is
measured.
"""

from __future__ import annotations

import shutil
import traceback
from dataclasses import asdict
from pathlib import Path

from .children import Channel
from .peers import PeerUnavailableError, load
from .profiles import Profile
from .servers import (
    Redis,
    ServerUnavailableError,
    postgres_drop,
    postgres_url,
    postgres_versions,
)
from .shim import Control
from .workloads import WORKLOADS, Slice


def serve(channel: Channel) -> None:
    """The role: a setup message, then a message per slice until the parent closes its end."""
    setup = channel.receive()
    assert setup is not None
    base = Path(setup["directory"])
    base.mkdir(parents=True, exist_ok=True)
    redis: Redis | None = None
    try:
        peer = load(setup["peer"])
        part = Slice(peer, Profile(**setup["profile"]), 0, base, channel.search_path)
        part.control = Control.from_environment()
        server = peer.about.server
        versions: dict[str, str] = {}
        if server is not None and server.startswith("redis"):
            part.server_directory = base / "redis"
            redis = Redis(part.server_directory, appendfsync=server.removeprefix("redis-"))
            part.url, part.server_pid = redis.url, redis.pid
            if part.control is not None and not part.control.steers(redis.pid):
                redis.stop()
                raise ServerUnavailableError("redis-server runs without the shim: it is not slowed")
        elif server == "postgres":
            part.url = postgres_url()
            versions = postgres_versions(part.url)
    except (PeerUnavailableError, ServerUnavailableError) as reason:
        channel.send({"skip": str(reason)})
        return
    channel.send({"ready": True, "about": asdict(peer.about), "versions": versions})
    try:
        workload = WORKLOADS[setup["workload"]]
        while (order := channel.receive()) is not None:
            part.round = order["round"]
            try:
                metrics = workload.run(part, order["variant"])
            except Exception as error:
                traceback.print_exc()
                channel.send({"failed": f"{type(error).__name__}: {error}"})
            else:
                channel.send({"metrics": metrics, "notes": part.kept.pop("notes", [])})
    finally:
        if redis is not None:
            redis.stop()
        if server == "postgres":
            postgres_drop(part.url, ["bench_" + space for space in part.used_spaces])
        shutil.rmtree(base, ignore_errors=True)
