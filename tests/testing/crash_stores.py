"""Small stores with and without planted bugs, with a workload and a check each.

Each workload tells every key that it has put; the check opens what the crash left and asks for
them.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path

from logstore.testing.crash import tell

KEYS = 4


def _put(directory: Path, key: str, value: str, *, sync_file: bool, sync_directory: bool) -> None:
    file = directory / "store.json"
    content = json.loads(file.read_text()) if file.exists() else {}
    content[key] = value
    new = directory / "store.json.new"
    with new.open("w") as stream:
        json.dump(content, stream)
        stream.flush()
        if sync_file:
            os.fsync(stream.fileno())
    os.rename(new, file)
    if sync_directory:
        fd = os.open(directory, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def _fill(directory: Path, *, sync_file: bool, sync_directory: bool) -> None:
    for number in range(KEYS):
        key, value = f"k{number}", "v" * (300 * number + 1)
        _put(directory, key, value, sync_file=sync_file, sync_directory=sync_directory)
        tell(key)


def correct(directory: Path) -> None:
    """Syncs the new file, renames it, syncs the directory."""
    _fill(directory, sync_file=True, sync_directory=True)


def forgets_directory(directory: Path) -> None:
    """The rename may be lost."""
    _fill(directory, sync_file=True, sync_directory=False)


def renames_before_sync(directory: Path) -> None:
    """The name can be on the disk before the content."""
    _fill(directory, sync_file=False, sync_directory=True)


def check_json(directory: Path, told: list[str]) -> None:
    """The file is whole, and every told key is in it."""
    file = directory / "store.json"
    content = json.loads(file.read_text()) if file.exists() else {}
    for key in told:
        number = int(key[1:])
        assert key in content, f"lost {key}"
        assert content[key] == "v" * (300 * number + 1), f"wrong value of {key}"


_HEADER = struct.Struct("<II")  # length, crc32 or 0


def _append(directory: Path, *, checksum: bool) -> None:
    fd = os.open(directory / "log", os.O_RDWR | os.O_CREAT, 0o600)
    directory_fd = os.open(directory, os.O_RDONLY)
    os.fsync(directory_fd)
    os.close(directory_fd)
    offset = 0
    for number in range(KEYS):
        body = bytes([65 + number]) * (400 + number)
        crc = zlib.crc32(body) if checksum else 0
        record = _HEADER.pack(len(body), crc) + body
        os.pwrite(fd, record, offset)
        os.fdatasync(fd)
        offset += len(record)
        tell(str(number))
    os.close(fd)


def appends_with_checksum(directory: Path) -> None:
    """A torn record is seen to be torn."""
    _append(directory, checksum=True)


def appends_without_checksum(directory: Path) -> None:
    """A record can have its head and not its tail."""
    _append(directory, checksum=False)


def check_log(directory: Path, told: list[str]) -> None:
    """Every record that a reader believes is whole, and every told one is there."""
    file = directory / "log"
    data = file.read_bytes() if file.exists() else b""
    offset, found = 0, 0
    while offset + _HEADER.size <= len(data):
        length, crc = _HEADER.unpack_from(data, offset)
        body = data[offset + _HEADER.size : offset + _HEADER.size + length]
        if not length or len(body) < length or (crc and zlib.crc32(body) != crc):
            break
        assert body == bytes([65 + found]) * (400 + found), f"record {found} is torn"
        found += 1
        offset += _HEADER.size + length
    assert found >= len(told), f"lost record {found}"
