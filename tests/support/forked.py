"""Doing something in a forked child of the test's process."""

from __future__ import annotations

import os
from collections.abc import Callable

from fuzz.processes import run_and_leave


def run_in_fork(work: Callable[[], object]) -> int:
    """Fork, do something in the child, and return its exit status: 0 unless it raised."""
    pid = os.fork()
    if not pid:
        run_and_leave(work)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
