"""taskiq result backends: dummy, memory, a directory of JSON files, and a logstore file.

Needs the extra ``taskiq-logstore[taskiq]``.  This module re-exports names and imports each on its
first use, so that :class:`DummyResultBackend` needs only taskiq.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from logstore._extras import missing

if TYPE_CHECKING:
    from logstore.taskiq.abstract import AsyncResultBackend
    from logstore.taskiq.errors import (
        BackendURLError,
        DuplicateExpireTimeSelectedError,
        ExpireTimeMustBeMoreThanZeroError,
        RemoteError,
        ResultDamagedError,
        ResultDeletedError,
        ResultExpiredError,
        ResultIsMissingError,
        ResultIsReadyError,
        WaitingForNothingWarning,
    )
    from logstore.taskiq.outcome.reported import ReportedProgress
    from logstore.taskiq.results.dummy import DummyResultBackend
    from logstore.taskiq.results.file import FileResultBackend
    from logstore.taskiq.results.inmemory import InmemoryResultBackend
    from logstore.taskiq.results.logstore import LogStoreResultBackend
    from logstore.taskiq.urls import open_backend

_HOME = {
    "AsyncResultBackend": "abstract",
    "BackendURLError": "errors",
    "DummyResultBackend": "results.dummy",
    "DuplicateExpireTimeSelectedError": "errors",
    "ExpireTimeMustBeMoreThanZeroError": "errors",
    "FileResultBackend": "results.file",
    "InmemoryResultBackend": "results.inmemory",
    "LogStoreResultBackend": "results.logstore",
    "RemoteError": "errors",
    "ReportedProgress": "outcome.reported",
    "ResultDamagedError": "errors",
    "ResultDeletedError": "errors",
    "ResultExpiredError": "errors",
    "ResultIsMissingError": "errors",
    "ResultIsReadyError": "errors",
    "WaitingForNothingWarning": "errors",
    "open_backend": "urls",
}

__all__ = [
    "AsyncResultBackend",
    "BackendURLError",
    "DummyResultBackend",
    "DuplicateExpireTimeSelectedError",
    "ExpireTimeMustBeMoreThanZeroError",
    "FileResultBackend",
    "InmemoryResultBackend",
    "LogStoreResultBackend",
    "RemoteError",
    "ReportedProgress",
    "ResultDamagedError",
    "ResultDeletedError",
    "ResultExpiredError",
    "ResultIsMissingError",
    "ResultIsReadyError",
    "WaitingForNothingWarning",
    "open_backend",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f"{__name__}.{home}"), name)
    except ModuleNotFoundError as error:
        raise missing(f"{__name__}.{name}", "taskiq", error) from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
