"""Machines that give less than one is used to: address space, descriptors, names, blocks.

Limits are set in processes of their own.  What fails there leaves the files as they were and
names the limit, and the store works as soon as the limit is gone.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import logstore
from tests.support.peers import run_child
from tests.support.stores import names_in

if TYPE_CHECKING:
    from tests.support.peers import Peer
    from tests.support.stores import Stores

# Limits the address space to what is in use, and more by so many bytes.
LIMIT_ADDRESSES = """
import resource

def limit_addresses(more):
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (used + more, resource.RLIM_INFINITY))

def no_limit():
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
"""


# -- address space ---------------------------------------------------------------------------

WORKS = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
import logstore
with logstore.open(sys.argv[1]) as store:
    for i in range(20):
        store.set_result(f"task-{i}", bytes(100_000))
    store.compact()
    store.vacuum()
    store.backup(sys.argv[1] + "-copy")
    assert all(store.get_result(f"task-{i}") == bytes(100_000) for i in range(20))
    assert store.check().ok
with logstore.open(sys.argv[1], mode="r") as store:
    assert store.get_result("task-7") == bytes(100_000)
"""


@pytest.mark.parametrize("mebibytes", [128 << 10, 64 << 10, 8 << 10, 2 << 10, 512])
def test_a_store_works_in_a_limited_address_space(path: Path, mebibytes: int) -> None:
    run_child(WORKS, path, mebibytes << 20)
    assert names_in(path.parent) == ["app.db", "app.db-copy"]


TOO_LITTLE = (
    LIMIT_ADDRESSES
    + """
import sys
import logstore
path, mode, more = sys.argv[1], sys.argv[2], int(sys.argv[3])
limit_addresses(more)
try:
    logstore.open(path, mode=mode)
except logstore.LogstoreError as exc:
    print(type(exc).__name__, exc)
no_limit()
with logstore.open(path, mode=mode) as store:
    print(len(store.get_result("large")))
"""
)


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_a_table_that_does_not_fit_into_the_address_space_is_told_and_untouched(
    path: Path, mode: str
) -> None:
    with logstore.open(path) as store:
        store.set_result("large", bytes(100 << 20))
    size = path.stat().st_size
    error, length = run_child(TOO_LITTLE, path, mode, 60 << 20)
    assert error.startswith(f"ResourceLimitError {path}: no address space")
    assert f"needs {-(-size // 65536) * 65536} bytes" in error
    assert "ulimit -v leaves this process" in error
    assert length == str(100 << 20)
    assert names_in(path.parent) == ["app.db"]


def mapped_bytes(peer: Peer, path: Path) -> int:
    """How many addresses a process has given to a file."""
    lines = Path(f"/proc/{peer.pid}/maps").read_text().splitlines()
    ranges = [line.split()[0].split("-") for line in lines if line.endswith(f" {path}")]
    return sum(int(end, 16) - int(begin, 16) for begin, end in ranges)


def test_processes_with_different_limits_use_one_store(
    path: Path, start_peer: Callable[..., Peer], open_store: Stores
) -> None:
    store = open_store(path)
    peers = [start_peer() for _ in range(2)]
    for peer in peers:
        peer.run(LIMIT_ADDRESSES)
        peer.run(f"limit_addresses({700 << 20})")
        peer.open(path)
        assert 0 < mapped_bytes(peer, path) < 700 << 20
    for n in range(4):  # far beyond the first map of the peers
        store.set_result(f"mine-{n}", bytes(20 << 20))
        peers[n % 2].run(f"store.set_result('theirs-{n}', bytes(10 << 20))")
        for peer in peers:
            assert peer.run(f"len(store.get_result('mine-{n}'))") == 20 << 20
            assert peer.run(f"len(store.get_result('theirs-{n}'))") == 10 << 20
        assert store.get_result(f"theirs-{n}") == bytes(10 << 20)
    for peer in peers:
        peer.run("store.close()")


# -- descriptors -----------------------------------------------------------------------------

FEW_DESCRIPTORS = """
import os, resource, sys
import logstore

directory, prepare, act, after = sys.argv[1:5]
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

def lowest_free():
    fd = os.open("/dev/null", os.O_RDONLY)
    os.close(fd)
    return fd

for more in range(100):
    path = f"{directory}/{more}/app.db"
    os.mkdir(os.path.dirname(path))
    exec(prepare)
    descriptors = os.listdir("/proc/self/fd")
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free() + more, hard))
    try:
        exec(act)
        outcome = "done"
    except logstore.LogstoreError as exc:
        outcome = f"{type(exc).__name__} {exc}"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if outcome != "done":
        left = [name for name in os.listdir(os.path.dirname(path)) if name.endswith("-new")]
        assert not left, left
        assert len(os.listdir("/proc/self/fd")) <= len(descriptors)
    print(outcome, flush=True)
    exec(after)
    with logstore.open(path) as store:
        assert store.check().ok
        if prepare:
            assert store.get_result("a") == 1
    if outcome == "done" and more > 2:
        break
"""
FILLED = "with logstore.open(path) as store: store.set_result('a', 1)"
OPENED = "store = logstore.open(path); store.set_result('a', 1)"
FEW = {
    "create": ("", "logstore.open(path).close()", ""),
    "open": (FILLED, "logstore.open(path).close()", ""),
    "read": (FILLED, "logstore.open(path, mode='r').close()", ""),
    "check": (FILLED, "logstore.check(path)", ""),
    "compact": (OPENED, "store.compact()", "store.close()"),
    "vacuum": (OPENED, "store.vacuum()", "store.close()"),
    "backup": (OPENED, "store.backup(path + '2')", "store.close()"),
    "close": (OPENED, "store.close()", ""),
}


