"""Fixtures for the tests of the engine and the stores.

Rules: every store that ``open_store`` opened is verified when its test ends: the full check finds
nothing, also after closing, and one file is left.  A test that damages a store opens it itself.
Stores of these fixtures do not compact when idle, so that a test decides what is in the log.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import logstore
from tests.support.inside import no_idle_compaction as without_idle_compaction
from tests.support.peers import Peer
from tests.support.stores import Clock, Stores


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the test's store is, or will be."""
    return tmp_path / "app.db"


@pytest.fixture
def shared_directory() -> Iterator[Path]:
    """A directory that others can reach, which those of pytest are not."""
    with tempfile.TemporaryDirectory(prefix="logstore-") as name:
        directory = Path(name).resolve()
        if not all(parent.stat().st_mode & 0o001 for parent in directory.parents):
            pytest.skip("others cannot reach the directory for temporary files")
        directory.chmod(0o755)
        yield directory


@pytest.fixture
def no_idle_compaction() -> Iterator[None]:
    """Compact only on request, when the log is full, and at the end."""
    with without_idle_compaction():
        yield


@pytest.fixture
def open_store(tmp_path: Path, no_idle_compaction: None) -> Iterator[Stores]:
    """Opens stores that are verified when the test ends."""
    stores = Stores(tmp_path)
    try:
        yield stores
        stores.finish()
    finally:
        stores.abandon()


@pytest.fixture
def store(open_store: Stores) -> logstore.Store:
    """An open, empty store, verified when the test ends."""
    return open_store()


@pytest.fixture
def start_peer() -> Iterator[Callable[..., Peer]]:
    """Starts other processes; those that still run are killed when the test ends."""
    peers: list[Peer] = []

    def start(path: Path | str | None = None, **options: object) -> Peer:
        peer = Peer()
        peers.append(peer)
        if path is not None:
            peer.open(path, **options)
        return peer

    yield start
    for peer in peers:
        peer.kill()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of this process, in the test's hand."""
    return Clock(monkeypatch)


@pytest.fixture
def crash_copy(tmp_path: Path) -> Callable[[logstore.Store], Path]:
    """Makes what a sudden death would leave of a store that is open: its table and its log."""
    count = 0

    def copy(store: logstore.Store) -> Path:
        nonlocal count
        count += 1
        directory = tmp_path / f"crash-{count}"
        directory.mkdir()
        for suffix in ("", "-log", "-log2", "-shm"):
            shutil.copyfile(store.path + suffix, directory / f"app.db{suffix}")
        return directory / "app.db"

    return copy
