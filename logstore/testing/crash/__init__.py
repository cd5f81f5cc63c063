"""A crash-state explorer for any program.

It runs a workload once under strace, rebuilds the disk states that a power cut could have left at
each moment, and runs a check on each: `python -m logstore.testing.crash --help`, or `explore` from
Python. What a disk may do is written in `logstore.testing.crash.disk`, what a sync promises in
`logstore.testing.crash.filesystem`, what a state's name means in `logstore.testing.crash.states`.
"""

from logstore.testing.crash.again import explore_again
from logstore.testing.crash.explorer import (
    Exploration,
    Violation,
    explore,
    explore_recording,
    replay,
    sample_states,
)
from logstore.testing.crash.recording import Recording, WorkloadError, record
from logstore.testing.crash.states import StateError
from logstore.testing.crash.strace import TraceError
from logstore.testing.crash.telling import tell

__all__ = [
    "Exploration",
    "Recording",
    "StateError",
    "TraceError",
    "Violation",
    "WorkloadError",
    "explore",
    "explore_again",
    "explore_recording",
    "record",
    "replay",
    "sample_states",
    "tell",
]
