"""Appending frames to the log: the only code that does.

Rules: called under the writer lock.  Frames are written here; publishing.py flushes and publishes
them.  WRITING is set while the log's tail is not to be trusted; an error leaves it set, and
nothing more is appended before a recovery.  ``appended`` moves once the frames are whole.
"""

from __future__ import annotations

import errno

from logstore._engine import frames
from logstore._engine.frames import OFFSET_MAX, Entry
from logstore._engine.header import SharedHeader
from logstore._engine.log import FIRST_OFFSET, Log
from logstore.errors import WriteError


def append(
    log: Log, header: SharedHeader, seed: int, entries: list[tuple[bytes, Entry]], *, sync: bool
) -> int:
    """Write the frames of some entries; return the value of ``appended`` behind them.

    With ``sync`` they are not to be published before a flush.  Raises OSError; nothing is appended
    then.
    """
    appended, synced = header.appended, header.synced
    epoch, start = appended >> 32, appended & OFFSET_MAX
    if not FIRST_OFFSET <= synced <= start or header.state > appended:
        raise WriteError(
            errno.EIO,
            f"{log.path.removesuffix('-log')}-shm: damaged: it says that the log is synced up to "
            f"{synced}, and written up to {start}; close the store in all processes, and it "
            f"is rebuilt",
        )
    if not entries:
        return appended
    encode = frames.encode_frame
    data = b"".join([encode(seed, epoch, synced, key, entry) for key, entry in entries])
    end = start + len(data)
    if end > OFFSET_MAX:
        raise WriteError(errno.EFBIG, f"{log.path}: the log has reached its largest size")
    log.reserve(end)
    header.writing = 1
    log.write(data, start)
    if sync:
        header.unsynced = end
    header.appended = appended = epoch << 32 | end
    header.arrivals += 1
    header.writing = 0
    return appended
