"""Small stores with and without planted bugs, with a workload and a check each.

Each workload tells every key that it has put; the check opens what the crash left and asks for
them.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import subprocess
import threading
import zlib
from pathlib import Path
from typing import NoReturn

import lmdb

from logstore.testing.crash import tell

KEYS = 4


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def _put(directory: Path, key: str, value: str, *, sync_file: bool, sync_directory: bool) -> None:
    file = directory / "store.json"
    content = json.loads(file.read_text()) if file.exists() else {}
    content[key] = value
    new = directory / "store.json.new"
    with new.open("w") as stream:
        json.dump(content, stream)
        stream.flush()
        if sync_file:
            os.fsync(stream.fileno())
    os.rename(new, file)
    if sync_directory:
        _sync_directory(directory)


def _fill(directory: Path, *, sync_file: bool, sync_directory: bool) -> None:
    for number in range(KEYS):
        key, value = f"k{number}", "v" * (300 * number + 1)
        _put(directory, key, value, sync_file=sync_file, sync_directory=sync_directory)
        tell(key)


def correct(directory: Path) -> None:
    """Syncs the new file, renames it, syncs the directory."""
    _fill(directory, sync_file=True, sync_directory=True)


def forgets_directory(directory: Path) -> None:
    """The rename may be lost."""
    _fill(directory, sync_file=True, sync_directory=False)


def renames_before_sync(directory: Path) -> None:
    """The name can be on the disk before the content."""
    _fill(directory, sync_file=False, sync_directory=True)


def check_json(directory: Path, told: list[str]) -> None:
    """The file is whole, and every told key is in it."""
    file = directory / "store.json"
    content = json.loads(file.read_text()) if file.exists() else {}
    for key in told:
        number = int(key[1:])
        assert key in content, f"lost {key}"
        assert content[key] == "v" * (300 * number + 1), f"wrong value of {key}"


_HEADER = struct.Struct("<II")  # length, crc32 or 0


def _append(directory: Path, *, checksum: bool) -> None:
    fd = os.open(directory / "log", os.O_RDWR | os.O_CREAT, 0o600)
    _sync_directory(directory)
    offset = 0
    for number in range(KEYS):
        body = bytes([65 + number]) * (400 + number)
        crc = zlib.crc32(body) if checksum else 0
        record = _HEADER.pack(len(body), crc) + body
        os.pwrite(fd, record, offset)
        os.fdatasync(fd)
        offset += len(record)
        tell(str(number))
    os.close(fd)


def appends_with_checksum(directory: Path) -> None:
    """A torn record is seen to be torn."""
    _append(directory, checksum=True)


def appends_without_checksum(directory: Path) -> None:
    """A record can have its head and not its tail."""
    _append(directory, checksum=False)


def check_log(directory: Path, told: list[str]) -> None:
    """Every record that a reader believes is whole, and every told one is there."""
    file = directory / "log"
    data = file.read_bytes() if file.exists() else b""
    offset, found = 0, 0
    while offset + _HEADER.size <= len(data):
        length, crc = _HEADER.unpack_from(data, offset)
        body = data[offset + _HEADER.size : offset + _HEADER.size + length]
        if not length or len(body) < length or (crc and zlib.crc32(body) != crc):
            break
        assert body == bytes([65 + found]) * (400 + found), f"record {found} is torn"
        found += 1
        offset += _HEADER.size + length
    assert found >= len(told), f"lost record {found}"


def _fold(directory: Path, *, in_order: bool) -> None:
    """Recovery of the log store: moves what the log holds into `table`, then empties the log."""
    log, table = directory / "log", directory / "table"
    if not log.exists() or table.exists():
        return
    data = log.read_bytes()
    new = directory / "table.new"
    with new.open("wb") as stream:
        stream.write(data)
        stream.flush()
        if in_order:
            os.fsync(stream.fileno())
    os.rename(new, table)
    if in_order:
        _sync_directory(directory)
    os.truncate(log, 0)


def folds_in_order(directory: Path) -> None:
    """The table is on the disk before the log is emptied."""
    _fold(directory, in_order=True)


def folds_carelessly(directory: Path) -> None:
    """The log can be empty on a disk that has no table yet."""
    _fold(directory, in_order=False)


def check_folded(directory: Path, told: list[str]) -> None:
    """The log, or else the table, passes `check_log`."""
    table = directory / "table"
    if table.exists():
        os.replace(table, directory / "log")
    check_log(directory, told)


def two_processes(directory: Path) -> None:
    """Two children write and tell at the same time, and one of them is killed."""
    reading, writing = os.pipe()
    killed = os.fork()
    if killed == 0:
        _child(directory, "a", writing)
    other = os.fork()
    if other == 0:
        _child(directory, "b", None)
    os.read(reading, 1)
    os.waitpid(other, 0)
    os.kill(killed, signal.SIGKILL)
    os.waitpid(killed, 0)


def _child(directory: Path, name: str, ready: int | None) -> NoReturn:
    """Writes five times, or for ever and says when it has written five times."""
    fd = os.open(directory / name, os.O_RDWR | os.O_CREAT, 0o600)
    _sync_directory(directory)
    number = 0
    while ready is not None or number < 5:
        number += 1
        os.pwrite(fd, struct.pack("<Q", number), 0)
        os.fdatasync(fd)
        tell(f"{name} {number}")
        if ready is not None and number == 5:
            os.write(ready, b"!")
    os._exit(0)


def check_two(directory: Path, told: list[str]) -> None:
    """Each file's number is at least the last one that its writer told."""
    last = dict(line.split() for line in told)
    for name, number in last.items():
        (found,) = struct.unpack("<Q", (directory / name).read_bytes())
        assert found >= int(number), f"{name} fell back to {found} from {number}"


