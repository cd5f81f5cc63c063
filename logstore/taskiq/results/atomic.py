"""Atomic file writes: write a temporary file, sync it, rename it.

Rules:

- When :func:`write_file` returns, the bytes and the directory entry are on disk.  A crash before
  that leaves the old file or none, and possibly a temporary file.
- A writer holds a lock on its temporary file; the kernel releases it when the writer dies.
  :func:`remove_leftovers` removes the files without a lock.
- All functions block: do not call them on an event loop.  Any thread, any number of processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from pathlib import Path

_PREFIX = ".writing-"
_ATTEMPTS_MAX = 100


def write_file(path: Path, data: bytes) -> None:
    """Replace the file at ``path`` with ``data``; create its directory if it is missing.

    Raises ``OSError`` when that fails.  The old file is then still there, unless only the sync of
    the directory failed.
    """
    temporary, descriptor = _open_temporary(path.parent)
    try:
        try:
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(data)
            os.fsync(descriptor)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is raised instead
                os.unlink(temporary)
            raise
    finally:
        os.close(descriptor)
    sync_directory(path.parent)


def remove_file(path: Path) -> bool:
    """Remove the file durably; return whether it existed.  Only one caller gets True."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    sync_directory(path.parent)
    return True


def make_directory(path: Path) -> None:
    """Create the directory and its parents if missing, and sync the new entries."""
    missing = [path, *path.parents]
    missing = [directory for directory in missing if not directory.exists()]
    for directory in reversed(missing):
        directory.mkdir(exist_ok=True)
        sync_directory(directory.parent)


def sync_directory(path: Path) -> None:
    """Sync the entries of a directory; otherwise a power failure may undo a rename."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(directory: Path) -> int:
    """Remove the temporary files of dead writers; return their number."""
    with os.scandir(directory) as entries:
        return sum(_removed(entry.path) for entry in entries if entry.name.startswith(_PREFIX))


def _removed(path: str) -> bool:
    """Remove a temporary file unless its writer is alive; return whether it was removed."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False  # its writer has renamed it
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
        return True
    except OSError:
        return False  # its writer is alive, or the file is gone
    finally:
        os.close(descriptor)


def _open_temporary(directory: Path) -> tuple[Path, int]:
    """Return a new, locked file that has not been removed."""
    for _ in range(_ATTEMPTS_MAX):
        path = directory / f"{_PREFIX}{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o600)
        except FileNotFoundError:
            make_directory(directory)
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                return path, descriptor
        except OSError:
            pass
        os.close(descriptor)  # a clean-up by another process was faster than the lock
    raise OSError(f"{directory}: no temporary file could be created and locked")
