"""What the store tells about itself and its tasks: plain, immutable data.

Rules: no behaviour beyond what the fields say; times are aware datetimes in UTC, sizes are bytes,
durations are seconds.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, NamedTuple

from logstore.progress import TaskProgress

Status = Literal["unknown", "running", "ready", "expired", "deleted"]
EventKind = Literal["result", "progress", "deleted", "expired"]


class TaskInfo(NamedTuple):
    """One task as :meth:`Store.tasks` lists it."""

    task_id: str
    status: Status
    time: datetime  # when the result was stored, the progress last set, or the id went
    expires_at: datetime | None = None
    failed: bool = False
    size_bytes: int = 0  # of the encoded value or progress
    progress: TaskProgress | None = None  # of a running task


class Event(NamedTuple):
    """A change that :meth:`Store.watch` has seen.  It is durable if it is a result's."""

    task_id: str
    kind: EventKind
    time: datetime
    failed: bool = False


class StoreStats(NamedTuple):
    """A store's sizes, and what this process has done to it since it opened it."""

    path: str
    results: int  # expired ones that no compaction has taken away yet included
    progress: int
    gone: int  # deleted and expired ids that are still known
    data_bytes: int  # keys and encoded values in the table
    file_bytes: int
    free_bytes: int  # of the file: pages without data
    log_bytes: int  # written to the log since the last compaction
    log_unsynced_bytes: int
    log_file_bytes: int
    epoch: int
    incarnation: int  # grows with each vacuum
    readers: int  # slots of LMDB's reader table in use, by all processes
    oldest_reader: int | None  # the oldest snapshot still being read, as a transaction number
    commits: int  # groups
    writes: int
    flushes: int
    group_size_max: int
    group_size_mean: float  # of the last groups
    compactions: int
    compaction_errors: int
    compaction_pause_max_s: float
    compaction_pause_total_s: float
    last_error: str | None  # of a compaction or flush in the background
    recoveries: int  # after a peer's death or a failed write
    recovered_frames: int  # found in the log when the store was opened
    torn_tails: int  # interrupted appends dropped when the store was opened
    vacuums: int


class CheckReport(NamedTuple):
    """What a check found; ``ok`` is whether ``problems`` is empty."""

    path: str
    results: int = 0
    progress: int = 0
    gone: int = 0
    log_frames: int = 0
    problems: tuple[str, ...] = ()
    salvaged_frames: int = 0
    lost_bytes: int = 0  # of the log, between whole frames
    kept_log: str | None = None  # where the damaged log has been put

    @property
    def ok(self) -> bool:
        """Whether everything was as it should be."""
        return not self.problems
