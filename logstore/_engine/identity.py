"""The identity of an open store's files, and what happens when files are removed or replaced.

Other programs may remove, rename or replace any file of an open store.  Rules:

- Once a second, and before a fold, the rename of a vacuum and the removal of side files, a process
  compares the inodes at the paths with those of its open files.
- A log that was removed is replaced by a new one, after its frames have been folded from memory.
  A file in its place is kept under another name.
- If the table or the shared header was removed or replaced, or the table was overwritten by a copy,
  all processes of the store stop writing.  If the table has no name any more, its data is copied to
  a whole store, ``app.db-rescued-*``; otherwise everything is folded into it.  From then on every
  call raises StoreReplacedError, which says where the data is.
- The presence locks are released then, so that the path can be opened again at once.

Everything here runs under the writer lock, and is sheltered from signal handlers.
"""

from __future__ import annotations

import os
from typing import NoReturn, Protocol

import lmdb

from logstore._engine import files, frames, locks
from logstore._engine.closedcopy import write_closed, write_new
from logstore._engine.header import SharedHeader
from logstore._engine.log import Log, Logs, read_whole
from logstore._engine.overlay import Overlay
from logstore._engine.table import Table
from logstore.errors import (
    CorruptTableError,
    FormatVersionError,
    LogstoreError,
    NotAStoreError,
    StoreReplacedError,
    TruncatedFileError,
)

# Values of ``replaced``.
AT_PATH = 1  # all acknowledged data is in the table at the store's path
ELSEWHERE = 2  # it is in a file of another name

# The errors of opening a file of another program.  Other errors, as of a process without
# descriptors, say nothing about the file.
_NOT_OURS = (
    FileNotFoundError,
    NotAStoreError,
    FormatVersionError,
    TruncatedFileError,
    CorruptTableError,
)

_VOID_STATE = (1 << 64) - 1  # no overlay has this state, so every read checks ``replaced``


class OpenFiles(Protocol):
    """The part of an engine that is used here: its open files."""

    path: str
    presence_fd: int
    header: SharedHeader
    table: Table
    lost_files: list[str]

    @property
    def logs(self) -> Logs:
        """The log's files."""

    @property
    def overlay(self) -> Overlay:
        """What is published in the log."""

    def fold_unverified(self, *, clean: bool = False) -> None:
        """Fold the overlay into the table, wherever that file is now."""


def verify(engine: OpenFiles) -> None:
    """Check that the files at the paths are those of this store; writer lock held.

    Sets ``log_failed`` if only the log is not.  Raises StoreReplacedError if another file is not.
    """
    if not has_logs(engine):
        engine.header.log_failed = 1
    lost = _lost(engine)
    if lost:
        _abandon(engine, lost)


def is_suspect(engine: OpenFiles) -> bool:
    """Return whether to check under the writer lock; also true just after a vacuum."""
    return not has_logs(engine) or bool(_lost(engine, successor=False))


def has_logs(engine: OpenFiles) -> bool:
    """Return whether the logs at their paths are those that this process has open."""
    return all(map(has_log, engine.logs.both))


def has_log(log: Log) -> bool:
    """Return whether an open log is at its path."""
    return files.identity(log.path) == log.identity


def is_worth_keeping(log_path: str, uuid: bytes) -> bool:
    """Return whether a file in the place of the log is more than a new log of this store."""
    if not os.path.lexists(log_path):
        return False
    try:
        data = read_whole(log_path)
        seed = frames.checksum_seed(uuid)
        newest = frames.newest_epoch(data[frames.HEADER_BYTES :], frames.HEADER_BYTES, seed)
    except (OSError, LogstoreError):
        return True
    header = frames.decode_log_header(data[: frames.HEADER_BYTES])
    return header is None or header.uuid != uuid or newest > 0


def _lost(engine: OpenFiles, *, successor: bool = True) -> list[str]:
    """Return the files, except for the log, that are not at their paths any more."""
    path, table = engine.path, engine.table
    lost = []
    if files.identity(path + "-shm") != files.identity(engine.presence_fd):
        lost.append(path + "-shm")
    if files.identity(path) != table.identity:
        if not (successor and is_vacuumed(engine)):
            lost.append(path)
    elif is_overwritten(engine):
        lost.append(path)
    return lost


