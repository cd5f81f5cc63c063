"""LogStoreResultBackend: what the conformance suite does not ask of every backend."""

from __future__ import annotations

import asyncio
import datetime as dt
import multiprocessing
import os
import pickle
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from taskiq import InMemoryBroker, ResultGetError
from taskiq.depends.progress_tracker import TaskProgress as TaskiqProgress
from taskiq.serializers import JSONSerializer, PickleSerializer

import logstore
from logstore import _handle as handle_module
from logstore import errors as store_errors
from logstore.taskiq import (
    DuplicateExpireTimeSelectedError,
    ExpireTimeMustBeMoreThanZeroError,
    LogStoreResultBackend,
    RemoteError,
    ResultDamagedError,
    ResultDeletedError,
    ResultExpiredError,
    ResultIsMissingError,
    ResultIsReadyError,
)
from logstore.taskiq.results import logstore as backend_module
from logstore.testing.conformance_cases.comparing import assert_same
from logstore.testing.conformance_cases.runner import failed, ok
from tests.support.stores import Clock
from tests.taskiq.strategies import values

Backend = LogStoreResultBackend[Any]
NO_CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


class Opened:
    """A backend for the time of an ``async with``."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.backend: Backend = LogStoreResultBackend(path, **options)

    async def __aenter__(self) -> Backend:
        await self.backend.startup()
        return self.backend

    async def __aexit__(self, *_: object) -> None:
        await self.backend.shutdown()


# -- life --------------------------------------------------------------------------------------


def test_the_constructor_opens_nothing(path: Path) -> None:
    Backend(path)
    assert list(path.parent.iterdir()) == []


def test_a_shutdown_leaves_one_file(path: Path) -> None:
    async def main() -> None:
        async with Opened(path) as backend:
            await backend.set_result("t", ok(1))

    run(main())
    assert [entry.name for entry in path.parent.iterdir()] == ["app.db"]


def test_a_backend_that_was_not_started_opens_when_it_is_used(path: Path) -> None:
    async def main() -> None:
        backend: Backend = LogStoreResultBackend(path)
        await backend.set_result("t", ok(1))
        await backend.shutdown()
        assert (await backend.get_result("t")).return_value == 1
        await backend.shutdown()

    run(main())


def test_a_relative_path_is_fixed_when_the_backend_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    backend: Backend = LogStoreResultBackend("app.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert backend.path == str(tmp_path / "app.db")


def test_first_uses_at_the_same_time_leave_one_handle(path: Path) -> None:
    async def main() -> None:
        backend: Backend = LogStoreResultBackend(path)
        await asyncio.gather(*(backend.set_result(f"t{n}", ok(n)) for n in range(20)))
        await backend.shutdown()
        # Had one of the handles been left open, the file would not be alone.
        assert [entry.name for entry in path.parent.iterdir()] == ["app.db"]

    run(main())


def test_two_brokers_use_one_file_in_one_process(path: Path) -> None:
    async def main() -> None:
        brokers = [InMemoryBroker().with_result_backend(Backend(path)) for _ in range(2)]
        tasks = []
        for number, broker in enumerate(brokers):
            await broker.startup()

            async def double(n: int) -> int:
                return 2 * n

            registered = broker.register_task(double, task_name=f"double-{number}")
            tasks.append(await registered.kiq(number))
        for number, task in enumerate(tasks):
            result = await task.wait_result(check_interval=0.01, timeout=100)
            assert result.return_value == 2 * number
        await brokers[0].shutdown()
        assert await brokers[1].result_backend.is_result_ready(tasks[0].task_id)
        await brokers[1].shutdown()

    run(main())


def test_a_forked_child_opens_the_store_anew(path: Path) -> None:
    backend: Backend = LogStoreResultBackend(path)
    run(backend.set_result("parent", ok("p")))
    inherited = backend._store

    def child() -> None:
        async def main() -> None:
            assert (await backend.get_result("parent")).return_value == "p"
            assert backend._store is not inherited
            await backend.set_result("child", ok("c"))
            await backend.shutdown()

        asyncio.run(main())

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(250)
    assert process.exitcode == 0

    async def after() -> None:
        assert (await backend.get_result("child")).return_value == "c"
        await backend.set_result("parent", ok("again"))
        await backend.shutdown()

    run(after())


def _in_spawned_child(backend: Backend) -> None:
    async def main() -> None:
        await backend.set_result("child", ok("c"))
        await backend.shutdown()

    asyncio.run(main())


def test_a_backend_travels_to_a_spawned_child(path: Path) -> None:
    backend: Backend = LogStoreResultBackend(path, prefix_str="p", exceptions=[KeyError])
    run(backend.startup())
    process = multiprocessing.get_context("spawn").Process(
        target=_in_spawned_child, args=(backend,)
    )
    process.start()
    process.join(250)
    assert process.exitcode == 0

    async def after() -> None:
        assert (await backend.get_result("child")).return_value == "c"
        await backend.shutdown()

    run(after())


def test_a_copy_by_pickle_keeps_all_arguments(path: Path) -> None:
    backend: Backend = LogStoreResultBackend(
        path, keep_results=False, result_ex_time=5, prefix_str="p", sync="interval"
    )
    again = pickle.loads(pickle.dumps(backend))
    left_out = {"_lock", "_allowed"}
    assert {k: v for k, v in vars(again).items() if k not in left_out} == {
        k: v for k, v in vars(backend).items() if k not in left_out
    }


# -- arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"result_ex_time": 0},
        {"result_ex_time": -1},
        {"result_px_time": 0},
        {"failure_ex_time": 0},
        {"progress_ex_time": -5},
        {"result_ex_time": float("nan")},
        {"result_ex_time": 0, "result_px_time": 0},
    ],
    ids=str,
)
def test_a_time_that_is_not_above_zero_is_refused(path: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(ExpireTimeMustBeMoreThanZeroError):
        Backend(path, **arguments)


def test_both_times_are_refused(path: Path) -> None:
    with pytest.raises(DuplicateExpireTimeSelectedError):
        Backend(path, result_ex_time=1, result_px_time=1000)


def test_an_unknown_option_is_answered_with_those_of_open(path: Path) -> None:
    unknown: Any = {"nonsense": 1}
    with pytest.raises(TypeError) as caught:
        LogStoreResultBackend[Any](path, **unknown)
    assert str(caught.value) == (
        "there is no option 'nonsense'; logstore.open() has mode, sync, sync_interval_s, "
        "compact_at, write_timeout_s, result_ttl_s, failure_ttl_s, progress_ttl_s, max_results, "
        "max_bytes, max_value_bytes, accept_log_loss, force, enc_hook, dec_hook"
    )


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"result_ex_time": "5"}, TypeError),
        ({"result_ex_time": True}, TypeError),
        ({"exceptions": "some"}, ValueError),
        ({"exceptions": [int]}, TypeError),
        ({"serializer": "json"}, TypeError),
        ({"serializer": JSONSerializer}, TypeError),
        ({"nonsense": 1}, TypeError),
        ({"path": "other"}, TypeError),
    ],
    ids=str,
)
def test_an_argument_that_cannot_be_right_is_refused(
    path: Path, arguments: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        LogStoreResultBackend(path, **arguments)


def test_an_option_of_the_store_reaches_it(path: Path) -> None:
    async def main() -> None:
        async with Opened(path, max_value_bytes=1000) as backend:
            await backend.set_result("t", ok("x" * 2000))
            error = (await backend.get_result("t")).error
            assert isinstance(error, store_errors.ValueTooLargeError)

    run(main())


def test_max_results_reaches_the_store(path: Path) -> None:
    async def main() -> None:
        async with Opened(path, max_results=3) as backend:
            for number in range(10):
                await backend.set_result(f"t{number}", ok(number))
        with logstore.open(path) as store:
            assert len(list(store.tasks(status="ready"))) == 3

    run(main())


# -- expiry ------------------------------------------------------------------------------------


async def _kept_for(backend: Backend, clock: Clock, task_id: str, seconds: float) -> None:
    """Raise unless the result is there just before, and has expired just after the time."""
    clock.advance(seconds - 5)
    assert await backend.is_result_ready(task_id)
    clock.advance(5)
    assert not await backend.is_result_ready(task_id)
    with pytest.raises(ResultExpiredError):
        await backend.get_result(task_id)


@pytest.mark.parametrize(
    ("arguments", "labels", "seconds"),
    [
        ({"result_ex_time": 60}, {}, 60),
        ({"result_px_time": 90_000}, {}, 90),
        ({"result_ex_time": 60}, {"result_ex_time": 120}, 120),
        ({"result_ex_time": 60}, {"result_ex_time": "30"}, 30),
        ({"result_ex_time": 60}, {"result_ex_time": "soon"}, 60),
        ({"result_ex_time": 60}, {"result_ex_time": -1}, 60),
        ({}, {"result_ex_time": 30.5}, 30.5),
    ],
    ids=str,
)
def test_a_result_expires(
    path: Path, clock: Clock, arguments: dict[str, Any], labels: dict[str, Any], seconds: float
) -> None:
    async def main() -> None:
        async with Opened(path, **arguments) as backend:
            await backend.set_result("t", ok(1, labels=labels))
            await _kept_for(backend, clock, "t", seconds)

    run(main())


@pytest.mark.parametrize(
    ("arguments", "labels", "seconds"),
    [
        ({"result_ex_time": 60}, {}, 60),
        ({"result_ex_time": 60, "failure_ex_time": 10}, {}, 10),
        ({"failure_ex_time": 10}, {"result_ex_time": 20}, 20),
    ],
    ids=str,
)
def test_a_failure_expires(
    path: Path, clock: Clock, arguments: dict[str, Any], labels: dict[str, Any], seconds: float
) -> None:
    async def main() -> None:
        async with Opened(path, **arguments) as backend:
            await backend.set_result("t", failed(KeyError("k"), labels=labels))
            await _kept_for(backend, clock, "t", seconds)

    run(main())


def test_progress_expires(path: Path, clock: Clock) -> None:
    async def main() -> None:
        async with Opened(path, progress_ex_time=10) as backend:
            await backend.set_progress("t", logstore.TaskProgress(0.5))
            assert await backend.get_progress("t") is not None
            clock.advance(11)
            assert await backend.get_progress("t") is None

    run(main())


# -- what comes back ---------------------------------------------------------------------------


@settings(suppress_health_check=NO_CHECKS, max_examples=50)
@given(values)
def test_a_value_round_trips(path: Path, value: Any) -> None:
    async def main() -> Any:
        async with Opened(path) as backend:
            await backend.set_result("t", ok(value))
            return (await backend.get_result("t")).return_value

    assert_same(run(main()), value)


def test_a_missing_an_expired_and_a_deleted_result_are_told_apart(path: Path, clock: Clock) -> None:
    async def main() -> None:
        async with Opened(path) as backend:
            await backend.set_result("expired", ok(1, labels={"result_ex_time": 60}))
            clock.advance(61)
            await backend.set_result("deleted", ok(1))
            await backend.delete_result("deleted")
            for task_id, kind in (
                ("unknown", ResultIsMissingError),
                ("expired", ResultExpiredError),
                ("deleted", ResultDeletedError),
            ):
                with pytest.raises(ResultIsMissingError) as caught:
                    await backend.get_result(task_id)
                assert (type(caught.value), caught.value.status) == (kind, task_id)
                assert isinstance(caught.value, ResultGetError)
                assert isinstance(caught.value, store_errors.ResultIsMissingError)
                assert repr(task_id) in str(caught.value)

    run(main())


def test_of_many_readers_exactly_one_takes_the_result(path: Path) -> None:
    async def main() -> None:
        async with (
            Opened(path, keep_results=False) as one,
            Opened(path, keep_results=False) as other,
        ):
            for round_ in range(5):
                await one.set_result("t", ok(round_))
                found = await asyncio.gather(
                    *((one, other)[n % 2].get_result("t") for n in range(20)),
                    return_exceptions=True,
                )
                taken = [result for result in found if not isinstance(result, BaseException)]
                assert [result.return_value for result in taken] == [round_]
                assert sum(isinstance(result, ResultDeletedError) for result in found) == 19
                assert not await one.is_result_ready("t")

    run(main())


def test_a_value_that_only_the_codec_refuses_becomes_an_error(path: Path) -> None:
    class NoZone(dt.tzinfo):
        def utcoffset(self, when: dt.datetime | None) -> None:
            return None

        dst = tzname = utcoffset

    async def main() -> None:
        async with Opened(path) as backend:
            value = {"rows": [dt.datetime(2024, 1, 1, tzinfo=NoZone())]}
            await backend.set_result("t", ok(value, execution_time=1.5, labels={"a": 1}))
            result = await backend.get_result("t")
            assert isinstance(result.error, store_errors.UnserializableValueError)
            assert "cannot store result['rows'][0]: the datetime.datetime" in str(result.error)
            assert (result.is_err, result.execution_time, result.labels) == (True, 1.5, {"a": 1})

    run(main())


def test_an_error_that_is_too_large_keeps_its_class(path: Path) -> None:
    async def main() -> None:
        async with Opened(path, max_value_bytes=20_000) as backend:
            await backend.set_result("t", failed(KeyError("k" * 15_000)))
            error = (await backend.get_result("t")).error
            assert isinstance(error, KeyError)
            assert "could not be stored whole" in error.__notes__[0]  # type: ignore[attr-defined]

    run(main())


@pytest.mark.parametrize("error", [None, KeyError("k" * 15_000)], ids=["value", "error"])
def test_what_does_not_fit_in_any_form_is_told_in_brief(path: Path, error: Any) -> None:
    async def main() -> None:
        async with Opened(path, max_value_bytes=1000) as backend:
            labels = {f"label-{n}": "x" * 100 for n in range(100)}
            result = ok("x" * 15_000) if error is None else failed(error)
            result.labels = labels
            await backend.set_result("t", result)
            found = await backend.get_result("t")
            assert found.is_err
            assert isinstance(found.error, type(error or store_errors.ValueTooLargeError()))
            assert "kkk" in str(found.error) or "limit is 1000" in str(found.error)

    run(main())


class Money:
    """A type of the application's own."""

    def __init__(self, amount: int) -> None:
        self.amount = amount

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.amount == self.amount

    __hash__ = None  # type: ignore[assignment]


