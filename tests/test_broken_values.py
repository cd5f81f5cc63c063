"""Values whose own code fails, in the stores: a refusal with the place, and nothing is written."""

from __future__ import annotations

import asyncio
import datetime as dt
import numbers
from pathlib import Path
from typing import Any

import pytest

import logstore
from logstore import TaskProgress, UnserializableValueError


class BrokenZone(dt.tzinfo):
    def utcoffset(self, when: dt.datetime | None) -> dt.timedelta:
        raise LookupError("the time zone database is gone")

    dst = tzname = utcoffset  # type: ignore[assignment]

    def __repr__(self) -> str:
        raise LookupError("so is its name")


class BrokenNumber:
    def __int__(self) -> int:
        raise LookupError("the session has expired")


numbers.Integral.register(BrokenNumber)


class BrokenHash:
    def __hash__(self) -> int:
        if BrokenHash.broken:
            raise LookupError("no hash any more")
        return 5

    broken = False


class Meta(type):
    """The classes of this class cannot be looked up in any dict or set."""

    __hash__ = None  # type: ignore[assignment]


class Odd(metaclass=Meta):
    pass


class Lying:
    """As a proxy outside of its context."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise LookupError("outside of its context")


def many_broken_keys() -> dict[Any, int]:
    BrokenHash.broken = False
    return {BrokenHash(): n for n in range(1001)}


BROKEN: dict[str, tuple[Any, str, str]] = {
    "zone": (
        lambda: {"rows": [dt.datetime(2024, 1, 1, tzinfo=BrokenZone())]},
        "['rows'][0]: the datetime.datetime there",
        "the time zone database is gone",
    ),
    "number": (
        lambda: ({"n": (BrokenNumber(),)},),
        "[0]['n'][0]: the tests.test_broken_values.BrokenNumber there",
        "the session has expired",
    ),
    "hash": (lambda: [many_broken_keys()], "[0]: the builtins.dict there", "no hash any more"),
    "metaclass": (Odd, ": the tests.test_broken_values.Odd there", "unhashable"),
    "metaclass-in-a-list": (lambda: {"k": [Odd()]}, "['k']: the builtins.list there", "unhashable"),
    "proxy": (lambda: [Lying()], "[0]: the tests.test_broken_values.Lying there", "cannot be"),
}


@pytest.fixture(params=BROKEN)
def broken(request: pytest.FixtureRequest) -> Any:
    make, place, told = BROKEN[request.param]
    value = make()
    BrokenHash.broken = True
    yield value, place, told
    BrokenHash.broken = False


def test_a_value_that_breaks_is_refused_with_its_place(store: logstore.Store, broken: Any) -> None:
    value, place, told = broken
    with pytest.raises(UnserializableValueError) as caught:
        store.set_result("t", value)
    assert str(caught.value).startswith(f"cannot store result{place}")
    assert told in str(caught.value)
    with pytest.raises(UnserializableValueError, match=r"^cannot store progress\.meta"):
        store.set_progress("t", TaskProgress(meta={"m": value}))
    assert store.status("t") == "unknown"


def test_what_the_code_of_a_value_raised_is_the_cause(store: logstore.Store) -> None:
    with pytest.raises(UnserializableValueError) as caught:
        store.set_result("t", [BrokenNumber()])
    assert isinstance(caught.value.__cause__, LookupError)


def test_a_value_that_breaks_is_refused_on_an_event_loop(path: Path, broken: Any) -> None:
    value, place, told = broken

    async def main() -> None:
        async with logstore.open_async(path) as store:
            with pytest.raises(UnserializableValueError) as caught:
                await store.set_result("t", value)
            assert str(caught.value).startswith(f"cannot store result{place}")
            assert told in str(caught.value)
            with pytest.raises(UnserializableValueError):
                await store.set_progress("t", TaskProgress(meta={"m": value}))
            assert await store.status("t") == "unknown"

    asyncio.run(main())


def test_an_interrupt_while_a_value_is_converted_is_no_refusal(store: logstore.Store) -> None:
    class Slow:
        def __int__(self) -> int:
            raise KeyboardInterrupt

    numbers.Integral.register(Slow)
    with pytest.raises(KeyboardInterrupt):
        store.set_result("t", [Slow()])


def test_progress_with_a_meta_that_breaks_is_a_value_error_that_names_the_field() -> None:
    class Gone(dict[str, int]):
        def keys(self) -> Any:
            raise LookupError("gone")

        __iter__ = keys

    for wrong in (Gone(a=1), Lying()):
        with pytest.raises(ValueError, match=r"^meta must be a dict"):
            TaskProgress(meta=wrong)
    for field in ("progress", "status", "current", "total"):
        with pytest.raises(ValueError, match=f"^{field} must be"):
            TaskProgress(**{field: Lying()})  # type: ignore[arg-type]
