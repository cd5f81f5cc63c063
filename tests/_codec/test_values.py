"""The codec: exact types there and back, refusals with their paths, hostile bytes.

Invariants under Hypothesis (derandomized; a failure prints the value to replay it with):

- every value of the listed types comes back with the same types, order, signs and exponents;
- any bytes at all give a value of the listed types that can be encoded again, or DecodeError.
"""

from __future__ import annotations

import collections
import copy
import datetime as dt
import decimal
import enum
import math
import re
import struct
import zoneinfo
from decimal import Decimal
from fractions import Fraction
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import Any, NamedTuple
from uuid import UUID

import cbor2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from logstore._codec import tags as codec_tags
from logstore._codec import values as codec
from logstore._codec.values import (
    MAX_DEPTH,
    SAME_HASH_MAX,
    decode_value,
    encode_value,
)
from logstore._codec.weight import (
    PART_COST,
    PARTS_MAX,
    SMALL_BYTES,
    BudgetExceededError,
    UnknownTypeError,
    weigh,
)
from logstore.errors import (
    CorruptionError,
    DecodeError,
    UnserializableValueError,
    ValueTooLargeError,
)

FUZZ = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

FIXED = (
    type(None), bool, str, bytes, dt.date, dt.timedelta, UUID,
    IPv4Address, IPv4Network, IPv4Interface, IPv6Address, IPv6Network, IPv6Interface,
)  # fmt: skip


def form(value: object) -> Any:
    """Return what tells ``value`` from all that are not exactly the same; fails on other types."""
    kind = type(value)
    if kind is float:
        return ("float", "nan" if math.isnan(value) else struct.pack(">d", value))  # type: ignore[arg-type]
    if kind is complex:
        return ("complex", form(value.real), form(value.imag))  # type: ignore[attr-defined]
    if kind is Decimal:
        return ("Decimal", value.as_tuple())  # type: ignore[attr-defined]
    if kind is dt.datetime or kind is dt.time:
        zone = value.tzinfo  # type: ignore[attr-defined]
        assert type(zone) in (type(None), dt.timezone)
        return (kind.__name__, value.isoformat(), value.fold, zone and zone.tzname(None))  # type: ignore[attr-defined]
    if kind is dict:
        return ("dict", [(form(key), form(item)) for key, item in value.items()])  # type: ignore[attr-defined]
    if kind is list or kind is tuple:
        return (kind.__name__, [form(item) for item in value])  # type: ignore[attr-defined]
    if kind is set or kind is frozenset:
        return (kind.__name__, sorted((form(item) for item in value), key=repr))  # type: ignore[attr-defined]
    if kind is int:
        return ("int", hex(value))  # type: ignore[arg-type]
    if kind is Fraction:
        return ("Fraction", hex(value.numerator), hex(value.denominator))  # type: ignore[attr-defined]
    assert kind in FIXED, f"{kind} is not a storable type"
    return (kind.__name__, repr(value))


def assert_round_trip(value: object) -> None:
    assert form(decode_value(encode_value(value))) == form(value)


def zones() -> st.SearchStrategy[dt.timezone]:
    day = dt.timedelta(days=1) - dt.timedelta(microseconds=1)
    offsets = st.timedeltas(-day, day)
    return st.builds(dt.timezone, offsets) | st.builds(dt.timezone, offsets, st.text(max_size=5))


def texts() -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=()), max_size=20)  # lone surrogates too


def hashables() -> st.SearchStrategy[Any]:
    anything: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers() | st.floats()
    for more in (
        st.integers(-3, 3),
        st.sampled_from([1 << 64, -(1 << 64), (1 << 5000) + 1, -0.0, 1.0, True, math.nan]),
        st.complex_numbers(),
        texts(),
        st.binary(max_size=20),
        st.datetimes(timezones=st.none() | zones()),
        st.datetimes().map(lambda value: value.replace(fold=1)),
        st.dates(),
        st.times(timezones=st.none() | zones()),
        st.timedeltas(),
        st.decimals(allow_nan=False) | st.just(Decimal("NaN")),
        st.builds(Decimal, st.sampled_from(["-0", "1E+999999", "-0E-30", "Infinity", "1.500"])),
        st.fractions(),
        st.uuids(),
        st.ip_addresses(),
        st.builds(
            IPv4Network, st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)), st.just(False)
        ),
        st.builds(IPv4Interface, st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32))),
        st.builds(
            IPv6Network, st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128)), st.just(False)
        ),
        st.builds(IPv6Interface, st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128))),
    ):
        anything |= more
    return st.recursive(
        anything,
        lambda inner: st.lists(inner, max_size=4).map(tuple) | st.frozensets(inner, max_size=4),
        max_leaves=6,
    )


