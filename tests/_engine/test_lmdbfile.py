"""The map of a table: how large it is, how it grows, and what it does without addresses."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmdb
import pytest

import logstore
from logstore._engine import lmdbfile, system
from tests.support.inside import live

if TYPE_CHECKING:
    from tests.support.stores import Stores


def test_a_map_takes_no_more_than_a_part_of_a_limited_address_space(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left: int | None = None
    monkeypatch.setattr(system, "address_space_left", lambda: left)
    assert next(lmdbfile.map_sizes(1 << 20)) == lmdbfile.MAP_BYTES
    left = 8 << 30
    assert list(lmdbfile.map_sizes(1 << 28)) == [1 << 30, 1 << 28]
    assert list(lmdbfile.map_sizes(3 << 30)) == [3 << 30]
    left = 0
    assert list(lmdbfile.map_sizes(1 << 20)) == [1 << 20]


def test_a_new_store_for_which_there_is_no_address_space_leaves_no_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real = lmdb.open

    def refuse(path: bytes, map_size: int, **options: Any) -> lmdb.Environment:
        sizes.append(map_size)
        return real(path, map_size=1 << 50, **options)

    with monkeypatch.context() as patch:
        patch.setattr(lmdb, "open", refuse)
        with pytest.raises(logstore.ResourceLimitError, match=r"address space.*ulimit -v"):
            logstore.open(path)
    assert sizes[0] == lmdbfile.MAP_BYTES
    assert sizes[-1] == lmdbfile.MAP_BYTES_MIN
    assert os.listdir(path.parent) == []


def test_a_map_that_cannot_grow_refuses_the_write_and_goes_on_reading(
    path: Path, open_store: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lmdbfile, "MAP_BYTES", 1 << 20)
    store = open_store(path)
    store.set_result("a", 1)
    with monkeypatch.context() as patch:
        patch.setattr(system, "can_reserve", lambda size: False)
        for _ in range(2):
            with pytest.raises(logstore.WriteError, match="address space") as caught:
                store.set_result("large", bytes(4 << 20))
            assert caught.value.errno == errno.ENOMEM
        assert store.get_result("a") == 1
        assert store.status("large") == "unknown"
        store.set_result("b", 2)
    store.set_result("large", bytes(4 << 20))
    assert store.get_result("b") == 2
    assert store.get_result("large") == bytes(4 << 20)


def test_a_map_is_grown_by_less_where_it_cannot_be_doubled(
    path: Path, open_store: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lmdbfile, "MAP_BYTES", 1 << 20)
    monkeypatch.setattr(system, "can_reserve", lambda size: size <= 1 << 19)
    store = open_store(path)
    store.set_result("large", bytes(4 << 20))
    assert store.get_result("large") == bytes(4 << 20)
    assert live(store).table.env.info()["map_size"] < 8 << 20


def test_a_map_that_is_lost_while_it_grows_is_opened_again(
    path: Path, open_store: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when another thread has taken the address space in that moment."""
    monkeypatch.setattr(lmdbfile, "MAP_BYTES", 1 << 20)
    store = open_store(path)
    store.set_result("a", 1)

    def lose(env: lmdb.Environment, path: str, least: int) -> None:
        env.set_mapsize(1 << 50)

    with monkeypatch.context() as patch:
        patch.setattr(lmdbfile, "_enlarge", lose)
        with pytest.raises(logstore.WriteError) as caught:
            store.set_result("large", bytes(4 << 20))
        assert caught.value.errno == errno.ENOMEM
        assert store.get_result("a") == 1
    store.set_result("large", bytes(4 << 20))
    assert store.get_result("large") == bytes(4 << 20)
