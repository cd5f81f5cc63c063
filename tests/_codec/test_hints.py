"""What a refusal says about what to write instead."""

from __future__ import annotations

import array
import asyncio
import collections
import concurrent.futures
import dataclasses
import datetime as dt
import enum
import functools
import http.cookies
import io
import re
import types
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pydantic
import pytest

from logstore import UnserializableValueError
from logstore._codec.hints import is_missing
from logstore._codec.values import encode_value


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Point(NamedTuple):
    x: int


@dataclasses.dataclass
class Node:
    name: str


class Item(pydantic.BaseModel):
    name: str = "n"


class Name(str):
    __slots__ = ()


class Bag:
    def __iter__(self) -> Any: ...


class Pairs:
    def __iter__(self) -> Any: ...
    def keys(self) -> Any: ...


class Later:
    def __await__(self) -> Any: ...


# Classes of other libraries, and of other versions of Python, whichever are installed here.
ELSEWHERE = {
    "pathlib._local.PurePath": "str(value)",
    "numpy.generic": "value.item()",
    "numpy.dtype": "str(value)",
    "pandas.api.typing.NaTType": "None",
    "pandas._libs.tslibs.nattype.NaTType": "None",
    "pandas.api.typing.NAType": "None",
    "pandas._libs.missing.NAType": "None",
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
    "asyncpg.protocol.record.Record": "dict(value)",
    "sqlalchemy.engine.row.Row": "value._asdict()",
    "sqlalchemy.engine.row.RowMapping": "dict(value)",
    "pydantic.types.SecretStr": "value.get_secret_value()",
    "pydantic.types.SecretBytes": "value.get_secret_value()",
    "httpx.Response": "value.text and value.status_code",
    "requests.models.Response": "value.text and value.status_code",
    "bson.objectid.ObjectId": "str(value)",
    "yarl.URL": "str(value)",
    "yarl._url.URL": "str(value)",
    "httpx.URL": "str(value)",
}


class Lazy(type):
    """A metaclass whose own code must not run."""

    def __getattr__(cls, name: str) -> Any:
        raise AssertionError(f"asked for {name}")


class Thing(metaclass=Lazy):
    pass


def of(name: str, **body: Any) -> Any:
    """An instance of a class of this dotted name, as another library has it."""
    module, _, qualname = name.rpartition(".")
    return type(qualname, (), {"__module__": module, **body})()


async def _coroutine() -> None: ...


def generator() -> Any:
    yield 1


async def numbers_from() -> Any:
    yield 1


class Zone(dt.tzinfo):
    utcoffset = dst = tzname = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("value", "instead"),
    [
        (Colour.RED, "value.value"),
        (Level.LOW, "value.value"),
        (Point(1), "value._asdict()"),
        (Node("n"), "dataclasses.asdict(value)"),
        (Item(), "value.model_dump()"),
        (PurePosixPath("/a"), "str(value)"),
        (bytearray(), "bytes(value)"),
        (memoryview(b""), "bytes(value)"),
        (array.array("i"), "value.tolist()"),
        (collections.deque(), "list(value)"),
        (types.MappingProxyType({}), "dict(value)"),
        (types.SimpleNamespace(), "vars(value)"),
        (slice(3), "[value.start, value.stop, value.step]"),
        (collections.UserList(), "value.data"),
        (collections.UserDict(), "value.data"),
        (collections.UserString(""), "value.data"),
        (concurrent.futures.Future(), "value.result()"),
        (numbers_from(), "[item async for item in value]"),
        (re.match("", ""), "value.groups()"),
        (Zone(), "str(value)"),
        (ElementTree.Element("a"), "xml.etree.ElementTree.tostring(value)"),
        (http.cookies.SimpleCookie(), "value.output()"),
        ("".join, "what it returns"),
        (generator.__get__(1), "what it returns"),
        (range(3), "list(value)"),
        ({}.keys(), "list(value)"),
        (generator(), "list(value)"),
        (iter([]), "list(value)"),
        (map(str, []), "list(value)"),
        (asyncio.Event, "value.__qualname__"),
        (len, "what it returns"),
        (generator, "what it returns"),
        (functools.partial(len), "what it returns"),
        (ValueError("x"), "str(value)"),
        (io.BytesIO(), "what value.read() returns"),
        (re.compile("a"), "value.pattern"),
        (dt.timezone.utc, "str(value)"),
        *((of(name), hint) for name, hint in ELSEWHERE.items()),
        (Later(), "the result of awaiting it"),
        (Bag(), "list(value)"),
        (Pairs(), "dict(value)"),
        (of("app.Array", __array__=None), "value.tolist()"),
        (of("app.Attrs", __attrs_attrs__=()), "attrs.asdict(value)"),
        (of("app.Struct", __struct_fields__=()), "msgspec.to_builtins(value)"),
        (of("app.Row", _sa_class_manager=None), "its columns as a dict"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_refusal_says_what_to_write_instead(value: Any, instead: str) -> None:
    with pytest.raises(UnserializableValueError) as caught:
        encode_value({"k": [value]})
    text = str(caught.value)
    assert text.startswith("cannot store result['k'][0]: the ")
    assert f"write {instead} instead" in text or text.endswith(f"write {instead}")


def test_a_coroutine_is_to_be_awaited() -> None:
    coroutine = _coroutine()
    with pytest.raises(UnserializableValueError, match="write the result of awaiting it instead"):
        encode_value(coroutine)
    coroutine.close()


@pytest.mark.parametrize(
    ("value", "base"),
    [
        (Name("n"), "str"),
        (Level.LOW, "int"),
        (Point(1), "tuple"),
        (collections.OrderedDict(), "dict"),
        (collections.defaultdict(int), "dict"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_subclass_of_a_stored_type_is_to_be_converted_to_it(value: Any, base: str) -> None:
    with pytest.raises(UnserializableValueError) as caught:
        encode_value([value])
    assert f"is a subclass of {base}, which would come back as another type" in str(caught.value)
    assert f"convert it to {base} first" in str(caught.value)


def test_a_value_that_is_missing_is_to_be_written_as_none() -> None:
    kind = type("NaTType", (dt.datetime,), {"__module__": "pandas._libs.tslibs.nattype"})
    assert is_missing(kind)
    assert not is_missing(dt.datetime)
    with pytest.raises(UnserializableValueError, match="cannot be stored: write None instead"):
        encode_value(kind(2024, 1, 1))


def test_of_an_object_that_nothing_is_known_of_the_hook_is_told() -> None:
    with pytest.raises(UnserializableValueError, match=r"Thing there .*enc_hook of logstore"):
        encode_value(Thing())
