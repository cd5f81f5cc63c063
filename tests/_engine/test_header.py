"""The shared header: what makes it live, what a rebuild voids, publication and wake-up."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from logstore._engine import header as header_module
from logstore._engine import leases, system
from logstore._engine.header import FAILURES, FIELDS, SIZE, SharedHeader
from logstore._engine.readers import BYTES

UUID = bytes(range(16))


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "app.db-shm", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


@pytest.fixture
def header(fd: int) -> Iterator[SharedHeader]:
    header = SharedHeader(fd)
    yield header
    header.close()


def test_an_empty_file_is_made_large_enough_and_is_not_live(header: SharedHeader, fd: int) -> None:
    assert os.fstat(fd).st_size == SIZE + BYTES + leases.BYTES
    assert not header.is_live()


def test_a_rebuilt_header_is_live_and_knows_its_store(header: SharedHeader) -> None:
    header.begin_rebuild()
    header.state = 3 << 32 | 5000
    header.end_rebuild(UUID)
    assert header.is_live()
    assert header.uuid == UUID
    assert (header.epoch, header.committed) == (3, 5000)
    assert header.state == 3 << 32 | 5000


def test_a_rebuild_that_did_not_end_leaves_the_header_void(header: SharedHeader) -> None:
    header.begin_rebuild()
    header.end_rebuild(UUID)
    header.begin_rebuild()
    assert not header.is_live()
    assert header.state == 0


def test_each_rebuild_is_another_life(header: SharedHeader) -> None:
    header.begin_rebuild()
    first = header.nonce
    header.begin_rebuild()
    assert header.nonce != first


def test_a_header_of_an_earlier_boot_is_not_live(
    header: SharedHeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    header.begin_rebuild()
    header.end_rebuild(UUID)
    monkeypatch.setattr(system, "boot_id", lambda: b"another boot ...")
    assert not header.is_live()


@pytest.mark.parametrize("field", ["magic", "ready"])
def test_a_header_with_a_wrong_first_word_is_not_live(header: SharedHeader, field: str) -> None:
    header.begin_rebuild()
    header.end_rebuild(UUID)
    setattr(header, field, getattr(header, field) ^ 1 << 7)
    assert not header.is_live()


def test_two_mappings_of_one_file_see_each_other(header: SharedHeader, fd: int) -> None:
    other = SharedHeader(fd)
    header.state = 1 << 32 | 4242
    assert other.state == 1 << 32 | 4242
    other.close()


def test_announce_wakes_a_thread_that_waits_for_a_publication(header: SharedHeader) -> None:
    seen = header.sequence.value
    woken = threading.Event()

    def wait() -> None:
        while header.sequence.value == seen:
            header.wait_for_publication(seen, 200)
        woken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    header.announce()
    assert woken.wait(100)
    thread.join()


def test_an_announcement_wakes_only_waiters_that_have_come_since_the_last_one(
    header: SharedHeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(header.sequence, "wake", lambda: calls.append(1))
    header.announce()
    assert calls == []
    for number in (1, 2):
        header.wait_for_publication(header.sequence.value - 1, 60)
        header.announce()
        header.announce()
        assert len(calls) == number


def test_waiting_for_a_sequence_that_has_passed_returns_at_once(header: SharedHeader) -> None:
    header.announce()
    header.wait_for_publication(header.sequence.value - 1, 60)


def test_a_counter_wraps_at_32_bits_and_leaves_its_neighbours_alone(header: SharedHeader) -> None:
    neighbour = header.wanted.value
    header.releases.value = 0xFFFFFFFE
    for expected in (0xFFFFFFFF, 0, 1):
        header.releases.add_one()
        assert header.releases.value == expected
    assert header.wanted.value == neighbour


def test_the_words_lie_apart_from_the_words_that_processes_sleep_on() -> None:
    half = {getattr(header_module, name) for name in ("SEQUENCE", "WAITERS", "RELEASES", "WANTED")}
    assert len(half) == 4
    assert len(FIELDS) * 8 <= min(half) * 4
    assert [FIELDS[index] for index in FAILURES] == [f"failed_{n}" for n in (1, 2, 3, 4)]
    assert (max(half) + 1) * 4 <= SIZE
