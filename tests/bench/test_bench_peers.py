"""A peer that does not keep what it is given would look fast: each keeps it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bench.payloads import pairs, progress, result, task_id, value
from bench.peers import TABLE, Peer, PeerUnavailableError, load
from bench.peers.base import Place

# What needs no server; those of the project's own are tested by their own suites.
EMBEDDED = (
    "lmdb",
    "sqlite-full",
    "sqlite-normal",
    "aiosqlite-full",
    "aiosqlite-full-shared",
    "aiosqlite-normal",
    "diskcache-full",
    "diskcache-normal",
    "huey",
)


def peer_or_skip(name: str) -> Peer:
    try:
        return load(name)
    except PeerUnavailableError as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_synchronous_peer_keeps_what_it_is_given(name: str, tmp_path: Path) -> None:
    sync_class = peer_or_skip(name).sync_class
    if sync_class is None:
        pytest.skip("asynchronous only")
    place = Place(tmp_path)
    for opening in range(2):
        store = sync_class(place)
        store.open()
        if opening == 0:
            store.set("one", value(300))
            store.set("large", value(1 << 20, seed=2))
            store.set_progress("one", b"half")
            store.preload(pairs("loaded", 20, 300))
        assert store.get("one") == value(300)
        assert store.get("large") == value(1 << 20, seed=2)
        assert store.ready("one")
        assert store.ready(task_id("loaded", 19))
        assert not store.ready("absent")
        assert store.get("absent") is None
        if store.newest(5) is not None:
            assert store.newest(5) == 5
        store.close()


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_asynchronous_peer_keeps_what_it_is_given(name: str, tmp_path: Path) -> None:
    async_class = peer_or_skip(name).async_class

    async def scenario() -> None:
        for opening in range(2):
            store = async_class(Place(tmp_path))
            await store.open()
            if opening == 0:
                await asyncio.gather(*(store.set(str(one), result(one)) for one in range(20)))
                await store.set_progress("0", progress(1))
                await store.preload((task_id("loaded", one), result(one)) for one in range(20))
            for one in range(20):
                assert (await store.get(str(one))).return_value == result(one).return_value
                assert await store.ready(task_id("loaded", one))
            assert not await store.ready("absent")
            with pytest.raises(KeyError):
                await store.get("absent")
            await store.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("name", sorted(TABLE))
def test_every_peer_says_why_it_is_configured_as_it_is(name: str) -> None:
    about = peer_or_skip(name).about
    assert about.name == name
    assert len(about.why) > 80


def test_a_sqlite_peer_has_the_durability_that_its_name_says(tmp_path: Path) -> None:
    import sqlite3

    from bench.peers.sqlite_direct import SqliteFull, SqliteNormal

    for peer, level in ((SqliteFull, 2), (SqliteNormal, 1)):
        directory = tmp_path / peer.synchronous
        directory.mkdir()
        store = peer(Place(directory))
        store.open()
        connection: sqlite3.Connection = store._db
        assert connection.execute("PRAGMA synchronous").fetchone() == (level,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        store.close()