def _lmdb(directory: Path, *, sync: bool) -> None:
    with lmdb.open(str(directory / "app.db"), subdir=False, sync=sync, metasync=sync) as env:
        _sync_directory(directory)
        for number in range(4):
            with env.begin(write=True) as transaction:
                transaction.put(b"%d" % number, b"v" * 3000)
            tell(str(number))


def lmdb_synced(directory: Path) -> None:
    """Every commit is flushed."""
    _lmdb(directory, sync=True)


def lmdb_unsynced(directory: Path) -> None:
    """Commits are told before they are flushed."""
    _lmdb(directory, sync=False)


def check_lmdb(directory: Path, told: list[str]) -> None:
    """All told keys are in the environment."""
    if not told:
        return
    with (
        lmdb.open(str(directory / "app.db"), subdir=False) as env,
        env.begin() as transaction,
    ):
        for key in told:
            assert transaction.get(key.encode()) == b"v" * 3000, f"lost {key}"


def maps_for_writing(directory: Path) -> None:
    """Changes a file without a system call."""
    fd = os.open(directory / "mapped", os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(fd, 4096)
    with mmap.mmap(fd, 4096) as view:
        view[:5] = b"hello"
    os.close(fd)


def check_nothing(directory: Path, told: list[str]) -> None:
    """Passes."""


def check_hangs(directory: Path, told: list[str]) -> None:
    """Never returns on one of the states."""
    if told[-1:] == ["k1"]:
        threading.Event().wait()


def check_dies(directory: Path, told: list[str]) -> None:
    """Kills its own process on some of the states."""
    if told[-1:] == ["k1"]:
        os.kill(os.getpid(), signal.SIGUSR1)


def prepare_tree(directory: Path) -> None:
    """Something to start from: files, a directory, links of both kinds."""
    (directory / "old").write_bytes(b"old" * 1000)
    (directory / "sub").mkdir()
    (directory / "sub" / "inner").write_bytes(b"inner")
    os.link(directory / "old", directory / "twin")
    os.symlink("sub", directory / "short")


def uses_everything(directory: Path) -> None:
    """Most of the calls that can change a file, each at least once; the result is well-defined."""
    os.chdir(directory)
    fd = os.open("log", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    os.write(fd, b'hello \x00\xff"q\n')
    os.pwrite(fd, b"xy", 3)
    os.pwritev(fd, [b"one", b"two"], 10)
    os.pwritev(fd, [b"dsync"], 20, os.RWF_DSYNC)
    os.writev(fd, [b"v", b"w"])
    os.lseek(fd, 2, os.SEEK_SET)
    os.read(fd, 3)
    os.write(fd, b"after three read")
    os.fdatasync(fd)
    os.posix_fallocate(fd, 0, 5000)
    os.ftruncate(fd, 4000)
    os.truncate("old", 100)
    os.fchmod(fd, 0o640)
    os.chmod("sub/inner", 0o600)
    os.rename("log", "short/moved")
    os.write(fd, b"renamed while open")
    directory_fd = os.open("sub", os.O_RDONLY | os.O_DIRECTORY)
    os.rename("moved", "log", src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
    os.mkdir("made", dir_fd=directory_fd)
    os.rmdir("sub/made")
    os.fchdir(directory_fd)
    os.symlink("../old", "up")
    os.chmod("up", 0o600)
    with open("up", "ab") as stream:
        stream.write(b"appended through a link")
    os.link("inner", "second")
    os.unlink("inner")
    os.sync()
    unnamed = os.open("..", os.O_RDWR | os.O_TMPFILE, 0o600)
    os.write(unnamed, b"unnamed")
    os.link(f"/proc/self/fd/{unnamed}", "named", src_dir_fd=directory_fd, follow_symlinks=True)
    copy = os.dup(fd)
    os.dup2(copy, 200)
    os.lseek(200, 0, os.SEEK_SET)
    os.copy_file_range(unnamed, 200, 3, 0)
    os.sendfile(copy, unnamed, 2, 4)
    os.sendfile(copy, unnamed, None, 1)
    reading, writing = os.pipe()
    for other in (reading, writing):
        os.close(other)
    subprocess.run(["sh", "-c", "echo from a shell > x; mv x y; echo more >> y"], check=True)
    thread = threading.Thread(target=os.pwrite, args=(fd, b"from a thread", 1000))
    thread.start()
    thread.join()
    os.closerange(100, 300)
    try:
        os.unlink("nothing")
    except FileNotFoundError:
        pass
    os.replace("y", "../old")
    os.fsync(directory_fd)
    os.chdir("/")
    os.rename(directory / "sub" / "up", directory / "down")
