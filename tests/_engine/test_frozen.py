"""Reading a store that is not open elsewhere: no lock, no file, no stale answer."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import logstore
from logstore._engine.frozen import FrozenEngine, is_in_use

if TYPE_CHECKING:
    from tests.support.peers import Peer

CrashCopy = Callable[[logstore.Store], Path]


def test_a_store_is_in_use_while_a_process_has_it_open(
    path: Path, start_peer: Callable[..., Peer]
) -> None:
    assert not is_in_use(str(path))
    peer = start_peer(path)
    assert is_in_use(str(path))
    peer.kill()
    assert not is_in_use(str(path))
    with logstore.open(path):
        assert is_in_use(str(path))
    assert not is_in_use(str(path))


def test_a_crashed_store_is_read_with_its_log(store: logstore.Store, crash_copy: CrashCopy) -> None:
    store.set_result("table", 1)
    store.compact()
    store.set_result("log", 2)
    store.delete_result("table")
    crashed = crash_copy(store)
    before = sorted(os.listdir(crashed.parent))
    with logstore.open(crashed, mode="r") as reader:
        assert isinstance(reader._handle.engine, FrozenEngine)
        assert reader.get_result("log") == 2
        assert reader.status("table") == "deleted"
        assert [info.task_id for info in reader.tasks()] == ["log"]
        stats = reader.stats()
        assert (stats.results, stats.recovered_frames) == (1, 2)
        assert reader.check().ok
        assert reader.check().log_frames == 2
    assert sorted(os.listdir(crashed.parent)) == before


def test_two_readers_of_one_store_at_rest_share_an_engine(path: Path) -> None:
    logstore.open(path).close()
    one, two = logstore.open(path, mode="r"), logstore.open(path, mode="r")
    assert one._handle.engine is two._handle.engine
    one.close()
    assert two.status("a") == "unknown"
    two.close()


def test_reading_beside_a_live_process_joins_it(
    path: Path, start_peer: Callable[..., Peer]
) -> None:
    peer = start_peer(path)
    with logstore.open(path, mode="r") as reader:
        assert not isinstance(reader._handle.engine, FrozenEngine)
        peer.run("store.set_result('a', 1)")
        assert reader.get_result("a") == 1
        peer.run("store.close()")
        assert reader.get_result("a") == 1
    assert os.listdir(path.parent) == ["app.db"]


@pytest.mark.parametrize("what", ["removed", "replaced"])
def test_a_file_that_goes_away_under_a_reader_is_said(path: Path, what: str) -> None:
    with logstore.open(path) as store:
        store.set_result("a", 1)
    with logstore.open(path, mode="r") as reader:
        content = path.read_bytes()
        path.unlink()
        if what == "replaced":
            path.write_bytes(content)
        with pytest.raises(logstore.StoreBusyError, match="open it again"):
            reader.get_result("a")
