"""Times to live: what a backend may be given, and what a task's label changes."""

from __future__ import annotations

from typing import Any

import pytest

from logstore.taskiq import DuplicateExpireTimeSelectedError, ExpireTimeMustBeMoreThanZeroError
from logstore.taskiq.results.expiry import Expiry

NAMES = ("result_ex_time", "result_px_time", "failure_ex_time", "progress_ex_time")


def chosen(**times: Any) -> Expiry:
    """What a backend makes of these arguments."""
    return Expiry.chosen(**{**dict.fromkeys(NAMES), **times})


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({}, (None, None, None)),
        ({"result_ex_time": 5}, (5, 5, None)),
        ({"result_px_time": 1500}, (1.5, 1.5, None)),
        ({"failure_ex_time": 7}, (None, 7, None)),
        ({"result_ex_time": 5, "failure_ex_time": 7, "progress_ex_time": 9}, (5, 7, 9)),
        ({"result_ex_time": 0.001}, (0.001, 0.001, None)),
    ],
)
def test_times_are_seconds_and_hold_for_failures_too(
    times: dict[str, Any], expected: tuple[float | None, ...]
) -> None:
    expiry = chosen(**times)
    assert (expiry.result_ttl_s, expiry.failure_ttl_s, expiry.progress_ttl_s) == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_time_is_a_number_above_zero(name: str) -> None:
    for wrong in (0, -1, 0.0, float("nan"), float("inf")):
        with pytest.raises(ExpireTimeMustBeMoreThanZeroError, match=f"{name} must be more than"):
            chosen(**{name: wrong})
    for strange in (True, "5", b"5", [5]):
        with pytest.raises(TypeError, match=f"{name} must be a number"):
            chosen(**{name: strange})


def test_seconds_and_milliseconds_are_not_given_together() -> None:
    with pytest.raises(DuplicateExpireTimeSelectedError, match="5 s and 1500 ms"):
        chosen(result_ex_time=5, result_px_time=1500)


@pytest.mark.parametrize(
    ("label", "ttl_s"), [(3, 3.0), (0.5, 0.5), ("60", 60.0), ("1e3", 1000.0), (None, None)]
)
def test_the_label_of_a_task_goes_before_what_the_backend_says(label: Any, ttl_s: Any) -> None:
    expiry = chosen(result_ex_time=5, failure_ex_time=7)
    assert expiry.ttl_s({"result_ex_time": label}, failed=False) == (ttl_s or 5)
    assert expiry.ttl_s({"result_ex_time": label}, failed=True) == (ttl_s or 7)
    assert expiry.ttl_s({"other": label}, failed=False) == 5


@pytest.mark.parametrize("label", ["soon", "", 0, -1, "nan", "inf", [1], 10**400])
def test_a_label_that_is_no_time_is_logged_and_ignored(
    label: Any, caplog: pytest.LogCaptureFixture
) -> None:
    expiry = chosen(result_ex_time=5, failure_ex_time=7)
    assert expiry.ttl_s({"result_ex_time": label}, failed=False) == 5
    assert expiry.ttl_s({"result_ex_time": label}, failed=True) == 7
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert f"result_ex_time={label!r:.20}" in caplog.text
