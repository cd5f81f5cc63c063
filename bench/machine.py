"""What the figures were measured on: the machine, the versions, the file system."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sqlite3
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .counters import device_stat_path

PACKAGES = (
    "logstore",
    "lmdb",
    "cbor2",
    "taskiq",
    "pydantic",
    "aiosqlite",
    "diskcache",
    "huey",
    "honker",
    "litequeue",
    "redis",
    "hiredis",
    "taskiq-redis",
    "taskiq-postgres",
    "asyncpg",
)

# Nothing there survives a reboot, so a flush costs nothing and the figures would mean nothing.
NOT_DISKS = frozenset({"tmpfs", "ramfs"})


def _first_line(command: list[str]) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    return lines[0] if done.returncode == 0 and lines else None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def parse_mounts(text: str, path: Path) -> tuple[str, str, str]:
    """Device, type and options of the file system that `path` is on, from `/proc/self/mounts`."""
    best = ("unknown", "unknown", "")
    best_length = -1
    for line in text.splitlines():
        device, point, kind, options = line.split()[:4]
        point = point.replace("\\040", " ")
        if path.is_relative_to(point) and len(point) >= best_length:
            best, best_length = (device, kind, options), len(point)
    return best


def file_system(directory: Path) -> dict[str, str]:
    """The file system below `directory` and how its device caches writes."""
    device, kind, options = parse_mounts(Path("/proc/self/mounts").read_text(), directory.resolve())
    found = {"device": device, "type": kind, "options": options}
    stat = device_stat_path(directory)
    if stat is not None:
        found["block_device"] = stat.parent.name
        for name in ("write_cache", "rotational", "scheduler"):
            setting = stat.parent / "queue" / name
            if setting.exists():
                found[name] = setting.read_text().strip()
    return found


def versions() -> dict[str, str]:
    """The versions of everything that is measured and installed."""
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    installed = {dist.name.lower(): dist.version for dist in importlib.metadata.distributions()}
    found |= {name: installed[name] for name in PACKAGES if name in installed}
    redis = _first_line(["redis-server", "--version"])
    if redis is not None:
        found["redis-server"] = redis.partition("v=")[2].partition(" ")[0]
    return found


def describe(directory: Path) -> dict[str, Any]:
    """Everything about this machine that the figures depend on."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        # Without what a distribution or a provider appends to it.
        "kernel": platform.release().partition("-")[0],
        "system": _first_line(["uname", "-sm"]),
        "file_system": file_system(directory),
        "versions": versions(),
        "load_before": os.getloadavg()[0],
    }
