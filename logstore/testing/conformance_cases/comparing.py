"""Equality that distinguishes types: ``1`` is not ``True``, and a list is not a tuple."""

from __future__ import annotations

import math
from typing import Any


def assert_same(found: Any, expected: Any, path: str = "value") -> None:
    """Raise AssertionError unless both are equal and of the same types at every level."""
    assert type(found) is type(expected), (
        f"{path}: expected {expected!r:.100} ({type(expected).__name__}), "
        f"found {found!r:.100} ({type(found).__name__})"
    )
    if isinstance(expected, float):
        both_nan = math.isnan(found) and math.isnan(expected)
        same = found == expected and math.copysign(1, found) == math.copysign(1, expected)
        assert both_nan or same, f"{path}: expected {expected!r}, found {found!r}"
    elif isinstance(expected, complex):
        assert_same([found.real, found.imag], [expected.real, expected.imag], path)
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), f"{path}: {len(found)} items, not {len(expected)}"
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same(one, other, f"{path}[{index}]")
    elif isinstance(expected, (set, frozenset)):
        assert found == expected, f"{path}: expected {expected!r}, found {found!r}"
        assert sorted(map(_with_type, found)) == sorted(map(_with_type, expected)), path
    elif isinstance(expected, dict):
        assert list(map(_with_type, found)) == list(map(_with_type, expected)), path
        for (key, one), other in zip(found.items(), expected.values(), strict=True):
            assert_same(one, other, f"{path}[{key!r}]")
    else:
        assert found == expected, f"{path}: expected {expected!r:.100}, found {found!r:.100}"
        if hasattr(expected, "utcoffset"):
            assert found.utcoffset() == expected.utcoffset(), path


def _with_type(value: Any) -> tuple[str, str]:
    return type(value).__name__, repr(value)
