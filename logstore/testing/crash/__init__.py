"""A crash-state explorer for any program.

It runs a workload once under strace and rebuilds the disk states that a power cut can leave at each
moment. It runs a check on each state. Use `python -m logstore.testing.crash --help`, or `explore`
from Python. `logstore.testing.crash.disk` describes the behaviour of a disk,
`logstore.testing.crash.filesystem` the guarantees of a sync, and `logstore.testing.crash.states`
the names of states.
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
