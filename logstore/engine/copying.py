"""Copying a table to a file of its own: for a backup, and for what would be lost otherwise.

Rules: a copy is complete, marked as closed, and on the disk before it gets its name; it never
overwrites a file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from logstore.engine import files, osdep
from logstore.engine.compaction import Batch, fold_into
from logstore.engine.table import Table


def copy_closed(table: Table, destination: str, batches: Sequence[Batch] = ()) -> None:
    """Put a copy of a table, with ``batches`` folded into it, at a path where nothing is.

    Raises FileExistsError, OSError, lmdb.Error or an :class:`~logstore.errors.OpenError`; no file
    is left then.
    """
    temporary = f"{destination}-partial-{os.urandom(4).hex()}"
    fd = files.open_file(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, like=table.fd)
    try:
        table.copy_to(fd)
        copy = Table(temporary, lock=False)
        try:
            fold_into(
                copy,
                batches,
                None,
                now_us=0,
                last_time_us=0,
                epoch=copy.meta.epoch + bool(batches),
                incarnation=copy.meta.incarnation,
                clean=True,
            )
        finally:
            copy.close()
        osdep.sync_file(fd)
        os.link(temporary, destination)  # fails where a rename would overwrite
        os.unlink(temporary)
        osdep.sync_directory(os.path.dirname(destination))
    finally:
        files.close(fd)
        osdep.remove(temporary)
