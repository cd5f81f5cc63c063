"""Opening a backend by URL: ``logstore:///var/lib/app.db?keep_results=false``.

Rules: each scheme is a row of :data:`SCHEMES`; a row has a name and a parser for each option.
Everything is checked, and errors list the known schemes or options.  A new backend is a new row.  A
path after ``//`` is absolute; without ``//`` (``logstore:app.db``) it is relative.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from logstore.taskiq.errors import BackendURLError

if TYPE_CHECKING:
    from logstore.taskiq.abstract import AsyncResultBackend

Parser = Callable[[str], Any]


def _boolean(text: str) -> bool:
    value = _BOOLEANS.get(text.lower())
    if value is None:
        raise ValueError(f"expected true or false, found {text!r}")
    return value


_BOOLEANS = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}


def _choice(*choices: str) -> Parser:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}, found {text!r}")
        return text

    return parse


def _exceptions(text: str) -> Any:
    return text if text in ("faithful", "inert") else [name for name in text.split(",") if name]


_SERIALIZERS = {
    "json": "JSONSerializer",
    "orjson": "ORJSONSerializer",
    "msgpack": "MSGPackSerializer",
    "cbor": "CBORSerializer",
    "pickle": "PickleSerializer",
}


def _serializer(text: str) -> Any:
    name = _SERIALIZERS.get(text)
    if name is None:
        raise ValueError(f"expected one of {', '.join(_SERIALIZERS)}, found {text!r}")
    return getattr(import_module("taskiq.serializers"), name)()


def _function(text: str) -> Any:
    module, _, name = text.partition(":")
    function = None
    if name.isidentifier() and all(part.isidentifier() for part in module.split(".")):
        try:
            function = getattr(import_module(module), name, None)
        except Exception as error:  # the code of the module may raise anything
            raise ValueError(f"{module} cannot be imported: {error}") from error
    if not callable(function):
        raise ValueError(f"expected a function as module:name, found {text!r}")
    return function


@dataclass(frozen=True)
class Scheme:
    """The parts of the URLs of one backend."""

    backend: str
    """Its class, as ``module:name``."""
    example: str
    path_argument: str | None = None
    """The argument for the path of the URL; None if no path is allowed."""
    path_needed: bool = False
    options: Mapping[str, Parser] = field(default_factory=dict)


SCHEMES: dict[str, Scheme] = {
    "dummy": Scheme("logstore.taskiq.results.dummy:DummyResultBackend", "dummy://"),
    "memory": Scheme(
        "logstore.taskiq.results.inmemory:InmemoryResultBackend",
        "memory://?max_stored_results=500",
        options={"max_stored_results": int},
    ),
    "file": Scheme(
        "logstore.taskiq.results.file:FileResultBackend",
        "file:///var/lib/app/results",
        path_argument="storage_dir",
        options={"exceptions": _exceptions},
    ),
    "logstore": Scheme(
        "logstore.taskiq.results.logstore:LogStoreResultBackend",
        "logstore:///var/lib/app.db?keep_results=false",
        path_argument="path",
        path_needed=True,
        options={
            "keep_results": _boolean,
            "result_ex_time": int,
            "result_px_time": int,
            "failure_ex_time": int,
            "progress_ex_time": int,
            "max_results": int,
            "serializer": _serializer,
            "prefix_str": str,
            "exceptions": _exceptions,
            "sync": _choice("always", "interval"),
            "sync_interval_s": float,
            "compact_at": int,
            "write_timeout_s": float,
            "max_bytes": int,
            "max_value_bytes": int,
            "accept_log_loss": _boolean,
            "force": _boolean,
            "enc_hook": _function,
            "dec_hook": _function,
        },
    ),
}


def open_backend(url: str) -> AsyncResultBackend[Any]:
    """Return the backend that ``url`` describes; its ``startup()`` opens it.

    URLs are ``dummy://``, ``memory://?max_stored_results=500``, ``file:///dir`` and
    ``logstore:///path/app.db?keep_results=false``.  The options are the keyword arguments of the
    backend's class.  ``enc_hook=module:name`` imports that module: do not use untrusted URLs.

    Raises :class:`~logstore.taskiq.errors.BackendURLError` for any other URL; the message lists
    the known schemes or options.
    """
    try:
        parts = urlsplit(url)
    except (ValueError, AttributeError, TypeError) as error:
        raise BackendURLError(f"{url!r} is not a URL: {error}") from error
    scheme = SCHEMES.get(parts.scheme)
    if scheme is None:
        known = ", ".join(entry.example for entry in SCHEMES.values())
        raise BackendURLError(f"{url!r} names no known backend; known are: {known}")
    arguments = _options(url, parts.query, scheme)
    path = _path(url, parts.netloc, parts.path, scheme)
    if parts.fragment:
        raise BackendURLError(f"{url!r} has a fragment; write a # in a path as %23")
    if path and scheme.path_argument is not None:
        arguments[scheme.path_argument] = path
    module, _, name = scheme.backend.partition(":")
    backend = getattr(import_module(module), name)
    try:
        made: AsyncResultBackend[Any] = backend(**arguments)
    except (TypeError, ValueError) as error:
        raise BackendURLError(f"{url!r}: {error}") from error
    return made


def _path(url: str, host: str, path: str, scheme: Scheme) -> str:
    if host not in ("", "localhost"):
        raise BackendURLError(
            f"{url!r} names a host, {host!r}; a path needs three slashes: {scheme.example}"
        )
    path = unquote(path)
    if "\0" in path:
        raise BackendURLError(f"{url!r} has a zero byte in its path")
    if scheme.path_argument is None and path not in ("", "/"):
        raise BackendURLError(f"{url!r} has a path, which this backend does not: {scheme.example}")
    if scheme.path_needed and path in ("", "/"):
        raise BackendURLError(f"{url!r} has no path: {scheme.example}")
    return path


def _options(url: str, query: str, scheme: Scheme) -> dict[str, Any]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise BackendURLError(f"{url!r}: options are written ?name=value&...: {error}") from error
    arguments: dict[str, Any] = {}
    for name, text in pairs:
        parse = scheme.options.get(name)
        if parse is None:
            known = ", ".join(scheme.options) or "none"
            raise BackendURLError(f"{url!r}: there is no option {name!r}; known are: {known}")
        if name in arguments:
            raise BackendURLError(f"{url!r} gives the option {name!r} twice")
        try:
            arguments[name] = parse(text)
        except (ValueError, ImportError) as error:
            raise BackendURLError(f"{url!r}: the option {name!r}: {error}") from error
    return arguments
