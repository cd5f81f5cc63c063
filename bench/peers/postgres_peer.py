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
            "AsyncpgResultBackend with its default serializer and key type, synchronous_commit "
            "on (asked for explicitly, so a server set otherwise does not flatter it). asyncpg's "
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
