"""Writes of others that meet the call's, and results that come while it waits.

Rules: what meets the call is begun by it, in a thread of its own, so that a signal can come while
that thread is at work.  The flush of one side lasts until the other is there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

from tests.interrupts.world import World
from tests.support.bystanders import DEADLINE_S, end, sleeps, until

MEETS_S = 4.0  # how long one side waits for the other


class Beside:
    """A thread that does something beside the call."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="beside", daemon=True)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as exc:
            self._error = exc

    def end(self) -> bool:
        """Wait for it, if it was begun; raise what it has raised."""
        if self.thread.ident is None:
            return False
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive(), "the thread beside the call hangs"
        if self._error is not None:
            raise self._error
        return True


class Meeting:
    """A write of another thread, to "met"."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._number = world.number()
        self._flush = os.fdatasync
        self._beside = Beside(lambda: world.store.set_result("met", self._number))

    def begin(self) -> None:
        """In the call, before its own write."""
        raise NotImplementedError

    def end(self) -> None:
        """After the call."""
        try:
            if self._beside.end():
                self._world.values["met"] = self._number
        finally:
            os.fdatasync = self._flush


class Led(Meeting):
    """It leads, and flushes until the call waits for it."""

    def begin(self) -> None:
        leads = threading.Event()

        def flush(fd: Any) -> None:
            if threading.current_thread() is self._beside.thread:
                leads.set()
                until(lambda: sleeps(threading.main_thread()), MEETS_S)
            self._flush(fd)

        os.fdatasync = flush
        self._beside.thread.start()
        assert leads.wait(DEADLINE_S)


class Followed(Meeting):
    """It follows: the call flushes until it waits for the call."""

    def begin(self) -> None:
        def flush(fd: Any) -> None:
            if self._beside.thread.ident is None:
                self._beside.thread.start()
                until(lambda: sleeps(self._beside.thread), MEETS_S)
            self._flush(fd)

        os.fdatasync = flush


class Behind(Meeting):
    """Another process holds the writer lock, and flushes until the call waits for it."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._pipe = os.path.join(world.directory, f"pipe {self._number}")
        os.mkfifo(self._pipe)
        world.peer.begin(f"write_slowly('met', {self._number}, {self._pipe!r})")
        self._end = os.open(self._pipe, os.O_WRONLY)  # once that process has opened it, too
        self._beside = Beside(self._let_go)

    def begin(self) -> None:
        self._beside.thread.start()

    def _let_go(self) -> None:
        until(lambda: sleeps(threading.main_thread()), MEETS_S)
        os.close(self._end)

    def end(self) -> None:
        if not self._beside.end():
            os.close(self._end)
        end(self._world.peer)
        os.unlink(self._pipe)
        self._world.values["met"] = self._number


def comes_later(world: World) -> None:
    """There will be a result once the call waits for it."""
    number = world.number()
    world.kept = f"later {number}"

    def write() -> None:
        until(lambda: sleeps(threading.main_thread()), MEETS_S)
        world.store.set_result(world.kept, number)

    world.meeting = Beside(write)
