"""Making a closed store from a copied table, for a backup or a rescue.

Rules: the copy is complete, marked as closed, and on the disk before it gets its name; it never
overwrites a file.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from logstore._engine import durability, files
from logstore._engine.compaction import fold_into
from logstore._engine.overlay import Overlay
from logstore._engine.table import Table


def write_closed(destination: str, like: int, fill: Callable[[int], object], log: Overlay) -> None:
    """Put a closed store at a path where no file is.

    ``fill`` copies a table into an empty file, given as a descriptor; ``log`` is folded into it,
    unless the table has it already.  The file gets the owner and mode of the open file ``like``.
    Raises FileExistsError, OSError, lmdb.Error or a LogstoreError; no file is left then.
    """
    temporary = f"{destination}-partial-{os.urandom(4).hex()}"
    fd = files.open_file(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, like=like)
    try:
        fill(fd)
        _fold_and_close(temporary, log)
        durability.sync_file(fd)
        os.link(temporary, destination)  # fails where a rename would overwrite
        os.unlink(temporary)
        durability.sync_directory(os.path.dirname(destination))
    finally:
        files.close(fd)
        files.remove(temporary)


def write_new(destination: str, like: Table, log: Overlay) -> None:
    """As :func:`write_closed`, for a store that has ``log`` only."""
    temporary = f"{destination}-empty-{os.urandom(4).hex()}"

    def fill(fd: int) -> None:
        Table.create(temporary, like.meta.uuid)
        try:
            with open(temporary, "rb") as empty:
                durability.pwrite_all(fd, empty.read(), 0)
        finally:
            files.remove(temporary)

    write_closed(destination, like.fd, fill, log)


def _fold_and_close(path: str, log: Overlay) -> None:
    copy = Table(path)
    try:
        fold_into(
            copy,
            log.newer_than(copy.meta.epoch),
            queued=log.queued_since(copy.meta.epoch),
            epoch=copy.meta.epoch,  # a log with frames of that epoch is newer than the copy
            incarnation=copy.meta.incarnation,
            clean=True,
        )
    finally:
        copy.close()
