"""Whole files only: written aside, made durable, and put in place by a rename.

Rules:

- :func:`write_file` returns once the bytes and the directory entry are on the disk.  A crash
  before that leaves the old file, or none, and perhaps a temporary one.
- A temporary file is locked by its writer for as long as it is written; the kernel drops the lock
  when the writer dies.  :func:`remove_leftovers` removes those that nobody holds.
- Blocking calls throughout: never on an event loop.  Any thread, any number of processes.
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
    """Put ``data`` in the place of the file at ``path``; its directory is made if it is missing.

    Raises ``OSError`` when that fails; the file at ``path`` is then the old one, unless only the
    flush of the directory failed.
    """
    temporary, descriptor = _open_temporary(path.parent)
    try:
        try:
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(data)
            os.fsync(descriptor)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                os.unlink(temporary)
            raise
    finally:
        os.close(descriptor)
    sync_directory(path.parent)


def remove_file(path: Path) -> bool:
    """Remove the file for good; return whether there was one.  Of many callers one gets True."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    sync_directory(path.parent)
    return True


def make_directory(path: Path) -> None:
    """Make the directory and those above it, if missing, and flush the entries that are new."""
    missing = [path, *path.parents]
    missing = [directory for directory in missing if not directory.exists()]
    for directory in reversed(missing):
        directory.mkdir(exist_ok=True)
        sync_directory(directory.parent)


def sync_directory(path: Path) -> None:
    """Flush the entries of a directory; without this a rename may be lost with the power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(directory: Path) -> int:
    """Remove the temporary files of writers that have died; return how many there were."""
    with os.scandir(directory) as entries:
        return sum(_removed(entry.path) for entry in entries if entry.name.startswith(_PREFIX))


def _removed(path: str) -> bool:
    """Remove a temporary file unless its writer lives; return whether it did."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False  # renamed by its writer meanwhile
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
        return True
    except OSError:
        return False  # still being written, or gone
    finally:
        os.close(descriptor)


def _open_temporary(directory: Path) -> tuple[Path, int]:
    """Return a new file that is locked and still there."""
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
        os.close(descriptor)  # somebody who cleans up was faster than the lock
    raise OSError(f"{directory}: no temporary file could be kept long enough to be written")
