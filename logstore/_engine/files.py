"""Opening and closing the store's files.

Rules: every descriptor of the package is opened and closed here.  Only regular files are opened,
and symbolic links are not followed, so that a name beside a store never leads to a file of another
program.  A new file gets the owner, group and mode of the store, as far as the process may set
them.  In a forked child every descriptor is closed, not unlocked: the locks belong to the open
file, which the parent has too.
"""

from __future__ import annotations

import os
import stat
import time

from logstore._engine import durability
from logstore.errors import NotAStoreError

MODE = 0o600

_open: set[int] = set()


def open_file(path: str, flags: int, *, like: str | int | None = None) -> int:
    """Open a regular file; a new one gets the owner and mode of the file ``like``.

    Raises OSError, with ELOOP for a symbolic link, and NotAStoreError for any other kind of file.
    """
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # it may be a FIFO
    fd, is_new = _open_or_create(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise NotAStoreError(f"{path}: not a regular file, expected a file of the store")
        if is_new and like is not None:
            adopt_owner(fd, like)
    except BaseException:
        os.close(fd)
        raise
    _open.add(fd)
    return fd


def _open_or_create(path: str, flags: int) -> tuple[int, bool]:
    if not flags & os.O_CREAT:
        return os.open(path, flags), False
    while True:
        try:
            return os.open(path, flags | os.O_EXCL, MODE), True
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
        try:
            return os.open(path, flags & ~os.O_CREAT), False
        except FileNotFoundError:
            continue  # removed in between


def adopt_owner(fd: int, like: str | int) -> None:
    """Give an open file the owner, group and mode of another, as far as the process may."""
    try:
        wanted = os.stat(like)
    except OSError:
        return  # there is no such file yet
    found = os.fstat(fd)
    owner = wanted.st_uid if wanted.st_uid != found.st_uid else -1
    group = wanted.st_gid if wanted.st_gid != found.st_gid else -1
    for ids in ((owner, group), (-1, group)):
        if ids != (-1, -1):
            try:
                os.fchown(fd, *ids)
                break
            except PermissionError:
                continue
    mode = stat.S_IMODE(wanted.st_mode) & 0o666 | MODE
    if mode != stat.S_IMODE(found.st_mode):
        os.fchmod(fd, mode)


def duplicate(fd: int) -> int:
    """Return another descriptor of an open file."""
    copy = os.dup(fd)
    _open.add(copy)
    return copy


def close(fd: int) -> None:
    """Close a descriptor of this module, which releases its locks."""
    _open.discard(fd)
    os.close(fd)


def identity(path_or_fd: str | int) -> tuple[int, int] | None:
    """Return device and inode of a file, None if there is no file at that path."""
    try:
        found = os.stat(path_or_fd, follow_symlinks=isinstance(path_or_fd, int))
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def current_path(fd: int) -> str | None:
    """Return the path of an open file, None if it has none any more or it is unknown."""
    try:
        if os.fstat(fd).st_nlink:
            return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        pass
    return None


def keep_aside(path: str, why: str) -> str:
    """Give a file a second name, durably, under which it is kept; return that name."""
    kept = f"{path}.{why}-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}"
    try:
        os.link(path, kept)
    except FileExistsError:
        if not os.path.samefile(path, kept):  # otherwise it was kept a moment ago
            raise
    durability.sync_directory(os.path.dirname(path))
    return kept


def close_inherited() -> None:
    """Close, in a forked child, what the parent has opened."""
    for fd in _open:
        os.close(fd)
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=close_inherited)


def remove(path: str) -> None:
    """Remove a file if there is one."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def is_at(fd: int, path: str) -> bool:
    """Return whether the file at a path is the one that is open."""
    return identity(fd) == identity(path)
