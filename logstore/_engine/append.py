"""Appending frames to the log: the only code that does.

Rules: called under the writer lock.  Frames are written here; publishing.py flushes and publishes
them.  WRITING is set while the log's tail is not to be trusted; an error leaves it set, and
nothing more is appended before a recovery.  ``appended`` moves once the frames are whole.
"""

from __future__ import annotations

import errno

from logstore._engine import frames
from logstore._engine.frames import OFFSET_MAX, Entry
from logstore._engine.header import SharedHeader, split
from logstore._engine.log import FIRST_OFFSET, Logs
from logstore.errors import WriteError


def append(
    logs: Logs, header: SharedHeader, seed: int, entries: list[tuple[bytes, Entry]], *, sync: bool
) -> int:
    """Write the frames of some entries; return the value of ``appended`` behind them.

    With ``sync`` they are not to be published before a flush.  Raises OSError; nothing is appended
    then.
    """
    appended, synced, state = header.appended, header.synced, header.state
    epoch, start = appended >> 32, appended & OFFSET_MAX
    if not FIRST_OFFSET <= synced <= start or state > appended or state >> 32 != epoch:
        raise WriteError(
            errno.EIO,
            f"{logs.path}-shm: damaged: it says that the log is synced up to {synced}, and "
            f"written up to {start}; close the store in all processes, and it is rebuilt",
        )
    if not entries:
        return appended
    encode = frames.encode_frame
    data = b"".join([encode(seed, epoch, synced, key, entry) for key, entry in entries])
    end = start + len(data)
    log = logs.of(epoch)
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


def begin_after(logs: Logs, header: SharedHeader, seed: int, sealed: int) -> int:
    """Write the first frame behind a sealed epoch; return where it ends.

    It says where the sealed log ends, so that a recovery can tell whether that is damaged.  Leaves
    WRITING set: the new epoch is to be published next.  Raises OSError, with nothing changed.
    """
    before, end = split(sealed)
    epoch = before + 1
    frame = frames.encode_start(seed, epoch, end)
    log = logs.of(epoch)
    log.reserve(FIRST_OFFSET + len(frame))
    header.writing = 1
    log.write(frame, FIRST_OFFSET)
    return FIRST_OFFSET + len(frame)
