"""FORMAT.md against the structs and constants in the code."""

from __future__ import annotations

import os
import re
import struct
from datetime import datetime, timezone
from pathlib import Path

import pytest

import logstore
from logstore._codec import tags as codec_tags
from logstore._codec.values import decode_value, encode_value
from logstore._engine import (
    compaction,
    copying,
    deferral,
    frames,
    header,
    maintenance,
    options,
    readers,
    records,
    table,
    vacuum,
)
from logstore._engine.frames import Entry
from logstore._engine.listing import utc

TEXT = Path(logstore.__file__).with_name("FORMAT.md").read_text(encoding="utf-8")
PROSE = " ".join(TEXT.split())

# -- reading the document --------------------------------------------------------------------


def rows_behind(words: str) -> list[list[str]]:
    """The cells of the first table behind some words, without its heading."""
    assert TEXT.count(words) == 1, words
    lines = TEXT[TEXT.index(words) :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| "))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def fields_of(layout: struct.Struct) -> list[tuple[int, int]]:
    """Offset and size of every field of a struct without alignment."""
    order, codes = layout.format[0], re.findall(r"(\d*)([a-zA-Z])", layout.format[1:])
    fields: list[tuple[int, int]] = []
    at = 0
    for digits, code in codes:
        count = int(digits or 1)
        whole = code in "sx"
        size = struct.calcsize(order + digits + code) if whole else struct.calcsize(order + code)
        for _ in range(1 if whole else count):
            fields.append((at, size))
            at += size
    assert at == layout.size
    return fields


TABLES = [
    row for words in ("The head of a frame", "The head of a record") for row in rows_behind(words)
]

# -- the tables ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "layout"),
    [
        ("The log header (44 bytes", frames.LOG_HEADER),
        ("The head of a frame (36 bytes", frames.FRAME),
        ("The meta record (60 bytes", records.META),
        ("The head of a record (16 bytes", records.RECORD),
        ("A mark (5 bytes", records.MARK),
        ("An expiry key (17 bytes", records.EXPIRY),
    ],
)
def test_a_table_of_fields_is_the_struct(words: str, layout: struct.Struct) -> None:
    documented = [(int(row[0]), int(row[1])) for row in rows_behind(words)]
    assert documented == fields_of(layout)
    assert f"({layout.size} bytes" in words


def test_only_what_must_sort_is_big_endian() -> None:
    for layout in (frames.LOG_HEADER, frames.FRAME, records.META, records.RECORD, records.MARK):
        assert layout.format[0] == "<"
    for layout in (records.TIME, records.EXPIRY):
        assert layout.format[0] == ">"


def test_the_kinds_and_flags_are_those_of_the_code() -> None:
    for words in ("Kinds:", "Flags:"):
        for row in rows_behind(words):
            assert getattr(frames, row[1]) == int(row[0])


def test_the_limits_are_those_of_the_code() -> None:
    assert f"1 to {frames.KEY_BYTES_MAX} bytes" in PROSE
    assert [row[3] for row in TABLES if row[2] == "key length"] == [
        f"1 to {frames.KEY_BYTES_MAX}"
    ] * 2
    assert PROSE.count(f"from 1 to {frames.TIME_MAX}") == 2
    assert utc(frames.TIME_MAX) == datetime.max.replace(tzinfo=timezone.utc)
    assert f"up to {frames.HEADER_BYTES} bytes" in PROSE
    assert f"more than {options.LARGE_BYTES} bytes" in PROSE
    assert f"at most {compaction.GONE_COUNT_MAX:,} keys" in PROSE
    assert compaction.GONE_KEPT_US == 24 * 3600 * 10**6
    assert f"# The files of a logstore store: format version {frames.FORMAT_VERSION}" in PROSE
    assert rows_behind("## Versions")[-1][0] == str(frames.FORMAT_VERSION)


def test_the_figures_of_the_pages_for_users_are_those_of_the_code() -> None:
    pages = Path(__file__).parents[2] / "docs"
    operations, design = (
        " ".join((pages / name).read_text(encoding="utf-8").split())
        for name in ("operations.md", "design.md")
    )
    mib, second = 1 << 20, 1e9
    assert f"a file over {vacuum.AUTO_FILE_BYTES / mib:g} MiB" in operations
    assert f"the log may grow to {deferral.COPY_LOG_FACTOR} times `compact_at`" in operations
    assert f"compactions for {deferral.HOLD_NS / second:g} seconds at most" in operations
    assert f"count for {deferral.HOLD_NS / second:g} seconds at most" in PROSE
    assert f"larger than {deferral.COPY_LOG_FACTOR} times `compact_at`" in PROSE
    assert copying.ATTEMPTS == 3
    assert "after three attempts it raises `StoreBusyError`" in operations
    assert f"A record over {options.LARGE_BYTES / 1024:g} KiB" in operations
    assert (maintenance.FILES_S, maintenance.IDLE_S) == (1.0, 1.0)
    assert "looks at the files once a second" in design
    assert "when nothing has been written for a second" in design


