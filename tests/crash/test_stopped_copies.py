"""A process is stopped in the middle of a copy while others write: what the files come to.

Rules: it stops itself, at a page that the test names.  The files stay below a bound that does not
depend on how much is written; what was stopped ends well when it goes on, or with an error of the
package; nothing is lost and nothing stays beside the store.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import logstore

if TYPE_CHECKING:
    from tests.support.peers import Peer
    from tests.support.stores import Stores

COMPACT_AT = 1 << 14
LOG_BYTES_MAX = COMPACT_AT * 64 + (1 << 20)  # the arena grows in steps
KEYS = 100
VALUE_BYTES = 8000
OVERWRITES = 40

COPIES = {"backup": "store.backup({copy!r})", "vacuum": "store.vacuum()", "check": "store.check()"}

STOP_AT_A_PAGE = """
inside.copy_page_by_page().start()
reads = []
def preadv(fd, buffers, offset, real=os.preadv):
    size = real(fd, buffers, offset)
    reads.append(offset)
    if len(reads) in {stops}:
        signal.raise_signal(signal.SIGSTOP)
    return size
os.preadv = preadv
"""


def files(path: Path) -> dict[str, int]:
    """The sizes of everything in the store's directory."""
    return {name: os.stat(path.with_name(name)).st_size for name in os.listdir(path.parent)}


def overwrite(store: logstore.Store, turn: int) -> None:
    """Write every value again."""
    for key in range(KEYS):
        store.set_result(f"task-{key}", bytes((turn, key)) * (VALUE_BYTES // 2))


@pytest.fixture
def store(path: Path, open_store: Stores) -> logstore.Store:
    store = open_store(path, compact_at=COMPACT_AT, sync="interval")
    overwrite(store, 255)
    overwrite(store, 254)
    store.compact()
    return store


@pytest.mark.parametrize("copy", COPIES)
def test_the_files_do_not_grow_while_a_process_is_stopped_in_a_copy(
    store: logstore.Store, path: Path, start_peer: Callable[..., Peer], copy: str
) -> None:
    peer = start_peer(path, compact_at=COMPACT_AT)
    peer.run(STOP_AT_A_PAGE.format(stops=(30,)))
    before = files(path)["app.db"]
    peer.begin(COPIES[copy].format(copy=str(path.with_name("copy.db"))))
    peer.wait_until_stopped()
    for turn in range(OVERWRITES):
        overwrite(store, turn)
        found = files(path)
        # What the largest compaction may write, twice: LMDB leaves alone what the last one freed.
        assert found["app.db"] <= before + 2 * (2 * KEYS * VALUE_BYTES)
        assert found["app.db-log"] <= LOG_BYTES_MAX
        assert sum(found.values()) <= 5 * before + LOG_BYTES_MAX
    peer.resume()
    peer.end()
    for key in range(KEYS):
        assert store.get_result(f"task-{key}")[:2] == bytes((OVERWRITES - 1, key))
    if copy == "backup":
        with logstore.open(path.with_name("copy.db")) as backup:
            assert backup.check().ok
            assert backup.get_result("task-7")[:2] == bytes((OVERWRITES - 1, 7))
        os.unlink(path.with_name("copy.db"))
    assert peer.run("len(reads)") > 60  # it began again
    assert peer.run("store.check().ok")
    peer.run("store.close()")
    assert store.check().ok
    assert sorted(files(path)) == ["app.db", "app.db-log", "app.db-shm"]


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_that_is_overtaken_every_time_says_so_and_leaves_nothing(
    store: logstore.Store, path: Path, start_peer: Callable[..., Peer], copy: str
) -> None:
    peer = start_peer(path, compact_at=COMPACT_AT)
    peer.run(STOP_AT_A_PAGE.format(stops=tuple(range(1, 1000))))
    peer.begin(
        f"try: {COPIES[copy].format(copy=str(path.with_name('copy.db')))}\n"
        "except logstore.StoreBusyError as exc: said = str(exc)"
    )
    for _ in range(3):
        peer.wait_until_stopped()
        for turn in range(3):
            overwrite(store, turn)
            store.compact()
        peer.resume()
    peer.end()
    assert peer.run("said") == (
        f"{path}: the {copy} was overtaken by compactions 3 times; try again when less is written"
    )
    assert sorted(files(path)) == ["app.db", "app.db-log", "app.db-shm"]
    peer.run("store.close()")


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_of_a_process_that_dies_leaves_nothing_that_the_last_one_out_does_not_remove(
    store: logstore.Store, path: Path, start_peer: Callable[..., Peer], copy: str
) -> None:
    peer = start_peer(path, compact_at=COMPACT_AT)
    peer.run(STOP_AT_A_PAGE.format(stops=(30,)))
    (path.parent / "backups").mkdir()
    peer.begin(COPIES[copy].format(copy=str(path.parent / "backups" / "copy.db")))
    peer.wait_until_stopped()
    overwrite(store, 1)
    os.kill(peer.pid, signal.SIGKILL)
    overwrite(store, 2)
    store.close()
    assert sorted(files(path)) == ["app.db", "backups"]
    with logstore.open(path) as again:
        assert again.check().ok
        assert again.get_result("task-7")[:2] == bytes((2, 7))
