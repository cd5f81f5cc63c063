from __future__ import annotations

import inspect
import operator
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from taskiq import serializers

import logstore
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


@pytest.mark.parametrize("name", SCHEMES)
def test_the_options_are_arguments_of_the_backend(name: str) -> None:
    module, _, backend = SCHEMES[name].backend.partition(":")
    arguments = set(inspect.signature(getattr(import_module(module), backend)).parameters)
    if "store_options" in arguments:
        # Times to live have taskiq-redis's names here, and a backend has to write.
        arguments |= set(inspect.signature(logstore.open).parameters)
        arguments -= {"store_options", "mode", "result_ttl_s", "failure_ttl_s", "progress_ttl_s"}
    path = {SCHEMES[name].path_argument} - {None}
    assert set(SCHEMES[name].options) | path == arguments


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://localhost", "known are: dummy://"),
        ("app.db", "names no known backend"),
        ("", "names no known backend"),
        ("LOGSTORE:///a.db?nothing=1", "no option 'nothing'; known are: keep_results, "),
        ("dummy://?x=1", "no option 'x'; known are: none"),
        ("memory://?max_stored_results=0", "max_stored_results"),
        ("memory://?max_stored_results=many", "'max_stored_results': invalid literal"),
        ("memory://?max_stored_results=1&max_stored_results=2", "twice"),
        ("memory://?max_stored_results", "?name=value"),
        ("memory:///path", "has a path"),
        ("logstore://", "has no path"),
        ("logstore://app.db", "names a host, 'app.db'; a path needs three slashes"),
        ("logstore:///a.db?keep_results=maybe", "expected true or false, found 'maybe'"),
        ("logstore:///a.db?result_ex_time=0", "more than zero"),
        ("logstore:///a.db?result_ex_time=1&result_px_time=1", "not both"),
        ("logstore:///a.db?sync=never", "expected one of always, interval, found 'never'"),
        ("logstore:///a.db?serializer=yaml", "expected one of json, orjson"),
        ("logstore:///a.db#x", "fragment"),
        ("logstore:///a.db?enc_hook=os.path", "expected a function as module:name"),
        ("logstore:///a.db?enc_hook=os.path:nothing", "expected a function as module:name"),
        ("logstore:///a.db?enc_hook=os.path:sep", "expected a function as module:name"),
        ("logstore:///a.db?dec_hook=no_such_module:x", "No module named 'no_such_module'"),
        ("logstore:///a%00.db", "a zero byte"),
        ("logstore:///", "has no path"),
        ("logstore:///a.db?max_value_bytes=", "'max_value_bytes': invalid literal"),
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
        *((name, "7", 7) for name in ("result_ex_time", "result_px_time", "failure_ex_time")),
        *((name, "7", 7) for name in ("progress_ex_time", "max_results", "compact_at")),
        *((name, "7", 7) for name in ("max_bytes", "max_value_bytes")),
        *((name, "0.5", 0.5) for name in ("sync_interval_s", "write_timeout_s")),
        *((name, "on", True) for name in ("accept_log_loss", "force")),
        ("sync", "always", "always"),
        ("sync", "interval", "interval"),
    ],
)
def test_an_option_becomes_a_value_of_its_type(option: str, text: str, value: Any) -> None:
    found = SCHEMES["logstore"].options[option](text)
    assert (found, type(found)) == (value, type(value))


def test_this_host_may_be_named_and_a_path_may_be_empty() -> None:
    file = open_backend("file://localhost/dir")
    assert isinstance(file, FileResultBackend)
    assert file.storage_dir == Path("/dir")
    for url in ("memory:", "memory:///", "memory://localhost/"):
        assert type(open_backend(url)) is InmemoryResultBackend
