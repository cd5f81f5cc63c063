"""What depends on the operating system: locks, short writes, file systems, futexes."""

from __future__ import annotations

import builtins
import ctypes
import errno
import fcntl
import io
import mmap
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from logstore._engine import affinity, durability, files, futex, libc, locks, system


def test_an_exclusive_lock_is_refused_while_another_descriptor_has_any(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    one, two = (os.open(file, os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert locks.try_lock(one, shared=True)
    assert locks.try_lock(two, shared=True)
    assert not locks.try_lock(one)
    os.close(two)
    assert locks.try_lock(one)
    os.close(one)


def test_a_lock_that_fails_for_another_reason_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="No locks"):
        locks.try_lock(0)


def test_a_short_write_is_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, bytes(data[:3]), at))
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    durability.pwrite_all(fd, b"0123456789", 2)
    assert os.pread(fd, 100, 0) == b"\0\x000123456789"
    os.close(fd)


def test_a_write_that_makes_no_progress_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: 0)
    with pytest.raises(OSError, match="no progress"):
        durability.pwrite_all(0, b"data", 0)


REFUSALS = [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.ENODEV]


@pytest.fixture(params=REFUSALS, ids=errno.errorcode.get)
def no_fallocate(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with musl, on some file systems, in a sandbox: blocks cannot be asked for."""

    def refuse(fd: int, offset: int, size: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(os, "posix_fallocate", refuse)


def test_where_blocks_cannot_be_asked_for_zeros_are_written_behind_the_end(
    tmp_path: Path, no_fallocate: None
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"kept")
    fd = os.open(file, os.O_RDWR)
    durability.allocate(fd, 100)
    os.close(fd)
    assert file.read_bytes() == b"kept" + bytes(96)


@pytest.mark.parametrize("holes", [True, False])
def test_where_blocks_cannot_be_asked_for_no_byte_of_the_file_is_written(
    tmp_path: Path, no_fallocate: None, holes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may be changing it: what was read a moment ago is not what is there."""

    def refuse(fd: int, data: bytes, offset: int) -> None:
        raise AssertionError("written")

    monkeypatch.setattr(os, "pwrite", refuse)
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    if holes:
        os.truncate(fd, 4096)
    else:
        os.write(fd, bytes(5000))
    durability.allocate(fd, 4096)
    os.close(fd)


def test_a_file_that_has_its_blocks_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library may emulate the call by writing into the file."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    durability.allocate(fd, 8192)
    monkeypatch.delattr(os, "posix_fallocate")
    durability.allocate(fd, 8192)
    os.close(fd)


def test_holes_are_filled(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.truncate(fd, 8192)
    durability.allocate(fd, 8192)
    assert os.fstat(fd).st_blocks * 512 >= 8192
    os.close(fd)


def test_an_empty_file_is_changed_in_place_where_a_file_system_copies_on_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a change through a mapping needs new blocks, and kills where there are none."""
    flags: dict[int, int] = {}

    def ioctl(fd: int, request: int, data: bytes) -> bytes:
        if request == 0x40086602:  # FS_IOC_SETFLAGS
            flags[fd] = int.from_bytes(data, sys.byteorder)
        return (0x1F_40000010).to_bytes(8, sys.byteorder)  # the kernel writes four bytes

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    empty, filled = (os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in "ab")
    os.write(filled, b"x")
    for fd in (empty, filled):
        durability.allocate(fd, 4096)
    assert flags == {empty: 0x40800010}
    for fd in (empty, filled):
        os.close(fd)


def test_blocks_for_which_there_is_no_space_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    with pytest.raises(OSError, match="No space left"):
        durability.allocate(fd, 100)
    os.close(fd)


def test_removing_what_is_not_there_does_nothing(tmp_path: Path) -> None:
    files.remove(str(tmp_path / "nothing"))


def test_removing_what_cannot_be_removed_raises(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="irectory"):
        files.remove(str(tmp_path))


def test_the_boot_has_an_id_of_16_bytes_that_stays() -> None:
    assert len(system.boot_id()) == 16
    assert system.boot_id() == system.boot_id()


def test_a_boot_that_cannot_be_told_has_an_id_of_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtins, "open", lambda *_, **__: io.StringIO("not hexadecimal"))
    assert system.boot_id.__wrapped__() == bytes(16)


def test_a_file_system_that_is_not_listed_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "22 1 0:0 / / rw - ext4 /dev/none rw\n"
    monkeypatch.setattr(builtins, "open", lambda *_, **__: io.StringIO(lines))
    assert system.filesystem_type(str(tmp_path)) == ""


def test_the_type_of_a_known_file_system_is_told(tmp_path: Path) -> None:
    assert system.filesystem_type("/proc") == "proc"
    assert system.filesystem_type(str(tmp_path)) not in system.NETWORK_FILESYSTEMS


def test_the_type_of_the_file_system_of_a_path_that_is_not_there_is_unknown() -> None:
    assert system.filesystem_type("/no/such/path") == ""


@pytest.mark.parametrize("called", [True, False], ids=["futex", "polling"])
def test_a_thread_that_sleeps_on_a_word_wakes_when_it_changes(
    called: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not called:
        monkeypatch.setattr(futex, "_FUTEX_SYSCALL", None)
    mapping = mmap.mmap(-1, 4096)
    word = futex.SharedWord(mapping, 64)

    def sleep() -> None:
        while word.value == 0:
            word.wait(0, 200)

    thread = threading.Thread(target=sleep)
    thread.start()
    mapping[64:68] = b"\1\0\0\0"
    word.wake()
    thread.join(100)
    assert not thread.is_alive()


def test_a_thread_sleeps_also_where_the_call_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its loop would take a whole processor."""
    sleeps: list[float] = []
    mapping = mmap.mmap(-1, 4096)

    def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        mapping[:4] = b"\1\0\0\0"

    monkeypatch.setattr(futex, "_FUTEX_SYSCALL", 100_000)  # there is no such call
    monkeypatch.setattr(time, "sleep", sleep)
    word = futex.SharedWord(mapping, 0)
    for seen in (0, 1):
        word.wait(seen, 100 * (1 - seen))
    assert len(sleeps) == 1


def test_waiting_on_a_word_ends_with_its_time() -> None:
    mapping = mmap.mmap(-1, 4096)
    word = futex.SharedWord(mapping, 0)
    word.wait(0, 0.01)


def test_a_word_that_is_not_aligned_is_refused() -> None:
    with pytest.raises(ValueError, match="aligned"):
        futex.SharedWord(mmap.mmap(-1, 4096), 2)


# -- functions of C --------------------------------------------------------------------------------


class Scarce:
    """The type of an argument that cannot be prepared."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def from_param(self, value: object) -> object:
        raise self.error


@pytest.mark.parametrize("error", [MemoryError(), TypeError("no number")])
def test_no_memory_for_an_argument_is_no_error_in_it(error: Exception) -> None:
    function = ctypes.CDLL(None).abs
    function.argtypes = (Scarce(error),)  # type: ignore[assignment]
    expected = MemoryError if isinstance(error, MemoryError) else ctypes.ArgumentError
    with pytest.raises(expected):
        libc.call(function, 5)


def test_an_error_that_ctypes_has_lost_for_want_of_memory_is_told_as_that() -> None:
    def function() -> None:
        raise SystemError("<_FuncPtr object> returned NULL without setting an exception")

    with pytest.raises(MemoryError, match="returned NULL"):
        libc.call(function)


# -- processors ------------------------------------------------------------------------------------


class Idler(threading.Thread):
    """Does nothing until it is told to end."""

    def __init__(self) -> None:
        super().__init__()
        self.end = threading.Event()
        self.start()

    def run(self) -> None:
        self.end.wait()

    def processors(self) -> set[int]:
        assert self.native_id is not None
        return os.sched_getaffinity(self.native_id)


@pytest.fixture
def idler() -> Iterator[Idler]:
    thread = Idler()
    yield thread
    thread.end.set()
    thread.join()


def test_a_companion_runs_where_the_caller_runs(idler: Idler) -> None:
    everywhere = os.sched_getaffinity(0)
    companion = affinity.Companion()
    try:
        for processor in sorted(everywhere):
            os.sched_setaffinity(0, {processor})
            companion.bind(idler)
            assert idler.processors() == {processor}
    finally:
        os.sched_setaffinity(0, everywhere)


def test_a_thread_that_a_bound_one_starts_runs_where_that_one_could() -> None:
    everywhere = os.sched_getaffinity(0)
    found: list[set[int] | None] = []
    bound = threading.Event()

    def started(processors: set[int] | None) -> None:
        found.append(os.sched_getaffinity(0))
        affinity.run_on(processors)
        found.append(os.sched_getaffinity(0))

    def work() -> None:
        assert bound.wait(100)
        thread = threading.Thread(target=started, args=(affinity.unbound(),))
        thread.start()
        thread.join()

    thread = threading.Thread(target=work)
    thread.start()
    affinity.Companion().bind(thread)
    bound.set()
    thread.join()
    assert len(found[0] or ()) == 1
    assert found[1] == everywhere


def test_the_processors_that_a_user_has_chosen_for_a_thread_stay_as_they_are() -> None:
    found: list[set[int]] = []
    chosen = {max(os.sched_getaffinity(0))}

    def work() -> None:
        os.sched_setaffinity(0, chosen)
        affinity.run_on(affinity.unbound())
        found.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [chosen]


def test_a_thread_that_can_no_longer_be_moved_is_let_go(
    idler: Idler, monkeypatch: pytest.MonkeyPatch
) -> None:
    everywhere, real = idler.processors(), os.sched_setaffinity

    def refuse(thread_id: int, processors: set[int]) -> None:
        if processors == {1 << 10}:
            raise OSError(22, "Invalid argument")
        real(thread_id, processors)

    companion = affinity.Companion()
    companion.bind(idler)
    assert len(idler.processors()) == 1
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    monkeypatch.setattr(affinity, "_sched_getcpu", lambda: 1 << 10)
    companion.bind(idler)
    assert idler.processors() == everywhere
    monkeypatch.setattr(affinity, "_sched_getcpu", lambda: min(everywhere))
    companion.bind(idler)  # it is not tried again
    assert idler.processors() == everywhere


def test_a_system_that_does_not_tell_the_processor_is_asked_once(
    idler: Idler, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = [-1, min(idler.processors())]
    monkeypatch.setattr(affinity, "_sched_getcpu", lambda: told.pop(0))
    before, companion = idler.processors(), affinity.Companion()
    companion.bind(idler)
    companion.bind(idler)
    assert len(told) == 1
    assert idler.processors() == before


def test_a_thread_is_bound_to_the_first_processor_as_to_any(
    idler: Idler, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound: list[object] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda *call: bound.append(call))
    monkeypatch.setattr(affinity, "_sched_getcpu", lambda: 0)
    companion = affinity.Companion()
    companion.bind(idler)
    companion.bind(idler)
    assert bound == [(idler.native_id, {0})]


@pytest.mark.parametrize("lacking", ["processor", "its number", "call", "permission"])
def test_a_companion_stays_where_it_is_if_it_cannot_be_moved(
    idler: Idler, lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    before = idler.processors()
    if lacking == "processor":
        monkeypatch.setattr(affinity, "_sched_getcpu", None)
    elif lacking == "its number":  # a sandbox refuses the call
        monkeypatch.setattr(affinity, "_sched_getcpu", lambda: -1)
    elif lacking == "call":
        monkeypatch.delattr(os, "sched_setaffinity")
    else:
        monkeypatch.setattr(os, "sched_setaffinity", refuse)
    companion = affinity.Companion()
    companion.bind(idler)
    companion.bind(idler)
    affinity.run_on(affinity.unbound())
    assert idler.processors() == before


def test_processes_agree_about_the_boot_also_if_one_had_no_descriptor_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    known = system.boot_id()
    system.boot_id.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refuse)
        for look in (system.boot_id, lambda: system.filesystem_type("/")):
            with pytest.raises(OSError, match="Too many"):
                look()
    assert system.boot_id() == known
