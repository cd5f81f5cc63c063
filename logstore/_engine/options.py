"""The options of an engine, which all its handles share: those of the first opening."""

from __future__ import annotations

from typing import NamedTuple

from logstore._engine.frames import HEADER_BYTES


class Retention(NamedTuple):
    """Limits on what the table keeps; None is no limit."""

    results_max: int | None = None
    bytes_max: int | None = None


class Options(NamedTuple):
    """Sizes in bytes, times in seconds."""

    compact_at: int = 1 << 20
    write_timeout_s: float = 30.0
    sync_interval_s: float = 1.0
    retention: Retention = Retention()


LARGE_BYTES = 1 << 18  # a larger record goes directly into the table


def arena_bytes(options: Options) -> int:
    """Return the size of a new log: its limit, and room for the group that reaches it."""
    return HEADER_BYTES + options.compact_at + LARGE_BYTES
