"""Stores as version 1 of the format left them, and the rule that an upgrade must keep.

Rules: what version 1 wrote differs from what a store writes now in the versions of table and log
only, so long as the log has no kind and no flag that came later; that is checked.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

from logstore._engine import frames
from logstore._engine.frames import HEADER_BYTES
from logstore._engine.table import Table

OLD, NEW = 1, 2
_KINDS = (frames.RESULT, frames.PROGRESS, frames.DELETED)


def make_old(path: str) -> None:
    """Make a store that no process has open one of version 1."""
    table = Table(path)
    try:
        table.write(lambda txn: table.write_meta(txn, table.meta._replace(version=OLD)))
        seed, epoch = table.seed, table.meta.epoch
    finally:
        table.close()
    log = Path(path + "-log")
    if log.exists():
        data = bytearray(log.read_bytes())
        found, _ = frames.scan(bytes(data[HEADER_BYTES:]), HEADER_BYTES, seed, epoch)
        assert all(frame.entry.kind in _KINDS and not frame.more for frame in found)
        struct.pack_into("<I", data, 8, OLD)
        struct.pack_into("<I", data, 40, zlib.crc32(data[:40]))
        log.write_bytes(data)


def check_old_or_new(path: str) -> None:
    """Check that code of version 1 opens the store, or refuses it and this version opens it."""
    table = Table(path, readonly=True)
    version, clean = table.meta.version, table.meta.clean
    table.close()
    if version == OLD and not clean:  # then it needs its log
        assert os.path.exists(path + "-log"), "the table is old, and its log is gone"
        page = frames.decode_log_header(Path(path + "-log").read_bytes()[:HEADER_BYTES])
        assert page is not None, "the table is old, and its log has no header"
        assert page.version == OLD, f"the table is old, and its log of version {page.version}"
