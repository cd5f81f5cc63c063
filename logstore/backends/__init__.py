"""taskiq result backends: nothing, memory, a directory of JSON files, and a logstore file.

Needs the extra ``logstore[taskiq]``.  This module only re-exports, and lazily: a name is imported
when it is first asked for, so that :class:`DummyResultBackend` needs no more than taskiq.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from logstore.backends.base import AsyncResultBackend
    from logstore.backends.dummy import DummyResultBackend
    from logstore.backends.errors import (
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
    from logstore.backends.file import FileResultBackend
    from logstore.backends.inmemory import InmemoryResultBackend
    from logstore.backends.progress import ReportedProgress
    from logstore.backends.store import LogStoreResultBackend
    from logstore.backends.url import open_backend

_HOME = {
    "AsyncResultBackend": "base",
    "BackendURLError": "errors",
    "DummyResultBackend": "dummy",
    "DuplicateExpireTimeSelectedError": "errors",
    "ExpireTimeMustBeMoreThanZeroError": "errors",
    "FileResultBackend": "file",
    "InmemoryResultBackend": "inmemory",
    "LogStoreResultBackend": "store",
    "RemoteError": "errors",
    "ReportedProgress": "progress",
    "ResultDamagedError": "errors",
    "ResultDeletedError": "errors",
    "ResultExpiredError": "errors",
    "ResultIsMissingError": "errors",
    "ResultIsReadyError": "errors",
    "WaitingForNothingWarning": "errors",
    "open_backend": "url",
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
        missing = (error.name or "").partition(".")[0]
        if missing not in ("taskiq", "pydantic"):
            raise
        raise ImportError(
            f"{__name__}.{name} needs {missing}: pip install 'logstore[taskiq]'"
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
