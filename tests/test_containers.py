"""Processes that do not see each other share a store: containers on one volume, on one host."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import logstore
from tests.support.peers import Peer

NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
# The directory of the store is at another path, and nothing is at its own.
ELSEWHERE = 'mount --bind "$1" "$2" && mount -t tmpfs none "$1" && shift 2 && exec "$@"'


@pytest.fixture
def begin() -> Iterator[Callable[..., Peer]]:
    """Starts a process by another program; skips the test where that is not permitted."""
    peers: list[Peer] = []

    def begin(*prefix: str) -> Peer:
        probe = subprocess.run([*prefix, "true"], capture_output=True, text=True)
        if probe.returncode:
            pytest.skip(f"not permitted here: {probe.stderr.strip()[-200:]}")
        peers.append(Peer(prefix))
        return peers[-1]

    yield begin
    for peer in peers:
        peer.kill()


def test_two_containers_whose_processes_have_the_same_id_share_a_store(
    path: Path, begin: Callable[..., Peer]
) -> None:
    first, second = begin(*NAMESPACE), begin(*NAMESPACE)
    assert first.run("os.getpid()") == second.run("os.getpid()") == 1
    use_together(first, second, path, path)


def test_two_mounts_of_one_directory_share_a_store(
    path: Path, tmp_path_factory: pytest.TempPathFactory, begin: Callable[..., Peer]
) -> None:
    mount = tmp_path_factory.mktemp("mount")
    other = ("unshare", "--mount", "sh", "-c", ELSEWHERE, "sh", str(path.parent), str(mount))
    first, second = begin(), begin(*other)
    assert second.run(f"os.listdir({str(path.parent)!r})") == []
    use_together(first, second, path, mount / path.name)


def test_two_users_of_one_group_share_a_store(
    shared_directory: Path, begin: Callable[..., Peer]
) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    path, group = shared_directory / "app.db", 65533
    logstore.open(path).close()
    for place, mode in ((shared_directory, 0o770), (path, 0o660)):
        os.chown(place, -1, group)
        place.chmod(mode)
    first, second = begin(), begin()
    for peer, user in ((first, 65531), (second, 65532)):
        peer.run(f"os.setgroups([]); os.setgid({group}); os.setuid({user})")
    use_together(first, second, path, path)


def use_together(first: Peer, second: Peer, path: Path, others: Path) -> None:
    """Write, compact, vacuum and read on both sides, end one of them with SIGKILL, and close."""
    both = ((first, path, 1), (second, others, 2))
    for peer, place, _ in both:
        peer.open(place, compact_at=1 << 16)
    for peer, _, number in both:
        peer.begin(
            f"for i in range(150):\n"
            f"    store.set_result(f'{number}-{{i}}', 'x' * 1000)\n"
            f"    assert store.get_result(f'{number}-{{i // 2}}') == 'x' * 1000"
        )
    for peer, _, _ in both:
        peer.end()
    for peer, _, number in both:
        peer.run(f"store.compact(); store.set_result('large-{number}', bytes(300_000))")
        peer.run(f"store.vacuum(); store.set_result('last-{number}', {number})")
    for peer, _, number in both:
        assert peer.run(f"store.get_result('last-{3 - number}')") == 3 - number
        assert peer.run(f"len(store.get_result('large-{3 - number}'))") == 300_000
        assert peer.run("len(list(store.tasks()))") == 304
        assert peer.run("store.check().ok")
        assert peer.run("store.stats().compaction_errors") == 0
    second.run("store.set_result('of the dead', 1)")
    second.kill()
    assert first.run("store.get_result('of the dead')") == 1
    first.run("store.compact(); store.compact(); store.close()")
    with logstore.open(path) as store:
        assert store.stats().results == 305
        assert store.check().ok
    assert os.listdir(path.parent) == [path.name]