def enc_hook(value: Any) -> Any:
    if isinstance(value, Money):
        on_threads.add(threading.get_ident())
        return value.amount
    raise NotImplementedError


def dec_hook(kind: Any, value: Any) -> Any:
    on_threads.add(threading.get_ident())
    return kind(value)


on_threads: set[int] = set()


def test_hooks_keep_a_type_in_results_errors_and_progress(path: Path) -> None:
    async def main() -> None:
        async with Opened(path, enc_hook=enc_hook, dec_hook=dec_hook) as backend:
            on_threads.clear()
            await backend.set_result("t", ok({"rows": [Money(5)], "kind": PicklableText("x")}))
            assert (await backend.get_result("t")).return_value == {"rows": [Money(5)], "kind": "x"}
            await backend.set_result("e", failed(ValueError(Money(6))))
            error = (await backend.get_result("e")).error
            assert isinstance(error, ValueError)
            assert error.args == (Money(6),)
            await backend.set_progress("t", TaskiqProgress(state="s", meta=[Money(7)]))
            progress = await backend.get_progress("t")
            assert progress is not None
            assert progress.meta == [Money(7)]
            assert threading.get_ident() not in on_threads
            await backend.set_result("bad", ok([1, object()]))
            assert "result[1]: the builtins.object" in str((await backend.get_result("bad")).error)
        async with Opened(path) as backend:
            assert (await backend.get_result("t")).return_value == {"rows": [5], "kind": "x"}

    run(main())


