"""How Hypothesis draws in tests of pure functions: alike in each run, however slow the machine."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

FUZZ = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.too_slow],  # a busy machine is no fault
)
