"""Hypothesis without a deadline: these tests touch disks, on machines that do other things too."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("backends", deadline=None, print_blob=True)
settings.load_profile("backends")
