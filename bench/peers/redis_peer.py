"""taskiq-redis on a server of the bench's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .backend_peer import BackendPeer
from .base import About

if TYPE_CHECKING:
    from taskiq import AsyncResultBackend

# Of 32, 64, 128 and 256 the best over all concurrencies measured; redis-py's own default is 100.
# With 64 at a time 4 and 8 did rather worse, and 16 and 32 no better than the runs differ.
CONNECTIONS_MAX = 128

WHY = (
    "RedisAsyncResultBackend with its default serializer by a Unix socket, which with "
    "everysec and one at a time is about half as fast again as loopback TCP; beyond that the two "
    "were as the runs differ. hiredis installed as redis-py recommends, a pool of 128 connections "
    "(of 4 to 256 none did clearly better). The server keeps the append-only file alone (no RDB "
    "snapshots, which would only add work), the rest as shipped. "
)


class RedisPeer(BackendPeer):
    """The backend as it is installed."""

    def make(self) -> AsyncResultBackend[Any]:
        from taskiq_redis import RedisAsyncResultBackend

        return RedisAsyncResultBackend(
            self.place.url,
            max_connection_pool_size=CONNECTIONS_MAX,
            result_ex_time=self.place.ttl_s,
            prefix_str=self.place.space,
        )


class RedisAlways(RedisPeer):
    """Durable."""

    about = About(
        name="redis-always",
        title="taskiq-redis, always",
        durable=True,
        modules=("taskiq_redis",),
        server="redis-always",
        why=WHY + "appendfsync always: a reply is sent after the fsync.",
    )


class RedisEverysec(RedisPeer):
    """Not durable: up to a second is lost with the power."""

    about = About(
        name="redis-everysec",
        title="taskiq-redis, everysec",
        durable=False,
        modules=("taskiq_redis",),
        server="redis-everysec",
        why=WHY + "appendfsync everysec, the default: up to a second of results may be lost.",
    )
