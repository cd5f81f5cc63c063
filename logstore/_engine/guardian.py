"""Noticing that workers have died, or have dropped a lease: a thread in each process that takes.

Rules: a worker is dead if the lock on its page is free.  The lock is tried when the kernel says
that a process has died (pidfd), and every LOOK_S as well: process ids mean nothing in another pid
namespace, and a worker may die before this thread has seen its id.  All processes look; the one
that gets the lock returns the messages.
"""

from __future__ import annotations

import os
import select
import threading

from logstore._engine.systemerrors import start_thread
from logstore._engine.taking import Taker

LOOK_S = 0.1


class Guardian:
    """The thread and its end."""

    def __init__(self, path: str, taker: Taker) -> None:
        self._taker = taker
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._run, name="logstore-guardian", daemon=True)
        start_thread(path, self._thread)

    def stop(self) -> None:
        """End the thread and wait for it, unless it is the caller."""
        os.write(self._stop_write, b"x")
        if threading.get_ident() != self._thread.ident:
            self._thread.join()
        os.close(self._stop_write)

    def _run(self) -> None:
        watched: dict[int, int] = {}  # process id -> descriptor
        poll = select.poll()
        poll.register(self._stop_read, select.POLLIN)
        try:
            while True:
                self._watch(watched, poll)
                ready = [fd for fd, _ in poll.poll(LOOK_S * 1000)]
                if self._stop_read in ready:
                    return
                for process, fd in list(watched.items()):
                    if fd in ready:
                        poll.unregister(fd)
                        os.close(watched.pop(process))
                try:
                    self._taker.return_those_of_the_dead()
                    self._taker.return_dropped()
                except Exception:
                    continue  # the next look tries it again, and writers get the same error
        finally:
            for fd in (*watched.values(), self._stop_read):
                os.close(fd)

    def _watch(self, watched: dict[int, int], poll: select.poll) -> None:
        for process in self._taker.processes():
            if process not in watched and process != os.getpid():
                try:
                    watched[process] = os.pidfd_open(process)
                except (OSError, OverflowError):
                    continue  # it has just died, or is in another namespace
                poll.register(watched[process], select.POLLIN)