def is_overwritten(engine: OpenFiles) -> bool:
    """Return whether the table has other contents in the same file, as after ``cp``.

    An interrupted compaction may have committed a transaction that is not published.
    """
    header = engine.header
    found, expected = engine.table.last_transaction(), header.table_txn
    return found < expected or (found > expected and not (header.writing or header.folding))


def publish_table(header: SharedHeader, table: Table) -> None:
    """Publish which file is the table; writer lock held, or alone."""
    header.table_txn = table.last_transaction()
    header.table_inode = table.inode
    header.incarnation = table.meta.incarnation  # last: the other processes wait for it


def open_published(path: str, header: SharedHeader) -> Table | None:
    """Open the published table; return None if another one is at the path.

    Raises as :class:`Table` does.
    """
    published = (header.incarnation, header.table_inode, header.uuid)
    table = Table(path, readers=header.readers)
    found = (table.meta.incarnation, table.inode, table.meta.uuid)
    if found == published and published[:2] == (header.incarnation, header.table_inode):
        return table
    table.close()
    return None


def is_vacuumed(engine: OpenFiles) -> bool:
    """Return whether the file is from a vacuum that died before it could publish it."""
    if os.path.islink(engine.path):
        return False
    try:
        fd = files.open_file(engine.path, os.O_RDONLY)
    except _NOT_OURS:
        return False
    try:
        # By its descriptor: LMDB refuses a path that it has open.
        found = Table(f"/proc/self/fd/{fd}", readonly=True)
        found.close()
    except _NOT_OURS:
        return False
    finally:
        files.close(fd)
    expected = (engine.table.meta.uuid, engine.header.incarnation + 1)
    return (found.meta.uuid, found.meta.incarnation) == expected


def _abandon(engine: OpenFiles, lost: list[str]) -> NoReturn:
    """Save all acknowledged data, stop all processes of the store, and raise the error."""
    header = engine.header
    engine.lost_files = lost
    named = None if is_overwritten(engine) else files.current_path(engine.table.fd)
    if named is None:
        _rescue(engine)
    else:
        engine.fold_unverified(clean=True)
    header.replaced = AT_PATH if named == engine.path else ELSEWHERE
    header.state = _VOID_STATE
    for path, mine in (
        *((log.path, log.identity) for log in engine.logs.both),
        (engine.path + "-shm", files.identity(engine.presence_fd)),
    ):
        if files.identity(path) == mine:
            files.remove(path)
    raise replaced_error(engine)


def _rescue(engine: OpenFiles) -> None:
    """Make a store from the open files.  Raises StoreReplacedError if it fails.

    If the table was overwritten, the new store has the content of the log only.
    """
    overwritten = is_overwritten(engine)
    destination = _rescued_path(engine)
    if os.path.lexists(destination):
        return  # made before, by a process that could not publish it
    try:
        if overwritten:
            write_new(destination, engine.table, engine.overlay)
        else:
            write_closed(destination, engine.table.fd, engine.table.copy_to, engine.overlay)
    except (OSError, LogstoreError, lmdb.Error) as exc:
        raise StoreReplacedError(
            f"{engine.path}: removed or replaced while in use; its data is in this process only, "
            f"and could not be written to {destination} ({exc}); make that possible, and it is "
            f"tried again"
        ) from exc


def _rescued_path(engine: OpenFiles) -> str:
    return f"{engine.path}-rescued-{engine.header.nonce:016x}"


def let_go(engine: OpenFiles) -> None:
    """Release the presence locks, so that the path can be opened again."""
    locks.unlock(engine.presence_fd)
    if engine.table.fd >= 0:
        locks.unlock(engine.table.fd)


def replaced_error(engine: OpenFiles) -> StoreReplacedError:
    """Return the error of every call on a store whose files were removed or replaced."""
    let_go(engine)
    what = " and ".join(engine.lost_files) or f"a file of {engine.path}"
    rescued = _rescued_path(engine)
    where = rescued if os.path.lexists(rescued) else files.current_path(engine.table.fd)
    held = "what was written since the last compaction" if is_overwritten(engine) else "all data"
    error = StoreReplacedError(
        f"{what}: removed or replaced while the store was in use; {held} is in "
        f"{where or 'an unknown file'}; close this store and open it again"
    )
    error.rescued = where
    return error
