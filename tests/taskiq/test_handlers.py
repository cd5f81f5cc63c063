"""A handler catches what it is for: what nobody has foreseen passes it, as an interrupt does.

Each row has one function raise such an error, and calls what has a handler around it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import fcntl
import json
import os
import traceback
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock
from zoneinfo import ZoneInfo

import pydantic_core
import pytest
from taskiq.serializers import JSONSerializer

import logstore.taskiq
from logstore import AsyncStore
from logstore._codec.tags import LEAVES
from logstore._codec.values import READERS
from logstore.progress import TaskProgress
from logstore.taskiq import FileResultBackend, InmemoryResultBackend, LogStoreResultBackend
from logstore.taskiq import urls as url
from logstore.taskiq.outcome import exceptions as failures
from logstore.taskiq.outcome import instances, outcome, revival, serialized
from logstore.taskiq.outcome.instances import Contents
from logstore.taskiq.outcome.plain import to_plain
from logstore.taskiq.outcome.serialized import serialize_outcome
from logstore.taskiq.results import atomic, file, json_file, tagged_json
from logstore.taskiq.results import logstore as logstore_backend
from logstore.taskiq.results.expiry import LABEL, Expiry
from logstore.testing.conformance_cases.runner import ok

Backend = LogStoreResultBackend[Any]
CLOCK = {"a": dt.datetime(2024, 1, 1)}
KEYED_BY_CLOCK = {dt.datetime(2024, 1, 1, tzinfo=ZoneInfo("UTC")): 1}
TAG_DATETIME = next(leaf.tag for leaf in LEAVES if leaf.kind is dt.datetime)


RECORDS = failures.encode_error(ValueError())


class UnforeseenError(Exception):
    """What no handler is for."""


def stored(path: Path) -> FileResultBackend[int]:
    """A backend that has a result and a progress of the task "t"."""
    backend: FileResultBackend[int] = FileResultBackend(path)
    asyncio.run(backend.set_result("t", ok(1)))
    asyncio.run(backend.set_progress("t", TaskProgress()))
    return backend


def read_result(path: Path) -> None:
    asyncio.run(stored(path).get_result("t"))


def read_progress(path: Path) -> None:
    asyncio.run(stored(path).get_progress("t"))


def ask(path: Path) -> None:
    asyncio.run(FileResultBackend[int](path).is_result_ready("t"))


def write_file(path: Path) -> None:
    atomic.write_file(path / "a", b"")


def parse(_: Path) -> None:
    json_file.parse(json_file.render("result", "t", {}), "result", "t", "here")


def in_store(path: Path, call: Callable[[Backend], Coroutine[Any, Any, object]]) -> None:
    """Call a backend that has a result of the task "t".

    Not in the main thread, where what is raised could come from a signal handler.
    """

    async def main() -> None:
        backend = Backend(path / "app.db")
        await backend.startup()
        try:
            await (await backend._opened()).set_result("t", outcome.encode_outcome(ok(1)))
            await call(backend)
        finally:
            await backend.shutdown()

    with ThreadPoolExecutor(1) as beside:
        beside.submit(asyncio.run, main()).result()


def ask_for_result(path: Path) -> None:
    in_store(path, lambda backend: backend.get_result("t"))


def ask_whether_ready(path: Path) -> None:
    in_store(path, lambda backend: backend.is_result_ready("t"))


def store_result(path: Path) -> None:
    in_store(path, lambda backend: backend.set_result("u", ok(Path("a"))))


def raising(error: BaseException) -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (Path, "read_bytes", read_result),
        (Path, "read_bytes", read_progress),
        (Path, "stat", ask),
        (file, "decode_outcome", read_result),
        (file, "from_stored", read_progress),
        (json, "loads", parse),
        (tagged_json, "_raise", parse),
        (tagged_json, "lower", lambda _: tagged_json.to_jsonable(1)),
        (tagged_json, "from_jsonable", lambda _: tagged_json.to_jsonable(KEYED_BY_CLOCK)),
        (tagged_json, "_tagged", lambda _: tagged_json.to_jsonable((1,))),
        (tagged_json, "_raise", lambda _: tagged_json.from_jsonable(1)),
        (os, "open", write_file),
        (fcntl, "flock", write_file),
        (os, "open", atomic.remove_leftovers),
        (fcntl, "flock", atomic.remove_leftovers),
        (os, "unlink", lambda path: atomic.remove_file(path / "a")),
        (url, "urlsplit", lambda _: url.open_backend("dummy://")),
        (url, "parse_qsl", lambda _: url.open_backend("dummy://")),
        (InmemoryResultBackend, "__init__", lambda _: url.open_backend("memory:")),
        (logstore.taskiq, "import_module", lambda _: logstore.taskiq.open_backend),
        (outcome, "to_plain", lambda _: outcome.encode_outcome(ok(1))),
        (outcome, "to_plain", lambda _: outcome._label(object(), False)),
        (failures, "convert", lambda _: failures.encode_error(ValueError(1))),
        (serialized, "to_plain", lambda _: list(serialized._forms(ok(1)))),
        (serialized, "to_plain", lambda _: serialize_outcome(ok(object()), JSONSerializer())),
        (pydantic_core, "to_jsonable_python", lambda _: list(serialized._forms(ok(1)))),
        (revival._Revival, "run", lambda _: revival.decode_error(RECORDS, None)),
        (AsyncStore, "get_result", ask_for_result),
        (AsyncStore, "is_result_ready", ask_whether_ready),
        (logstore_backend, "decode_outcome", ask_for_result),
        (logstore_backend, "encode_outcome", store_result),
    ],
)  # fmt: skip
def test_an_error_that_a_handler_is_not_for_passes_it(
    owner: object,
    name: str,
    call: Callable[[Path], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(vars(logstore.taskiq), "open_backend", raising=False)  # found lazily
    (tmp_path / ".writing-0").touch()
    with monkeypatch.context() as patch:  # pytest itself may need what is broken here
        patch.setattr(owner, name, raising(UnforeseenError()))
        with pytest.raises(UnforeseenError):
            call(tmp_path)


def test_an_error_that_a_parser_is_not_known_for_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    fail = raising(UnforeseenError())
    monkeypatch.setitem(url.CONVERTERS, "exceptions", lambda text: fail())
    monkeypatch.setitem(url.SCHEMES, "file", replace(url.SCHEMES["file"]))
    with pytest.raises(UnforeseenError):
        url.open_backend("file:dir?exceptions=inert")


def test_an_unforeseen_error_of_a_value_in_a_file_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = json_file.render("result", "t", CLOCK)
    monkeypatch.setitem(READERS, TAG_DATETIME, raising(UnforeseenError()))
    with pytest.raises(UnforeseenError):
        json_file.parse(data, "result", "t", "here")


class Opaque(Exception):
    """A class whose instances cannot be made."""

    __new__ = raising(UnforeseenError())


class Fields(dict[str, Any]):
    """The attributes of an error, which cannot be looked up."""

    __getitem__ = raising(UnforeseenError())


class Sealed(type):
    """The class of classes without subclasses."""

    armed = False

    def __new__(cls, *arguments: Any) -> Any:
        if cls.armed:
            raise UnforeseenError
        return super().__new__(cls, *arguments)


class Slot:
    """An attribute that cannot be set."""

    __set__ = raising(UnforeseenError())


def filled() -> None:
    with mock.patch.object(instances, "c_members", return_value=[("slot", Slot())]):
        instances.fill(ValueError(), Contents((), {"slot": 1}, {}))


def made_again() -> None:
    kind: Any = Sealed("kind", (Exception,), {})
    with (
        mock.patch.object(instances, "_METACLASSES", (Sealed,)),
        mock.patch.object(Sealed, "armed", True),
    ):
        instances.with_text(kind, "", None)


def made() -> None:
    with mock.patch.object(instances, "is_builtin", return_value=True):
        instances.new_instance(Opaque, Contents((), {}, {}))


def made_as_group() -> None:
    with mock.patch.object(instances, "GROUP", Opaque):
        instances.new_instance(Opaque, Contents((), {}, {}))


def made_of_fields() -> None:
    instances.new_instance(UnicodeDecodeError, Contents((), Fields(), {}))


@pytest.mark.parametrize("call", [filled, made_again, made, made_as_group, made_of_fields])
def test_an_unforeseen_error_of_building_an_error_passes(call: Callable[[], object]) -> None:
    with pytest.raises(UnforeseenError):
        call()


def load(_: Path) -> None:
    serialized.deserialize_outcome({"serializer": "JSONSerializer", "data": b""}, JSONSerializer())


def test_an_interrupt_passes_a_form_that_a_serializer_does_not_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail_once(*_: object) -> NoReturn:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(JSONSerializer, "dumpb", fail_once)
    with pytest.raises(KeyboardInterrupt):
        serialized.serialize_outcome(ok(1), JSONSerializer())


def interrupted_zone(_: Path) -> None:
    class Zone(dt.tzinfo):
        utcoffset = dst = tzname = raising(KeyboardInterrupt())

    tagged_json.to_jsonable(dt.datetime(2024, 1, 1, tzinfo=Zone()))


def failed_with_traceback(_: Path) -> None:
    try:
        raise ValueError
    except ValueError as error:
        failures.encode_error(error)


def failed_with_text(_: Path) -> None:
    class RudeError(Exception):
        __str__ = raising(KeyboardInterrupt())

    failures.encode_error(RudeError())


class Interrupted:
    """What cannot be read or converted."""

    __get__ = __float__ = raising(KeyboardInterrupt())


class ShownError(Exception):
    """An error that can be printed on the worker."""


def failed_with_slot(_: Path) -> None:
    with mock.patch.object(failures, "c_members", return_value=[("slot", Interrupted())]):
        failures.encode_error(ValueError())


def failed_with_field(_: Path) -> None:
    names = dict.fromkeys(("object", "start", "end", "reason"), Interrupted())
    with mock.patch.object(failures, "namespace_of", return_value=names):
        failures.encode_error(UnicodeTranslateError("a", 0, 1, "b"))


def printed_again(_: Path) -> None:
    records = failures.encode_error(ShownError())
    with mock.patch.object(ShownError, "__str__", raising(KeyboardInterrupt())):
        revival.decode_error(records, revival.exception_policy("faithful"))


def row(_: Path) -> None:
    @dataclass
    class Row:
        column: int = 1

        def __getattribute__(self, name: str) -> Any:
            if name == "column":
                raise KeyboardInterrupt
            return super().__getattribute__(name)

    to_plain(Row())


def labelled(_: Path) -> None:
    Expiry(None, None, None).ttl_s({LABEL: Interrupted()}, failed=False)


def hook(_: Path) -> None:
    url.CONVERTERS["enc_hook"]("os.path:join")


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (JSONSerializer, "loadb", load),
        (traceback, "format_tb", failed_with_traceback),
        (None, "", failed_with_text),
        (None, "", interrupted_zone),
        (None, "", failed_with_slot),
        (None, "", failed_with_field),
        (None, "", printed_again),
        (None, "", row),
        (None, "", labelled),
        (url, "import_module", hook),
    ],
)
def test_an_interrupt_passes_the_handlers_of_all_errors(
    owner: Any,
    name: str,
    call: Callable[[Path], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        if owner is not None:
            patch.setattr(owner, name, raising(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            call(tmp_path)
