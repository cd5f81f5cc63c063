"""Hypothesis without a deadline: these tests touch disks, on machines that do other things too.

Derandomized, as everywhere: a run fails for what was changed, not for what was drawn.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "backends",
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("backends")
