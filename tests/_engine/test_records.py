"""Records and marks of the table, and the keys of its indexes."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstore import CorruptRecordError, CorruptTableError
from logstore._engine import frames, records
from logstore._engine.frames import DELETED, EXPIRED, PROGRESS, RESULT, Entry
from logstore._engine.records import EXPIRY, TIME, Mark, Meta
from tests.support.drawn import FUZZ

SEED = frames.checksum_seed(bytes(range(16)))

numbers = st.integers(0, 2**64 - 1)
times = st.integers(1, frames.TIME_MAX)
keys = st.text(st.characters(codec="utf-8"), min_size=1, max_size=120).map(str.encode)
entries = st.builds(
    Entry,
    st.sampled_from((RESULT, PROGRESS, DELETED, EXPIRED)),
    st.integers(0, 3),
    times,
    st.one_of(st.just(0), times),
    st.binary(max_size=200),
)
marks = st.one_of(
    st.builds(Mark, times, st.just(0), st.one_of(st.just(0), times)),
    st.builds(Mark, st.just(0), times, st.one_of(st.just(0), times)),
    st.builds(Mark, st.just(0), st.just(0), times),
)
META = Meta(2, 0, bytes(range(16)), 7, 2, 12345, True, 1 << 31)


# -- records ---------------------------------------------------------------------------------


@FUZZ
@given(keys, entries)
def test_a_record_decodes_to_what_was_encoded(key: bytes, entry: Entry) -> None:
    raw = records.encode_record(SEED, key, entry)
    found = records.decode_record(SEED, entry.time_us, raw, "app.db")
    assert found == (key, entry, len(entry.payload))


@FUZZ
@given(keys, entries)
def test_a_record_decoded_without_its_payload_keeps_the_size(key: bytes, entry: Entry) -> None:
    raw = memoryview(records.encode_record(SEED, key, entry))
    found = records.decode_record(SEED, entry.time_us, raw, "app.db", with_payload=False)
    assert found == (key, entry._replace(payload=b""), len(entry.payload))


@FUZZ
@given(keys, entries, st.integers(0, 10_000))
def test_a_record_with_any_bit_flipped_raises(key: bytes, entry: Entry, place: int) -> None:
    raw = bytearray(records.encode_record(SEED, key, entry))
    place %= len(raw) * 8
    raw[place // 8] ^= 1 << place % 8
    with pytest.raises(CorruptRecordError):
        records.decode_record(SEED, entry.time_us, bytes(raw), "app.db")


def test_damage_is_named_with_file_time_and_both_checksums() -> None:
    raw = bytearray(records.encode_record(SEED, b"task-1", Entry(RESULT, 0, 1234, 0, b"value")))
    expected = int.from_bytes(raw[:4], "little")
    raw[-1] ^= 1
    with pytest.raises(CorruptRecordError) as caught:
        records.decode_record(SEED, 1234, bytes(raw), "/data/app.db")
    message = str(caught.value)
    assert "/data/app.db" in message
    assert "1234" in message
    assert f"expected checksum {expected:08x}, found " in message


def test_a_record_in_the_place_of_another_time_raises() -> None:
    raw = records.encode_record(SEED, b"a", Entry(RESULT, 0, 1, 0, b"value"))
    with pytest.raises(CorruptRecordError):
        records.decode_record(SEED, 2, raw, "app.db")


def test_a_record_of_another_store_raises() -> None:
    raw = records.encode_record(frames.checksum_seed(bytes(16)), b"a", Entry(1, 0, 1, 0, b"v"))
    with pytest.raises(CorruptRecordError):
        records.decode_record(SEED, 1, raw, "app.db")


@pytest.mark.parametrize("size", [0, 1, records.RECORD.size - 1])
def test_a_record_shorter_than_its_head_raises(size: int) -> None:
    raw = records.encode_record(SEED, b"a", Entry(RESULT, 0, 1, 0, b"value"))[:size]
    with pytest.raises(CorruptRecordError, match=f"expected at least 16 bytes, found {size}"):
        records.decode_record(SEED, 1, raw, "app.db")


@pytest.mark.parametrize(
    ("key", "entry"),
    [
        (b"", Entry(RESULT, 0, 1, 0, b"")),
        (b"k" * (frames.KEY_BYTES_MAX + 1), Entry(RESULT, 0, 1, 0, b"")),
        (b"\xff", Entry(RESULT, 0, 1, 0, b"")),
        (b"a\xed\xa0\x80", Entry(RESULT, 0, 1, 0, b"")),
        (b"k", Entry(0, 0, 1, 0, b"")),
        (b"k", Entry(5, 0, 1, 0, b"")),
        (b"k", Entry(RESULT, 4, 1, 0, b"")),
        (b"k", Entry(RESULT, 0, 0, 0, b"")),
        (b"k", Entry(RESULT, 0, frames.TIME_MAX + 1, 0, b"")),
        (b"k", Entry(RESULT, 0, 2**64 - 1, 0, b"")),
        (b"k", Entry(RESULT, 0, 1, frames.TIME_MAX + 1, b"")),
        (b"k", Entry(RESULT, 0, 1, 2**64 - 1, b"")),
    ],
    ids=[
        *("no key", "key over the limit", "no UTF-8", "a surrogate", "kind 0", "kind 5"),
        *("unknown flag", "time 0", "time beyond the last", "largest time"),
        *("expiry beyond the last", "largest expiry"),
    ],
)
@pytest.mark.parametrize("with_payload", [True, False])
def test_a_record_with_a_good_checksum_that_no_writer_writes_raises(
    key: bytes, entry: Entry, with_payload: bool
) -> None:
    raw = records.encode_record(SEED, key, entry)
    with pytest.raises(CorruptRecordError, match=r"app\.db: the record .* that are written, found"):
        records.decode_record(SEED, entry.time_us, raw, "app.db", with_payload=with_payload)


def test_a_record_whose_key_goes_past_its_end_raises() -> None:
    body = records.RECORD_BODY.pack(RESULT, 0, 5, 0) + b"four"
    crc = zlib.crc32(TIME.pack(1), zlib.crc32(body, SEED))
    with pytest.raises(CorruptRecordError):
        records.decode_record(SEED, 1, crc.to_bytes(4, "little") + body, "app.db")


# -- marks -----------------------------------------------------------------------------------


@FUZZ
@given(keys, marks)
def test_a_mark_decodes_to_what_was_encoded(key: bytes, mark: Mark) -> None:
    raw = records.encode_mark(SEED, key, mark)
    assert records.decode_mark(SEED, key, raw, "app.db") == mark


@FUZZ
@given(keys, marks, st.integers(0, 10_000))
def test_a_mark_with_any_bit_flipped_raises(key: bytes, mark: Mark, place: int) -> None:
    raw = bytearray(records.encode_mark(SEED, key, mark))
    place %= len(raw) * 8
    raw[place // 8] ^= 1 << place % 8
    with pytest.raises(CorruptRecordError):
        records.decode_mark(SEED, key, bytes(raw), "app.db")


@FUZZ
@given(keys, marks, st.integers(0, 100))
def test_a_mark_cut_short_raises(key: bytes, mark: Mark, size: int) -> None:
    raw = records.encode_mark(SEED, key, mark)
    with pytest.raises(CorruptRecordError):
        records.decode_mark(SEED, key, raw[: size % len(raw)], "app.db")


def test_a_damaged_mark_is_named_with_file_and_task() -> None:
    raw = bytearray(records.encode_mark(SEED, b"task-1", Mark(1, 0, 2)))
    raw[-1] ^= 1
    with pytest.raises(CorruptRecordError, match=r"/data/app\.db: the mark of task b'task-1'"):
        records.decode_mark(SEED, b"task-1", bytes(raw), "/data/app.db")


def test_a_mark_in_the_place_of_another_task_raises() -> None:
    raw = records.encode_mark(SEED, b"a", Mark(1, 0, 2))
    with pytest.raises(CorruptRecordError):
        records.decode_mark(SEED, b"b", raw, "app.db")


@pytest.mark.parametrize(
    ("state", "times_us"),
    [
        *((0, ()), (3, (1, 2)), (7, (1, 2, 3)), (8, (1,)), (255, (1,) * 8)),
        *((1, (0,)), (5, (1, 0)), (1, (frames.TIME_MAX + 1,)), (6, (1, 2**64 - 1))),
        *((1, ()), (1, (1, 2)), (5, (1,))),
    ],
)
def test_a_mark_with_a_good_checksum_that_no_writer_writes_raises(
    state: int, times_us: tuple[int, ...]
) -> None:
    body = bytes((state,)) + b"".join(map(TIME.pack, times_us))
    raw = zlib.crc32(b"k", zlib.crc32(body, SEED)).to_bytes(4, "little") + body
    with pytest.raises(CorruptRecordError, match=r"app\.db: the mark of task b'k' is damaged"):
        records.decode_mark(SEED, b"k", raw, "app.db")


# -- the header and the keys -----------------------------------------------------------------


def test_the_header_decodes_to_what_was_encoded() -> None:
    assert records.decode_meta(records.encode_meta(META), "app.db") == META


def test_the_header_with_any_bit_flipped_raises() -> None:
    raw = records.encode_meta(META)
    for bit in range(len(raw) * 8):
        damaged = bytearray(raw)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptTableError, match=r"app\.db: the table's header is damaged"):
            records.decode_meta(bytes(damaged), "app.db")


@FUZZ
@given(numbers, numbers)
def test_time_keys_sort_as_their_times_do(one_us: int, two_us: int) -> None:
    one, two = TIME.pack(one_us), TIME.pack(two_us)
    assert (one < two, one == two) == (one_us < two_us, one_us == two_us)


@FUZZ
@given(numbers, numbers, numbers, numbers)
def test_expiry_keys_sort_by_expiry_first(one_us: int, two_us: int, a_us: int, b_us: int) -> None:
    one, two = EXPIRY.pack(one_us, RESULT, a_us), EXPIRY.pack(two_us, RESULT, b_us)
    assert (one < two) == ((one_us, a_us) < (two_us, b_us))


def test_the_longest_task_id_fits_into_an_lmdb_key() -> None:
    assert frames.KEY_BYTES_MAX <= 511
