"""Write a disk state into a real directory, as fast as possible.

Rules: the directory must not exist; it is created. Holes are kept (zeros at the end of a file are
never written). Nothing is synced, because the directory is temporary. Hard links are kept.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

from logstore.testing.crash.disk import DiskState

__all__ = ["state_root", "write_state"]

_FREE_BYTES_MIN = 256 << 20


def write_state(state: DiskState, directory: Path) -> None:
    """Make the directory and write the state into it.

    Raise OSError. The umask of the caller is not applied.
    """
    root = os.fspath(directory)
    os.mkdir(root, 0o700)
    placed: dict[int, str] = {}
    for file in state.files:
        path = f"{root}/{file.path}"
        if file.node in placed and file.kind != "dir":
            os.link(placed[file.node], path, follow_symlinks=False)
            continue
        placed[file.node] = path
        if file.kind == "dir":
            os.mkdir(path, 0o700 | stat.S_IMODE(file.mode))
        elif file.kind == "link":
            os.symlink(file.target, path)
        else:
            with open(path, "xb") as out:
                os.fchmod(out.fileno(), stat.S_IMODE(file.mode))
                out.write(file.data)
                out.truncate(file.size)


def state_root() -> tempfile.TemporaryDirectory[str]:
    """Return a new directory for states, as a context manager that removes it.

    It is in memory (/dev/shm) if there is room, else in the system's directory for temporary files.
    """
    place = None
    try:
        if shutil.disk_usage("/dev/shm").free >= _FREE_BYTES_MIN and os.access("/dev/shm", os.W_OK):
            place = "/dev/shm"
    except OSError:
        pass
    return tempfile.TemporaryDirectory(
        prefix="crash-states-", dir=place, ignore_cleanup_errors=True
    )
