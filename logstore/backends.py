"""The former name of :mod:`logstore.taskiq`; it goes before the first release."""

from __future__ import annotations

from typing import Any

from logstore import taskiq


def __getattr__(name: str) -> Any:
    return getattr(taskiq, name)
