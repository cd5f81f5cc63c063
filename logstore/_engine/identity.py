"""The identity of an open store's files, and what happens when it is lost.

Someone may remove, rename or replace any file of a store that is open.  Rules:

- Once a second, and before a fold, the rename of a vacuum and the removal of side files, a process
  compares the inodes at the paths with those that it has open.
- A log that is gone is replaced by a new one, after its frames have been folded from memory.  A
  file that lies in its place is kept under another name.
- If the table, the shared header or LMDB's lock file is another one, or the table's contents are
  (a copy onto the same file), all processes of the store stop acking.
  What is only in files without a name is copied to a whole store of its own,
  ``app.db-rescued-*``; a table that still has a name gets everything folded into it.  From then
  on every call raises StoreReplacedError, which says where the data is.
- The presence locks are given back then, so that the path can be opened again at once.

Everything here runs under the writer lock, and is sheltered from signal handlers.
"""

from __future__ import annotations

import os
from typing import NoReturn, Protocol

import lmdb

from logstore._engine import files, frames, locks
from logstore._engine.closedcopy import write_closed, write_new
from logstore._engine.header import SharedHeader
from logstore._engine.log import Log, read_whole
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

# Values of the word REPLACED.
AT_PATH = 1  # all that was acked is in the table at the store's path
ELSEWHERE = 2  # it is in a file of another name

# What opening another program's file meets.  Other errors, as of a process without descriptors,
# say nothing about the file.
_NOT_OURS = (
    FileNotFoundError,
    NotAStoreError,
    FormatVersionError,
    TruncatedFileError,
    CorruptTableError,
)

_VOID_STATE = (1 << 64) - 1  # no overlay has this state, so every read looks at REPLACED


class OpenFiles(Protocol):
    """What is needed here of an engine: the files that it has open."""

    path: str
    presence_fd: int
    header: SharedHeader
    log: Log
    table: Table
    overlay: Overlay
    lost_files: list[str]

    def fold_unverified(self, *, clean: bool = False) -> None:
        """Fold the overlay into the table, wherever that is now."""


def verify(engine: OpenFiles) -> None:
    """See that the files at the paths are those of this store; under the writer lock.

    Sets LOG_FAILED if only the log is not.  Raises StoreReplacedError otherwise.
    """
    if not has_log(engine):
        engine.header.log_failed = 1
    lost = _lost(engine)
    if lost:
        _abandon(engine, lost)


def is_suspect(engine: OpenFiles) -> bool:
    """Whether it has to be looked at under the writer lock; also true just after a vacuum."""
    return not has_log(engine) or bool(_lost(engine, successor=False))


def has_log(engine: OpenFiles) -> bool:
    """Whether the log at its path is the one that this process has open."""
    return files.identity(engine.log.path) == engine.log.identity


def is_worth_keeping(log_path: str, uuid: bytes) -> bool:
    """Whether a file in the place of the log holds anything: a new log of this store does not."""
    if not os.path.lexists(log_path):
        return False
    try:
        data = read_whole(log_path)
    except (OSError, LogstoreError):
        return True
    header = frames.decode_log_header(data[: frames.HEADER_BYTES])
    seed = frames.checksum_seed(uuid)
    newest = frames.newest_epoch(data[frames.HEADER_BYTES :], frames.HEADER_BYTES, seed)
    return header is None or header.uuid != uuid or newest > 0


def _lost(engine: OpenFiles, *, successor: bool = True) -> list[str]:
    """The files, except for the log, that are not at their paths any more."""
    path, table = engine.path, engine.table
    lost = []
    if files.identity(path + "-shm") != files.identity(engine.presence_fd):
        lost.append(path + "-shm")
    if files.identity(path) != table.identity:
        if not (successor and is_vacuumed(engine)):
            lost.append(path)
    elif files.identity(path + "-lock") != table.lock_identity:
        lost.append(path + "-lock")
    elif is_overwritten(engine):
        lost.append(path)
    return lost


