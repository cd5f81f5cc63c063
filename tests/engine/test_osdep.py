"""What depends on the operating system: locks, short writes, file systems, futexes."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
from pathlib import Path

import pytest

from logstore.engine import osdep


def test_an_exclusive_lock_is_refused_while_another_descriptor_has_any(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    one, two = (os.open(file, os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert osdep.try_lock(one, shared=True)
    assert osdep.try_lock(two, shared=True)
    assert not osdep.try_lock(one)
    os.close(two)
    assert osdep.try_lock(one)
    os.close(one)


def test_a_lock_that_fails_for_another_reason_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="No locks"):
        osdep.try_lock(0)


def test_a_short_write_is_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, bytes(data[:3]), at))
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    osdep.pwrite_all(fd, b"0123456789", 2)
    assert os.pread(fd, 100, 0) == b"\0\x000123456789"
    os.close(fd)


def test_a_write_that_makes_no_progress_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: 0)
    with pytest.raises(OSError, match="no progress"):
        osdep.pwrite_all(0, b"data", 0)


def test_removing_what_is_not_there_does_nothing(tmp_path: Path) -> None:
    osdep.remove(str(tmp_path / "nothing"))


def test_the_boot_has_an_id_of_16_bytes_that_stays() -> None:
    assert len(osdep.boot_id()) == 16
    assert osdep.boot_id() == osdep.boot_id()


def test_the_type_of_a_known_file_system_is_told(tmp_path: Path) -> None:
    assert osdep.filesystem_type("/proc") == "proc"
    assert osdep.filesystem_type(str(tmp_path)) not in osdep.NETWORK_FILESYSTEMS


def test_the_type_of_the_file_system_of_a_path_that_is_not_there_is_unknown() -> None:
    assert osdep.filesystem_type("/no/such/path") == ""


@pytest.mark.parametrize("futex", [True, False], ids=["futex", "polling"])
def test_a_thread_that_sleeps_on_a_word_wakes_when_it_changes(
    futex: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not futex:
        monkeypatch.setattr(osdep, "_FUTEX_SYSCALL", None)
    mapping = mmap.mmap(-1, 4096)
    word = osdep.SharedWord(mapping, 64)

    def sleep() -> None:
        while word.value == 0:
            word.wait(0, 60)

    thread = threading.Thread(target=sleep)
    thread.start()
    word.value = 1
    word.wake()
    thread.join(20)
    assert not thread.is_alive()
    word.release()
    mapping.close()


def test_waiting_on_a_word_ends_with_its_time() -> None:
    mapping = mmap.mmap(-1, 4096)
    word = osdep.SharedWord(mapping, 0)
    word.wait(0, 0.01)
    word.release()
    mapping.close()


def test_a_word_wraps_at_32_bits_and_leaves_its_neighbours_alone() -> None:
    mapping = mmap.mmap(-1, 4096)
    word = osdep.SharedWord(mapping, 4)
    word.value = 2**32 + 5
    assert word.value == 5
    assert mapping[:12] == bytes(4) + b"\x05\0\0\0" + bytes(4)
    word.release()
    mapping.close()


def test_a_word_that_is_not_aligned_is_refused() -> None:
    with pytest.raises(ValueError, match="aligned"):
        osdep.SharedWord(mmap.mmap(-1, 4096), 2)
