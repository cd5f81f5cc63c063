"""A real disk that is full: a small file system in memory, and one in a file.

Needs the right to mount; without it the fault tests, which make the same calls fail, stand alone.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn

import pytest

import logstore

MEGABYTE = 1 << 20


pytestmark = pytest.mark.usefixtures("no_idle_compaction")


def mount(*command: str) -> None:
    """Run a command that needs privileges; skip without them."""
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.CalledProcessError) as exc:
        detail = getattr(exc, "stderr", b"") or b""
        pytest.skip(f"cannot {command[0]}: {exc} {detail.decode(errors='replace').strip()}")


# The file systems that are made in a file: how, and how large they must be.  XFS refuses a large
# write while there is some space; btrfs copies on write, also what is written through a mapping.
MADE_BY = {
    "ext4": (("mkfs.ext4", "-q", "-m", "0"), 16 * MEGABYTE),
    "xfs": (("mkfs.xfs", "-q"), 310 * MEGABYTE),
    "btrfs": (("mkfs.btrfs", "-q"), 120 * MEGABYTE),
}


@pytest.fixture(params=["tmpfs", *MADE_BY])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system with a few megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    if request.param == "tmpfs":
        mount("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place))
    else:
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(MADE_BY[request.param][1])
        mount(*MADE_BY[request.param][0], str(image))
        mount("mount", "-o", "loop", str(image), str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Take away all space but a little."""
    ballast, reserve = disk / "ballast", disk / "reserve"
    reserve.write_bytes(bytes(leave))
    with ballast.open("wb", buffering=0) as file:
        for size in (MEGABYTE, 65536, 4096, 512):
            with pytest.raises(OSError, match="No space left"):
                append_for_ever(file, size)
        os.fsync(file.fileno())
    reserve.unlink()
    return ballast


def append_for_ever(file: BinaryIO, size: int) -> NoReturn:
    """Write until that fails."""
    while True:
        file.write(bytes(size))


@pytest.mark.parametrize("leave", [4096, 100_000, 700_000, 3_000_000])
def test_a_full_disk(small_disk: Path, leave: int) -> None:
    path = small_disk / "store" / "app.db"
    path.parent.mkdir()
    acked: dict[str, object] = {}
    with logstore.open(path, compact_at=1 << 18) as store:

        def write(count: int, size: int) -> int:
            refused = 0
            for number in range(count):
                key, value = f"t{number % 40}", os.urandom(size)
                try:
                    store.set_result(key, value)
                    acked[key] = value
                except logstore.DiskFullError:
                    refused += 1
            return refused

        def everything_is_there(store: logstore.Store) -> None:
            for key, value in acked.items():
                assert store.get_result(key) == value

        assert write(40, 1000) == 0
        ballast = fill(small_disk, leave)
        refused = write(20, 2_900_000) + write(400, 20_000)
        assert refused > 10
        everything_is_there(store)
        with pytest.raises(logstore.DiskFullError):
            store.set_result("large", os.urandom(20 * MEGABYTE))
        if leave < MEGABYTE:
            with pytest.raises(logstore.DiskFullError):
                store.vacuum()
        everything_is_there(store)
        ballast.unlink()
        assert write(40, 1000) == 0
        store.compact()
        everything_is_there(store)
        assert store.check().ok
    assert os.listdir(path.parent) == ["app.db"]
    with logstore.open(path) as store:
        everything_is_there(store)


def test_closing_and_opening_on_a_full_disk(small_disk: Path) -> None:
    path = small_disk / "store" / "app.db"
    path.parent.mkdir()
    values = {f"t{number}": os.urandom(10_000) for number in range(60)}
    store = logstore.open(path)
    for key, value in values.items():
        store.set_result(key, value)
    ballast = fill(small_disk, 0)
    with pytest.raises(logstore.DiskFullError):
        store.close()
    with pytest.raises(logstore.DiskFullError):
        logstore.open(path)
    ballast.unlink()
    with logstore.open(path) as store:
        assert all(store.get_result(key) == value for key, value in values.items())
        assert store.check().ok
    assert os.listdir(path.parent) == ["app.db"]
