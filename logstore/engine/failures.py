"""What the operating system and LMDB say when a write fails, as the package's own errors.

Rules: an error of the package passes unchanged; a full disk or quota is told apart from all other
failures, because it can be mended; anything else that is not about writing passes unchanged too.
"""

from __future__ import annotations

import copy
import errno
import os
from typing import NoReturn

import lmdb

from logstore.errors import DiskFullError, LogstoreError, OpenError, WriteError

NEARLY_FULL_BYTES = 1 << 20


def write_error(path: str, exc: BaseException) -> BaseException:
    """The error to raise for one met while writing the store at ``path``."""
    if isinstance(exc, OpenError):  # a file that had to be opened again
        return WriteError(errno.EIO, f"{path}: writing failed: {exc}")
    if isinstance(exc, LogstoreError) or not isinstance(exc, OSError | lmdb.Error):
        return exc
    code = exc.errno if isinstance(exc, OSError) else _errno_in(str(exc))
    if code in (errno.ENOSPC, errno.EDQUOT) or (code == errno.EIO and _is_full(path)):
        return DiskFullError(
            errno.EDQUOT if code == errno.EDQUOT else errno.ENOSPC,
            f"{path}: no space left to write ({exc}); nothing was lost; free some space and write "
            f"again",
        )
    return WriteError(
        code or errno.EIO,
        f"{path}: writing failed ({exc}); the write was not acked, and nothing that was acked is "
        f"lost",
    )


def raise_write_error(path: str, exc: BaseException) -> NoReturn:
    """Raise the error of :func:`write_error`, caused by ``exc`` unless it is that itself."""
    error = write_error(path, exc)
    if error is exc:
        raise exc  # never from itself: that is a circle, which keeps all that its frames hold
    raise error from exc


def _is_full(path: str) -> bool:
    """Whether there is hardly any space left: LMDB reports a short write as an I/O error."""
    try:
        info = os.statvfs(os.path.dirname(path))
    except OSError:
        return False
    return info.f_bavail * info.f_frsize < NEARLY_FULL_BYTES


def _errno_in(text: str) -> int:
    """The operating system's code in LMDB's message, 0 if there is none."""
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENOMEM):
        if os.strerror(code) in text:
            return code
    return 0


def raisable(error: BaseException) -> BaseException:
    """A copy of an error that a whole group shares, so that each caller has its own traceback."""
    try:
        mine = copy.copy(error)
    except Exception:
        return error
    mine.__cause__ = error.__cause__
    return mine
