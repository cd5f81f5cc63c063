"""Fuzzer of the codec: the bytes of values and of progress.

Invariants: any bytes are a value or a DecodeError; every object in a value is of a type that the
codec documents; a value that was read can be written again, and what is written reads as the same
value, types included; progress that was read is valid progress; with a hook that makes an object of
each value that is tagged for it, the same bytes are read or refused.  Time and memory are in
proportion to the input.
"""

from __future__ import annotations

import datetime
import decimal
import fractions
import ipaddress
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fuzz.child import error_label
from fuzz.command import main
from fuzz.target import Run, Target, expect
from logstore._codec.values import decode_value, encode_value
from logstore.errors import DecodeError
from logstore.progress import TaskProgress, decode_progress, encode_progress

KINDS = frozenset(
    (
        *(type(None), bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset),
        *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta),
        *(decimal.Decimal, fractions.Fraction, uuid.UUID),
        *(ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network),
        *(ipaddress.IPv6Network, ipaddress.IPv4Interface, ipaddress.IPv6Interface),
    )
)

_ZONE = datetime.timezone(datetime.timedelta(hours=-3, minutes=-30), "NST")
SAMPLES: tuple[Any, ...] = (
    *(None, True, False, 0, 23, 24, -1, -25, 1 << 63, -(1 << 64), 1 << 300, -(1 << 90)),
    *(
        0.0,
        -0.0,
        1.5,
        float("inf"),
        float("nan"),
        1e300,
        1 + 2j,
        "",
        "abc",
        "\u00e9\u4e2d",
        "\ud800",
    ),
    *(b"", b"\x00\xff" * 10, [], (), {}, set(), frozenset(), [1, [2, [3]]], (1, ("a", b"b"))),
    {"a": 1, "b": [1, 2, {"c": None}]},
    {1: "x", (1, 2): "y", frozenset({3}): "z", None: 0, b"k": 1.5},
    {1, "a", b"b", (2, 3), frozenset({4})},
    datetime.datetime(2024, 2, 29, 23, 59, 59, 999999, _ZONE, fold=1),
    datetime.datetime(1, 1, 1),
    datetime.date(9999, 12, 31),
    datetime.time(1, 2, 3, 4, datetime.timezone.utc),
    datetime.timedelta(days=-1, microseconds=5),
    *(decimal.Decimal("-1.50E+7"), decimal.Decimal("sNaN123"), fractions.Fraction(-3, 7)),
    uuid.UUID(int=5),
    *(ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("fe80::1%eth0")),
    *(ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_interface("::1/64")),
    [[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]],
    [{"i": i, "t": (i, str(i))} for i in range(20)],
)
_PROGRESS = (
    TaskProgress(),
    TaskProgress(0.5, "at work", 3, 7, {"rows": [1, 2]}),
    TaskProgress.from_state("STATE", [1, {2}]),
)
_HOOKED = object()


def _hook(value: Any) -> Any:
    return ("made", 1)


def seeds() -> Sequence[bytes]:
    """One of each type, and what decoders have stumbled over."""
    odd = (
        *(b"\x9b" + b"\xff" * 8, b"\xbb" + b"\x7f" * 8, b"\x5b" + b"\x00" * 7 + b"\x01"),
        *(
            b"\x81" * 200 + b"\x00",
            b"\xc2" * 100 + b"\x40",
            b"\xd9\x01\x02\x80",
            b"\xf8\x20",
            b"\xf7",
        ),
        *(
            b"\x9f\x01\xff",
            b"\x7f\x61a\xff",
            b"\xa2\x01\x01\x01\x02",
            b"\xd8\x1c\xd8\x1d\x00",
            b"\xf9\x7e\x00",
        ),
    )
    deep = (b"\x81" * depth + b"\x00" for depth in (63, 64, 65, 100, 131, 132, 133))
    return [
        *deep,
        *(encode_value(sample) for sample in SAMPLES),
        *(encode_progress(progress) for progress in _PROGRESS),
        *(encode_value(sample, enc_hook=_hook) for sample in (_HOOKED, [_HOOKED], {_HOOKED: 1})),
        *odd,
    ]


def run(data: bytes) -> str:
    """Read as a value and as progress."""
    label = _read_value(data)
    try:
        progress = decode_progress(data)
    except DecodeError:
        return label
    fields = canonical(progress.to_dict())
    expect(canonical(TaskProgress.from_dict(progress.to_dict()).to_dict()) == fields, "not valid")
    again = decode_progress(encode_progress(progress))
    expect(canonical(again.to_dict()) == fields, "progress changes when written")
    return f"progress {label}"


class Made:
    """What the hook makes of a tagged value."""

    def __init__(self, kind: Any, value: Any) -> None:
        expect(isinstance(kind, (type, str)), f"the hook got {kind!r} as a type")
        check_kinds(value, set())
        self.value = value


def _read_value(data: bytes) -> str:
    try:
        value = decode_value(data)
    except DecodeError as error:
        return error_label(error)
    try:
        decode_value(data, lambda kind, value: Made(kind, value).value)
    except DecodeError as error:
        raise AssertionError("a hook that changes nothing makes a value unreadable") from error
    kinds: set[str] = set()
    check_kinds(value, kinds)
    written = encode_value(value)
    expect(canonical(decode_value(written)) == canonical(value), f"{value!r} changes when written")
    return "value of " + " ".join(sorted(kinds))


def check_kinds(value: Any, seen: set[str]) -> None:
    """Every object must be of a documented type, exactly."""
    expect(type(value) in KINDS, f"a {type(value)!r} came out")
    seen.add(type(value).__name__)
    if isinstance(value, dict):
        for key, item in value.items():
            check_kinds(key, seen)
            check_kinds(item, seen)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            check_kinds(item, seen)


def canonical(value: Any) -> str:
    """A text for a value and all its types; equal for sets in any order, and for any nan."""
    kind = type(value).__name__
    if isinstance(value, dict):
        parts = [f"{canonical(key)}: {canonical(item)}" for key, item in value.items()]
    elif isinstance(value, (set, frozenset)):
        parts = sorted(map(canonical, value))
    elif isinstance(value, (list, tuple)):
        parts = list(map(canonical, value))
    elif isinstance(value, bytes):
        parts = [value.hex()]
    else:
        parts = [hex(value) if type(value) is int else repr(value)]
    return f"{kind}({', '.join(parts)})"


@contextmanager
def session() -> Iterator[Run]:
    """Nothing to set up."""
    yield run


TARGET = Target("values", seeds, session, batch=500)

if __name__ == "__main__":
    main(TARGET)