def values() -> st.SearchStrategy[Any]:
    signalling = st.just(Decimal("-sNaN123")) | st.decimals(allow_nan=True)
    return st.recursive(
        hashables() | signalling,
        lambda inner: (
            st.lists(inner, max_size=5)
            | st.lists(inner, max_size=5).map(tuple)
            | st.dictionaries(texts(), inner, max_size=5)
            | st.dictionaries(hashables(), inner, max_size=5)
            | st.sets(hashables(), max_size=5)
        ),
        max_leaves=12,
    )


# -- there and back -------------------------------------------------------------------------------


@FUZZ
@given(values())
def test_any_value_of_the_listed_types_comes_back_exactly(value: object) -> None:
    assert_round_trip(value)


EXAMPLES: list[Any] = [
    None, True, False, 0, -1, 23, 24, 2**63, 2**64 - 1, 2**64, -(2**64), -(2**64) - 1, 1 << 100_000,
    0.0, -0.0, 1.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan,
    complex(-0.0, math.nan), complex(math.inf, -0.0), 1j,
    "", "text", "\x00", "\U0010ffff", "lone \ud800", "\ud83d\ude00", "\udfff\ud800",
    b"", b"\x00\xff",
    [], (), {}, set(), frozenset(), [()], ([],), [[]], {"": {}}, {(): ()}, {frozenset(): set()},
    {1: "int", "1": "str", b"1": "bytes", None: "none", (1,): "tuple"},
    {True: 1}, {1: 1}, {1.0: 1}, {False: 1, 1: 2}, {-0.0: 0}, {frozenset({(1, 2.0)}): [1]},
    {math.nan: 1, float("nan"): 2}, {"b": 1, "a": 2, "c": 3}, {b"k": 1}, {"s": 1, b"b": 2},
    {"lone \ud800": ["\udfff", {1: "\ud800"}], "plain": ("x", {"\udc00"})},
    dt.datetime.min, dt.datetime.max, dt.datetime(2024, 2, 29, 12, 30, 1, 1, fold=1),
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc),
    dt.datetime(2024, 1, 1, 1, 2, 3, 4, tzinfo=dt.timezone(dt.timedelta(hours=-5), "EST"), fold=1),
    dt.datetime(1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=23, seconds=59, microseconds=7))),
    dt.datetime(9999, 12, 31, tzinfo=dt.timezone(-dt.timedelta(microseconds=1), "\ud800")),
    dt.time(1, tzinfo=dt.timezone(-dt.timedelta(microseconds=1))),
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(microseconds=1))),
    dt.date.min, dt.date.max,
    dt.time.min, dt.time.max, dt.time(1, fold=1), dt.time(1, 2, 3, 4, dt.timezone.utc),
    dt.time(1, tzinfo=dt.timezone(dt.timedelta(minutes=90), "named")),
    dt.timedelta.min, dt.timedelta.max, dt.timedelta.resolution, -dt.timedelta.resolution,
    *map(Decimal, ["0", "-0", "0E+5", "-0E-5", "1.10", "1E+999999999999", "1E-999999999999",
                   "NaN", "-NaN", "NaN123", "sNaN", "-sNaN9", "Infinity", "-Infinity"]),
    Decimal((1, (1, 2, 3), decimal.MIN_ETINY)), Decimal((0, (9,), decimal.MAX_EMAX)),
    Decimal("1" * 10_000),
    Fraction(0), Fraction(-1, 3), Fraction(1 << 1000, 3**500),
    UUID(int=0), UUID(int=2**128 - 1),
    IPv4Address("1.2.3.4"), IPv4Network("10.0.0.0/8"), IPv4Interface("10.1.2.3/8"),
    IPv6Address("::1"), IPv6Address("fe80::1%eth0"), IPv6Address("fe80::1%\ud800"),
    IPv6Network("2001:db8::/32"), IPv6Network("fe80::%eth0/64"),
    IPv6Interface("fe80::1/64"), IPv6Interface("fe80::1%eth0/64"),
]  # fmt: skip


@pytest.mark.parametrize("value", EXAMPLES, ids=lambda value: type(value).__name__)
def test_an_edge_of_each_type_comes_back_exactly(value: object) -> None:
    assert_round_trip(value)
    assert_round_trip([{"k": (value, [value])}])
    if not isinstance(value, (list, dict, set, tuple)) and not (
        isinstance(value, Decimal) and value.is_snan()
    ):
        assert_round_trip({value: {value}, "k": frozenset({(value, value)})})


