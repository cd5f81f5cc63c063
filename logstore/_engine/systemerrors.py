"""Errors of the operating system and of LMDB, as the package's own errors.

Rules: errors of the package pass unchanged, and so do all others that are not the system's.  One
table has the kind of each error code, and what the user can do; the class follows from the kind and
from the call, opening or writing.  LMDB's errors have the same codes.  A full disk or quota has a
class of its own, because the user can repair it.
"""

from __future__ import annotations

import copy
import errno
import os
import threading
from typing import NamedTuple, NoReturn, TypeGuard

import lmdb

from logstore._engine import system
from logstore._engine.shelter import is_interrupt
from logstore.errors import (
    DiskFullError,
    LogstoreError,
    OpenError,
    ResourceLimitError,
    StorePermissionError,
    WriteError,
)

SPARE_BYTES = 1 << 20

_FULL, _LIMIT, _PERMISSION, _OTHER = "full", "limit", "permission", "other"
_UNSUPPORTED = "the file system, or a sandbox, lacks something that the store needs"
_NO_LINKS = "look at the symbolic links in the path"


class _Cause(NamedTuple):
    kind: str
    advice: str


_CAUSES = {
    errno.ENOSPC: _Cause(_FULL, "free some space"),
    errno.EDQUOT: _Cause(_FULL, "free some space, or raise the quota"),
    errno.EMFILE: _Cause(
        _LIMIT, "this process has no file descriptors left; raise its limit (ulimit -n)"
    ),
    errno.ENFILE: _Cause(
        _LIMIT, "the machine has no file descriptors left; raise their number (fs.file-max)"
    ),
    errno.ENOMEM: _Cause(
        _LIMIT, "no memory or address space is left; look at ulimit -v and the container's limit"
    ),
    errno.EAGAIN: _Cause(
        _LIMIT,
        "no more threads may be started, or no more memory locked; look at ulimit -u, ulimit -l "
        "and the container's limit",
    ),
    errno.EACCES: _Cause(
        _PERMISSION,
        "no permission; the store needs to read and write this file and to create files beside "
        "it; use mode='r' to read only",
    ),
    errno.EPERM: _Cause(
        _PERMISSION,
        "not permitted, whatever the file's mode: look for an immutable file (lsattr) or a sandbox",
    ),
    errno.EROFS: _Cause(_PERMISSION, "no permission to write here; use mode='r' to read only"),
    errno.EFBIG: _Cause(
        _OTHER, "the file may not grow: look at ulimit -f, and at what the file system allows"
    ),
    errno.ENAMETOOLONG: _Cause(_OTHER, "choose a shorter path"),
    errno.ELOOP: _Cause(_OTHER, _NO_LINKS),
    errno.ENOTDIR: _Cause(_OTHER, "something in the path is not a directory"),
    errno.EISDIR: _Cause(_OTHER, "a directory is where a file of the store should be"),
    errno.ENOENT: _Cause(_OTHER, "create the directory first, or look at the links in the path"),
    errno.EIO: _Cause(_OTHER, "the disk failed; look at the system's log"),
    errno.ENOLCK: _Cause(_OTHER, "the file system has no locks"),
    errno.ESTALE: _Cause(_OTHER, "the file system was unmounted; mount it again"),
    errno.ENODEV: _Cause(_OTHER, _UNSUPPORTED),
    errno.EINVAL: _Cause(_OTHER, _UNSUPPORTED),
    errno.ENOSYS: _Cause(_OTHER, _UNSUPPORTED),
    errno.EOPNOTSUPP: _Cause(_OTHER, _UNSUPPORTED),
}
_UNKNOWN = _Cause(_OTHER, "look at the system's log")
_OF_A_WRITE = "this write was not acknowledged, and nothing that was acknowledged is lost"
_OPEN_ERRORS: dict[str, type[OpenError | DiskFullError]] = {
    _FULL: DiskFullError,
    _LIMIT: ResourceLimitError,
    _PERMISSION: StorePermissionError,
    _OTHER: OpenError,
}


def system_code(exc: BaseException) -> int:
    """Return the system's code in an error of the system or of LMDB, 0 if there is none."""
    code = getattr(exc, "errno", None) or getattr(exc, "code", None)
    return code if isinstance(code, int) and code > 0 else 0


