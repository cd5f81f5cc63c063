"""Fixtures for the tests of the engine and the stores.

Rules: every store that ``open_store`` opened is verified when its test ends: the full check finds
nothing, also after closing, and one file is left.  A test that damages a store opens it itself.
Stores of these fixtures do not compact when idle, so that a test decides what is in the log.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import logstore
from logstore._engine import maintenance

PEER = Path(__file__).with_name("peer_process.py")
NEVER_S = 1e6
PASSES_NS_MAX = 10_000_000


class PeerError(Exception):
    """What the code run by a peer raised."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message


class Peer:
    """A process beside the test's; dies with the test."""

    def __init__(self, prefix: tuple[str, ...] = ()) -> None:
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-X", "faulthandler", str(PEER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.run(
            "import os, signal, sys, threading, time\n"
            "import logstore\n"
            "from logstore._engine import maintenance\n"
            f"maintenance.IDLE_S = {NEVER_S}\n"
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def begin(self, code: str) -> None:
        """Let it run some code, and do not wait for that to end."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(code) + "\n")
        self.process.stdin.flush()

    def end(self) -> Any:
        """The value of what was begun.  Raises PeerError, or EOFError if the process has died."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise EOFError(f"the peer has died: {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"], answer["message"])
        try:
            return ast.literal_eval(answer["value"])
        except (ValueError, SyntaxError):
            return answer["value"]

    def run(self, code: str) -> Any:
        """Run some code there; the value of its last expression."""
        self.begin(code)
        return self.end()

    def open(self, path: Path | str, **options: object) -> None:
        """Open a store there, under the name ``store``."""
        words = "".join(f", {name}={value!r}" for name, value in options.items())
        self.run(f"store = logstore.open({str(path)!r}{words})")

    def stop(self) -> None:
        """Stop it where it stands, until :meth:`resume`."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()

    def close(self) -> int:
        """End it in good order; its exit status."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        status = self.process.wait(100)
        self.process.stdout.close()
        return status


class Clock:
    """The wall clock of this process, which can be set forward and back.

    By itself it goes on for a moment only: on a slow machine nothing is late.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._real = time.time_ns
        self._set_to_ns = self._set_at_ns = self._real()
        monkeypatch.setattr(time, "time_ns", self._time_ns)

    def _time_ns(self) -> int:
        return self._set_to_ns + min(self._real() - self._set_at_ns, PASSES_NS_MAX)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._set_to_ns, self._set_at_ns = self._time_ns() + int(seconds * 1e9), self._real()


class Stores:
    """Opens stores and verifies them at the end."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._opened: list[logstore.Store] = []

    def __call__(self, path: Path | str | None = None, **options: Any) -> logstore.Store:
        """Open the store at ``path``, by default the test's own."""
        store = logstore.open(self._directory / "app.db" if path is None else path, **options)
        self._opened.append(store)
        return store

    def finish(self) -> None:
        """Verify every store, close it, and verify it again at rest."""
        paths = dict.fromkeys(store.path for store in self._opened)
        for store in self._opened:
            if not store.closed:
                report = store.check()
                assert report.ok, report.problems
        for store in self._opened:
            store.close()
        for path in paths:
            assert files_of(path) == [os.path.basename(path)]
            report = logstore.check(path)
            assert report.ok, report.problems

    def abandon(self) -> None:
        """Close whatever is still open."""
        for store in self._opened:
            try:
                store.close()
            except logstore.LogstoreError:
                continue


def files_of(path: str) -> list[str]:
    """The names of a store's file and of the files beside it that belong to it."""
    directory, name = os.path.split(path)
    return sorted(entry for entry in os.listdir(directory) if entry.startswith(name))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the test's store is, or will be."""
    return tmp_path / "app.db"


@pytest.fixture
def no_idle_compaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores opened in this process compact only when told, when the log is full, at the end."""
    monkeypatch.setattr(maintenance, "IDLE_S", NEVER_S)


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
        for suffix in ("", "-log", "-shm"):
            shutil.copyfile(store.path + suffix, directory / f"app.db{suffix}")
        return directory / "app.db"

    return copy
