"""The peers by name. Adapters are imported when asked for: a missing package skips one peer."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from .base import About, AsyncPeer, Offloaded, SyncPeer, offloaded

# name -> (module, synchronous class or None, asynchronous class; None: the synchronous one by
# a thread pool). The order is the order of the reports.
TABLE: dict[str, tuple[str, str | None, str | None]] = {
    "logstore": ("logstore_peer", "StorePeer", "BackendLogStorePeer"),
    "logstore-async": ("logstore_peer", None, "AsyncStorePeer"),
    "bare": ("bare", "Bare", "AsyncBare"),
    "lmdb": ("lmdb_direct", "LmdbDirect", None),
    "sqlite-full": ("sqlite_direct", "SqliteFull", None),
    "aiosqlite-full": ("aiosqlite_backend", None, "AiosqliteFull"),
    "aiosqlite-full-shared": ("aiosqlite_backend", None, "AiosqliteGrouped"),
    "diskcache-full": ("diskcache_peer", "DiskCacheFull", "AsyncDiskCacheFull"),
    "huey": ("huey_peer", "HueySqlite", None),
    "honker-full": ("honker_peer", "HonkerFull", "AsyncHonkerFull"),
    "litequeue-full": ("litequeue_peer", "LiteQueueFull", "AsyncLiteQueueFull"),
    "file": ("file_peer", None, "FilePeer"),
    "redis-always": ("redis_peer", None, "RedisAlways"),
    "postgres": ("postgres_peer", None, "PostgresPeer"),
    "sqlite-normal": ("sqlite_direct", "SqliteNormal", None),
    "aiosqlite-normal": ("aiosqlite_backend", None, "AiosqliteNormal"),
    "diskcache-normal": ("diskcache_peer", "DiskCacheNormal", None),
    "redis-everysec": ("redis_peer", None, "RedisEverysec"),
}

# What they are given cannot be found again by its id: sets alone are measured.
WRITE_ONLY = frozenset({"bare", "litequeue-full"})


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer's two sides; at least one of them is there."""

    about: About
    sync_class: type[SyncPeer] | None
    async_class: type[AsyncPeer]


class PeerUnavailableError(Exception):
    """The peer cannot be measured here; the message says what is missing."""


def load(name: str) -> Peer:
    """Import the peer `name`.

    Raises PeerUnavailableError when a package is missing, KeyError for an unknown name.
    """
    module_name, sync_name, async_name = TABLE[name]
    try:
        module = importlib.import_module(f"{__name__}.{module_name}")
        sync_class: type[SyncPeer] | None = (
            None if sync_name is None else getattr(module, sync_name)
        )
        async_class: type[AsyncPeer]
        if async_name is not None:
            async_class = getattr(module, async_name)
        else:
            assert sync_class is not None
            async_class = offloaded(sync_class)
    except ImportError as error:
        raise PeerUnavailableError(f"{name}: {error}") from error
    about = async_class.about
    missing = about.missing()
    if missing is not None:
        raise PeerUnavailableError(f"{name}: the package of {missing!r} is not installed")
    return Peer(about, sync_class, async_class)


__all__ = [
    "TABLE",
    "WRITE_ONLY",
    "About",
    "AsyncPeer",
    "Offloaded",
    "Peer",
    "PeerUnavailableError",
    "SyncPeer",
    "load",
]