def open_error(path: str, exc: OSError | lmdb.Error) -> LogstoreError:
    """Return the error to raise for an error of opening or reading ``path``."""
    code, reason = _code_and_reason(path, exc)
    kind, advice = _CAUSES.get(code, _UNKNOWN)
    message = f"{path}: cannot be opened ({reason}): {advice}"
    if kind is _FULL:
        return DiskFullError(code, message)
    error = _OPEN_ERRORS[kind](message)
    if isinstance(error, OSError):
        error.errno = code
    return error


def write_error(path: str, exc: BaseException, outcome: str = _OF_A_WRITE) -> BaseException:
    """Return the error to raise for an error of writing the store at ``path``.

    ``outcome`` is what the message says of the rest of the store.
    """
    if isinstance(exc, OpenError):  # a file that had to be opened again
        code = system_code(exc) or errno.EIO
        return WriteError(code, f"{path}: writing failed: {exc}")
    if not _is_systems(exc):
        return exc
    code, reason = _code_and_reason(path, exc)
    kind, advice = _CAUSES.get(code, _UNKNOWN)
    if kind is _FULL:
        return DiskFullError(
            code,
            f"{path}: no space left to write ({reason}); nothing was lost; {advice} and write "
            f"again",
        )
    return WriteError(
        code or errno.EIO,
        f"{path}: writing failed ({reason}): {advice}; {outcome}",
    )


def _is_systems(exc: BaseException) -> TypeGuard[OSError | lmdb.Error]:
    """Return whether an error is of the system or of LMDB, and not one of the package."""
    return (
        isinstance(exc, OSError | lmdb.Error)
        and not isinstance(exc, LogstoreError)
        and not is_interrupt(exc)
    )


def _code_and_reason(path: str, exc: OSError | lmdb.Error) -> tuple[int, str]:
    """Return the code of an error, and the system's text for it."""
    code = system_code(exc)
    if isinstance(exc, OSError):
        return code, exc.strerror or str(exc)
    if code == errno.EIO:
        found = space_problem(path)
        if found:
            return found, os.strerror(found)
    return code, str(exc).removeprefix(f"{path}: ")  # LMDB names the file too


def flush_error(log_path: str) -> OSError:
    """Return the error of a write whose flush has failed in another process."""
    return OSError(errno.EIO, f"{log_path}: a flush by another process has failed")


def raise_open_error(path: str, exc: BaseException) -> NoReturn:
    """Raise ``exc``, or the error of :func:`open_error` with ``exc`` as its cause."""
    if _is_systems(exc):
        raise open_error(path, exc) from exc
    raise exc


def raise_write_error(path: str, exc: BaseException, outcome: str = _OF_A_WRITE) -> NoReturn:
    """Raise ``exc``, or the error of :func:`write_error` with ``exc`` as its cause."""
    error = write_error(path, exc, outcome)
    if error is exc:
        raise exc  # not from itself: that cycle would keep all objects of its frames
    raise error from exc


def start_thread(where: str, thread: threading.Thread) -> None:
    """Start a thread for a store.  Raises ResourceLimitError if no more may be started."""
    try:
        thread.start()
    except RuntimeError as exc:
        error = ResourceLimitError(f"{where}: {exc}: {_CAUSES[errno.EAGAIN].advice}")
        error.errno = errno.EAGAIN
        raise error from exc


def raisable(error: BaseException) -> BaseException:
    """Copy an error that a whole group shares, so that each caller has its own traceback."""
    try:
        mine = copy.copy(error)
    except Exception:
        return error
    mine.__cause__ = error.__cause__
    return mine


# -- a full disk -----------------------------------------------------------------------------


class NoSpaceError(lmdb.DiskError):
    """LMDB failed on a full disk, although its error says something else."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.errno = code


def blame_space(path: str, exc: lmdb.Error, wanted_bytes: int) -> None:
    """Raise NoSpaceError if there was no room for a write to the file ``path``.

    LMDB calls a short write an input/output error.  Call this at once, before the space may be
    free again.
    """
    found = space_problem(path, wanted_bytes) if system_code(exc) == errno.EIO else 0
    if found:
        raise NoSpaceError(found, f"{exc}: {os.strerror(found)}") from exc


def space_problem(path: str, wanted_bytes: int = 0) -> int:
    """Return ENOSPC, EDQUOT or EFBIG if so much and a little more does not fit, else 0."""
    size = wanted_bytes + SPARE_BYTES
    if system.file_bytes_left(path) < size:
        return errno.EFBIG
    return system.space_error(os.path.dirname(path), size)
