"""A progress bar on standard error; plain lines where that is not a terminal."""

from __future__ import annotations

import shutil
import sys
from time import monotonic
from typing import TextIO

BAR_WIDTH = 28


def clock(seconds: float) -> str:
    """`seconds` as m:ss."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Progress:
    """Counts slices. On a terminal one line is redrawn; elsewhere each headline is a line."""

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self._total = max(total, 1)
        self._done = 0
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._started = monotonic()
        self._last_headline = ""

    def line(self, text: str) -> str:
        """The bar's line as it is now."""
        share = min(self._done / self._total, 1.0)
        filled = int(share * BAR_WIDTH)
        elapsed = monotonic() - self._started
        left = f", {clock(elapsed / share - elapsed)} left" if share > 0.02 else ""
        bar = "#" * filled + "." * (BAR_WIDTH - filled)
        return f"[{bar}] {share:4.0%} {clock(elapsed)}{left}  {text}"

    def show(self, headline: str, detail: str = "") -> None:
        """What is being measured now."""
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            text = self.line(f"{headline} {detail}")[:width]
            self._stream.write("\r" + text.ljust(width))
        elif headline != self._last_headline:
            self._stream.write(self.line(headline) + "\n")
        self._last_headline = headline
        self._stream.flush()

    def note(self, text: str) -> None:
        """A line that stays: what was skipped, what failed."""
        if self._terminal:
            self._stream.write("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r")
        self._stream.write(text + "\n")
        self._stream.flush()

    def step(self, count: int = 1) -> None:
        """`count` slices are done, or will not be."""
        self._done += count

    def close(self) -> None:
        """Leave the cursor on a line of its own."""
        if self._terminal:
            self._stream.write("\n")
            self._stream.flush()