def is_overwritten(engine: OpenFiles) -> bool:
    """Whether the table's file is the same and its contents are not, as after a plain copy.

    A compaction that has been cut short may have committed without saying so.
    """
    header = engine.header
    found, expected = engine.table.last_transaction(), header.table_txn
    return found < expected or (found > expected and not header.writing)


def publish_table(header: SharedHeader, table: Table) -> None:
    """Make the header name a table; writer lock held, or alone."""
    header.table_txn = table.last_transaction()
    header.table_inode = table.inode
    header.incarnation = table.meta.incarnation  # last: the other processes go by it


def open_published(path: str, header: SharedHeader) -> Table | None:
    """Open the table that the header names, for reading; None if another one is at the path.

    Between the rename of a vacuum and its publication the new table lies beside the old one's lock
    file, which leads LMDB to a snapshot of the old incarnation.  So the inode counts as well, and
    both must be what they were before the table was opened.  Raises as :class:`Table` does.
    """
    published = (header.incarnation, header.table_inode, header.uuid)
    table = Table(path, readonly=True)
    found = (table.meta.incarnation, table.inode, table.meta.uuid)
    if found == published and published[:2] == (header.incarnation, header.table_inode):
        return table
    table.close()
    return None


def is_vacuumed(engine: OpenFiles) -> bool:
    """Whether a vacuum has put the file there and died before it could publish it."""
    if os.path.islink(engine.path):
        return False
    try:
        fd = files.open_file(engine.path, os.O_RDONLY)
    except _NOT_OURS:
        return False
    try:
        # By its descriptor: beside the path is a lock file that this process has open already.
        found = Table(f"/proc/self/fd/{fd}", readonly=True, lock=False)
        found.close()
    except _NOT_OURS:
        return False
    finally:
        files.close(fd)
    expected = (engine.table.meta.uuid, engine.header.incarnation + 1)
    return (found.meta.uuid, found.meta.incarnation) == expected


def _abandon(engine: OpenFiles, lost: list[str]) -> NoReturn:
    """Put everything acked in safety, stop all processes of the store, and say so."""
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
        (engine.log.path, engine.log.identity),
        (engine.path + "-lock", engine.table.lock_identity),
        (engine.path + "-shm", files.identity(engine.presence_fd)),
    ):
        if files.identity(path) == mine:
            files.remove(path)
    raise replaced_error(engine)


def _rescue(engine: OpenFiles) -> None:
    """Make a store of what has no name any more.  Raises StoreReplacedError if it fails.

    It is whole, but for a table that has been overwritten: then it has what is in the log only.
    """
    overwritten = is_overwritten(engine)
    destination = _rescued_path(engine)
    if os.path.lexists(destination):
        return  # made before, by a process that could not say so
    try:
        if overwritten:
            write_new(destination, engine.table, engine.overlay)
        else:
            write_closed(destination, engine.table.fd, engine.table.copy_to, engine.overlay)
    except (OSError, LogstoreError, lmdb.Error) as exc:
        raise StoreReplacedError(
            f"{engine.path}: removed or replaced while in use; what was acked since is in this "
            f"process only, and could not be written to {destination} ({exc}); make that possible, "
            f"and it is tried again"
        ) from exc


def _rescued_path(engine: OpenFiles) -> str:
    return f"{engine.path}-rescued-{engine.header.nonce:016x}"


def let_go(engine: OpenFiles) -> None:
    """Give the presence locks back, so that the path can be opened again."""
    locks.unlock(engine.presence_fd)
    if engine.table.fd >= 0:
        locks.unlock(engine.table.fd)


def replaced_error(engine: OpenFiles) -> StoreReplacedError:
    """The error of every call on a store whose files are not those at the path."""
    let_go(engine)
    what = " and ".join(engine.lost_files) or f"a file of {engine.path}"
    rescued = _rescued_path(engine)
    where = rescued if os.path.lexists(rescued) else files.current_path(engine.table.fd)
    held = "what was acked since the last compaction" if is_overwritten(engine) else "all acked"
    error = StoreReplacedError(
        f"{what}: removed or replaced while the store was in use; {held} is in "
        f"{where or 'no file that can be named'}; close this store and open it again"
    )
    error.rescued = where
    return error
