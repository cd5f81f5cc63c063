"""Every public call of a store, interrupted at every place at which a handler can run.

Invariants: what the handler raised leaves the call, or the call has had its effect.  At once, and
while the interrupted thread does nothing, another thread and another process write and read.  No
descriptor, lock, mapping, thread or object of the store is left.  A second ``close()`` returns, a
new ``open()`` works, and in the end there is one file with everything that was acked.
"""

from __future__ import annotations

import pytest

from .campaign import run
from .scenarios import SCENARIOS

FAILURES_MAX = 8
UNREACHED_MAX = 0.5  # where threads meet, a call does not go the same way each time


@pytest.mark.slow
@pytest.mark.timeout(900)  # hundreds of places, each tried for itself
@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.usefixtures("no_idle_compaction")
def test_a_call_interrupted_anywhere_leaves_nothing_behind(name: str) -> None:
    report = run(SCENARIOS[name], failures_max=FAILURES_MAX)
    assert not report.failures, "\n".join(report.failures)
    assert report.places > 10
    assert len(report.unreached) <= UNREACHED_MAX * report.tries, report.unreached
