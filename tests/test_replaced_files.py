"""What others do to the files of an open store: removed, renamed, replaced, restored over.

Every write that was acked is in the file at the path afterwards, or an error says where it is.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import logstore
from tests.support import boundary
from tests.support.inside import files_looked_at_every
from tests.support.peers import run_child

if TYPE_CHECKING:
    from tests.support.peers import Peer

WAIT_S = 100.0


@pytest.fixture(autouse=True)
def watched_closely() -> Iterator[None]:
    """Look at the files often in this process."""
    with files_looked_at_every(0.02):
        yield


def write_until_refused(store: logstore.Store) -> tuple[list[str], logstore.StoreReplacedError]:
    """The ids that were acked, and the error that ended it."""
    acked: list[str] = []
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        try:
            store.set_result(f"late-{len(acked)}", len(acked))
        except logstore.StoreReplacedError as exc:
            return acked, exc
        acked.append(f"late-{len(acked)}")
        time.sleep(0.005)
    raise AssertionError("nothing was noticed")


def ids_in(path: str | Path) -> set[str]:
    with logstore.open(path) as store:
        assert store.check().ok
        found = {info.task_id for info in store.tasks()}
        for task_id in found:
            store.get_result(task_id)
        return found


SIDE_FILES = ["-shm"]


@pytest.mark.parametrize("how", ["removed", "replaced"])
@pytest.mark.parametrize("suffix", SIDE_FILES)
def test_a_side_file_that_goes_costs_nothing_and_ends_all_calls(
    path: Path, suffix: str, how: str
) -> None:
    store = logstore.open(path)
    store.set_result("a", 1)
    os.unlink(f"{path}{suffix}")
    if how == "replaced":
        Path(f"{path}{suffix}").write_bytes(b"somebody else's")
    acked, error = write_until_refused(store)
    assert f"{path}{suffix}" in str(error)
    assert error.rescued == str(path)
    for call in (lambda: store.get_result("a"), store.stats, lambda: store.wait_result("b")):
        with pytest.raises(logstore.StoreReplacedError):
            call()
    store.close()
    store.close()
    if how == "replaced" and suffix == "-shm":
        os.unlink(f"{path}{suffix}")
    assert ids_in(path) == {"a", *acked}


def test_a_process_that_only_reads_notices_too(path: Path) -> None:
    store = logstore.open(path)
    store.set_result("a", 1)
    store.compact()
    os.unlink(path)

    def read() -> None:
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            store.get_result("a")
            time.sleep(0.005)

    with pytest.raises(logstore.StoreReplacedError):
        read()
    with pytest.raises(logstore.StoreReplacedError):
        store.close()


def test_all_side_files_that_go_at_once_cost_nothing(path: Path) -> None:
    store = logstore.open(path)
    store.set_result("a", 1)
    for suffix in ("-shm", "-log"):
        os.unlink(f"{path}{suffix}")
    acked, _ = write_until_refused(store)
    store.close()
    assert os.listdir(path.parent) == ["app.db"]
    assert ids_in(path) == {"a", *acked}


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_a_process_that_comes_when_the_header_was_removed_is_not_alone(
    path: Path, start_peer: Callable[..., Peer], mode: str
) -> None:
    """It waits until the processes with the old header have noticed and let go."""
    peer = start_peer()
    peer.run("inside.files_looked_at_every(1e9).start()")
    peer.open(path)
    peer.run("store.set_result('a', 1)")
    os.unlink(f"{path}-shm")
    with pytest.raises(logstore.StoreBusyError, match="removed or replaced"):
        logstore.open(path, mode=mode, write_timeout_s=0.2)  # type: ignore[arg-type]
    peer.run("store.set_result('b', 2)\nstore.close()")
    assert ids_in(path) == {"a", "b"}


def test_a_log_that_is_removed_is_made_again_and_nothing_is_lost(path: Path) -> None:
    with logstore.open(path) as store:
        store.set_result("a", 1)
        os.unlink(f"{path}-log")
        store.set_result("b", 2)
        deadline = time.monotonic() + WAIT_S
        while not os.path.exists(f"{path}-log"):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        store.set_result("c", 3)
        run_child(
            "import logstore, sys\n"
            "with logstore.open(sys.argv[1]) as s: s.set_result('d', s.get_result('c') + 1)",
            path,
        )
        assert [store.get_result(key) for key in "abcd"] == [1, 2, 3, 4]
    assert ids_in(path) == {"a", "b", "c", "d"}


def test_a_log_that_is_removed_just_before_the_end_loses_nothing(path: Path) -> None:
    store = logstore.open(path, sync_interval_s=1e6)
    store.set_result("a", 1)
    os.unlink(f"{path}-log")
    store.set_result("b", 2)
    store.close()
    assert os.listdir(path.parent) == ["app.db"]
    assert ids_in(path) == {"a", "b"}


def test_a_file_in_the_place_of_the_log_is_kept(path: Path) -> None:
    with logstore.open(path) as store:
        store.set_result("a", 1)
        Path(f"{path}-other").write_bytes(b"the only copy of something")
        os.rename(f"{path}-other", f"{path}-log")
        store.set_result("b", 2)
        store.compact()
        (kept,) = path.parent.glob("app.db-log.replaced-*")
        assert kept.read_bytes() == b"the only copy of something"
    assert ids_in(path) == {"a", "b"}


@pytest.mark.parametrize("ending", ["noticed", "closed at once"])
@pytest.mark.parametrize("how", ["removed", "replaced by a store", "replaced by a copy of itself"])
def test_a_table_without_a_name_is_rescued(path: Path, how: str, ending: str) -> None:
    with logstore.open(path.with_name("other.db")) as other:
        other.set_result("other", 1)
    store = logstore.open(path, sync_interval_s=1e6 if ending == "closed at once" else 1.0)
    store.set_result("a", {1: "one"})
    store.compact()
    store.set_result("b", 2)
    if how == "removed":
        os.unlink(path)
    elif how == "replaced by a store":
        os.rename(path.with_name("other.db"), path)
    else:
        shutil.copyfile(path, f"{path}.copy")
        os.rename(f"{path}.copy", path)
    acked: list[str] = []
    if ending == "noticed":
        acked, error = write_until_refused(store)
        assert f"{path}: removed or replaced" in str(error)
    with pytest.raises(logstore.StoreReplacedError) as caught:
        store.close()
    store.close()
    rescued = caught.value.rescued
    assert rescued is not None
    assert rescued in str(caught.value)
    assert rescued.startswith(f"{path}-rescued-")
    assert ids_in(rescued) == {"a", "b", *acked}
    if how != "replaced by a copy of itself":  # which has no log, and says so
        assert ids_in(path) == ({"other"} if how == "replaced by a store" else set())


@pytest.mark.parametrize("how", ["a backup", "an older copy", "another file"])
def test_a_table_that_is_overwritten_in_place_is_noticed(path: Path, how: str) -> None:
    """As `cp backup.db app.db` does.  What is in the log survives, the rest is as it was copied."""
    store = logstore.open(path)
    store.set_result("a", 1)
    store.compact()
    other = path.with_name("other")
    if how == "a backup":
        store.backup(other)
    elif how == "an older copy":
        shutil.copyfile(path, other)
    else:
        other.write_bytes(bytes(1 << 20))
    store.set_result("b", 2)
    store.compact()
    store.set_result("c", 3)
    with open(path, "r+b") as file:
        file.write(other.read_bytes())
    acked, error = write_until_refused(store)
    assert f"{path}: removed or replaced" in str(error)
    with pytest.raises(logstore.StoreReplacedError, match="since the last compaction"):
        store.close()
    assert error.rescued is not None
    assert ids_in(error.rescued) == {"c", *acked}
    if how == "a backup":
        assert ids_in(path) == {"a"}


def test_a_table_that_was_renamed_gets_everything_folded_into_it(path: Path) -> None:
    store = logstore.open(path)
    store.set_result("a", 1)
    moved = path.with_name("moved.db")
    os.rename(path, moved)
    acked, error = write_until_refused(store)
    assert error.rescued == str(moved)
    with pytest.raises(logstore.StoreReplacedError, match=r"moved\.db"):
        store.close()
    assert os.listdir(path.parent) == ["moved.db"]
    assert ids_in(moved) == {"a", *acked}


def test_all_processes_of_a_store_stop_and_one_rescues(
    path: Path, start_peer: Callable[..., Peer]
) -> None:
    peer = start_peer(path)
    store = logstore.open(path)
    store.set_result("a", 1)
    peer.run("store.set_result('b', 2)")
    os.unlink(path)
    acked, error = write_until_refused(store)
    peer.run(
        "try: store.set_result('c', 3)\n"
        "except logstore.StoreReplacedError as exc: rescued = exc.rescued"
    )
    assert peer.run("rescued") == error.rescued
    peer.run("try: store.close()\nexcept logstore.StoreReplacedError: pass")
    with pytest.raises(logstore.StoreReplacedError):
        store.close()
    assert error.rescued is not None
    assert ids_in(error.rescued) == {"a", "b", *acked}
    assert ids_in(path) == set()


def test_a_rescue_that_finds_no_space_is_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last copy of acked data is in an open file: it is not closed."""
    store = logstore.open(path, sync_interval_s=1e6)
    store.set_result("a", 1)
    os.unlink(path)

    def refuse(fd: int, data: bytes, offset: int) -> int:
        assert "-rescued-" in boundary.path_of(fd)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", refuse)
        for _ in range(2):
            with pytest.raises(logstore.StoreReplacedError, match="could not be written"):
                store.close()
    with pytest.raises(logstore.StoreReplacedError) as caught:
        store.close()
    assert caught.value.rescued is not None
    assert ids_in(caught.value.rescued) == {"a"}