def test_a_caller_with_a_lax_decimal_context_reads_exact_decimals() -> None:
    value = Decimal("1.2345678901234567890")
    with decimal.localcontext(decimal.Context(prec=3, traps=[])):
        assert_round_trip(value)
        with pytest.raises(DecodeError):
            decode_value(cbor2.dumps(cbor2.CBORTag(45066, "no number")))


@pytest.mark.parametrize("month", [1, 7])
def test_a_datetime_in_a_named_zone_comes_back_at_its_offset(month: int) -> None:
    value = dt.datetime(2024, month, 1, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
    back = decode_value(encode_value(value))
    assert type(back.tzinfo) is dt.timezone
    assert back == value
    assert back.utcoffset() == value.utcoffset()
    assert back.replace(tzinfo=None) == value.replace(tzinfo=None)


def test_the_second_two_thirty_of_a_night_keeps_its_fold_and_offset() -> None:
    zone = zoneinfo.ZoneInfo("Europe/Berlin")
    for fold in (0, 1):
        value = dt.datetime(2024, 10, 27, 2, 30, tzinfo=zone, fold=fold)
        back = decode_value(encode_value(value))
        assert (back.fold, back.utcoffset()) == (fold, dt.timedelta(hours=2 - fold))


def test_a_time_without_a_fixed_offset_is_refused() -> None:
    value = dt.time(12, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
    with pytest.raises(UnserializableValueError, match=r"result\['at'\]: .*no fixed offset"):
        encode_value({"at": value})


def test_a_time_zone_that_fails_is_reported_as_a_refusal() -> None:
    class Broken(dt.tzinfo):
        def utcoffset(self, when: dt.datetime | None) -> dt.timedelta:
            raise RuntimeError("out of tables")

        dst = tzname = utcoffset  # type: ignore[assignment]

    with pytest.raises(UnserializableValueError, match=r"result\[0\]: .*out of tables"):
        encode_value([dt.datetime(2024, 1, 1, tzinfo=Broken())])


def test_keys_that_only_their_zone_tells_apart_are_refused() -> None:
    # 2:30 does not exist that night: as an instant it is 3:30, but in one zone they differ.
    zone = zoneinfo.ZoneInfo("Europe/Berlin")
    two, three = (dt.datetime(2024, 3, 31, hour, 30, tzinfo=zone) for hour in (2, 3))
    assert len({two, three}) == 2
    for value in ({two, three}, {two: 1, three: 2}, [{(two, 1), (three, 1)}]):
        with pytest.raises(UnserializableValueError, match="time zones"):
            encode_value(value)
    assert decode_value(encode_value({two: 1, three.replace(hour=4): 2})) is not None


def test_the_argument_is_not_changed_and_nothing_is_shared_with_what_comes_back() -> None:
    value = {"rows": [(1, [2]), {3: {4}}], "plain": {"a": [1]}}
    before = copy.deepcopy(value)
    back = decode_value(encode_value(value))
    assert value == before == back
    back["plain"]["a"].append(2)
    assert value == before


def test_a_memoryview_is_decoded_as_bytes_are() -> None:
    data = encode_value({"a": (1, "x")})
    assert decode_value(memoryview(b"..." + data)[3:]) == {"a": (1, "x")}


# -- the on-disk format ---------------------------------------------------------------------------

GOLDEN: list[tuple[Any, str]] = [
    ({"a": [1, -1, 1.5, None, True]}, "a1616185 0120 fb3ff8000000000000 f6f5"),
    (b"\x01", "4101"),
    (1 << 64, "c249010000000000000000"),
    (-1 - (1 << 64), "c349010000000000000000"),
    (math.inf, "f97c00"),
    ((1, "a"), "d9b000 82016161"),
    ({1}, "d9b001 8101"),
    (frozenset({1}), "d9b002 8101"),
    ({1: "a"}, "d9b003 82016161"),
    ("\ud800", "d9b004 43eda080"),
    (1j, "d9b005 82fb0000000000000000fb3ff0000000000000"),
    (dt.datetime(2024, 1, 2), "d9b006 73323032342d30312d30325430303a30303a3030"),
    (dt.datetime(2024, 1, 2, fold=1), "d9b006 8473323032342d30312d30325430303a30303a303001f6f6"),
    (
        dt.datetime(2024, 1, 2, tzinfo=dt.timezone(-dt.timedelta(hours=5))),
        "d9b006 7819323032342d30312d30325430303a30303a30302d30353a3030",
    ),
    (
        dt.datetime(2024, 1, 2, tzinfo=dt.timezone(dt.timedelta(seconds=1), "Z")),
        "d9b006 8473323032342d30312d30325430303a30303a3030001a000f4240615a",
    ),
    (dt.date(2024, 1, 2), "d9b007 6a323032342d30312d3032"),
    (dt.time(1, 2, 3), "d9b008 6830313a30323a3033"),
    (dt.timedelta(seconds=1), "d9b009 1a000f4240"),
    (Decimal("-1.50"), "d9b00a 652d312e3530"),
    (Fraction(1, 3), "d9b00b 820103"),
    (UUID(int=1), "d9b00c 5000000000000000000000000000000001"),
    (IPv4Address("1.2.3.4"), "d9b00d 67312e322e332e34"),
    (IPv4Network("1.0.0.0/8"), "d9b00e 69312e302e302e302f38"),
    (IPv4Interface("1.2.3.4/8"), "d9b00f 69312e322e332e342f38"),
    (IPv6Address("fe80::1%a"), "d9b010 69666538303a3a312561"),
    (IPv6Network("::/8"), "d9b011 643a3a2f38"),
    (IPv6Interface("::1/8"), "d9b012 653a3a312f38"),
]


@pytest.mark.parametrize(("value", "hexed"), GOLDEN, ids=lambda item: type(item).__name__)
def test_the_bytes_of_each_type_are_those_of_the_format(value: object, hexed: str) -> None:
    assert encode_value(value) == bytes.fromhex(hexed)
    assert form(decode_value(bytes.fromhex(hexed))) == form(value)


def test_the_documented_table_of_tags_is_that_of_the_code() -> None:
    rows = re.findall(r"^(\d{5})  (\w+)", codec_tags.__doc__ or "", re.MULTILINE)
    containers = [
        (codec_tags.TAG_TUPLE, "tuple"),
        (codec_tags.TAG_SET, "set"),
        (codec_tags.TAG_FROZENSET, "frozenset"),
        (codec_tags.TAG_DICT, "dict"),
        (codec_tags.TAG_SURROGATES, "str"),
    ]
    leaves = [(leaf.tag, leaf.kind.__name__) for leaf in codec_tags.LEAVES]
    assert [(int(tag), kind) for tag, kind in rows] == containers + leaves


# -- refusals -------------------------------------------------------------------------------------


class Level(enum.IntEnum):
    LOW = 1


class Colour(str, enum.Enum):
    RED = "red"


class Point(NamedTuple):
    x: int


class Text(str):
    __slots__ = ()


class Thing:
    __hash__ = object.__hash__


@pytest.mark.parametrize(
    ("value", "path", "kind"),
    [
        (bytearray(), "result", "builtins.bytearray"),
        ({"rows": [0, 1, 2, Thing()]}, "result['rows'][3]", f"{__name__}.Thing"),
        ([Level.LOW], "result[0]", f"{__name__}.Level"),
        ({"c": Colour.RED}, "result['c']", f"{__name__}.Colour"),
        ({"a": ({"b": Point(1)},)}, "result['a'][0]['b']", f"{__name__}.Point"),
        (collections.OrderedDict(a=1), "result", "collections.OrderedDict"),
        ([collections.defaultdict(int)], "result[0]", "collections.defaultdict"),
        ({1: [2, Text("x")]}, "result[1][1]", f"{__name__}.Text"),
        ({(1, None): Thing()}, "result[(1, None)]", f"{__name__}.Thing"),
        ({"a": 1, Text("b"): 2}, "result.keys()[1]", f"{__name__}.Text"),
        ({0: 1, Thing(): 2}, "result.keys()[1]", f"{__name__}.Thing"),
        ({(1, Level.LOW): 2}, "result.keys()[0][1]", f"{__name__}.Level"),
        ({"s": {Level.LOW}}, "result['s'].elements()[0]", f"{__name__}.Level"),
        (frozenset({(Thing(),)}), "result.elements()[0][0]", f"{__name__}.Thing"),
        ({"x" * 500: Thing()}, f"result['{'x' * 80}'...]", f"{__name__}.Thing"),
        ({10**5000: Thing()}, "result[<int of 16610 bits>]", f"{__name__}.Thing"),
        ({"\ud800": Thing()}, "result['\\ud800']", f"{__name__}.Thing"),
        ({"\ud800": ["\ud800", Thing()]}, "result['\\ud800'][1]", f"{__name__}.Thing"),
        (type, "result", "builtins.type"),
        (..., "result", "builtins.ellipsis"),
    ],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_a_value_of_another_type_is_refused_with_its_type_and_path(
    value: object, path: str, kind: str
) -> None:
    with pytest.raises(UnserializableValueError) as caught:
        encode_value(value)
    assert isinstance(caught.value, TypeError)
    assert str(caught.value).startswith(f"cannot store {path}: the {kind} there ")


def test_the_root_of_the_path_has_the_name_that_the_caller_gives() -> None:
    with pytest.raises(UnserializableValueError, match=r"cannot store meta\[0\]: "):
        encode_value([Thing()], root="meta")


def test_a_subclass_is_refused_with_what_to_do() -> None:
    with pytest.raises(UnserializableValueError, match=r"subclass of int.*convert it to int"):
        encode_value(Level.LOW)


def test_a_value_that_holds_itself_is_refused_where_the_circle_closes() -> None:
    rows: list[Any] = [1, 2]
    value = {"rows": rows, "n": 1}
    rows.append({"back": (rows,)})
    with pytest.raises(UnserializableValueError) as caught:
        encode_value(value)
    path = "result['rows'][2]['back'][0]"
    assert str(caught.value) == f"cannot store {path}: the builtins.list there holds itself"


@pytest.mark.parametrize(
    ("wrap", "step"),
    [
        (lambda inner: [inner], "[0]"),
        (lambda inner: (inner,), "[0]"),
        (lambda inner: {"k": inner}, "['k']"),
        (lambda inner: {1: inner}, "[1]"),
        (lambda inner: frozenset({inner}), ".elements()[0]"),
        (lambda inner: {(inner,): 1} if isinstance(inner, str) else (inner,), ""),
    ],
)
def test_nesting_is_possible_up_to_the_limit_and_refused_beyond(wrap: Any, step: str) -> None:
    value: Any = "\ud800"
    for _ in range(MAX_DEPTH):
        value = wrap(value)
    if step:
        assert_round_trip(value)
        with pytest.raises(UnserializableValueError) as caught:
            encode_value(wrap(value))
        assert f"result{step * MAX_DEPTH}: " in str(caught.value)
        assert f"deeper than {MAX_DEPTH} levels" in str(caught.value)


def test_the_deepest_leaf_with_the_most_tags_still_decodes() -> None:
    zone = dt.timezone(dt.timedelta(hours=1), "\ud800")
    value: Any = dt.datetime(2024, 1, 1, tzinfo=zone, fold=1)
    for _ in range(MAX_DEPTH):
        value = (value,)
    assert_round_trip(value)


def test_nesting_far_beyond_any_stack_is_refused() -> None:
    value: Any = []
    for _ in range(200_000):
        value = [value]
    with pytest.raises(UnserializableValueError, match="deeper"):
        encode_value(value)


@pytest.mark.parametrize("count", [SAME_HASH_MAX, SAME_HASH_MAX + 1])
def test_keys_of_one_hash_are_limited_when_written_and_when_read(count: int) -> None:
    keys = [n * (2**61 - 1) for n in range(count)]
    assert len({hash(key) for key in keys}) == 1
    by_hand = cbor2.dumps(cbor2.CBORTag(codec_tags.TAG_SET, keys))
    dict_by_hand = cbor2.dumps(cbor2.CBORTag(codec_tags.TAG_DICT, [n for n in keys for _ in "kv"]))
    if count <= SAME_HASH_MAX:
        assert_round_trip(set(keys))
        assert decode_value(by_hand) == set(keys)
        assert decode_value(dict_by_hand) == dict(zip(keys, keys, strict=True))
    else:
        with pytest.raises(UnserializableValueError, match=r"\['k'\].*one hash"):
            encode_value({"k": dict.fromkeys(keys)})
        for data in (by_hand, dict_by_hand):
            with pytest.raises(DecodeError, match="one hash"):
                decode_value(data)


def test_a_fraction_too_long_to_be_read_back_in_time_is_refused() -> None:
    bits = codec_tags.FRACTION_BITS_MAX
    assert_round_trip(Fraction(1 << (bits - 1)))
    with pytest.raises(UnserializableValueError, match=r"result\[0\].*bits"):
        encode_value([Fraction(1 << bits)])
    with pytest.raises(DecodeError, match="bits"):
        decode_value(cbor2.dumps(cbor2.CBORTag(45067, [1 << bits, 1])))


# -- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [b"x" * 1000, "x" * 1000, 1 << 8000, [1000] * 400, {1: "é" * 500}]
)
def test_the_limit_is_the_exact_number_of_encoded_bytes(value: object) -> None:
    size = len(encode_value(value))
    assert encode_value(value, max_bytes=size) == encode_value(value)
    with pytest.raises(ValueTooLargeError) as caught:
        encode_value(value, max_bytes=size - 1)
    assert isinstance(caught.value, ValueError)
    numbers = [int(number) for number in re.findall(r"\d+", str(caught.value))]
    assert size - 5 <= numbers[0] <= size
    assert numbers[1] == size - 1


def test_one_string_met_very_often_is_stopped_at_the_limit() -> None:
    many = [b"x" * (1 << 20)] * 1_000_000  # a terabyte when written out
    with pytest.raises(ValueTooLargeError):
        encode_value(many, max_bytes=4 << 20)


def test_lists_that_share_lists_are_stopped_at_the_limit() -> None:
    value: list[Any] = [0, 0]
    for _ in range(60):
        value = [value, value]
    with pytest.raises(ValueTooLargeError, match=r"at least 10000[12] bytes"):
        encode_value(value, max_bytes=100_000)


def test_a_large_value_comes_back() -> None:
    value = {"blob": b"\xff" * (3 << 20), "rows": [[n, str(n), n / 7] for n in range(20_000)]}
    assert decode_value(encode_value(value)) == value


# -- hostile bytes --------------------------------------------------------------------------------


def assert_storable_or_decode_error(data: bytes) -> None:
    try:
        value = decode_value(data)
    except DecodeError as error:
        assert len(str(error)) < 300  # noqa: PT017 - most inputs raise, some do not
        return
    assert form(decode_value(encode_value(value))) == form(value)


@FUZZ
@given(st.binary(max_size=200))
def test_random_bytes_give_a_listed_value_or_a_decode_error(data: bytes) -> None:
    assert_storable_or_decode_error(data)


@FUZZ
@given(values(), st.data())
def test_a_damaged_encoding_gives_a_listed_value_or_a_decode_error(
    value: object, data: st.DataObject
) -> None:
    damaged = bytearray(encode_value(value))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    assert_storable_or_decode_error(bytes(damaged))


def crafted() -> st.SearchStrategy[Any]:
    """CBOR that is well-formed and has the right tags, around payloads that may be wrong."""
    ours = [codec_tags.TAG_TUPLE + n for n in range(len(codec_tags.LEAVES) + 5)]
    theirs = [0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004,
              43000, 55799, 45055, 45075]  # fmt: skip
    texts_in_use = [
        "2024-01-01T00:00:00", "2024-01-01T00:00:00.000001+01:00:00.5", "12:30", "12:30:00+01:00",
        "1E999999999999999999999", "sNaN", "1.2.3.4", "1.2.3.4/8", "1.2.3.4/255.0.0.0", "::1%x/9",
        "::/0", "9" * 5000, "١٢", "0001-01-01T00:00:00+23:59", "24:00", "2024-W01-1",
    ]  # fmt: skip
    leaf = (
        st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(texts_in_use)
        | st.text(max_size=5) | st.binary(max_size=17) | st.sampled_from([0, 1, 2, 10**30, 1.0])
        | st.builds(cbor2.CBORSimpleValue, st.integers(0, 19)) | st.just(cbor2.undefined)
    )  # fmt: skip
    return st.recursive(
        leaf,
        lambda inner: (
            st.builds(cbor2.CBORTag, st.sampled_from(ours), inner)
            | st.builds(cbor2.CBORTag, st.sampled_from(ours), inner)
            | st.builds(cbor2.CBORTag, st.sampled_from(theirs), inner)
            | st.lists(inner, max_size=4)
            | st.dictionaries(st.text(max_size=2) | st.integers(0, 2), inner, max_size=3)
        ),
        max_leaves=8,
    )


@settings(FUZZ, max_examples=1000)
@given(crafted())
def test_crafted_items_give_a_listed_value_or_a_decode_error(item: object) -> None:
    assert_storable_or_decode_error(cbor2.dumps(item))


def tagged(tag: int, payload: object) -> str:
    return cbor2.dumps(cbor2.CBORTag(tag, payload)).hex()


@pytest.mark.parametrize(
    ("name", "hexed"),
    [
        ("nothing", ""),
        ("more after the item", "0000"),
        ("much more after the item", "00" + "00" * 200_000),
        ("a break after the item", "8101ff"),
        ("a break", "ff"),
        ("a break in an array", "81ff"),
        ("an indefinite array", "9f01ff"),
        ("an indefinite map", "bf616101ff"),
        ("an indefinite byte string", "5f4101ff"),
        ("an indefinite text", "7f6161ff"),
        ("undefined", "f7"),
        ("undefined in a list", "8182f701"),
        ("undefined in a map", "a16161f7"),
        ("undefined in a tuple", "d9b00081f7"),
        ("undefined in a set", "d9b00181f7"),
        ("undefined as a key", "d9b00382f701"),
        ("a simple value", "e5"),
        ("a simple value of two bytes", "f8ff"),
        ("an array cut short", "8201"),
        ("an array of 2**59 items", "9b0800000000000000"),
        ("a map of 2**59 items", "bb0800000000000000"),
        ("a byte string of 2**62 bytes", "5b4000000000000000"),
        ("a text of 2**31 bytes", "7a80000000"),
        ("a text that is not UTF-8", "61ff"),
        ("a text with a surrogate", "63eda080"),
        ("equal keys", "a2616101616102"),
        ("a map with an int key", "a10102"),
        ("a map with a map as key", "a1a102"),
        ("nested arrays", "81" * 100_000 + "00"),
        ("nested maps", "a16161" * 100_000 + "00"),
        ("nested tags", "c0" * 100_000 + "00"),
        ("nested tuples", "d9b00081" * 100_000 + "00"),
        ("just too deep", "81" * (MAX_DEPTH + 1) + "00"),
        ("shared value", "d81c80"),
        ("shared reference", "82d81c80d81d00"),
        ("string references", "d9010082636162636374d81900"),
        ("standard datetime", "c074323031332d30332d32315432303a30343a30305a"),
        ("epoch", "c101"),
        ("decimal bomb", "c4821b7fffffffffffffff01"),
        ("bigfloat bomb", "c5821b7fffffffffffffff01"),
        ("rational", "d81e820103"),
        ("regular expression", tagged(35, "(a+)+b")),
        ("MIME", tagged(36, "a: b")),
        ("standard UUID", tagged(37, bytes(16))),
        ("standard set", tagged(258, [1])),
        ("self-described", tagged(55799, 1)),
        ("a tag before ours", tagged(45055, 1)),
        ("a tag after ours", tagged(45075, 1)),
        ("a bignum that is an array", "c28101"),
        ("a tuple that is a text", tagged(45056, "ab")),
        ("a tuple that is a map", tagged(45056, {"a": 1})),
        ("a set with equal elements", tagged(45057, [1, 1.0])),
        ("a set with a list", tagged(45057, [[]])),
        ("a set with a signalling nan", tagged(45057, [cbor2.CBORTag(45066, "sNaN")])),
        ("a dict with equal keys", tagged(45059, [1, 2, True, 3])),
        ("a dict without its last value", tagged(45059, [1, 2, 3])),
        ("surrogates that are not", tagged(45060, b"\xff")),
        ("complex of ints", tagged(45061, [1, 2])),
        ("complex of three", tagged(45061, [1.0, 2.0, 3.0])),
        ("no datetime", tagged(45062, "yesterday")),
        ("a datetime that is a number", tagged(45062, 1)),
        ("a fold of two", tagged(45062, ["2024-01-01T00:00:00", 2, None, None])),
        ("a name without a zone", tagged(45062, ["2024-01-01T00:00:00", 0, None, "CET"])),
        (
            "an offset of two days",
            tagged(45062, ["2024-01-01T00:00:00", 0, 2 * 86400 * 10**6, None]),
        ),
        ("a name that is a number", tagged(45064, ["00:00:00", 0, 0, 1])),
        ("a date that is a datetime", tagged(45063, "2024-01-01T00:00:00")),
        ("a timedelta out of range", tagged(45065, 10**30)),
        ("a timedelta of a bool", tagged(45065, True)),
        ("a decimal out of range", tagged(45066, "1E9999999999999999999")),
        ("a fraction by zero", tagged(45067, [1, 0])),
        ("a UUID of 15 bytes", tagged(45068, bytes(15))),
        ("an address with a prefix", tagged(45069, "1.2.3.4/8")),
        ("a network without prefix", tagged(45070, "1.2.3.4")),
        ("a network with host bits", tagged(45070, "1.2.3.4/8")),
        ("a prefix of many digits", tagged(45071, "1.2.3.4/" + "0" * 1_000_000 + "8")),
        ("an IPv4 address as IPv6", tagged(45072, "1.2.3.4")),
    ],
    ids=lambda item: item if " " in item else "",
)
def test_bytes_that_are_never_written_raise_a_decode_error(name: str, hexed: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_value(bytes.fromhex(hexed))
    assert isinstance(caught.value, CorruptionError)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", [{"a": [1, (2, 3)], "b": "text"}, {1: {2.5}}, "x" * 300])
def test_every_prefix_and_every_extension_of_an_encoding_raises(value: object) -> None:
    data = encode_value(value)
    for end in range(len(data)):
        with pytest.raises(DecodeError):
            decode_value(data[:end])
    for more in (b"\x00", b"\xff", data):
        with pytest.raises(DecodeError, match="followed by"):
            decode_value(data + more)


# -- small values, which an event loop encodes ----------------------------------------------------

PLAIN_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts() | st.binary(max_size=20),
    lambda items: st.lists(items, max_size=4) | st.dictionaries(texts(), items, max_size=4),
    max_leaves=12,
)


def encode_on_loop(value: Any) -> bytes | None:
    try:
        return encode_value(value, limit="small")
    except BudgetExceededError:
        return None


def encode_in_full(value: Any) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "weigh", lambda value: "large")
        return encode_value(value)


@FUZZ
@given(values() | PLAIN_VALUES)
def test_a_loop_writes_the_same_bytes_or_nothing(value: Any) -> None:
    assert encode_on_loop(value) in (None, encode_in_full(value))
    assert encode_value(value) == encode_in_full(value)


PLAIN: list[Any] = [None, True, 1, 1 << 80, 0.5, "a", b"a", [], {}, [1, {"a": [{"b": [None]}]}]]
TAGGED: list[Any] = [Decimal(1), {1: 2}, {b"a": 1}, 1j, (), [set()]]
UNKNOWN: list[Any] = [object(), Text("a"), {Text("a"): 1}, {"a": Text("b")}]


@pytest.mark.parametrize(
    ("value", "weight"),
    [
        *((value, "plain") for value in PLAIN),
        *((value, "tagged") for value in TAGGED),
        *((value, "unknown") for value in UNKNOWN),
        ([Text("a"), [0] * PARTS_MAX], "unknown"),
        ([[Text("a")], [0] * PARTS_MAX, ()], "unknown"),
        ([[0] * PARTS_MAX, [Text("a")]], "large"),
    ],
)
def test_the_weight_of_a_value_says_how_to_encode_it(value: Any, weight: str) -> None:
    assert weigh(value) == weight
    assert (encode_on_loop(value) is not None) is (weight in ("plain", "tagged"))
    if weight == "unknown":
        with pytest.raises(UnknownTypeError):
            encode_value(value, limit="small")


def test_a_key_in_a_path_is_shown_up_to_eighty_characters() -> None:
    for key, shown in (("k" * 80, repr("k" * 80)), ("k" * 81, repr("k" * 80) + "...")):
        with pytest.raises(UnserializableValueError) as caught:
            encode_value({key: object()})
        assert f"result[{shown}]" in str(caught.value)


def test_on_a_loop_nothing_is_converted_before_an_unknown_type_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What stands before it may be large, and is not weighed."""
    monkeypatch.setattr(codec, "lower", lambda *_: pytest.fail("converted"))
    with pytest.raises(UnknownTypeError):
        encode_value([[[0] * 1_000_000], object()], limit="small")


def test_weighing_leaves_a_class_that_has_no_hash_to_the_encoder() -> None:
    class Meta(type):
        __hash__ = None  # type: ignore[assignment]

    class Odd(metaclass=Meta):
        pass

    for value in (Odd(), [Odd()], {"k": Odd()}):
        assert weigh(value) == "unknown"


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ([0] * (PARTS_MAX - 1), [0] * PARTS_MAX),
        ("a" * (SMALL_BYTES - PART_COST), "a" * (SMALL_BYTES - PART_COST + 1)),
        ([b"a" * (SMALL_BYTES // 2)], [b"a" * SMALL_BYTES]),
        ({"a" * (SMALL_BYTES // 2): 1}, {"a" * SMALL_BYTES: 1}),
        ({i: i for i in range(PARTS_MAX // 3)}, {i: i for i in range(PARTS_MAX)}),
        ([1 << 4 * SMALL_BYTES], [1 << 8 * SMALL_BYTES]),
        ([Decimal(1)] * 50, [Decimal(1)] * 80),
        ([Decimal("1" * SMALL_BYTES)], [Decimal("1" * 10 * SMALL_BYTES)]),
        ({("a",) * 200}, {("a",) * PARTS_MAX}),
        (nested(MAX_DEPTH - 1), ENDLESS),
    ],
    ids=lambda value: f"{type(value).__name__} of {len(value)}",
)
def test_a_loop_encodes_small_values_only(small: Any, large: Any) -> None:
    assert encode_on_loop(small) == encode_in_full(small)
    assert weigh(large) == "large"
    assert encode_on_loop(large) is None


@pytest.mark.parametrize("other", [object(), Text("a")])
def test_a_thread_that_must_not_run_other_code_encodes_stored_types_only(other: Any) -> None:
    large: list[Any] = [[0] * PARTS_MAX, {"a": (Decimal(1),)}]
    assert encode_value(large, limit="stored") == encode_value(large)
    large[1]["a"] = [other]
    with pytest.raises(UnknownTypeError):
        encode_value(large, limit="stored", enc_hook=lambda _: pytest.fail("called"))


def test_a_small_value_that_is_nested_too_deep_is_refused_on_a_loop() -> None:
    with pytest.raises(UnserializableValueError, match="deeper"):
        encode_value(nested(MAX_DEPTH), limit="small")


def test_a_small_value_has_the_size_limit_of_any_other() -> None:
    for value in ("a" * 100, ("a" * 100,)):
        with pytest.raises(ValueTooLargeError):
            encode_value(value, max_bytes=100, limit="small")
