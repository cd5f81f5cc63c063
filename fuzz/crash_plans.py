"""The workloads whose crash states are explored, as data.

Rules: a plan and a seed say everything that a workload does and a check expects; a recording
begins with a line that names them.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, NamedTuple

from fuzz.clients import Script

__all__ = ["PLANS", "Plan", "Run", "run_of"]

# Logs are small, so that a state is soon scanned, and smaller where they are to become full.
_LOG = {"compact_at": 1 << 16}
_SMALL = {"compact_at": 1 << 14}


class Plan(NamedTuple):
    """What the clients of a workload do, and how they come together.

    `way`: "one" client; "threads" or "tasks" of one process; "two" processes, the second of which
    is killed. The first `set_up` operations of each client are done before the recording begins,
    and the store is then closed ("close") or left as it is ("exit"), as format version `version`
    leaves it. `again`: how many crash
    states are drawn in which the recovery is crashed as well, and how often in a row. `share`: of
    the states that the others get, for where judging takes long.
    """

    about: str
    kind: str
    clients: tuple[str, ...] = ("a",)
    way: str = "one"
    ops: int = 30
    set_up: int = 0
    set_up_ends: str = "close"
    options: dict[str, Any] = _LOG
    fs: str = "posix"
    again: tuple[int, int] = (0, 0)
    share: float = 1.0
    version: int = 2

    @property
    def sync(self) -> str:
        """The store's option."""
        return str(self.options.get("sync", "always"))


