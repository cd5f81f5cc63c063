"""Records what concurrent clients did to a store and checks that it was linearizable, key by key.

`Recorder` records from threads, tasks and processes, `load_history` merges the files of many
processes, `check_linearizable` judges and prints the smallest counter-example it finds. The meaning
of the operations is a model's: `ResultModel`, `RegisterModel`, or one of your own.
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
