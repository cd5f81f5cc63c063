"""Opening a backend by URL: ``logstore:///var/lib/app.db?keep_results=false``.

Rules: each scheme is a row of :data:`SCHEMES`.  Its options are the arguments of the backend's
class, and their types are the annotations.  Everything is checked, and errors list the known
schemes or options.  A new backend is a new row.  A path after ``//`` is absolute; without ``//``
(``logstore:app.db``) it is relative.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Annotated, Any, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import PlainValidator, TypeAdapter, ValidationError
from typing_extensions import get_type_hints

from logstore.taskiq.errors import BackendURLError

if TYPE_CHECKING:
    from logstore.taskiq.abstract import AsyncResultBackend


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
        raise ValueError(f"expected one of {', '.join(_SERIALIZERS)}")
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
        raise ValueError("expected a function as module:name")
    return function


CONVERTERS: dict[str, Callable[[str], Any]] = {
    "serializer": _serializer,
    "exceptions": _exceptions,
    "enc_hook": _function,
    "dec_hook": _function,
}
"""The options whose types have no text that pydantic knows."""


@dataclass(frozen=True)
class Scheme:
    """The parts of the URLs of one backend."""

    backend: str
    """Its class, as ``module:name``."""
    example: str
    path_argument: str | None = None
    """The argument for the path of the URL; None if no path is allowed."""
    path_needed: bool = False
    left_out: tuple[str, ...] = ()
    """Arguments that are no options of URLs."""

    @cached_property
    def kind(self) -> Any:
        """The class of the backend."""
        module, _, name = self.backend.partition(":")
        return getattr(import_module(module), name)

    @cached_property
    def options(self) -> dict[str, TypeAdapter[Any]]:
        """The parsers of the options."""
        hints = get_type_hints(self.kind.__init__)
        types: dict[str, Any] = {}
        for name, parameter in signature(self.kind).parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:  # of the options in a TypedDict
                types |= get_type_hints(get_args(hints[name])[0])
            else:
                types[name] = hints[name]
        for name in types.keys() & CONVERTERS:
            types[name] = Annotated[Any, PlainValidator(CONVERTERS[name])]
        others = (self.path_argument, *self.left_out)
        return {name: TypeAdapter(type_) for name, type_ in types.items() if name not in others}


SCHEMES: dict[str, Scheme] = {
    "dummy": Scheme("logstore.taskiq.results.dummy:DummyResultBackend", "dummy://"),
    "memory": Scheme(
        "logstore.taskiq.results.inmemory:InmemoryResultBackend",
        "memory://?max_stored_results=500",
    ),
    "file": Scheme(
        "logstore.taskiq.results.file:FileResultBackend",
        "file:///var/lib/app/results",
        path_argument="storage_dir",
    ),
    "logstore": Scheme(
        "logstore.taskiq.results.logstore:LogStoreResultBackend",
        "logstore:///var/lib/app.db?keep_results=false",
        path_argument="path",
        path_needed=True,
        # A backend has to write, and its times to live have the names of taskiq-redis.
        left_out=("mode", "result_ttl_s", "failure_ttl_s", "progress_ttl_s"),
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
    try:
        made: AsyncResultBackend[Any] = scheme.kind(**arguments)
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
        adapter = scheme.options.get(name)
        if adapter is None:
            known = ", ".join(scheme.options) or "none"
            raise BackendURLError(f"{url!r}: there is no option {name!r}; known are: {known}")
        if name in arguments:
            raise BackendURLError(f"{url!r} gives the option {name!r} twice")
        try:
            arguments[name] = adapter.validate_python(text)
        except ImportError as error:  # a serializer whose package is not installed
            raise BackendURLError(f"{url!r}: the option {name!r}: {error}") from error
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            reason = reason.replace("Input should be ", "expected ", 1)
            message = f"{url!r}: the option {name!r}: {reason}, found {text!r}"
            raise BackendURLError(message) from error
    return arguments
