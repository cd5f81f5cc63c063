"""What is explored; the bounded form leaves out the long ones."""

from __future__ import annotations

from fuzz.model.protocol import FLUSH, FOLD, POP, PROGRESS, SET, VACUUM, Config

TINY = (
    Config("two sets", ((SET,), (SET,)), kills=2, flush_faults=1),
    Config("two sets, a failing write", ((SET,), (SET,)), kills=1, flush_faults=1, write_faults=1),
    Config("set and progress", ((SET,), (PROGRESS,)), kills=2, flush_faults=1),
    Config("two pops", ((POP,), (POP,)), key=True, kills=1, flush_faults=1),
    Config("set and fold", ((SET,), (FOLD,)), kills=2, flush_faults=1),
    Config("set and vacuum", ((SET,), (VACUUM,)), kills=2, flush_faults=1),
    Config("progress and flush", ((PROGRESS,), (FLUSH,)), kills=1, flush_faults=1),
)
CONFIGS = (
    *TINY,
    Config("set, fold, fold", ((SET,), (FOLD,), (FOLD,)), kills=2, flush_faults=1),
    Config("three sets", ((SET,),) * 3, kills=2, flush_faults=1),
    Config("set, set, fold", ((SET,), (SET,), (FOLD,)), kills=1),
    Config("set, progress, fold", ((SET,), (PROGRESS,), (FOLD,)), kills=1),
    Config("set, set, progress", ((SET,), (SET,), (PROGRESS,)), kills=1, write_faults=1),
    Config("set, fold, vacuum", ((SET,), (FOLD,), (VACUUM,)), kills=1),
    Config("set, progress, flush", ((SET,), (PROGRESS,), (FLUSH,)), kills=1, flush_faults=1),
    Config("pop, pop, set", ((POP,), (POP,), (SET,)), key=True, kills=1),
    Config("two failing flushes", ((SET, SET), (SET, SET)), kills=1, flush_faults=2),
)
LONG = (
    Config("three sets", ((SET,),) * 3, kills=2, flush_faults=2),
    Config("set, set, fold", ((SET,), (SET,), (FOLD,)), kills=2, flush_faults=1),
    Config("set, progress, fold", ((SET,), (PROGRESS,), (FOLD,)), kills=2, flush_faults=1),
    Config("set, set, vacuum", ((SET,), (SET,), (VACUUM,)), kills=2, flush_faults=1),
    Config(
        "set, set, progress", ((SET,), (SET,), (PROGRESS,)), kills=2, flush_faults=1, write_faults=1
    ),
    Config("pop, pop, set", ((POP,), (POP,), (SET,)), key=True, kills=2, flush_faults=1),
    Config("set, pop, progress", ((SET,), (POP,), (PROGRESS,)), kills=2, flush_faults=1),
    Config("two sets each", ((SET, SET), (SET, SET)), kills=2, flush_faults=2, write_faults=1),
    Config("a pop and a set each", ((SET, POP), (POP, SET)), kills=2, flush_faults=1),
)
