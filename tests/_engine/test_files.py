"""Files of a store: whose they are, and what is on the disk when one is kept under another name."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

import logstore
from logstore._engine import durability, files
from tests.support.forked import run_in_fork


@pytest.mark.parametrize("may_give_away", [True, False], ids=["as root", "as a user"])
def test_a_new_file_gets_the_owner_group_and_mode_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, may_give_away: bool
) -> None:
    """A process that may not give a file away still gives it to the group."""
    asked: list[tuple[int, int]] = []

    def fchown(_fd: int, owner: int, group: int) -> None:
        asked.append((owner, group))
        if owner != -1 and not may_give_away:
            raise PermissionError

    name = str(tmp_path / "new")
    wanted = SimpleNamespace(st_uid=12345, st_gid=54321, st_mode=stat.S_IFREG | 0o664)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fchown", fchown)
        patch.setattr(os, "stat", lambda _path: wanted)
        fd = files.open_file(name, os.O_RDWR | os.O_CREAT, like="another")
    assert asked == [(12345, 54321), (-1, 54321)][: 1 if may_give_away else 2]
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o664
    files.close(fd)


def test_a_file_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    for name, mode in (("old", 0o600), ("another", 0o664)):
        (tmp_path / name).touch()
        os.chmod(tmp_path / name, mode)
    fd = files.open_file(
        str(tmp_path / "old"), os.O_RDWR | os.O_CREAT, like=str(tmp_path / "another")
    )
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
    files.close(fd)


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR | os.O_CREAT])
def test_a_symbolic_link_is_not_opened(tmp_path: Path, flags: int) -> None:
    victim = tmp_path / "victim"
    victim.touch()
    (tmp_path / "app.db-log").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links") as caught:
        files.open_file(str(tmp_path / "app.db-log"), flags)
    assert caught.value.errno == errno.ELOOP


def test_the_name_of_a_file_that_is_kept_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app.db-log").write_bytes(b"the only copy")
    synced: list[list[str]] = []
    monkeypatch.setattr(durability, "sync_directory", lambda path: synced.append(os.listdir(path)))
    kept = files.keep_aside(str(tmp_path / "app.db-log"), "replaced")
    assert os.path.basename(kept) in synced[-1]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_has_no_file_of_the_store_open_from_the_beginning(path: Path) -> None:
    """Else its parent's locks would be held for as long as the child lives."""

    def look() -> None:
        links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
        targets = [os.readlink(link) for link in links if os.path.lexists(link)]
        assert not [target for target in targets if target.startswith(str(path))]

    with logstore.open(path) as store:
        store.set_result("a", 1)
        assert run_in_fork(look) == 0
