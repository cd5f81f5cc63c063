"""Medians, quantiles and spreads: pure functions on numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CURVE_POINTS = 101


@dataclass(frozen=True, slots=True)
class Spread:
    """A median over rounds with the lowest and the highest round."""

    median: float
    low: float
    high: float
    rounds: int


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the ascending `ordered` lie, interpolated.

    Raises ValueError for an empty sequence or a share outside 0 to 1.
    """
    if not ordered:
        raise ValueError("a quantile of no samples")
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"a share lies between 0 and 1, not {share}")
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def median(values: Sequence[float]) -> float:
    """The middle of `values`, in any order."""
    return quantile(sorted(values), 0.5)


def spread(values: Sequence[float]) -> Spread:
    """The median of `values` with the extremes."""
    return Spread(median(values), min(values), max(values), len(values))


def curve(ordered: Sequence[float]) -> list[float]:
    """The distribution at CURVE_POINTS evenly spaced shares: enough to draw, small to keep."""
    last = CURVE_POINTS - 1
    return [round(quantile(ordered, point / last), 3) for point in range(CURVE_POINTS)]


def paired_ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """The ratio of each round: what drifted between rounds cancels out.

    Rounds beyond the shorter of the two and rounds with a zero below are left out.
    """
    return [one / other for one, other in zip(above, below, strict=False) if other]
