"""A peer that does not keep what it is given would look fast: each keeps it."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.payloads import pairs, progress, result, task_id, value
from bench.peers import TABLE, Peer, PeerUnavailableError, load
from bench.peers.base import Place
from bench.servers import Redis, ServerUnavailableError, postgres_versions

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
    "honker-full",
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


def test_huey_is_durable_too(tmp_path: Path) -> None:
    sync_class = peer_or_skip("huey").sync_class
    assert sync_class is not None
    store = sync_class(Place(tmp_path))
    store.open()
    connection: sqlite3.Connection = store._storage.conn  # type: ignore[attr-defined]
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    store.close()


@pytest.mark.parametrize("name", ["honker-full", "litequeue-full"])
def test_what_sets_normal_itself_is_set_to_full(name: str, tmp_path: Path) -> None:
    sync_class = peer_or_skip(name).sync_class
    assert sync_class is not None
    store = sync_class(Place(tmp_path))
    store.open()
    assert store.synchronous() == 2  # type: ignore[attr-defined]
    store.close()


def test_a_queue_keeps_what_is_put_and_has_no_results(tmp_path: Path) -> None:
    queue = peer_or_skip("litequeue-full")
    assert queue.sync_class is not None
    store = queue.sync_class(Place(tmp_path))
    store.open()
    store.set("one", value(300))
    store.close()

    async def scenario() -> None:
        peer = queue.async_class(Place(tmp_path))
        await peer.open()
        await asyncio.gather(*(peer.set(str(one), result(one)) for one in range(20)))
        assert peer._sync.messages() == 21  # type: ignore[attr-defined]
        with pytest.raises(NotImplementedError, match="no results"):
            await peer.get("one")
        with pytest.raises(NotImplementedError, match="no results"):
            await peer.ready("one")
        with pytest.raises(NotImplementedError, match="no results"):
            await peer.set_progress("one", progress(1))
        await peer.close()

    asyncio.run(scenario())


def test_numbers_of_jobs_fit_a_column_of_integers_and_differ() -> None:
    from bench.peers.honker_peer import job_id

    numbers = [job_id(task_id("space", one)) for one in range(1000)]
    assert len(set(numbers)) == 1000
    assert 0 <= min(numbers) < max(numbers) < 1 << 63


def test_threads_that_read_sqlite_have_connections_of_their_own(tmp_path: Path) -> None:
    from bench.peers.sqlite_direct import SqliteFull

    store = SqliteFull(Place(tmp_path))
    store.open()
    store.set("one", b"1")
    assert store.get("one") == b"1"
    assert len(store._opened) == 1
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(store.get, "one").result() == b"1"
    assert len(store._opened) == 2
    store.close()


@pytest.mark.parametrize(("ttl_s", "cull_limit"), [(None, 0), (5, 10)])
def test_diskcache_looks_for_what_has_expired_only_where_something_does(
    tmp_path: Path, ttl_s: int | None, cull_limit: int
) -> None:
    peer_or_skip("diskcache-full")
    from bench.peers.diskcache_peer import DiskCacheFull, DiskCacheFullSharded

    for peer in (DiskCacheFull, DiskCacheFullSharded):
        directory = tmp_path / peer.__name__
        directory.mkdir()
        store = peer(Place(directory, ttl_s=ttl_s))
        store.open()
        assert store._cache.cull_limit == cull_limit
        assert store._cache.sqlite_synchronous == 2
        store.close()


def test_a_postgres_that_does_not_flush_takes_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    asyncpg = pytest.importorskip("asyncpg")
    settings = {"SHOW server_version": "15.1", "SHOW fsync": "on"}

    class Connection:
        async def fetchval(self, query: str) -> str:
            return settings.get(query, "on")

        async def close(self) -> None:
            pass

    async def connect(*_: object, **__: object) -> Connection:
        return Connection()

    monkeypatch.setattr(asyncpg, "connect", connect)
    assert postgres_versions("somewhere")["postgres fsync"] == "on"
    settings["SHOW fsync"] = "off"
    with pytest.raises(ServerUnavailableError, match="fsync off"):
        postgres_versions("somewhere")


def test_a_redis_server_listens_on_a_socket_in_its_directory(tmp_path: Path) -> None:
    if shutil.which("redis-server") is None:
        assert not os.environ.get("CI"), "redis-server is not installed"
        pytest.skip("redis-server is not installed")
    # Longer than the path of a socket may be.
    directory = tmp_path / ("a" * 120)
    server = Redis(directory, appendfsync="always")
    try:
        assert server.url.startswith("unix://")
        assert (directory / "redis.sock").is_socket()
    finally:
        server.stop()
