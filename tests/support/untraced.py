"""For tests that are timed or interrupted: a thread without the tracer that measures coverage."""

from __future__ import annotations

import sys


class Untraced:
    """A block in which the calling thread has no tracer.

    One is slow, and a signal handler that raises inside it leaves its lock held.
    """

    def __enter__(self) -> None:
        self._tracer = sys.gettrace()
        sys.settrace(None)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._tracer)
