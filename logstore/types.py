"""Immutable data about the store and its tasks.

Rules: no behaviour.  Times are aware datetimes in UTC, sizes are bytes, durations are seconds.
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
    time: datetime  # when the result was stored or removed, or the progress last set
    expires_at: datetime | None = None
    failed: bool = False
    size_bytes: int = 0  # of the encoded value or progress
    progress: TaskProgress | None = None  # of a running task


class Event(NamedTuple):
    """A change that :meth:`Store.watch` reports.  The change is durable if it is a result."""

    task_id: str
    kind: EventKind
    time: datetime
    failed: bool = False


MessageStatus = Literal["ready", "delayed", "leased", "dead"]


class MessageInfo(NamedTuple):
    """One message of a queue as a queue lists it."""

    task_id: str
    status: MessageStatus
    priority: int
    attempts: int  # deliveries that ended without an outcome
    enqueued: datetime
    due: datetime | None = None  # of one that is or was delayed
    size_bytes: int = 0  # of the encoded payload
    reason: str = ""  # of a dead one


class QueueStats(NamedTuple):
    """How many messages of each status a queue has."""

    ready: int
    delayed: int
    leased: int
    dead: int
    paused: bool


class StoreStats(NamedTuple):
    """The sizes of a store, and counters of this process since it opened the store."""

    path: str
    results: int  # in the table; expired ones until they are removed
    progress: int
    gone: int  # deleted and expired ids that are still known
    data_bytes: int  # keys and encoded values in the table
    file_bytes: int
    free_bytes: int  # in pages of the file without data
    log_bytes: int  # since the last compaction
    log_unsynced_bytes: int
    log_file_bytes: int
    epoch: int
    incarnation: int  # grows with each vacuum
    readers: int  # processes in a read of the table
    oldest_reader: int | None  # transaction number of the oldest snapshot that they read
    commits: int  # groups
    writes: int
    flushes: int
    group_size_max: int
    group_size_mean: float  # of the last groups
    compactions: int
    compaction_errors: int
    compaction_pause_max_s: float  # with the locks of writers held
    compaction_pause_total_s: float
    last_error: str | None  # of a background compaction or flush
    recoveries: int  # after the death of another process or a failed write
    recovered_frames: int  # found in the log when the store was opened
    torn_tails: int  # interrupted appends dropped when the store was opened
    vacuums: int


class CheckReport(NamedTuple):
    """The result of a check; ``ok`` is true if ``problems`` is empty."""

    path: str
    results: int = 0  # in the table, as the two below
    progress: int = 0
    gone: int = 0
    log_frames: int = 0  # written since the last compaction
    problems: tuple[str, ...] = ()
    salvaged_frames: int = 0
    lost_bytes: int = 0  # of the log, between intact frames
    kept_logs: tuple[str, ...] = ()  # the new paths of damaged logs

    @property
    def ok(self) -> bool:
        """Whether the check found no problem."""
        return not self.problems


class VacuumReport(NamedTuple):
    """The size of the file, in bytes, before and after a vacuum."""

    bytes_before: int
    bytes_after: int
