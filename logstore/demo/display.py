"""The output of the demo: live bars on a terminal, plain lines on other streams.

Rules: one display per stream, used from one thread.  On a terminal the live part is redrawn in
place and never wider than the terminal; notes scroll up above it.  On other streams (a pipe, CI,
``TERM=dumb``) nothing is redrawn and no escape sequence is written: the live part becomes one line
per second.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

BAR_WIDTH = 30
LINES_INTERVAL_S = 1.0

_HIDE_CURSOR = "\x1b[?25l"
_SHOW_CURSOR = "\x1b[?25h"
_CLEAR_BELOW = "\x1b[J"


@dataclass(frozen=True, slots=True)
class Row:
    """One bar: a name, a fraction from 0.0 to 1.0, and a text."""

    name: str
    fraction: float
    text: str


def bar(fraction: float, *, filled: str = "█", empty: str = "░", width: int = BAR_WIDTH) -> str:
    """Return a bar of ``width`` characters; full only at 1.0."""
    done = int(min(max(fraction, 0.0), 1.0) * width)
    return filled * done + empty * (width - done)


class Display:
    """Permanent notes and live rows on one stream."""

    def __init__(self, stream: TextIO, *, live: bool | None = None) -> None:
        self._stream = stream
        if live is None:
            live = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.live = live
        self._drawn: list[str] = []
        self._last_line_s = float("-inf")
        self._filled, self._empty = ("█", "░") if _can_encode(stream, "█░") else ("#", ".")
        if live:
            self._write(_HIDE_CURSOR)

    def note(self, text: str) -> None:
        """Print a permanent line above the live rows."""
        drawn = self._drawn
        self._erase()
        self._write(text + "\n")
        self._draw(drawn)

    def update(self, rows: Sequence[Row]) -> None:
        """Replace the live rows."""
        if self.live:
            columns = shutil.get_terminal_size().columns
            lines = [self.format(row)[: columns - 1] for row in rows]
            if lines != self._drawn:
                self._erase()
                self._draw(lines)
        elif time.monotonic() - self._last_line_s >= LINES_INTERVAL_S:
            self._last_line_s = time.monotonic()
            self._write("; ".join(f"{row.name} {row.fraction:.0%}" for row in rows) + "\n")

    def format(self, row: Row) -> str:
        """Return the row as a line of text."""
        drawn = bar(row.fraction, filled=self._filled, empty=self._empty)
        return f"{row.name:<10} {drawn} {row.fraction:4.0%}  {row.text}"

    def close(self) -> None:
        """Erase the live rows and show the cursor again."""
        self._erase()
        if self.live:
            self._write(_SHOW_CURSOR)
            self.live = False

    def _erase(self) -> None:
        if self._drawn:
            self._write(f"\x1b[{len(self._drawn)}F{_CLEAR_BELOW}")
            self._drawn = []

    def _draw(self, lines: list[str]) -> None:
        if lines:
            self._write("".join(line + "\n" for line in lines))
            self._drawn = lines

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _can_encode(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
