from __future__ import annotations

import operator
import os
from pathlib import Path
from typing import Any

import pytest
from taskiq import serializers

from logstore.taskiq import (
    BackendURLError,
    DummyResultBackend,
    FileResultBackend,
    InmemoryResultBackend,
    LogStoreResultBackend,
    open_backend,
)
from logstore.taskiq.urls import SCHEMES


def test_each_scheme_opens_its_backend() -> None:
    assert type(open_backend("dummy://")) is DummyResultBackend
    memory = open_backend("memory://?max_stored_results=500")
    assert isinstance(memory, InmemoryResultBackend)
    assert memory.max_stored_results == 500
    file = open_backend("file:///dir/with%20space")
    assert isinstance(file, FileResultBackend)
    assert file.storage_dir == Path("/dir/with space")
    store = open_backend(
        "logstore:///path/app.db?keep_results=false&result_ex_time=60&prefix_str=a%26b"
        "&sync=interval&serializer=json&exceptions=builtins,app.errors"
    )
    assert isinstance(store, LogStoreResultBackend)
    assert (store.path, store.keep_results, store.prefix_str) == ("/path/app.db", False, "a&b")
    assert type(store.serializer).__name__ == "JSONSerializer"


def test_hooks_are_functions_by_their_names() -> None:
    store: Any = open_backend("logstore:a.db?enc_hook=os.path:join&dec_hook=operator:add")
    assert store._options["enc_hook"] is os.path.join
    assert store._options["dec_hook"] is operator.add


def test_a_path_without_slashes_is_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store: Any = open_backend("logstore:sub/app.db")
    assert store.path == str(tmp_path / "sub" / "app.db")
    file: Any = open_backend("file:")
    assert file.storage_dir == tmp_path / "task_results"


@pytest.mark.parametrize("name", SCHEMES)
def test_the_example_of_a_scheme_opens(name: str) -> None:
    assert type(open_backend(SCHEMES[name].example)).__name__ in SCHEMES[name].backend


def test_an_unknown_scheme_is_answered_with_an_example_of_each() -> None:
    with pytest.raises(BackendURLError) as caught:
        open_backend("redis:")
    assert str(caught.value) == (
        "'redis:' names no known backend; known are: dummy://, memory://?max_stored_results=500, "
        "file:///var/lib/app/results, logstore:///var/lib/app.db?keep_results=false"
    )


