from __future__ import annotations

import io

import pytest

from logstore.demo.display import Display, Row, bar

ROWS = [Row("slice-01", 0.5, "half"), Row("all tasks", 0.25, "1 of 4")]


class Stream(io.TextIOWrapper):
    """A text stream whose text can be read back; a terminal or not."""

    def __init__(self, *, terminal: bool, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def text(self) -> str:
        self.seek(0)
        return self.read()


def screen(text: str) -> list[str]:
    """Replay the escape sequences the display uses; return the lines then on the screen."""
    lines: list[str] = []
    for part in (
        text.replace("\x1b[J", "").replace("\x1b[?25l", "").replace("\x1b[?25h", "").split("\x1b[")
    ):
        if lines and part[:1].isdigit() and "F" in part:
            up, _, part = part.partition("F")
            del lines[-int(up) :]
        lines += part.splitlines()
    return lines


def test_a_bar_is_full_only_when_all_is_done() -> None:
    assert bar(0.0, width=4) == "░░░░"
    assert bar(0.5, width=4) == "██░░"
    assert bar(0.999, width=4) == "███░"
    assert bar(1.0, width=4) == "████"
    assert bar(7.0, width=4) == "████"


def test_on_a_terminal_rows_are_redrawn_below_the_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Stream(terminal=True)
    display = Display(stream)
    display.update(ROWS)
    display.note("first")
    display.update(ROWS[1:])
    display.note("second")
    assert screen(stream.text()) == ["first", "second", display.format(ROWS[1])]
    display.close()
    assert screen(stream.text()) == ["first", "second"]
    assert stream.text().endswith("\x1b[?25h")


def test_live_rows_never_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream = Stream(terminal=True)
    Display(stream, live=True).update([Row("slice-01", 0.5, "x" * 200)])
    assert [len(line) for line in screen(stream.text())] == [39]


@pytest.mark.parametrize(("terminal", "term"), [(False, "xterm"), (True, "dumb")])
def test_elsewhere_there_are_plain_lines_at_most_one_a_second(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, term: str
) -> None:
    monkeypatch.setenv("TERM", term)
    now_s = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    stream = Stream(terminal=terminal)
    display = Display(stream)
    display.update(ROWS)
    display.update(ROWS)
    display.note("a note")
    now_s += 1.0
    display.update(ROWS)
    display.close()
    line = "slice-01 50%; all tasks 25%"
    assert stream.text().splitlines() == [line, "a note", line]


def test_a_stream_without_block_characters_gets_ascii_bars() -> None:
    display = Display(Stream(terminal=False, encoding="ascii"))
    assert display.format(Row("slice-01", 0.5, "half")) == (
        f"slice-01   {'#' * 15}{'.' * 15}  50%  half"
    )
