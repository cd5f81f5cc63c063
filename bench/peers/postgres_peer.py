"""taskiq-postgres over asyncpg, on a server that is already there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .backend_peer import BackendPeer
from .base import About

if TYPE_CHECKING:
    from taskiq import AsyncResultBackend

# asyncpg's default; of 8, 10, 16, 32 and 64 also the best that was measured at c=64.
POOL_MAX = 10


class PostgresPeer(BackendPeer):
    """The backend as it is installed, in a table of its own that is dropped afterwards."""

    about = About(
        name="postgres",
        title="taskiq-postgres (asyncpg)",
        durable=True,
        modules=("taskiq_pg", "asyncpg"),
        server="postgres",
        why=(
            "AsyncpgResultBackend with its default serializer and key type over loopback TCP (its "
            "address is given, and where its Unix socket is and who may connect is its owner's "
            "choice). A server as it was found: fsync, full_page_writes and synchronous_commit "
            "are beside its version in the report. With fsync off it takes no part; "
            "synchronous_commit on is asked for, whatever the server's own is. asyncpg's "
            "default pool of 10, which did best: PostgreSQL shares a flush between the backends "
            "that commit at the same time, and more of them wait for the processor."
        ),
    )

    @property
    def table(self) -> str:
        """The table's name; a space names one slice of one run."""
        return "bench_" + self.place.space

    def make(self) -> AsyncResultBackend[Any]:
        from taskiq_pg.asyncpg import AsyncpgResultBackend

        backend: AsyncResultBackend[Any] = AsyncpgResultBackend(
            dsn=self.place.url,
            table_name=self.table,
            min_size=POOL_MAX,
            max_size=POOL_MAX,
            server_settings={"synchronous_commit": "on"},
        )
        return backend
