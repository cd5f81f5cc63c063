"""logstore: an embedded, crash-safe store for task results and progress on one host."""

import sys as _sys
import typing as _typing

if _sys.platform != "linux":
    raise ImportError(
        f"logstore needs Linux: its locks and shared memory are not tested on {_sys.platform!r}"
    )

from logstore._check import check
from logstore._watch import Watch
from logstore.errors import (
    CorruptionError,
    CorruptLogError,
    CorruptRecordError,
    CorruptTableError,
    DecodeError,
    DiskFullError,
    FormatVersionError,
    LogstoreError,
    MessageSettledError,
    MissingLogError,
    NetworkFilesystemError,
    NotAStoreError,
    OpenError,
    ReadOnlyError,
    ResourceLimitError,
    ResultDeletedError,
    ResultError,
    ResultExpiredError,
    ResultIsMissingError,
    StaleTableError,
    StoreBusyError,
    StoreClosedError,
    StorePermissionError,
    StoreReplacedError,
    TruncatedFileError,
    UnserializableValueError,
    ValueTooLargeError,
    WaitTimeoutError,
    WriteError,
    WriteTimeoutError,
)
from logstore.progress import TaskProgress
from logstore.queue import Lease, Queue
from logstore.store import Store, open
from logstore.types import (
    CheckReport,
    Event,
    MessageInfo,
    QueueStats,
    StoreStats,
    TaskInfo,
    VacuumReport,
)

if _typing.TYPE_CHECKING:
    from logstore.aio import AsyncStore, open_async

__version__ = "0.1.0"

__all__ = [
    "AsyncStore",
    "CheckReport",
    "CorruptLogError",
    "CorruptRecordError",
    "CorruptTableError",
    "CorruptionError",
    "DecodeError",
    "DiskFullError",
    "Event",
    "FormatVersionError",
    "Lease",
    "LogstoreError",
    "MessageInfo",
    "MessageSettledError",
    "MissingLogError",
    "NetworkFilesystemError",
    "NotAStoreError",
    "OpenError",
    "Queue",
    "QueueStats",
    "ReadOnlyError",
    "ResourceLimitError",
    "ResultDeletedError",
    "ResultError",
    "ResultExpiredError",
    "ResultIsMissingError",
    "StaleTableError",
    "Store",
    "StoreBusyError",
    "StoreClosedError",
    "StorePermissionError",
    "StoreReplacedError",
    "StoreStats",
    "TaskInfo",
    "TaskProgress",
    "TruncatedFileError",
    "UnserializableValueError",
    "VacuumReport",
    "ValueTooLargeError",
    "WaitTimeoutError",
    "Watch",
    "WriteError",
    "WriteTimeoutError",
    "check",
    "open",
    "open_async",
]


def __getattr__(name: str) -> _typing.Any:
    """Import the asynchronous store on first use, because importing asyncio is slow."""
    if name in ("AsyncStore", "open_async"):
        from logstore import aio

        return getattr(aio, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