def test_a_rescue_that_found_no_space_is_tried_again_when_the_interpreter_ends(path: Path) -> None:
    code = (
        "import logstore, os, sys\n"
        "store = logstore.open(sys.argv[1], sync_interval_s=1e6)\n"
        "store.set_result('a', 1)\n"
        "os.unlink(sys.argv[1])\n"
        "real = os.pwrite\n"
        "def refuse(*_): raise OSError(28, 'No space left on device')\n"
        "os.pwrite = refuse\n"
        "try: store.close()\n"
        "except logstore.StoreReplacedError: os.pwrite = real\n"
    )
    run_child(code, path)
    (rescued,) = path.parent.glob("app.db-rescued-*")
    assert ids_in(rescued) == {"a"}


# -- files that do not belong together -----------------------------------------------------------


def crashed(path: Path, count: int) -> None:
    """Leave a store as a crash does."""
    code = (
        "import logstore, os, sys\nstore = logstore.open(sys.argv[1])\n"
        f"for i in range({count}): store.set_result(f't{{i}}', i); i % 10 or store.compact()\n"
        "os._exit(0)"
    )
    run_child(code, path)


@pytest.mark.parametrize("mode", ["rw", "r"])
@pytest.mark.parametrize("clean", [True, False], ids=["a backup", "a copy"])
def test_a_table_older_than_its_log_is_refused(
    path: Path, tmp_path: Path, clean: bool, mode: str
) -> None:
    older = tmp_path / "older.db"
    crashed(path, 5)
    if clean:
        logstore.open(path).close()
    shutil.copyfile(path, older)
    crashed(path, 35)
    shutil.copyfile(older, path)
    before = Path(f"{path}-log").read_bytes()
    with pytest.raises(logstore.StaleTableError, match="older copy of the table"):
        logstore.open(path, mode=mode)  # type: ignore[arg-type]
    for salvage in (False, True):  # the newer frames are of no use to this table
        report = logstore.check(path, salvage=salvage)
        assert len(report.problems) == 1
        assert "older copy of the table" in report.problems[0]
    assert Path(f"{path}-log").read_bytes() == before
    with logstore.open(path, accept_log_loss=True) as store:
        assert "t34" not in {info.task_id for info in store.tasks()}
    (kept,) = path.parent.glob("app.db-log.replaced-*")
    assert kept.read_bytes() == before