def test_the_options_are_those_of_the_backend_and_of_the_store() -> None:
    assert {name: list(scheme.options) for name, scheme in SCHEMES.items()} == {
        "dummy": [],
        "memory": ["max_stored_results"],
        "file": ["exceptions"],
        "logstore": [
            *("keep_results", "result_ex_time", "result_px_time", "failure_ex_time"),
            *("progress_ex_time", "serializer", "prefix_str", "exceptions"),
            *("sync", "sync_interval_s", "compact_at", "write_timeout_s", "max_results"),
            *("max_bytes", "max_value_bytes", "accept_log_loss", "force", "enc_hook", "dec_hook"),
        ],
    }


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://localhost", "known are: dummy://"),
        ("app.db", "names no known backend"),
        ("", "names no known backend"),
        ("LOGSTORE:///a.db?nothing=1", "no option 'nothing'; known are: keep_results, "),
        ("dummy://?x=1", "no option 'x'; known are: none"),
        ("memory://?max_stored_results=0", "max_stored_results"),
        ("memory://?max_stored_results=many", "'max_stored_results': expected a valid integer"),
        ("memory://?max_stored_results=many", "as an integer, found 'many'"),
        ("memory://?max_stored_results=1.5", "expected a valid integer"),
        ("memory://?max_stored_results=1&max_stored_results=2", "twice"),
        ("memory://?max_stored_results", "?name=value"),
        ("memory:///path", "has a path"),
        ("logstore://", "has no path"),
        ("logstore://app.db", "names a host, 'app.db'; a path needs three slashes"),
        ("logstore:///a.db?keep_results=maybe", "'keep_results': expected a valid boolean"),
        ("logstore:///a.db?keep_results=maybe", ", found 'maybe'"),
        ("logstore:///a.db?result_ex_time=soon", "'result_ex_time': expected a valid number"),
        ("logstore:///a.db?max_results=none", "expected a valid integer"),
        ("logstore:///a.db?result_ex_time=0", "more than zero"),
        ("logstore:///a.db?result_ex_time=1&result_px_time=1", "not both"),
        ("logstore:///a.db?sync=never", "'sync': expected 'always' or 'interval', found 'never'"),
        ("logstore:///a.db?serializer=yaml", "expected one of json, orjson"),
        ("logstore:///a.db?serializer=yaml", ", found 'yaml'"),
        ("logstore:///a.db#x", "fragment"),
        ("logstore:///a.db?enc_hook=os.path", "expected a function as module:name"),
        ("logstore:///a.db?enc_hook=os.path:nothing", "as module:name, found 'os.path:nothing'"),
        ("logstore:///a.db?enc_hook=os.path:sep", "expected a function as module:name"),
        ("logstore:///a.db?dec_hook=no_such_module:x", "No module named 'no_such_module'"),
        ("logstore:///a%00.db", "a zero byte"),
        ("logstore:///", "has no path"),
        ("logstore:///a.db?max_value_bytes=", "'max_value_bytes': expected a valid integer"),
        ("logstore:///a.db?mode=r", "no option 'mode'"),
        ("logstore:///a.db?path=b.db", "no option 'path'"),
        ("memory://host", "names a host, 'host'"),
        ("file://[", "not a URL"),
        (None, "names no known backend"),
    ],
)
def test_a_mistake_is_answered_with_what_is_known(url: Any, told: str) -> None:
    with pytest.raises(BackendURLError) as caught:
        open_backend(url)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [(text, True) for text in ("true", "1", "yes", "on", "TRUE")]
    + [(text, False) for text in ("false", "0", "no", "off", "Off")],
)
def test_a_boolean_is_written_in_several_ways(text: str, value: bool) -> None:
    store: Any = open_backend(f"logstore:///app.db?keep_results={text}")
    assert store.keep_results is value


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("json", serializers.JSONSerializer),
        ("orjson", serializers.ORJSONSerializer),
        ("msgpack", serializers.MSGPackSerializer),
        ("cbor", serializers.CBORSerializer),
        ("pickle", serializers.PickleSerializer),
    ],
)
def test_a_serializer_is_taskiqs_of_that_name(
    name: str, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind, "__init__", lambda self: None)  # which may need another package
    store: Any = open_backend(f"logstore:///app.db?serializer={name}")
    assert type(store.serializer) is kind


def test_a_serializer_whose_package_is_not_installed_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: object) -> None:
        raise ImportError("install msgpack")

    monkeypatch.setattr(serializers.MSGPackSerializer, "__init__", fail)
    with pytest.raises(BackendURLError, match="the option 'serializer': install msgpack"):
        open_backend("logstore:///app.db?serializer=msgpack")


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("exceptions", "faithful", "faithful"),
        ("exceptions", "inert", "inert"),
        ("exceptions", "builtins,,app.errors", ["builtins", "app.errors"]),
        *((name, "7.5", 7.5) for name in ("result_ex_time", "result_px_time", "failure_ex_time")),
        ("progress_ex_time", "7.5", 7.5),
        *((name, "7", 7) for name in ("max_results", "compact_at", "max_bytes", "max_value_bytes")),
        ("prefix_str", "7", "7"),
        *((name, "0.5", 0.5) for name in ("sync_interval_s", "write_timeout_s")),
        *((name, "on", True) for name in ("accept_log_loss", "force")),
        ("sync", "always", "always"),
        ("sync", "interval", "interval"),
    ],
)
def test_an_option_becomes_a_value_of_its_type(option: str, text: str, value: Any) -> None:
    found = SCHEMES["logstore"].options[option].validate_python(text)
    assert (found, type(found)) == (value, type(value))


def test_this_host_may_be_named_and_a_path_may_be_empty() -> None:
    file = open_backend("file://localhost/dir")
    assert isinstance(file, FileResultBackend)
    assert file.storage_dir == Path("/dir")
    for url in ("memory:", "memory:///", "memory://localhost/"):
        assert type(open_backend(url)) is InmemoryResultBackend
