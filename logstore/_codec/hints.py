"""Hints for error messages: what to store instead of an object of an unsupported type.

Rules: a table, looked up by the names of the object's class and its bases, then by the attributes
of its class.  Nothing is imported and no code of the class runs.  In a hint, ``value`` is the
object.
"""

from __future__ import annotations

from collections.abc import Iterable

from logstore._codec.tags import STORED
from logstore._codec.text import bases_of, class_names, namespace_of

_ITEMS = "list(value)"
_PAIRS = "dict(value)"
_PATH = "str(value)"
_MISSING = "None"
_AWAIT = "the result of awaiting it"

_BY_NAME = {
    "enum.Enum": "value.value",
    "pathlib.PurePath": _PATH,
    "pathlib._local.PurePath": _PATH,
    "builtins.bytearray": "bytes(value)",
    "builtins.memoryview": "bytes(value)",
    "array.array": "value.tolist()",
    "collections.UserList": "value.data",
    "collections.UserDict": "value.data",
    "collections.UserString": "value.data",
    "types.SimpleNamespace": "vars(value)",
    "builtins.slice": "[value.start, value.stop, value.step]",
    "builtins.async_generator": "[item async for item in value]",
    "concurrent.futures._base.Future": "value.result()",
    "builtins.BaseException": "str(value)",
    "builtins.type": "value.__qualname__",
    "builtins.function": "what it returns",
    "builtins.method": "what it returns",
    "builtins.builtin_function_or_method": "what it returns",
    "functools.partial": "what it returns",
    "_io._IOBase": "what value.read() returns",
    "re.Pattern": "value.pattern",
    "re.Match": "value.groups()",
    "datetime.tzinfo": "str(value)",
    "xml.etree.ElementTree.Element": "xml.etree.ElementTree.tostring(value)",
    "http.cookies.SimpleCookie": "value.output()",
    # Classes of other libraries, under their current and former names.
    "numpy.generic": "value.item()",
    "numpy.dtype": "str(value)",
    "pandas.api.typing.NaTType": _MISSING,
    "pandas._libs.tslibs.nattype.NaTType": _MISSING,
    "pandas.api.typing.NAType": _MISSING,
    "pandas._libs.missing.NAType": _MISSING,
    "pandas.DataFrame": "value.to_dict('records')",
    "pandas.core.frame.DataFrame": "value.to_dict('records')",
    "pandas.Series": "value.to_list()",
    "pandas.core.series.Series": "value.to_list()",
    "pandas.Index": "value.to_list()",
    "pandas.core.indexes.base.Index": "value.to_list()",
    "polars.dataframe.frame.DataFrame": "value.to_dicts()",
    "polars.series.series.Series": "value.to_list()",
    "pyarrow.lib.Table": "value.to_pylist()",
    "pyarrow.lib.Scalar": "value.as_py()",
    "pyarrow.lib.Array": "value.to_pylist()",
    "torch.Tensor": "value.tolist()",
    "asyncpg.protocol.record.Record": _PAIRS,
    "sqlalchemy.engine.row.Row": "value._asdict()",
    "sqlalchemy.engine.row.RowMapping": _PAIRS,
    "sqlite3.Row": _PAIRS,
    "pydantic.main.BaseModel": "value.model_dump()",
    "pydantic.types.SecretStr": "value.get_secret_value()",
    "pydantic.types.SecretBytes": "value.get_secret_value()",
    "httpx.Response": "value.text and value.status_code",
    "requests.models.Response": "value.text and value.status_code",
    "bson.objectid.ObjectId": "str(value)",
    "yarl.URL": "str(value)",
    "yarl._url.URL": "str(value)",
    "httpx.URL": "str(value)",
}

_BY_ATTRIBUTE = {
    "__dataclass_fields__": "dataclasses.asdict(value)",
    "__attrs_attrs__": "attrs.asdict(value)",
    "__struct_fields__": "msgspec.to_builtins(value)",
    "_sa_class_manager": "its columns as a dict",
    "__await__": _AWAIT,
    "__array__": "value.tolist()",
}

_BY_METHOD = {"keys": _PAIRS, "__next__": _ITEMS, "__iter__": _ITEMS}


def advice(kind: type) -> str:
    """Return why an object of ``kind`` cannot be stored, and what to store instead.

    The text continues a sentence that begins with "the app.Point there".
    """
    bases = bases_of(kind)
    attributes: set[object] = set()
    for base in bases:
        attributes.update(namespace_of(base))
    hint = _by_name(bases) or _first(_BY_ATTRIBUTE, attributes)
    if tuple in bases and "_fields" in attributes:
        hint = hint or "value._asdict()"
    names = [base.__qualname__ for base in bases[1:] if any(base is kind for kind in STORED)]
    if names and hint is not _MISSING:
        name = names[0]
        more = f", or write {hint}" if hint and hint != f"{name}(value)" else ""
        return (
            f"is a subclass of {name}, which would come back as another type:"
            f" convert it to {name} first{more}"
        )
    hint = hint or _first(_BY_METHOD, attributes)
    reason = "is of a type that cannot be stored"
    if hint:
        return f"{reason}: write {hint} instead"
    return f"{reason}, unless an enc_hook of logstore.open() converts it"


def is_missing(kind: type) -> bool:
    """Return whether ``kind`` represents a missing value, like the type of pandas.NaT."""
    return _by_name(bases_of(kind)) is _MISSING


def _by_name(bases: Iterable[type]) -> str | None:
    for base in bases:
        found = _BY_NAME.get(".".join(class_names(base)))
        if found is not None:
            return found
    return None


def _first(table: dict[str, str], attributes: set[object]) -> str | None:
    return next((hint for name, hint in table.items() if name in attributes), None)
