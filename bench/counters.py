"""The kernel's counters of what reaches the device, and of a process's memory and CPU."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path

SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True)
class DeviceCount:
    """What a block device has done since boot, for every process of the machine."""

    written_bytes: int
    flushes: int


def parse_block_stat(text: str) -> DeviceCount:
    """Read `/sys/block/*/stat`: the seventh field is sectors written, the sixteenth flushes.

    Kernels before 5.5 have no count of flushes; it is then 0. Source: the kernel's
    Documentation/block/stat.rst.
    """
    fields = [int(word) for word in text.split()]
    return DeviceCount(fields[6] * SECTOR_BYTES, fields[15] if len(fields) > 15 else 0)


def device_stat_path(directory: Path) -> Path | None:
    """The counters of the device that `directory` is on; None where there is no such device."""
    number = os.stat(directory).st_dev
    node = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not node.exists():
        return None
    node = node.resolve()
    # A partition counts no flushes: they are the whole device's.
    if (node / "partition").exists():
        node = node.parent
    path = node / "stat"
    return path if path.exists() else None


def device_count(path: Path | None) -> DeviceCount | None:
    """Read the counters at `path`, None for None."""
    return None if path is None else parse_block_stat(path.read_text())


def private_bytes(pid: int | None = None) -> int:
    """The process's anonymous resident memory: heaps and stacks, without mapped files."""
    status = Path(f"/proc/{pid or 'self'}/status").read_text()
    for line in status.splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_seconds() -> float:
    """The CPU time this process has used, in user and system mode."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def directory_bytes(directory: Path) -> int:
    """The blocks that the files below `directory` take, by `stat` alone: nothing is opened."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            total += _file_bytes(os.path.join(parent, name))
    return total


def _file_bytes(path: str) -> int:
    try:
        return os.stat(path).st_blocks * SECTOR_BYTES
    except FileNotFoundError:
        # A side file that its owner has removed meanwhile.
        return 0
