"""The log's bytes: page 0 and frames, whole, damaged, foreign and hostile."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstore._engine import frames
from logstore._engine.frames import DELETED, FAILED, PROGRESS, RESULT, Entry
from tests.support.drawn import FUZZ

UUID = bytes(range(16))
SEED = frames.checksum_seed(UUID)
BASE = frames.HEADER_BYTES

entries = st.builds(
    Entry,
    st.sampled_from((RESULT, PROGRESS, DELETED)),
    st.integers(0, 3),
    st.integers(1, frames.TIME_MAX),
    st.integers(0, frames.TIME_MAX),
    st.binary(max_size=200),
)
keys = st.text(st.characters(codec="utf-8"), min_size=1, max_size=120).map(str.encode)
keyed = st.tuples(keys, entries)


def encode(*items: tuple[bytes, Entry], epoch: int = 7, synced: int = BASE) -> bytes:
    return b"".join(frames.encode_frame(SEED, epoch, synced, key, entry) for key, entry in items)


def some_entry(payload: bytes = b"payload") -> Entry:
    return Entry(RESULT, FAILED, 1234, 5678, payload)


@FUZZ
@given(st.lists(keyed, max_size=5))
def test_scan_of_encoded_frames_gives_them_back_in_order(items: list[tuple[bytes, Entry]]) -> None:
    data = encode(*items)
    found, end = frames.scan(data + bytes(100), BASE, SEED, 7)
    assert [(frame.key, frame.entry) for frame in found] == items
    assert end == BASE + len(data)
    assert [frame.offset for frame in found] == [BASE, *(frame.end for frame in found)][:-1]


@FUZZ
@given(keyed, st.integers(0, 10_000))
def test_a_frame_with_any_bit_flipped_is_not_found(item: tuple[bytes, Entry], place: int) -> None:
    data = bytearray(encode(item))
    place %= len(data) * 8
    data[place // 8] ^= 1 << place % 8
    assert frames.decode_frame(bytes(data), 0, BASE, SEED, 7) is None


@FUZZ
@given(keyed, st.integers(0, 10_000))
def test_a_frame_cut_short_anywhere_is_not_found(item: tuple[bytes, Entry], cut: int) -> None:
    data = encode(item)
    assert frames.decode_frame(data[: cut % len(data)], 0, BASE, SEED, 7) is None


@FUZZ
@given(st.binary(max_size=300))
def test_random_bytes_are_never_a_frame_and_never_an_error(data: bytes) -> None:
    assert frames.scan(data, BASE, SEED, 7) == ([], BASE)
    assert list(frames.find_frames(data, 0, BASE, SEED, 7)) == []
    frames.decode_epoch(data, 0)
    frames.decode_log_header(data)


def test_a_frame_of_another_epoch_ends_the_scan() -> None:
    data = encode((b"a", some_entry()))
    stale = encode((b"b", some_entry()), epoch=6)
    found, end = frames.scan(data + stale, BASE, SEED, 7)
    assert [frame.key for frame in found] == [b"a"]
    assert end == BASE + len(data)


def test_a_frame_of_another_store_does_not_check() -> None:
    other = frames.checksum_seed(bytes(16))
    foreign = frames.encode_frame(other, 7, BASE, b"a", some_entry())
    assert frames.decode_frame(foreign, 0, BASE, SEED, 7) is None


def whole_with_crc(body: bytes) -> bytes:
    return zlib.crc32(body, SEED).to_bytes(4, "little") + body


@pytest.mark.parametrize(
    ("length", "kind", "key_length"),
    [
        (0, RESULT, 1),
        (35, RESULT, 0),
        (37, RESULT, 2),
        (2**32 - 1, RESULT, 1),
        (37, 0, 1),
        (37, 4, 1),
        (37, 255, 1),
    ],
    ids=["no length", "below head", "key past end", "huge length", "kind 0", "kind 4", "kind 255"],
)
def test_a_frame_with_a_good_checksum_and_fields_out_of_bounds_is_not_found(
    length: int, kind: int, key_length: int
) -> None:
    stamp = frames.STAMP.pack(length, 7, BASE, kind, 0, key_length, 1, 0)
    data = whole_with_crc(stamp + b"k")
    assert frames.decode_frame(data, 0, BASE, SEED, 7) is None


def test_a_frame_with_a_key_over_the_limit_is_not_found() -> None:
    key = b"k" * (frames.KEY_BYTES_MAX + 1)
    assert frames.decode_frame(encode((key, some_entry())), 0, BASE, SEED, 7) is None
    assert frames.decode_frame(encode((key[:-1], some_entry())), 0, BASE, SEED, 7) is not None


@pytest.mark.parametrize(
    ("key", "time_us", "expires_us", "flags"),
    [
        (b"", 1, 0, 0),
        (b"\xff", 1, 0, 0),
        (b"a\xed\xa0\x80", 1, 0, 0),
        ("\u00e9".encode()[:1], 1, 0, 0),
        (b"k", 0, 0, 0),
        (b"k", frames.TIME_MAX + 1, 0, 0),
        (b"k", 2**64 - 1, 0, 0),
        (b"k", 1, frames.TIME_MAX + 1, 0),
        (b"k", 1, 2**64 - 1, 0),
        (b"k", 1, 0, 4),
    ],
    ids=[
        *("no key", "no UTF-8", "a surrogate", "half a letter", "time 0", "time beyond the last"),
        *("largest time", "expiry beyond the last", "largest expiry", "unknown flag"),
    ],
)
def test_a_frame_with_a_good_checksum_that_no_writer_writes_is_not_found(
    key: bytes, time_us: int, expires_us: int, flags: int
) -> None:
    data = encode((key, Entry(RESULT, flags, time_us, expires_us, b"payload")))
    assert frames.decode_frame(data, 0, BASE, SEED, 7) is None


def test_a_frame_of_the_last_time_with_any_letters_is_found() -> None:
    item = "\u00e9\U0001f600".encode(), Entry(RESULT, 3, frames.TIME_MAX, frames.TIME_MAX, b"")
    frame = frames.decode_frame(encode(item), 0, BASE, SEED, 7)
    assert frame is not None
    assert (frame.key, frame.entry) == item


def test_a_frame_that_knows_of_a_flush_behind_itself_is_not_found() -> None:
    assert frames.decode_frame(encode((b"k", some_entry())), 0, BASE, SEED, 7) is not None
    beyond = encode((b"k", some_entry()), synced=BASE + 1)
    assert frames.decode_frame(beyond, 0, BASE, SEED, 7) is None


def test_find_frames_behind_damage_finds_every_whole_frame() -> None:
    parts = [encode((bytes([65 + i]), some_entry(bytes(50)))) for i in range(5)]
    data = bytearray(b"".join(parts))
    data[len(parts[0]) + 40] ^= 1
    found = list(frames.find_frames(bytes(data), 0, BASE, SEED, 7))
    assert [frame.key for frame in found] == [b"A", b"C", b"D", b"E"]


def test_find_frames_inside_a_payload_that_quotes_a_frame_skips_the_quotation() -> None:
    quoted = encode((b"inner", some_entry()))
    data = encode((b"outer", some_entry(quoted)), (b"next", some_entry()))
    found = list(frames.find_frames(data, 0, BASE, SEED, 7))
    assert [frame.key for frame in found] == [b"outer", b"next"]


def test_damage_that_a_later_frame_knows_as_synced_is_proven() -> None:
    first = encode((b"a", some_entry()))
    second = encode((b"b", some_entry()), synced=BASE + len(first))
    broken = bytes(len(first)) + second
    proof = frames.damage_below_sync(broken, 0, BASE, SEED, 7)
    assert proof is not None
    assert proof.key == b"b"


def test_damage_before_a_frame_that_was_not_flushed_behind_it_is_a_torn_tail() -> None:
    first = encode((b"a", some_entry()))
    second = encode((b"b", some_entry()), synced=BASE)
    assert frames.damage_below_sync(bytes(len(first)) + second, 0, BASE, SEED, 7) is None


def test_log_header_encoded_is_one_page_and_decodes_to_what_it_was() -> None:
    page = frames.encode_log_header(UUID, 99)
    assert len(page) == frames.HEADER_BYTES
    assert frames.decode_log_header(page) == (frames.FORMAT_VERSION, UUID, 99)


def test_what_is_reserved_in_a_log_header_is_zero() -> None:
    page = frames.encode_log_header(UUID, 5)
    assert page[12:16] == bytes(4)
    assert page[frames.LOG_HEADER.size :] == bytes(4096 - frames.LOG_HEADER.size)


def test_log_header_with_any_bit_of_its_fields_flipped_is_refused() -> None:
    page = frames.encode_log_header(UUID, 99)
    for bit in range(frames.LOG_HEADER.size * 8):
        damaged = bytearray(page)
        damaged[bit // 8] ^= 1 << bit % 8
        assert frames.decode_log_header(bytes(damaged)) is None, bit


@pytest.mark.parametrize("size", [0, 1, 43])
def test_log_header_too_short_is_refused(size: int) -> None:
    assert frames.decode_log_header(frames.encode_log_header(UUID, 1)[:size]) is None


def test_decode_epoch_reads_what_a_torn_frame_claims() -> None:
    data = encode((b"a", some_entry()), epoch=0x01020304)
    assert frames.decode_epoch(data[:-1], 0) == 0x01020304
    assert frames.decode_epoch(data[:20], 0) == 0


def test_checksum_covers_the_whole_frame_behind_it() -> None:
    data = encode((b"a", some_entry()))
    (crc,) = struct.unpack_from("<I", data)
    assert crc == zlib.crc32(data[4:], zlib.crc32(UUID))


def test_a_length_is_not_believed() -> None:
    """A frame that claims to be four gigabytes long, at the end of a small log."""
    entry = frames.Entry(frames.RESULT, 0, 1, 0, b"payload")
    frame = bytearray(frames.encode_frame(7, 1, 4096, b"key", entry))
    assert frames.decode_frame(bytes(frame), 0, 4096, 7, 1) is not None
    struct.pack_into("<I", frame, 4, 0xFFFFFFF0)
    tracemalloc.start()
    try:
        assert frames.decode_frame(bytes(frame), 0, 4096, 7, 1) is None
        assert frames.scan(bytes(frame), 4096, 7, 1) == ([], 4096)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 16
