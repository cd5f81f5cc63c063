"""The public names of the package."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

import logstore
from logstore import errors

NAMES = {
    *("AsyncStore", "CheckReport", "CorruptLogError", "CorruptRecordError", "CorruptTableError"),
    *("CorruptionError", "DecodeError", "DiskFullError", "Event", "FormatVersionError"),
    *("Lease", "MessageInfo", "MessageSettledError", "Queue", "QueueStats"),
    *("LogstoreError", "MissingLogError", "NetworkFilesystemError", "NotAStoreError"),
    *("OpenError", "ReadOnlyError", "ResourceLimitError", "ResultDeletedError", "ResultError"),
    *("ResultExpiredError", "ResultIsMissingError", "StaleTableError", "Store", "StoreBusyError"),
    *("StoreClosedError", "StorePermissionError", "StoreReplacedError", "StoreStats"),
    *("TaskInfo", "TaskProgress", "TruncatedFileError"),
    *("UnserializableValueError", "VacuumReport", "ValueTooLargeError", "WaitTimeoutError"),
    *("Watch",),
    *("WriteError", "WriteTimeoutError", "check", "open", "open_async"),
}
VERBS = {
    *("set_result", "get_result", "is_result_ready", "delete_result", "pop_result"),
    *("set_progress", "get_progress", "status", "wait_result", "watch", "tasks", "compact"),
    *("vacuum", "backup", "check", "stats", "sync", "close"),
}


def test_the_package_exports_these_names_and_no_others() -> None:
    assert set(logstore.__all__) == NAMES
    for name in NAMES:
        assert getattr(logstore, name) is not None
    public = {
        name
        for name, value in vars(logstore).items()
        if not name.startswith("_")
        and not isinstance(value, ModuleType)
        and getattr(value, "__module__", "").startswith("logstore")
    }
    assert public <= NAMES


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        logstore.nonsense  # noqa: B018


def test_every_error_of_the_package_is_exported_and_is_a_logstore_error() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert defined <= NAMES
    for name in defined:
        assert issubclass(getattr(errors, name), errors.LogstoreError)
        assert (getattr(errors, name).__doc__ or "").endswith(".")


def test_errors_are_also_the_builtin_ones_that_say_the_same() -> None:
    for error, builtin in (
        (logstore.UnserializableValueError, TypeError),
        (logstore.ValueTooLargeError, ValueError),
        (logstore.ResultIsMissingError, KeyError),
        (logstore.WaitTimeoutError, TimeoutError),
        (logstore.WriteTimeoutError, TimeoutError),
        (logstore.StorePermissionError, PermissionError),
        (logstore.DiskFullError, OSError),
    ):
        assert issubclass(error, builtin)


def test_both_stores_have_the_same_verbs() -> None:
    assert {name for name in VERBS if hasattr(logstore.Store, name)} == VERBS
    assert {name for name in VERBS if hasattr(logstore.AsyncStore, name)} == VERBS
    for store in (logstore.Store, logstore.AsyncStore):
        for name in VERBS:
            assert getattr(store, name).__doc__, f"{store.__name__}.{name}"


def test_importing_the_package_loads_no_extra() -> None:
    code = "import sys, logstore; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(child.stdout.split())
    assert {"lmdb", "cbor2"} <= loaded
    assert not loaded & {"taskiq", "pydantic", "zmq", "redis", "asyncpg", "pytest", "hypothesis"}
    assert "asyncio" not in loaded
