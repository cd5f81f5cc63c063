"""Noticing that a worker is to stop.

Rules: taskiq's handler of a signal sets an event, which does not wake an event loop that sleeps.
So the handlers of the worker are wrapped: the loop is woken and told first, then the wrapped one is
called.  Handlers that are not functions are left alone.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


class StopSignals:
    """Calls a function on the loop when a signal arrives; for the main thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
        self._loop = loop
        self._stop = stop
        self._wrapped: dict[int, tuple[Any, Any]] = {}
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                if callable(before) and before is not signal.default_int_handler:
                    ours = self._handler(before)
                    self._wrapped[number] = before, ours
                    signal.signal(number, ours)

    def _handler(self, before: Callable[[int, FrameType | None], Any]) -> Any:
        def handle(number: int, frame: FrameType | None) -> None:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._stop)
            before(number, frame)

        return handle

    def remove(self) -> None:
        """Put the handlers back that were there, unless they were replaced meanwhile."""
        if threading.current_thread() is threading.main_thread():
            for number, (before, ours) in self._wrapped.items():
                if signal.getsignal(number) is ours:
                    signal.signal(number, before)
            self._wrapped.clear()