def test_a_dec_hook_that_fails_is_a_damaged_result(path: Path) -> None:
    def broken(kind: Any, value: Any) -> Any:
        raise LookupError("in the hook")

    async def main() -> None:
        async with Opened(path, enc_hook=enc_hook, dec_hook=broken, keep_results=False) as backend:
            await backend.set_result("t", ok([Money(5)]))
            with pytest.raises(
                ResultDamagedError, match=r"Money: LookupError: in the hook"
            ) as caught:
                await backend.get_result("t")
            cause = caught.value.__cause__
            assert isinstance(cause, store_errors.DecodeError)
            plain: Any = cause.plain
            assert plain["return_value"] == [5]

    run(main())


def test_what_is_no_hook_is_refused_by_the_constructor(path: Path) -> None:
    with pytest.raises(TypeError, match="enc_hook must be a function"):
        LogStoreResultBackend(path, enc_hook="app.hook")  # type: ignore[arg-type]


def test_a_failure_is_marked_as_one(path: Path) -> None:
    async def main() -> None:
        async with Opened(path) as backend:
            await backend.set_result("good", ok(1))
            await backend.set_result("bad", failed(KeyError("k")))
            await backend.set_result("opaque", ok(object()))
        with logstore.open(path) as store:
            marked = {info.task_id: info.failed for info in store.tasks()}
        assert marked == {"good": False, "bad": True, "opaque": True}

    run(main())


