"""The log's bytes: page 0 and frames, whole, damaged, foreign and hostile."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstore._engine import frames
from logstore._engine.frames import DELETED, EXPIRED, FAILED, PROGRESS, RESULT, START, Entry
from tests.support.drawn import FUZZ

UUID = bytes(range(16))
SEED = frames.checksum_seed(UUID)
BASE = frames.HEADER_BYTES

entries = st.builds(
    Entry,
    st.sampled_from((RESULT, PROGRESS, DELETED, EXPIRED)),
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
@given(keyed, st.booleans())
def test_a_frame_keeps_whether_there_is_more(item: tuple[bytes, Entry], more: bool) -> None:
    data = frames.encode_frame(SEED, 7, BASE, *item, more=more)
    frame = frames.decode_frame(data, 0, BASE, SEED, 7)
    assert frame is not None
    assert (frame.key, frame.entry, frame.more) == (*item, more)


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
        (37, START, 1),
    ],
    ids=["no length", "below head", "key past end", "huge length", "kind 0", "START"],
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
    ],
    ids=[
        *("no key", "no UTF-8", "a surrogate", "half a letter", "time 0", "time beyond the last"),
        *("largest time", "expiry beyond the last", "largest expiry"),
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


# -- chains ------------------------------------------------------------------------------------


def chain(*keys: bytes, synced: int = BASE) -> list[bytes]:
    return [
        frames.encode_frame(SEED, 7, synced, key, some_entry(), more=key != keys[-1])
        for key in keys
    ]


def keys_in(data: bytes) -> tuple[list[bytes], int]:
    found, end = frames.scan(data, BASE, SEED, 7)
    assert list(frames.find_chains(data, 0, BASE, SEED, 7)) == found
    return [frame.key for frame in found], end - BASE


def test_a_whole_chain_is_found() -> None:
    data = encode((b"a", some_entry())) + b"".join(chain(b"b", b"c", b"d"))
    data += encode((b"e", some_entry()))
    assert keys_in(data) == ([b"a", b"b", b"c", b"d", b"e"], len(data))


@pytest.mark.parametrize("rest", [b"", bytes(200), b"\xff" * 200])
def test_a_chain_cut_anywhere_is_not_found(rest: bytes) -> None:
    before = encode((b"a", some_entry()))
    links = b"".join(chain(b"b", b"c", b"d"))
    for cut in range(len(links)):
        assert keys_in(before + links[:cut] + rest) == ([b"a"], len(before)), cut


def test_of_two_chains_only_the_one_without_an_end_is_not_found() -> None:
    first, second = chain(b"b", b"c"), chain(b"d", b"e")
    data = b"".join(first) + second[0]
    assert keys_in(data) == ([b"b", b"c"], len(b"".join(first)))


def test_a_search_finds_no_part_of_a_chain_whose_rest_is_damaged() -> None:
    first, second, last = chain(b"b", b"c", b"d")
    damaged = bytes(len(second))
    data = first + damaged + last + encode((b"e", some_entry()))
    found = [frame.key for frame in frames.find_chains(data, 0, BASE, SEED, 7)]
    assert found == [b"d", b"e"]  # a frame does not say that it is a rest
    assert [frame.key for frame in frames.find_chains(data[: -len(last)], 0, BASE, SEED, 7)] == [
        b"d"
    ]


def test_damage_in_a_chain_is_proven_by_a_flush_behind_it() -> None:
    first, second = chain(b"a", b"b")
    later = encode((b"c", some_entry()), synced=BASE + len(first) + len(second))
    proof = frames.damage_below_sync(first + bytes(len(second)) + later, 0, BASE, SEED, 7)
    assert proof is not None
    assert proof.key == b"c"


def test_a_flush_in_the_middle_of_a_chain_proves_nothing_of_its_rest() -> None:
    first, second = chain(b"a", b"b")
    later = encode((b"c", some_entry()), synced=BASE + len(first))
    data = first + bytes(len(second)) + later
    assert frames.damage_below_sync(data, 0, BASE, SEED, 7) is None


# -- frames of a newer version, and START ------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "flags"), [(12, 0), (255, 0), (RESULT, 4), (RESULT, 64), (PROGRESS, 0x84), (12, 128)]
)
def test_a_whole_frame_of_an_unknown_kind_or_flag_is_an_error(kind: int, flags: int) -> None:
    before = encode((b"a", some_entry()))
    data = before + encode((b"k", Entry(kind, flags, 1, 0, b"payload")))
    expected = (
        f"kind {kind} with flags {flags:#x} at offset {BASE + len(before)}, written by a newer"
    )
    with pytest.raises(frames.NewerFrameError, match=expected):
        frames.scan(data, BASE, SEED, 7)
    torn = bytes(len(before)) + data[len(before) :]
    with pytest.raises(frames.NewerFrameError, match=expected):
        frames.damage_below_sync(torn, 0, BASE, SEED, 7)
    alone = data[len(before) :]
    with pytest.raises(frames.NewerFrameError):
        frames.newest_epoch(alone, BASE, SEED)
    damaged = bytearray(data)
    damaged[-1] ^= 1
    assert keys_in(bytes(damaged)) == ([b"a"], len(before))


def test_a_start_says_where_the_sealed_log_ends() -> None:
    data = frames.encode_start(SEED, 7, 2**40)
    found, end = frames.scan(data + encode((b"a", some_entry())), BASE, SEED, 7)
    assert [frames.sealed_end(frame) for frame in found] == [2**40, None]
    assert found[0].entry.kind == START
    assert [key for key, _ in frames.records_of(found)] == [b"a"]
    assert end == found[1].end


@pytest.mark.parametrize(("key", "payload"), [(b"x", bytes(8)), (b"-", bytes(7)), (b"-", b"")])
def test_a_start_that_no_writer_writes_is_not_found(key: bytes, payload: bytes) -> None:
    data = encode((key, Entry(START, 0, 1, 0, payload)))
    assert frames.decode_frame(data, 0, BASE, SEED, 7) is None


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


SEQUENCE = (77).to_bytes(8, "little")
ABOUT_QUEUES = {
    "a settlement": (frames.SETTLED, SEQUENCE + b"\0"),
    "a return": (frames.RETURNED, SEQUENCE + b"\1\0"),
    "a burial": (frames.BURIED, SEQUENCE + b"\1\0why"),
    "settings": (frames.QUEUE, frames.QUEUE_SETTINGS.pack(1, 0)),
    "a message": (frames.MESSAGE, frames.MESSAGE_HEAD.pack(0, 0, 0, 1, 0) + b"q"),
    "a schedule": (frames.SCHEDULE, frames.SCHEDULE_HEAD.pack(1, 2)),
}


@pytest.mark.parametrize(("kind", "payload"), ABOUT_QUEUES.values(), ids=ABOUT_QUEUES)
def test_frames_about_queues_are_read_only_as_they_are_written(kind: int, payload: bytes) -> None:
    def is_read(content: bytes) -> bool:
        data = encode((b"k", some_entry()._replace(kind=kind, payload=content)))
        return frames.decode_frame(data, 0, BASE, SEED, 7) is not None

    assert is_read(payload)
    assert not is_read(b"")
    assert not is_read(payload[:4])
    if kind in (frames.SETTLED, frames.RETURNED, frames.QUEUE):
        assert not is_read(payload[:-1])
        assert not is_read(payload + b"x")
    if kind in (frames.SETTLED, frames.RETURNED, frames.BURIED):
        assert not is_read(bytes(8) + payload[8:])
    if kind == frames.BURIED:
        assert not is_read(payload + b"\xff")
