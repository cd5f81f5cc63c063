"""What an interrupted call may leave behind, and the threads and processes that would suffer.

Rules: everything is seen from outside: descriptors, mappings, threads and locks as the kernel
lists them, objects as the garbage collector does.  What another thread or process is
asked is answered within DEADLINE_S, or is an AssertionError.
"""

from __future__ import annotations

import ctypes
import gc
import os
import queue
import select
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.support.peers import Peer

DEADLINE_S = 8.0  # more than a store's time-out
POLL_S = 0.001
REST_S = 0.1
NOT_HELD = (tuple, BaseException, ctypes.Structure)  # values


def until(condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> bool:
    """Wait for a condition; return whether it came true."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(POLL_S)
    return True


class Holdings(NamedTuple):
    """What this process holds."""

    descriptors: Counter[str]  # by what they are open on
    mappings: Counter[str]  # of files below the directory
    locks: Counter[str]  # on open files
    threads: Counter[str]
    objects: Counter[str]  # of the package, but for its values

    @classmethod
    def now(cls, directory: str) -> Holdings:
        """Look at everything; ``directory`` is that of the store."""
        gc.collect()
        descriptors, locks = _descriptors()
        return cls(descriptors, _mappings(directory), locks, _threads(), _objects())

    @classmethod
    def at_rest(cls, directory: str) -> Holdings:
        """What there is when nothing has changed for REST_S."""
        found, since = cls.now(directory), time.monotonic()
        while time.monotonic() - since < REST_S:
            time.sleep(POLL_S)
            now = cls.now(directory)
            if now != found:
                found, since = now, time.monotonic()
        return found

    def beyond(self, before: Holdings) -> str:
        """What there is more, or less, than before; "" if nothing."""
        different: list[str] = []
        for name, now, then in zip(self._fields, self, before, strict=True):
            more, less = dict(now - then), dict(then - now)
            if more or less:
                different.append(f"{name}: more {more}, less {less}")
        return "; ".join(different)


def _descriptors() -> tuple[Counter[str], Counter[str]]:
    """What is open, and the locks on it; ``/proc/locks`` is not consistent while it changes."""
    found: Counter[str] = Counter()
    locks: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
            with open(f"/proc/self/fdinfo/{name}", encoding="ascii") as file:
                for line in file:
                    if line.startswith("lock:"):
                        words = line.split()
                        locks[f"{words[2]} {words[4]} on {target}"] += 1
        except FileNotFoundError:  # that of the listing itself
            continue
        found[target] += 1
    return found, locks


def _mappings(directory: str) -> Counter[str]:
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        return Counter(line.split(None, 5)[5].strip() for line in file if directory in line)


def _threads() -> Counter[str]:
    found: Counter[str] = Counter(thread.name for thread in threading.enumerate())
    found["of the kernel"] = len(os.listdir("/proc/self/task"))
    return found


def _objects() -> Counter[str]:
    found: Counter[str] = Counter()
    for thing in gc.get_objects():
        kind = type(thing)
        if kind.__module__.startswith("logstore") and not issubclass(kind, NOT_HELD):
            found[f"{kind.__module__}.{kind.__qualname__}"] += 1
    return found


def sleeps(thread: threading.Thread) -> bool:
    """Whether a thread of this process waits for something else than its turn to run Python."""
    seen: set[str] = set()
    is_main = thread is threading.main_thread()
    number = os.getpid() if is_main else thread.native_id  # which a fork does not bring up to date
    for _ in range(4):
        try:
            with open(f"/proc/self/task/{number}/status", encoding="ascii") as file:
                status = file.read()
        except FileNotFoundError:
            return False
        seen.add(status.partition("voluntary_ctxt_switches:")[2])
        if "State:\tS" not in status or len(seen) > 1:
            return False
        time.sleep(POLL_S)
    return True


class OtherThread:
    """A thread that runs the jobs that it is given."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[object, BaseException | None]] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._run, name="bystander", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                self._answers.put((job(), None))
            except BaseException as exc:
                self._answers.put((None, exc))
            del job

    def begin(self, job: Callable[[], object]) -> None:
        """Let it do something, and do not wait for that to end."""
        self._jobs.put(job)

    def end(self) -> Any:
        """What the job has returned; raises what it has raised."""
        try:
            value, error = self._answers.get(timeout=DEADLINE_S)
        except queue.Empty:
            raise AssertionError("another thread hangs") from None
        if error is not None:
            raise error
        return value

    def run(self, job: Callable[[], object]) -> Any:
        """Let it do something and wait for it."""
        self.begin(job)
        return self.end()

    def stop(self) -> None:
        """End the thread, if it does not hang."""
        self._jobs.put(None)
        self.thread.join(DEADLINE_S)


def ask(peer: Peer, code: str) -> Any:
    """Run some code in another process, which must answer in time."""
    peer.begin(code)
    return end(peer)


def end(peer: Peer) -> Any:
    """The answer of another process to what was begun, which must come in time."""
    assert peer.process.stdout is not None
    if not select.select([peer.process.stdout], [], [], DEADLINE_S)[0]:
        peer.kill()
        raise AssertionError("another process hangs")
    return peer.end()