def test_exceptions_may_be_inert(path: Path) -> None:
    async def main() -> None:
        async with Opened(path, exceptions="inert") as backend:
            await backend.set_result("t", failed(KeyError("k")))
            assert type((await backend.get_result("t")).error) is RemoteError

    run(main())


def test_prefixes_keep_applications_apart(path: Path) -> None:
    async def main() -> None:
        async with Opened(path, prefix_str="a") as one, Opened(path, prefix_str="b") as other:
            await one.set_result("t", ok(1))
            assert not await other.is_result_ready("t")
        with logstore.open(path) as store:
            assert store.is_result_ready("a:t")

    run(main())


@pytest.mark.parametrize("task_id", ["", "x" * 481, "a\ud800", None, 5])
def test_an_id_that_the_store_does_not_take_is_a_value_error(path: Path, task_id: Any) -> None:
    async def main() -> None:
        async with Opened(path) as backend:
            with pytest.raises(ValueError):
                await backend.set_result(task_id, ok(1))
            with pytest.raises(ValueError):
                await backend.is_result_ready(task_id)

    run(main())


@pytest.mark.parametrize(
    "value",
    [1, {"a": 1}, {"taskiq": 2}, {"taskiq": 1}, {"taskiq": 1, "is_err": False, "error": []}],
    ids=str,
)
def test_what_somebody_else_stored_is_a_damaged_result(path: Path, value: Any) -> None:
    async def main() -> None:
        async with Opened(path) as backend:
            store = await logstore.open_async(path)
            await store.set_result("t", value)
            await store.close()
            assert await backend.is_result_ready("t")
            with pytest.raises(ResultDamagedError):
                await backend.get_result("t")

    run(main())


