"""For taskiq: a broker, a schedule source and result backends.

Results are kept in memory, in a directory of JSON files, in a logstore file, or not at all.
Needs the extra ``taskiq-logstore[taskiq]``.  This module re-exports names and imports each on its
first use, so that :class:`DummyResultBackend` needs only taskiq.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from logstore._extras import missing

if TYPE_CHECKING:
    from logstore.taskiq.abstract import AsyncResultBackend
    from logstore.taskiq.broker.broker import LogStoreBroker
    from logstore.taskiq.broker.deadletters import DeadLetter
    from logstore.taskiq.errors import (
        BackendURLError,
        DeadTaskError,
        DuplicateExpireTimeSelectedError,
        ExpireTimeMustBeMoreThanZeroError,
        LabelError,
        RemoteError,
        ResultDamagedError,
        ResultDeletedError,
        ResultExpiredError,
        ResultIsMissingError,
        ResultIsReadyError,
        TaskCancelledError,
        TaskInterruptedError,
        WaitingForNothingWarning,
    )
    from logstore.taskiq.outcome.reported import ReportedProgress
    from logstore.taskiq.results.dummy import DummyResultBackend
    from logstore.taskiq.results.file import FileResultBackend
    from logstore.taskiq.results.inmemory import InmemoryResultBackend
    from logstore.taskiq.results.logstore import LogStoreResultBackend
    from logstore.taskiq.schedules.source import LogStoreScheduleSource
    from logstore.taskiq.urls import open_backend

__all__ = [
    "AsyncResultBackend",
    "BackendURLError",
    "DeadLetter",
    "DeadTaskError",
    "DummyResultBackend",
    "DuplicateExpireTimeSelectedError",
    "ExpireTimeMustBeMoreThanZeroError",
    "FileResultBackend",
    "InmemoryResultBackend",
    "LabelError",
    "LogStoreBroker",
    "LogStoreResultBackend",
    "LogStoreScheduleSource",
    "RemoteError",
    "ReportedProgress",
    "ResultDamagedError",
    "ResultDeletedError",
    "ResultExpiredError",
    "ResultIsMissingError",
    "ResultIsReadyError",
    "TaskCancelledError",
    "TaskInterruptedError",
    "WaitingForNothingWarning",
    "open_backend",
]

_HOME = {
    "AsyncResultBackend": "abstract",
    "DeadLetter": "broker.deadletters",
    "DummyResultBackend": "results.dummy",
    "FileResultBackend": "results.file",
    "InmemoryResultBackend": "results.inmemory",
    "LogStoreBroker": "broker.broker",
    "LogStoreResultBackend": "results.logstore",
    "LogStoreScheduleSource": "schedules.source",
    "ReportedProgress": "outcome.reported",
    "open_backend": "urls",
}
"""The modules of the names that are not in ``errors``."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f"{__name__}.{_HOME.get(name, 'errors')}"), name)
    except ModuleNotFoundError as error:
        raise missing(f"{__name__}.{name}", "taskiq", error) from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