PLANS: dict[str, Plan] = {
    "creation": Plan("a new file, up to its close without a write", "results", ops=0),
    "first-write": Plan("the first results of a new file", "results", ops=2),
    "first-write-ext4": Plan("the same on one journal", "results", ops=2, fs="ext4"),
    "steady": Plan("results, progress, deletions, pops, expiry", "mixed", ops=60),
    "steady-ext4": Plan("the same on one journal", "mixed", ops=60, fs="ext4"),
    "ends": Plan("deletions, pops, expiry of what a table and a log hold", "ends", ops=60,
                 set_up=25),
    "threads": Plan("commit groups of five threads", "mixed", ("a", "b", "c", "d", "e"),
                    "threads", ops=25),
    "tasks": Plan("commit groups of an AsyncStore's tasks", "mixed", ("a", "b", "c", "d", "e"),
                  "tasks", ops=25),
    "compaction": Plan("compactions, asked for and because the log is full", "compacting",
                       ops=60, set_up=30, options=_SMALL),
    "compaction-threads": Plan("compactions beside other writers", "compacting", ("a", "b", "c"),
                               "threads", ops=25, options=_SMALL),
    "sealing": Plan("full logs that are sealed, and folded beside the writer", "sealing", ops=110,
                    set_up=20, options=_SMALL),
    "sealing-ext4": Plan("the same on one journal", "sealing", ops=110, set_up=20,
                         options=_SMALL, fs="ext4"),
    "sealing-threads": Plan("seals and folds beside other writers", "sealing",
                            ("a", "b", "c", "d"), "threads", ops=50, set_up=5, options=_SMALL),
    "sealing-tasks": Plan("the same with an AsyncStore's tasks", "sealing",
                          ("a", "b", "c", "d"), "tasks", ops=50, set_up=5, options=_SMALL),
    "sealing-interval": Plan("seals of what is not on the disk yet", "sealing", ops=110,
                             set_up=20,
                             options={**_SMALL, "sync": "interval", "sync_interval_s": 0.5}),
    "vacuum": Plan("vacuums, one after the other", "vacuuming", ops=80, set_up=40),
    "vacuum-threads": Plan("vacuums beside other writers", "vacuuming", ("a", "b", "c"),
                           "threads", ops=45, set_up=20, options=_SMALL),
    "vacuum-ext4": Plan("vacuums on one journal", "vacuuming", ops=80, set_up=40, fs="ext4"),
    "backup": Plan("backups between writes", "backing", ops=30, set_up=20),
    "close": Plan("closing and opening again", "closing", ops=30),
    "close-ext4": Plan("the same on one journal", "closing", ops=30, fs="ext4"),
    "queue": Plan("a queue: deliveries and what ends them", "queueing", ops=80, share=0.5),
    "queue-ext4": Plan("the same on one journal", "queueing", ops=80, fs="ext4", share=0.5),
    "queue-together": Plan("messages that are put together, results with their settlements",
                           "queueing together", ops=30, share=0.5),
    "queue-threads": Plan("the queues of four threads, in common commits", "queueing",
                          ("a", "b", "c", "d"), "threads", ops=40, set_up=8, share=0.5),
    "queue-sealing": Plan("queues and results in logs that are sealed and folded",
                          "queueing beside folds", ("a", "b", "c"), "threads", ops=60,
                          set_up=10, options=_SMALL, share=0.5),
    "queue-vacuum": Plan("queues beside vacuums", "queueing beside vacuums", ops=60, set_up=25,
                         options=_SMALL, share=0.5),
    "large": Plan("results and progress that go to the table at once", "large", ops=14, set_up=6,
                  share=0.25),
    "interval": Plan("sync='interval': acked at once, on the disk soon", "interval", ops=60,
                     options={**_LOG, "sync": "interval", "sync_interval_s": 0.05}),
    "progress": Plan("progress, flushed in the background", "progress", ops=60,
                     options={**_LOG, "sync_interval_s": 0.05}),
    "failed-flush": Plan("writes whose flush fails: the log is replaced", "failing", ops=30,
                         set_up=10),
    "recovery": Plan("opening after a crash", "mixed", ops=34, set_up=30, set_up_ends="exit",
                     again=(12, 3)),
    "recovery-large": Plan("opening after a crash among large records", "large", ops=12, set_up=10,
                           set_up_ends="exit", again=(3, 2), share=0.25),
    "recovery-vacuum": Plan("recovering after crashes in vacuums", "vacuuming", ops=34,
                            set_up=20, options=_SMALL, again=(12, 2)),
    "recovery-sealing": Plan("recovering after crashes in seals and folds", "sealing", ops=60,
                             set_up=20, options=_SMALL, again=(12, 2)),
    "recovery-queue": Plan("recovering a queue", "queueing beside folds", ops=60, set_up=20,
                           options=_SMALL, again=(12, 2), share=0.5),
    "recovery-creation": Plan("recovering after crashes in creation", "mixed", ops=3,
                              again=(12, 3)),
    "recovery-failed-flush": Plan("recovering after a log's replacement", "failing", ops=12,
                                  again=(12, 2)),
    "upgrade": Plan("opening what version 1 left in a crash", "mixed", ops=34, set_up=30,
                    set_up_ends="exit", again=(12, 3), version=1),
    "upgrade-ext4": Plan("the same on one journal", "mixed", ops=34, set_up=30, fs="ext4",
                         set_up_ends="exit", version=1),
    "upgrade-closed": Plan("opening what version 1 had closed", "mixed", ops=34, set_up=30,
                           again=(12, 2), version=1),
    "two-processes": Plan("two writers, one of which is killed", "mixed", ("a", "b"), "two",
                          ops=40, again=(6, 2)),
    "two-processes-compacting": Plan("the same with compactions", "compacting", ("a", "b"), "two",
                                     ops=40, options=_SMALL),
    "two-processes-sealing": Plan("two writers that seal, one of which is killed", "sealing",
                                  ("a", "b"), "two", ops=80, options=_SMALL, again=(6, 2)),
    "two-processes-vacuuming": Plan("the same with vacuums", "vacuuming", ("a", "b"), "two",
                                    ops=40, options=_SMALL),
}  # fmt: skip


class Run(NamedTuple):
    """A plan with its seed."""

    name: str
    seed: int

    @property
    def plan(self) -> Plan:
        """What is done."""
        return PLANS[self.name]

    def client(self, name: str) -> Script:
        """A client's operations. One whose name begins with an r is a recovery's."""
        return _client("recovering" if name.startswith("r") else self.plan.kind, self.seed, name)

    def line(self) -> str:
        """What a recording's told lines begin with."""
        return json.dumps({"plan": self.name, "seed": self.seed})


@lru_cache(maxsize=64)
def _client(kind: str, seed: int, name: str) -> Script:
    """A script is the same for each caller, so a process makes it once."""
    return Script(kind, seed, name)


def run_of(line: str) -> Run:
    """The run that a recording's first told line names."""
    told = json.loads(line)
    return Run(told["plan"], told["seed"])
