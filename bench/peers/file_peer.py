"""The project's own FileResultBackend: a file per result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .backend_peer import BackendPeer
from .base import About

if TYPE_CHECKING:
    from taskiq import AsyncResultBackend


class FilePeer(BackendPeer):
    """As it comes."""

    about = About(
        name="file",
        title="FileResultBackend",
        durable=True,
        modules=("logstore.taskiq", "taskiq"),
        why=(
            "As it comes: a temporary file, fsync, rename, fsync of the directory; what a careful "
            "user who wants readable files would do. It comes with logstore and has nothing of its "
            "engine, so it counts as a peer."
        ),
    )

    def make(self) -> AsyncResultBackend[Any]:
        from logstore.taskiq import FileResultBackend

        backend: AsyncResultBackend[Any] = FileResultBackend(str(self.place.directory))
        return backend