@pytest.mark.parametrize("what", FEW)
def test_no_descriptors_left_at_any_moment_is_told_as_that(tmp_path: Path, what: str) -> None:
    prepare, act, after = FEW[what]
    outcomes = run_child(FEW_DESCRIPTORS, tmp_path, prepare, act, after)
    assert outcomes[-1] == "done"
    refused = [outcome for outcome in outcomes if outcome != "done"]
    opens = what in ("create", "open", "read", "check")
    assert refused or what in ("compact", "close")
    for outcome in refused:
        assert outcome.startswith("ResourceLimitError" if opens else "WriteError"), outcome
        assert "ulimit -n" in outcome
        assert not (opens and "acked" in outcome)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
def test_whether_a_store_is_in_use_is_not_guessed_without_descriptors(
    path: Path, code: int, open_store: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A live store that is taken for one at rest would be read without LMDB's locks."""
    store = open_store(path)
    real = os.open

    def refuse(name: str, flags: int, mode: int = 0o777) -> int:
        if name == f"{path}-shm" and flags & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(code, os.strerror(code))
        return real(name, flags, mode)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(logstore.ResourceLimitError):
            logstore.open(path, mode="r")
    store.set_result("a", 1)


# -- paths -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bytes", "str"])
@pytest.mark.parametrize("mode", ["of the directory", "of the file"])
def test_a_path_that_is_not_utf_8_works(tmp_path: Path, kind: str, mode: str) -> None:
    directory = os.fsencode(tmp_path / "plain")
    if mode == "of the directory":
        directory = os.fsencode(tmp_path) + b"/\xff\xfe"
    os.mkdir(directory)
    raw = directory + (b"/app.db" if mode == "of the directory" else b"/\xff.db")
    path = raw if kind == "bytes" else os.fsdecode(raw)
    with logstore.open(path) as store:
        store.set_result("a", 1)
        store.set_result("large", bytes(300_000))
        with pytest.raises(logstore.ReadOnlyError) as caught, logstore.open(path, mode="r") as s:
            s.compact()
        assert "\\udcff" in str(caught.value)
        str(caught.value).encode()  # can be printed
        store.vacuum()
        store.backup(raw + b"-copy")
        assert store.check().ok
    assert sorted(os.listdir(directory)) == [
        os.path.basename(raw),
        os.path.basename(raw) + b"-copy",
    ]
    assert logstore.check(path).ok
    with logstore.open(path, mode="r") as store:
        assert store.get_result("a") == 1


@pytest.mark.parametrize("path", ["", b"", "a\0b", b"a\0b", "\ud800.db"])
def test_what_is_no_path_is_a_value_error(path: str | bytes) -> None:
    for opens in (logstore.open, logstore.check):
        with pytest.raises(ValueError, match="path"):
            opens(path)


def test_what_is_not_even_like_a_path_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        logstore.open(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("end", ["/", "/.", "/..", "//"])
@pytest.mark.parametrize("there", [True, False])
def test_a_path_that_names_a_directory_is_refused(path: Path, end: str, there: bool) -> None:
    if there:
        path.mkdir()
    for mode in ("rw", "r"):
        with pytest.raises(logstore.NotAStoreError, match="a directory, expected a logstore file"):
            logstore.open(f"{path}{end}", mode=mode)
    assert names_in(path.parent) == (["app.db"] if there else [])


def test_a_file_in_the_place_of_the_directory_is_told(path: Path) -> None:
    path.write_text("a file")
    with pytest.raises(logstore.OpenError, match="not a directory"):
        logstore.open(path / "app.db")


def test_a_name_without_room_for_the_names_beside_it_is_refused_at_once(tmp_path: Path) -> None:
    longest = os.pathconf(tmp_path, "PC_NAME_MAX") - 40
    for length in (longest + 1, 255, 300, 5000):
        with pytest.raises(logstore.OpenError, match=f"at most {longest} are possible|shorter"):
            logstore.open(tmp_path / ("x" * length))
        assert names_in(tmp_path) == []
    with pytest.raises(logstore.OpenError, match=r"shorter|no such store"):
        logstore.open(tmp_path / ("x" * 300), mode="r")
    with logstore.open(tmp_path / ("x" * longest)) as store:
        store.set_result("a", 1)
        store.vacuum()
    deep = tmp_path / "/".join(["d" * 200] * 30) / "app.db"
    with pytest.raises(logstore.OpenError, match="choose a shorter path"):
        logstore.open(deep)


def test_links_that_lead_nowhere_are_told(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path in (loop, loop / "app.db"):
        with pytest.raises(logstore.OpenError, match="look at the symbolic links"):
            logstore.open(path)
    assert names_in(tmp_path) == ["loop"]


NOBODY = """
import os, sys
import logstore
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for mode in ("rw", "r"):
    try:
        logstore.open(sys.argv[1], mode=mode)
    except logstore.LogstoreError as exc:
        print(type(exc).__name__, exc)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("mode", [0o700, 0o733])
def test_a_directory_that_may_not_be_looked_into_is_not_said_to_be_missing(
    shared_directory: Path, mode: int
) -> None:
    """The second lets files be made, but not put on the disk for sure."""
    shared_directory.chmod(mode)
    inside = shared_directory if mode == 0o733 else shared_directory / "inside"
    inside.mkdir(exist_ok=True)
    lines = run_child(NOBODY, inside / "app.db")
    assert lines[0].startswith("StorePermissionError")
    assert lines[1].startswith("StorePermissionError" if mode == 0o700 else "OpenError")
    assert names_in(inside) == []
