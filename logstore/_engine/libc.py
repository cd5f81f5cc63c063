"""Calling functions of the C library."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def call(function: Callable[..., T], *arguments: object) -> T:
    """Call a function of C with arguments of the right types.  Raises MemoryError.

    If memory is lacking while it prepares the arguments, ctypes raises ArgumentError, or loses the
    error, which Python turns into SystemError.
    """
    try:
        return function(*arguments)
    except ctypes.ArgumentError as exc:
        if "MemoryError" in str(exc):
            raise MemoryError(str(exc)) from exc
        raise
    except SystemError as exc:
        raise MemoryError(str(exc)) from exc
