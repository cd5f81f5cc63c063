"""The payloads of frames and records about schedules, to and from bytes.  See FORMAT.md, "Queues".

Rules: pure functions on bytes.  A schedule has an id, a definition, which is bytes that the engine
does not read, and two times: ``since_us``, from which on its slots count, and ``last_us``, the
newest slot that was sent.  A *slot* is a time at which it is to be sent.  Each frame has all of a
schedule, so that the newest one counts; one without a definition removes it.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from logstore._engine.frames import SCHEDULE, SCHEDULE_HEAD, Entry
from logstore.errors import CorruptRecordError


class Schedule(NamedTuple):
    """One schedule as it is now."""

    key: bytes
    definition: bytes
    since_us: int  # its slots are at this time or later
    last_us: int  # and later than this: the newest that was sent


def schedule_entry(definition: bytes, since_us: int, last_us: int) -> Entry:
    """Return the entry that sets a schedule; without a definition it removes one."""
    return Entry(SCHEDULE, 0, 0, 0, SCHEDULE_HEAD.pack(since_us, last_us) + definition)


def decode_schedule(key: bytes, entry: Entry) -> Schedule | None:
    """Decode a frame or a record; None if it removes the schedule.  Raises CorruptRecordError."""
    definition = entry.payload[SCHEDULE_HEAD.size :]
    try:
        since_us, last_us = SCHEDULE_HEAD.unpack_from(entry.payload)
    except struct.error as exc:
        raise CorruptRecordError(f"the schedule {key!r} is damaged: {exc}; set it again") from None
    return Schedule(key, definition, since_us, last_us) if definition else None
