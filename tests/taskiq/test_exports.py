from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import pytest
from taskiq import exceptions as taskiq_errors

import logstore.taskiq
from logstore import errors as store_errors
from logstore.taskiq import errors

NAMES = [
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


def test_the_public_names() -> None:
    assert sorted(logstore.taskiq.__all__) == NAMES
    assert set(NAMES) <= set(dir(logstore.taskiq))
    for name in NAMES:
        assert getattr(logstore.taskiq, name).__name__ == name


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="NoSuchBackend"):
        _ = logstore.taskiq.NoSuchBackend


def test_the_dummy_backend_loads_no_other() -> None:
    code = (
        "import sys; from logstore.taskiq import DummyResultBackend; "
        "print([n for n in sys.modules if n.startswith('logstore.taskiq.')])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert sorted(eval(loaded.stdout)) == [
        "logstore.taskiq.abstract",
        "logstore.taskiq.errors",
        "logstore.taskiq.results",
        "logstore.taskiq.results.dummy",
    ]


def test_without_taskiq_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['taskiq'] = None\n"
        "try: from logstore.taskiq import FileResultBackend\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'taskiq-logstore[taskiq]'" in done.stdout


def test_a_broken_installation_is_not_called_a_missing_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: str) -> None:
        raise ModuleNotFoundError("No module named 'lmdb.cpython'", name="lmdb.cpython")

    monkeypatch.delitem(vars(logstore.taskiq), "open_backend", raising=False)
    monkeypatch.setattr(logstore.taskiq, "import_module", fail)
    with pytest.raises(ModuleNotFoundError, match=r"lmdb\.cpython"):
        _ = logstore.taskiq.open_backend


@pytest.mark.parametrize(
    ("name", "taskiq_error"),
    [
        ("ResultIsMissingError", taskiq_errors.ResultGetError),
        ("ResultExpiredError", taskiq_errors.ResultGetError),
        ("ResultDeletedError", taskiq_errors.ResultGetError),
        ("ResultDamagedError", taskiq_errors.ResultGetError),
        ("ResultIsReadyError", taskiq_errors.ResultIsReadyError),
    ],
)
def test_an_error_is_taskiqs_and_the_stores(name: str, taskiq_error: type[Exception]) -> None:
    kind: Any = getattr(errors, name)
    assert issubclass(kind, taskiq_error)
    assert issubclass(kind, getattr(store_errors, name, store_errors.LogstoreError))
    error = kind("what happened")
    assert str(error) == "what happened"
    assert str(kind()) == kind.__template__
    assert repr(error) == f"{name}('what happened')"
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert (type(again), str(again)) == (kind, "what happened")


@pytest.mark.parametrize("module", [errors, store_errors])
def test_whatever_is_not_there_is_missing_and_says_why(module: Any) -> None:
    for name, status in (
        ("ResultIsMissingError", "unknown"),
        ("ResultExpiredError", "expired"),
        ("ResultDeletedError", "deleted"),
    ):
        kind = getattr(module, name)
        assert issubclass(kind, module.ResultIsMissingError)
        assert issubclass(kind, KeyError)
        error = kind("no 'x'")
        assert str(error) == "no 'x'"  # a KeyError shows the repr of its message
        for again in (error, pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert again.status == status


def test_an_error_has_the_name_and_the_bases_of_taskiq_redis() -> None:
    theirs = pytest.importorskip("taskiq_redis.exceptions")
    names = [
        "DuplicateExpireTimeSelectedError",
        "ExpireTimeMustBeMoreThanZeroError",
        "ResultIsMissingError",
    ]
    assert names == sorted(
        name
        for name, kind in vars(theirs).items()
        if isinstance(kind, type) and kind.__module__ == theirs.__name__ and name[:6] != "TaskIQ"
    )
    for name in names:
        of_taskiq = [
            base for base in getattr(theirs, name).__mro__ if base.__module__.startswith("taskiq.")
        ]
        assert [base for base in of_taskiq if not issubclass(getattr(errors, name), base)] == []


def test_each_error_without_a_message_has_one_of_its_own() -> None:
    kinds = [
        kind
        for name, kind in vars(errors).items()
        if getattr(kind, "__module__", "") == errors.__name__ and name[0] != "_"
    ]
    with_message = [kind for kind in kinds if hasattr(kind, "__template__")]
    assert all("__template__" in vars(kind) for kind in with_message)
    assert len({kind.__template__ for kind in with_message}) == len(with_message) > 5


def test_a_remote_error_can_be_pickled() -> None:
    error = errors.RemoteError("app.Gone", "message", "traceback")
    again = pickle.loads(pickle.dumps(error))
    assert (again.type, again.message, again.traceback) == ("app.Gone", "message", "traceback")
    assert str(again) == "app.Gone: message"
    assert str(errors.RemoteError("app.Gone", "")) == "app.Gone"
    named = errors.RemoteError(type="app.Gone", message="message")
    assert pickle.loads(pickle.dumps(named)).message == "message"