def test_the_words_of_the_readers_are_those_of_the_code() -> None:
    documented = [(row[0], row[1]) for row in rows_behind("in words of 8 bytes:")]
    words = (readers.SEQUENCE, readers.NEWEST, readers.HAS_NEW)
    assert documented == [
        *(
            (str(word), name)
            for word, name in zip(words, ("COMMITS", "NEWEST", "HAS_NEW"), strict=True)
        ),
        (f"8 to {7 + readers.SLOTS}", "slots"),
    ]
    assert f"{readers.BYTES:,} bytes of the same file" in PROSE
    assert f"at 2^{readers.LOCKS_AT.bit_length() - 1} + the number of the word" in PROSE


def test_the_words_of_the_shared_header_are_those_of_the_code() -> None:
    documented = {row[1]: int(row[0]) for row in rows_behind("Words of 8 bytes")}
    documented |= {row[1]: int(row[0]) for row in rows_behind("Words of 4 bytes")}
    coded = {name.upper(): index for index, name in enumerate(header.FIELDS)}
    for name in ("SEQUENCE", "WAITERS", "RELEASES", "WANTED", "FOLDS", "TAKES", "READY_MESSAGES"):
        coded[name] = getattr(header, name)
    assert documented == coded
    assert f"One page of {header.SIZE} bytes" in PROSE
    assert header.MAGIC.to_bytes(8, "little") == b"LSTRSHM3"


def test_each_word_of_the_shared_header_is_where_it_is_said_to_be(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "shm", os.O_RDWR | os.O_CREAT)
    shared = header.SharedHeader(fd)
    for size, rows in ((8, "Words of 8 bytes"), (4, "Words of 4 bytes")):
        for index, name, *_ in rows_behind(rows):
            word = getattr(shared, name.lower())
            if size == 8:
                assert word == 0
                setattr(shared, name.lower(), 7)
            else:
                word.value = 7
            found = os.pread(fd, header.SIZE, 0)
            assert found[size * int(index)] == 7, name
            assert found.count(7) == 1, name
            os.pwrite(fd, bytes(header.SIZE), 0)
    shared.close()
    os.close(fd)


def test_the_databases_are_those_of_the_code() -> None:
    documented = [row[0].strip("`").encode() for row in rows_behind("with these databases:")]
    assert documented == [b"meta", *table.DATABASES]


def test_the_bits_of_a_mark_are_those_of_the_code() -> None:
    text = rows_behind("A mark (5 bytes")[1][3]
    for bit, name in ((1, "RESULT"), (2, "GONE"), (4, "PROGRESS")):
        assert getattr(records, f"HAS_{name}") == bit
        assert f"{bit} {name.lower()}" in text


def test_the_tags_are_those_of_the_codec() -> None:
    documented = rows_behind("## Values")
    quoted: list[list[str]] = []
    for line in (codec_tags.__doc__ or "").splitlines():
        if match := re.match(r"(\d{5})  (.{31}) (.*)", line):
            quoted.append([cell.strip() for cell in match.groups()])
        elif quoted and re.match(r" {39}\S", line):
            quoted[-1][2] += " " + line.strip()
    assert documented == quoted
    coded = [value for name, value in vars(codec_tags).items() if name.startswith("TAG_")]
    coded += [leaf.tag for leaf in codec_tags.LEAVES]
    assert sorted(int(row[0]) for row in documented) == sorted(coded)


# -- the worked example ----------------------------------------------------------------------


def example() -> list[tuple[bytes, str]]:
    block = re.search(r"```hex\n(.*?)```", TEXT, re.S)
    assert block is not None
    lines = [re.split(r" {2,}", line, maxsplit=1) for line in block[1].splitlines()]
    return [(bytes.fromhex(digits), note) for digits, note in lines]


UUID = bytes.fromhex("000102030405060708090a0b0c0d0e0f")
ENTRY = Entry(frames.RESULT, 0, 1_700_000_000_000_000, 0, encode_value([1, "two"]))


def test_the_example_in_hex_is_what_the_code_writes() -> None:
    written = frames.encode_frame(frames.checksum_seed(UUID), 7, 4096, b"job-1", ENTRY)
    assert b"".join(part for part, _ in example()).hex(" ") == written.hex(" ")


def test_the_example_in_hex_is_read_as_the_text_says() -> None:
    data = b"".join(part for part, _ in example())
    frame = frames.decode_frame(data, 0, 4096, frames.checksum_seed(UUID), 7)
    assert frame is not None
    assert (frame.offset, frame.end, frame.synced_through) == (4096, 4096 + len(data), 4096)
    assert (frame.key, frame.entry) == (b"job-1", ENTRY)
    assert decode_value(frame.entry.payload) == [1, "two"]


def test_the_lines_of_the_example_are_the_fields_of_a_frame() -> None:
    rows = rows_behind("The head of a frame (36 bytes")
    noted = [(len(part), note.split(":")[0]) for part, note in example()]
    assert noted[: len(rows)] == [(int(row[1]), row[2]) for row in rows]
    assert [note for _, note in noted[len(rows) :]] == ["key", "payload"]
