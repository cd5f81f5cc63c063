"""py-lmdb used directly: a transaction per result."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import lmdb

from .base import About, SyncPeer

MAP_BYTES = 64 << 30


class LmdbDirect(SyncPeer):
    """One environment in one file, one write transaction per result."""

    about = About(
        name="lmdb",
        title="py-lmdb",
        durable=True,
        modules=("lmdb",),
        why=(
            "LMDB's defaults sync and metasync, which are what makes a commit durable. writemap is "
            "durable too and gives up the protection from stray writes, so it is off, as it is by "
            "default. meminit off and spare read transactions kept save time and cost no "
            "durability. One put per transaction is the plain use: gathering the writes of several "
            "callers into one is what a layer on top of it, as logstore, is for. No secondary "
            "index and no envelope, so it writes less than a store would. The map is large from "
            "the start, so that it is never resized."
        ),
    )

    def open(self) -> None:
        self._env = lmdb.open(
            str(self.place.directory / "data.mdb"),
            subdir=False,
            map_size=MAP_BYTES,
            meminit=False,
            max_spare_txns=self.threads,
        )

    def close(self) -> None:
        self._env.close()

    def set(self, task_id: str, value: bytes) -> None:
        with self._env.begin(write=True) as txn:
            txn.put(task_id.encode(), value)

    def get(self, task_id: str) -> bytes | None:
        with self._env.begin() as txn:
            found: bytes | None = txn.get(task_id.encode())
            return found

    def ready(self, task_id: str) -> bool:
        return self.get(task_id) is not None

    def preload(self, items: Iterable[tuple[str, bytes]]) -> None:
        # Few, large, sorted transactions: each one leaves the pages it replaced free in the file,
        # which its users' small ones would have used again.
        pending = iter(items)
        while batch := list(islice(pending, 1_000_000)):
            with self._env.begin(write=True) as txn:
                for task_id, value in sorted(batch):
                    txn.put(task_id.encode(), value)