def test_the_log_of_another_store_beside_a_closed_table_is_kept(path: Path, tmp_path: Path) -> None:
    logstore.open(path).close()
    crashed(tmp_path / "other.db", 3)
    os.rename(tmp_path / "other.db-log", f"{path}-log")
    with logstore.open(path) as store:
        store.set_result("a", 1)
    assert len(list(path.parent.glob("app.db-log.replaced-*"))) == 1


# -- links, owners and modes ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["a link", "a link to nothing", "a pipe", "a directory"])
@pytest.mark.parametrize("suffix", ["-shm", "-log", "-lock", "-vacuum", "-new", "-log-new"])
def test_a_side_files_name_that_leads_elsewhere_is_never_followed(
    path: Path, suffix: str, kind: str
) -> None:
    victim = path.with_name("victim")
    victim.write_text("precious" * 1000)
    name = f"{path}{suffix}"
    if kind == "a pipe":
        os.mkfifo(name)
    elif kind == "a directory":
        os.mkdir(name)
    else:
        os.symlink(victim if kind == "a link" else path.with_name("nothing"), name)
    try:
        with logstore.open(path) as store:
            store.set_result("a", 1)
            store.vacuum()
    except (logstore.LogstoreError, OSError):
        pass
    assert victim.read_text() == "precious" * 1000
    assert not path.with_name("nothing").exists()


def test_new_files_get_the_mode_of_the_store(path: Path) -> None:
    logstore.open(path).close()
    os.chmod(path, 0o640)
    with logstore.open(path) as store:
        store.set_result("a", 1)
        for suffix in ("", "-shm", "-log"):
            assert stat.S_IMODE(os.stat(f"{path}{suffix}").st_mode) == 0o640, suffix
        store.vacuum()
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
def test_roots_maintenance_leaves_a_users_store_the_users(path: Path) -> None:
    logstore.open(path).close()
    os.chown(path, 12345, 54321)
    with logstore.open(path) as store:
        store.set_result("a", 1)
        store.vacuum()
        store.backup(path.with_name("backup.db"))
        for suffix in ("", "-shm", "-log"):
            found = os.stat(f"{path}{suffix}")
            assert (found.st_uid, found.st_gid) == (12345, 54321), suffix
    found = os.stat(path.with_name("backup.db"))
    assert (found.st_uid, found.st_gid) == (12345, 54321)


# -- tables that have been replaced by a vacuum ----------------------------------------------------


def test_an_inode_used_again_is_not_taken_for_an_open_table(path: Path) -> None:
    """The file system gives the inode of a removed file to the next one, at once."""
    stop = threading.Event()
    errors: list[BaseException] = []
    store = logstore.open(path, sync_interval_s=0.001)
    for i in range(50):
        store.set_result(f"k{i}", bytes(500))

    def get() -> None:
        while not stop.is_set():
            try:
                store.get_result("k1")
            except BaseException as exc:
                errors.append(exc)

    thread = threading.Thread(target=get)
    thread.start()
    for _ in range(60):
        store.vacuum()
    stop.set()
    thread.join()
    store.close()
    assert errors == []
