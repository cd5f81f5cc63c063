"""Where a store can be: checks of its directory and name, before a file is made.

Rules: nothing is written.  An error of the system about a path is passed on: a file that cannot be
reached may exist.
"""

from __future__ import annotations

import os
import stat

from logstore._engine.systemerrors import raise_open_error
from logstore.errors import OpenError

SIDE_NAME_BYTES = 40  # how much longer the names of side files are, at most
NAME_BYTES_MAX = 255  # where the file system does not say


def check_directory(path: str, *, create: bool) -> None:
    """Refuse a path whose directory cannot have a store of that name.

    Raises :class:`~logstore.errors.OpenError`.
    """
    directory, name = os.path.split(path)
    try:
        if not stat.S_ISDIR(os.stat(directory).st_mode):
            raise OpenError(f"{directory}: not a directory")
        if create:
            longest = _name_bytes_max(directory) - SIDE_NAME_BYTES
            if len(os.fsencode(name)) > longest:
                raise OpenError(
                    f"{path}: the name has {len(os.fsencode(name))} bytes, at most {longest} are "
                    f"possible here, because there will be files beside it with longer names"
                )
            # Syncing a directory needs read permission, which making files in it does not.
            os.close(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except FileNotFoundError as exc:
        raise OpenError(f"{directory}: no such directory; create it first") from exc
    except OSError as exc:
        raise_open_error(directory, exc)
    try:
        os.lstat(path)
    except FileNotFoundError:
        pass
    except OSError as exc:
        raise_open_error(path, exc)


def _name_bytes_max(directory: str) -> int:
    try:
        return os.pathconf(directory, "PC_NAME_MAX")
    except (OSError, ValueError):
        return NAME_BYTES_MAX
