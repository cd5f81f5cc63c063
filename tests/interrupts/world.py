"""A store with a thread and a process beside the main thread that use it as well.

Rules: each of them writes and reads at once when it is asked, in the log and in the table, and must
find everything that has been acked.  What an interrupted call was to write may be there or not
until there has been another write; from then on it stays.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from itertools import count
from typing import Any

import logstore
from tests.support.bystanders import OtherThread, ask
from tests.support.peers import Peer
from tests.support.victims import fast_directory

TIMEOUT_S = 3.0  # of a write: none has to wait for another for long
OPTIONS: dict[str, Any] = {"write_timeout_s": TIMEOUT_S, "sync_interval_s": 1e6}
MISSING = None

PEER_CODE = """
def check(store, values):
    for key, value in values.items():
        seen = store.get_result(key)
        assert seen == value, (key, seen, value)

def use(store, key, number, values):
    store.set_result(key, number)
    check(store, {**values, key: number})

def visit(path, options, key, number, values):
    with logstore.open(path, **options) as store:
        use(store, key, number, values)

def die_with_an_open_store(path, options, number):
    pid = os.fork()
    if pid == 0:
        logstore.open(path, **options).set_result("crashed", number)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

def write_slowly(key, number, pipe):
    real = os.fdatasync
    def flush(fd):
        os.fdatasync = real
        with open(pipe) as reading:
            reading.read()  # until the other side has closed it
        real(fd)
    os.fdatasync = flush
    store.set_result(key, number)

def die_in_a_write(key):
    pid = os.fork()
    if pid == 0:
        os.fdatasync = lambda fd: os._exit(0)
        store.set_result(key, "of one that died")
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
"""


class World:
    """A store in a directory of its own, and those that use it."""

    def __init__(self, peer: Peer, *, here: bool, there: bool, **options: Any) -> None:
        self.peer = peer
        self.thread = OtherThread()
        self.options = OPTIONS | options
        self.directory = tempfile.mkdtemp(dir=fast_directory())
        self.path = os.path.join(self.directory, "app.db")
        self.here, self.there = here, there
        self.values: dict[str, Any] = {}  # what must be there, and everybody looks at
        self.large: dict[str, Any] = {}  # what must be there as well
        self.unsure: dict[str, list[Any]] = {}  # what may be there, after an interrupted write
        # For the scenarios:
        self.kept: Any = None
        self.meeting: Any = None
        self.writes_to_full: int | None = None
        self._numbers = count(100_000)  # all of one size
        self._store: logstore.Store | None = None
        self._watch: object = None
        self.waits = False
        if here:
            self._store = logstore.open(self.path, **self.options)
            self.set("table", self.number())
            self._store.compact()
        if there:
            ask(peer, f"store = logstore.open({self.path!r}, **{self.options!r})")

    @property
    def store(self) -> logstore.Store:
        """The store of this process, open all the time."""
        assert self._store is not None
        return self._store

    def watch(self) -> None:
        """From now on there is always a thread of the store that waits for changes."""
        self._watch = self.store.watch()

    def reopen(self) -> None:
        """Open the store of this process again."""
        self.here, self._store = True, logstore.open(self.path, **self.options)

    def number(self) -> int:
        """A number that has not been used."""
        return next(self._numbers)

    # -- those that use it ------------------------------------------------------------------

    def set(self, key: str, value: object) -> None:
        """Write here, successfully."""
        self.store.set_result(key, value)
        self.values[key] = value

    def expect(self, key: str, value: object) -> None:
        """What the next call will write; MISSING: it will delete."""
        before = self.values.pop(key, self.large.pop(key, MISSING))
        self.unsure[key] = [before, value]

    def wrote(self, key: str) -> None:
        """The call that was to write has returned."""
        self._found(key, self.unsure.pop(key)[1])

    def _found(self, key: str, value: object) -> None:
        if value is not MISSING:
            (self.large if isinstance(value, bytes) else self.values)[key] = value

    def ask_peer(self) -> None:
        """Have another process write and read at once."""
        number = self.number()
        if self.there:
            ask(self.peer, f"use(store, 'peer', {number}, {self.values!r})")
        else:
            arguments = f"{self.path!r}, {self.options!r}, 'peer', {number}, {self.values!r}"
            ask(self.peer, f"visit({arguments})")
        self.values["peer"] = number

    def ask_thread(self) -> None:
        """Have another thread write and read at once."""
        self.thread.run(lambda: self._use("thread"))

    def ask_self(self) -> None:
        """Write and read in the thread that was interrupted."""
        self._use("main")

    def _use(self, key: str) -> None:
        with self._opened() as store:
            number = self.number()
            store.set_result(key, number)
            self.values[key] = number
            for other, value in self.values.items():
                seen = store.get_result(other)
                assert seen == value, (other, seen, value)
            if self.waits:
                assert not store.wait_ready("never written", timeout_s=0.001)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[logstore.Store]:
        if self.here:
            yield self.store
        else:
            with logstore.open(self.path, **self.options) as store:
                yield store

    def decide(self) -> None:
        """After a further write it is certain whether an interrupted one has landed."""
        if self.unsure:
            with self._opened() as store:
                for key, allowed in self.unsure.items():
                    seen = store.get_result(key) if store.is_result_ready(key) else MISSING
                    assert seen in allowed, (key, repr(seen)[:60], repr(allowed)[:60])
                    self._found(key, seen)
            self.unsure.clear()

    # -- what there is ----------------------------------------------------------------------

    def files(self) -> list[str]:
        """What is in the directory."""
        return sorted(os.listdir(self.directory))

    def assert_at_rest(self) -> None:
        """One file is left, unless another process has the store open."""
        if not self.there:
            assert self.files() == ["app.db"], self.files()

    def close(self) -> None:
        """Close everything: what was acked is there."""
        if self.here:
            report = self.store.check()
            assert report.ok, report.problems
            self.store.close()
        if self.there:
            ask(self.peer, "store.close()")
        self.thread.stop()
        assert self.files() == ["app.db"], self.files()
        with logstore.open(self.path) as store:
            for key, value in (self.values | self.large).items():
                assert store.get_result(key) == value, key
            report = store.check()
            assert report.ok, report.problems
        shutil.rmtree(self.directory)
