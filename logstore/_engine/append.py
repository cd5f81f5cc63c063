"""Appending frames to the log: the only code that does.

Rules: called under the writer lock.  Frames are written and flushed here, and published by the
caller, which then clears ``writing``.  That field is set while the end of the log is not to be
trusted; an error leaves it set, and nothing more is appended before a recovery.
"""

from __future__ import annotations

import errno

from logstore._engine import frames
from logstore._engine.frames import OFFSET_MAX, Entry
from logstore._engine.header import SharedHeader, split
from logstore._engine.log import FIRST_OFFSET, Log
from logstore._engine.shelter import is_interrupt
from logstore.errors import WriteError


def append(
    log: Log, header: SharedHeader, seed: int, entries: list[tuple[bytes, Entry]], *, sync: bool
) -> int | None:
    """Write the frames of some entries, and with ``sync`` flush the log.

    Returns the offset after them; None if there is nothing to do.  Raises OSError; nothing is
    published then, and ``log_failed`` is set if it is unknown what has reached the disk.
    """
    state, synced = header.state, header.synced
    epoch, start = split(state)
    if not FIRST_OFFSET <= synced <= start:
        raise WriteError(
            errno.EIO,
            f"{log.path.removesuffix('-log')}-shm: damaged: it says that the log is synced up to "
            f"{synced}, and published up to {start}; close the store in all processes, and it is "
            f"rebuilt",
        )
    if not entries and (not sync or synced >= start):
        return None
    encode = frames.encode_frame
    data = b"".join([encode(seed, epoch, synced, key, entry) for key, entry in entries])
    end = start + len(data)
    if end > OFFSET_MAX:
        raise WriteError(errno.EFBIG, f"{log.path}: the log has reached its largest size")
    log.reserve(end)
    header.writing = 1
    try:
        if data:
            log.write(data, start)
        if sync:
            log.sync()
    except OSError as exc:
        if not is_interrupt(exc):
            header.log_failed = 1
        raise
    return end
