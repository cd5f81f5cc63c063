"""A progress line: on a terminal only, at most a few times a second."""

from __future__ import annotations

import sys
import time
from typing import TextIO

__all__ = ["Progress"]

_INTERVAL_S = 0.2
_BAR_WIDTH = 30


class Progress:
    """Show the progress of a run. Do nothing if the stream is no terminal and not forced."""

    def __init__(
        self, total: int, stream: TextIO | None = None, *, shown: bool | None = None
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._shown = self._stream.isatty() if shown is None else shown
        self._total = max(1, total)
        self._begun = time.monotonic()
        self._next = 0.0

    def update(self, done: int, text: str) -> None:
        """Show the line if the last update is long enough ago."""
        now = time.monotonic()
        if not self._shown or now < self._next:
            return
        self._next = now + _INTERVAL_S
        filled = min(_BAR_WIDTH, _BAR_WIDTH * done // self._total)
        bar = "#" * filled + "-" * (_BAR_WIDTH - filled)
        rate = done / max(1e-9, now - self._begun)
        self._stream.write(f"\r[{bar}] {done}/{self._total} states, {rate:.0f}/s, {text}\x1b[K")
        self._stream.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        """Remove the line."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
