"""Record the operations of concurrent clients on a store, and check linearizability by key.

`Recorder` records from threads, tasks and processes. `load_history` merges the files of many
processes. `check_linearizable` judges a history and gives the smallest counter-example it finds. A
model defines the operations: `ResultModel`, `RegisterModel`, or your own.
"""

from logstore.testing.linearizability.checker import TooManyConfigurationsError, first_failure
from logstore.testing.linearizability.history import (
    MISSING,
    UNKNOWN,
    Operation,
    Recorder,
    Recording,
    load_history,
)
from logstore.testing.linearizability.models import (
    IMPOSSIBLE,
    Model,
    RegisterModel,
    ResultModel,
)
from logstore.testing.linearizability.report import (
    CounterExample,
    Verdict,
    check_linearizable,
    shrink,
    timeline,
)

__all__ = [
    "IMPOSSIBLE",
    "MISSING",
    "UNKNOWN",
    "CounterExample",
    "Model",
    "Operation",
    "Recorder",
    "Recording",
    "RegisterModel",
    "ResultModel",
    "TooManyConfigurationsError",
    "Verdict",
    "check_linearizable",
    "first_failure",
    "load_history",
    "shrink",
    "timeline",
]
