from __future__ import annotations

import pytest

from bench.stats import curve, median, paired_ratios, quantile, spread


def test_a_quantile_lies_between_its_neighbours() -> None:
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.5
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.0) == 1.0
    assert quantile([1.0, 2.0, 3.0, 4.0], 1.0) == 4.0
    assert quantile([7.0], 0.99) == 7.0


def test_a_quantile_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no samples"):
        quantile([], 0.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        quantile([1.0], 1.5)


def test_median_and_spread_do_not_need_order() -> None:
    assert median([9.0, 1.0, 5.0]) == 5.0
    found = spread([9.0, 1.0, 5.0])
    assert (found.median, found.low, found.high, found.rounds) == (5.0, 1.0, 9.0, 3)


def test_a_curve_starts_and_ends_at_the_extremes() -> None:
    points = curve([float(number) for number in range(1001)])
    assert (points[0], points[50], points[-1]) == (0.0, 500.0, 1000.0)


def test_ratios_are_paired_by_round_so_a_drift_of_the_machine_cancels_out() -> None:
    assert paired_ratios([10.0, 20.0, 40.0], [5.0, 10.0, 20.0]) == [2.0, 2.0, 2.0]
    assert paired_ratios([1.0, 2.0], [0.0, 1.0]) == [2.0]
