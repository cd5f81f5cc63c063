"""What several tests of the engine need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import lmdb

import logstore
from logstore._engine.engine import Engine

# For a peer: its log is replaced after it.
A_WRITE_WHOSE_FLUSH_FAILS = """
from logstore._engine import durability
real = durability.sync_data
def fail(fd):
    durability.sync_data = real
    raise OSError(5, "Input/output error")
durability.sync_data = fail
try:
    store.set_result("lost", 1)
except logstore.WriteError:
    pass
else:
    raise AssertionError("the flush has not failed")
"""


def live(store: logstore.Store) -> Engine:
    """The engine of a store that is open for writing."""
    engine = store._handle.engine
    assert isinstance(engine, Engine)
    return engine


@contextmanager
def editing(path: object, database: bytes) -> Iterator[lmdb.Transaction[bytes]]:
    """A write transaction on one database of a store's file that nobody has open."""
    env = lmdb.open(str(path), subdir=False, lock=False, max_dbs=16, lib_version=0)
    try:
        with env.begin(write=True, db=env.open_db(database, create=False)) as txn:
            yield txn
    finally:
        env.close()