# -- serializers -------------------------------------------------------------------------------


class Picklable:
    """Only pickle can store it."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Picklable)

    __hash__ = None  # type: ignore[assignment]


class PicklableText(str):
    """A str that pickle keeps as what it is."""


def test_pickle_keeps_objects_when_it_is_asked_for(path: Path) -> None:
    async def main() -> None:
        async with Opened(path, serializer=PickleSerializer()) as backend:
            await backend.set_result("t", ok([Picklable()] * 10_000))
            assert (await backend.get_result("t")).return_value == [Picklable()] * 10_000

    run(main())


def test_a_log_of_a_subclass_of_str_comes_back_through_pickle(path: Path) -> None:
    result = ok(1)
    result.log = PicklableText("log")

    async def main() -> None:
        async with Opened(path, serializer=PickleSerializer()) as backend:
            await backend.set_result("t", result)
            assert (await backend.get_result("t")).log == "log"

    run(main())


def test_pickled_bytes_are_not_read_by_who_did_not_ask(path: Path) -> None:
    async def main() -> None:
        async with Opened(path, serializer=PickleSerializer()) as backend:
            await backend.set_result("t", ok(1))
        for serializer in (None, JSONSerializer()):
            async with Opened(path, serializer=serializer) as backend:
                with pytest.raises(ResultDamagedError, match="'PickleSerializer'"):
                    await backend.get_result("t")

    run(main())


def test_bytes_that_another_serializer_wrote_are_never_unpickled(path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return pytest.fail, ("unpickled",)

    data = pickle.dumps(Trap())
    record = {"taskiq": 1, "is_err": False, "serializer": "JSONSerializer", "data": data}
    with logstore.open(path) as store:
        store.set_result("t", record)

    async def main() -> None:
        async with Opened(path, serializer=PickleSerializer()) as backend:
            with pytest.raises(ResultDamagedError, match="'JSONSerializer'"):
                await backend.get_result("t")

    run(main())


def test_json_stores_what_it_can(path: Path) -> None:
    async def main() -> None:
        async with Opened(path, serializer=JSONSerializer()) as backend:
            value = {"when": dt.datetime(2024, 1, 1), "pair": (1, 2)}
            await backend.set_result("t", ok(value))
            found = (await backend.get_result("t")).return_value
            assert found == {"when": "2024-01-01T00:00:00", "pair": [1, 2]}
            await backend.set_result("bad", ok({"rows": [Picklable()]}))
            error = (await backend.get_result("bad")).error
            assert isinstance(error, store_errors.UnserializableValueError)
            assert "result['rows'][0]" in str(error)
            assert "Picklable" in str(error)

    run(main())


class Hollow(pydantic.BaseModel):
    """A row of a database that has expired: pydantic dumps it as an empty dict."""

    name: str


@pytest.mark.parametrize(
    "value",
    [Hollow.model_construct(), pydantic.SecretStr("secret"), iter([1])],
    ids=lambda value: type(value).__name__,
)
def test_json_stores_nothing_that_pydantic_would_change_in_silence(path: Path, value: Any) -> None:
    async def main() -> None:
        async with Opened(path, serializer=JSONSerializer()) as backend:
            await backend.set_result("t", ok({"rows": [value]}))
            error = (await backend.get_result("t")).error
            assert isinstance(error, store_errors.UnserializableValueError)
            assert f"{type(value).__name__} there" in str(error)

    run(main())


def test_bytes_that_the_serializer_cannot_read_are_a_damaged_result(path: Path) -> None:
    record = {"taskiq": 1, "is_err": False, "serializer": "JSONSerializer", "data": b"{"}
    with logstore.open(path) as store:
        store.set_result("t", record)

    async def main() -> None:
        async with Opened(path, serializer=JSONSerializer()) as backend:
            with pytest.raises(ResultDamagedError, match="JSONSerializer cannot read"):
                await backend.get_result("t")

    run(main())


# -- trouble and load --------------------------------------------------------------------------


def test_readiness_of_a_store_that_cannot_be_opened_is_an_error(path: Path) -> None:
    path.write_bytes(b"not a store at all" * 1000)

    async def main() -> None:
        backend: Backend = LogStoreResultBackend(path)
        with pytest.raises(store_errors.OpenError):
            await backend.startup()
        with pytest.raises(ResultIsReadyError) as caught:
            await backend.is_result_ready("t")
        assert os.fspath(path) in str(caught.value)
        await backend.shutdown()

    run(main())


def test_a_damaged_record_is_a_damaged_result(path: Path) -> None:
    class DamagedStore:
        async def get_result(self, task_id: str) -> Any:
            raise store_errors.CorruptRecordError("app.db: bad checksum")

        async def close(self) -> None:
            pass

    async def main() -> None:
        backend: Backend = LogStoreResultBackend(path)
        damaged: Any = DamagedStore()
        backend._store = damaged
        with pytest.raises(ResultDamagedError, match="bad checksum"):
            await backend.get_result("t")

    run(main())


class Row(pydantic.BaseModel):
    """Its conversion is code that the store does not know."""

    text: str = ""


def record_threads(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[int]:
    """Record the thread of each call of a function that does not raise."""
    finished_on: list[int] = []
    function = vars(module)[name]

    def recording(*given: Any, **arguments: Any) -> Any:
        made = function(*given, **arguments)
        finished_on.append(threading.get_ident())
        return made

    monkeypatch.setattr(module, name, recording)
    return finished_on


@pytest.mark.parametrize(
    ("value", "on_loop"),
    [
        ([0] * 10, True),
        ([(0,)] * 10, True),
        (Row(), True),
        ([0] * 100_000, False),
        ([(0,)] * 100_000, False),
        (Row(text="x" * 100_000), False),
        ([Row()] * 1000, False),
        ([(), *[Row()] * 300], False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_large_values_are_converted_and_encoded_in_a_thread(
    path: Path, monkeypatch: pytest.MonkeyPatch, value: Any, on_loop: bool
) -> None:
    finished_on = record_threads(monkeypatch, handle_module, "encode_value")
    converted_on = record_threads(monkeypatch, backend_module, "encode_outcome")

    async def main() -> None:
        async with Opened(path) as backend:
            await backend.set_result("t", ok(value))
            assert {number == threading.get_ident() for number in finished_on} == {on_loop}
            if not on_loop and type(value) is list:  # a long text in a model is not copied
                assert threading.get_ident() not in converted_on
                assert bool(converted_on) is any(type(item) is Row for item in value)

    run(main())


LARGE_TEXT = "x" * (1 << 20)


@pytest.mark.parametrize(
    ("progress", "large"),
    [
        (TaskiqProgress(state="s", meta={"a": (1, 2)}), ""),
        (TaskiqProgress(state="s", meta=[(0,)] * 100_000), "meta"),
        (logstore.TaskProgress(0.5, meta={"a": (1, 2)}), ""),
        (logstore.TaskProgress(0.5, meta={"rows": [(0,)] * 100_000}), "meta"),
        (TaskiqProgress(state=LARGE_TEXT, meta=None), "text"),
        (TaskiqProgress(state="s", meta=LARGE_TEXT), "text"),
        (logstore.TaskProgress(0.5, LARGE_TEXT), "text"),
        (logstore.TaskProgress(0.5, meta={"text": LARGE_TEXT}), "text"),
    ],
    ids=lambda item: (item or "small") if isinstance(item, str) else type(item).__module__,
)
def test_large_progress_is_converted_and_encoded_in_a_thread(
    path: Path, monkeypatch: pytest.MonkeyPatch, progress: Any, large: str
) -> None:
    finished_on = record_threads(monkeypatch, handle_module, "encode_progress")
    converted_on = record_threads(monkeypatch, backend_module, "with_plain_meta")

    async def main() -> None:
        async with Opened(path) as backend:
            await backend.set_progress("t", progress)
            assert finished_on
            on_loop = {n == threading.get_ident() for n in [*finished_on, *converted_on]}
            assert on_loop == {not large}
            found = await backend.get_progress("t")
            assert found is not None
            assert_same(found.meta, progress.meta)

    run(main())


class Place(pydantic.BaseModel):
    x: int
    y: int


def test_progress_with_a_part_that_must_be_converted_is_converted(path: Path) -> None:
    async def main() -> None:
        async with Opened(path) as backend:
            for meta in ({"at": Place(x=1, y=2)}, {"at": Place(x=1, y=2), "text": LARGE_TEXT}):
                await backend.set_progress("t", TaskiqProgress(state="s", meta=meta))
                found = await backend.get_progress("t")
                assert found is not None
                assert found.meta == {**meta, "at": {"x": 1, "y": 2}}

    run(main())


def test_the_store_of_a_backend_is_put_and_taken_under_its_lock(path: Path) -> None:
    held: list[bool] = []

    class Watched(LogStoreResultBackend[Any]):
        def __setattr__(self, name: str, value: object) -> None:
            if name == "_store":
                held.append(self._lock.locked())
            super().__setattr__(name, value)

    async def main() -> None:
        backend: Any = Backend(path)
        backend.__class__ = Watched
        await backend.startup()
        await backend.shutdown()

    run(main())
    assert held == [True, True]
