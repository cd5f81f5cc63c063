from __future__ import annotations

import os
from pathlib import Path

from bench.counters import directory_bytes, parse_block_stat, private_bytes
from bench.machine import describe, parse_mounts

STAT = (
    "44718 13581 3894290 16244 34944 17718 2023368 10208 0 8600 27821 11000 23 836384 845 9473 523"
)
MOUNTS = """\
/dev/vda / ext4 rw,relatime 0 0
tmpfs /dev/shm tmpfs rw 0 0
/dev/vdb /srv/a\\040b xfs rw,noatime 0 0
"""


def test_sectors_and_flushes_are_read_from_the_kernels_fields() -> None:
    count = parse_block_stat(STAT)
    assert (count.written_bytes, count.flushes) == (2023368 * 512, 9473)


def test_an_old_kernel_counts_no_flushes() -> None:
    assert parse_block_stat("1 2 3 4 5 6 7 8 9 10 11").flushes == 0


def test_the_longest_mount_point_wins() -> None:
    assert parse_mounts(MOUNTS, Path("/home/x"))[:2] == ("/dev/vda", "ext4")
    assert parse_mounts(MOUNTS, Path("/dev/shm/x"))[:2] == ("tmpfs", "tmpfs")
    assert parse_mounts(MOUNTS, Path("/srv/a b/c"))[:2] == ("/dev/vdb", "xfs")


def test_a_directory_counts_blocks_and_not_lengths(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    path = tmp_path / "deep" / "file"
    path.write_bytes(b"x" * 5000)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
        written = directory_bytes(tmp_path)
        file.truncate(1 << 30)
    assert 5000 <= written < 1 << 20
    assert directory_bytes(tmp_path) < 1 << 20


def test_private_memory_grows_with_what_is_allocated() -> None:
    blocks: list[bytearray] = []
    grown = 0
    while grown < 24 << 20 and len(blocks) < 8:  # a machine without memory takes other pages away
        before = private_bytes()
        blocks.append(bytearray(os.urandom(32 << 20)))
        grown = private_bytes() - before
    assert grown >= 24 << 20
    assert len(blocks[-1]) == 32 << 20


def test_the_machine_is_described(tmp_path: Path) -> None:
    found = describe(tmp_path)
    assert found["cpus"] == os.cpu_count()
    assert found["versions"]["python"]
    assert found["kernel"]
    assert "-" not in found["kernel"]
    assert found["file_system"]["type"] != "unknown"
