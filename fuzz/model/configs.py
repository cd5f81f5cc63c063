"""What is explored; the bounded form leaves out the long ones."""

from __future__ import annotations

from fuzz.model.protocol import (
    EXPIRE,
    FLUSH,
    FOLD,
    LARGE,
    POP,
    PROGRESS,
    READ,
    SEAL,
    SET,
    TICK,
    VACUUM,
    Config,
)

TINY = (
    Config("two sets", ((SET,), (SET,)), kills=2, flush_faults=1),
    Config("two sets, a failing write", ((SET,), (SET,)), kills=1, flush_faults=1, write_faults=1),
    Config("set and progress", ((SET,), (PROGRESS,)), kills=2, flush_faults=1),
    Config("two pops", ((POP,), (POP,)), key=True, kills=1, flush_faults=1),
    Config("set and fold", ((SET,), (FOLD,)), kills=2, flush_faults=1),
    Config("set and vacuum", ((SET,), (VACUUM,)), kills=2, flush_faults=1),
    Config("progress and flush", ((PROGRESS,), (FLUSH,)), kills=1, flush_faults=1),
    Config("set and seal", ((SET,), (SEAL,)), kills=2, flush_faults=1, cuts=0),
    Config("set and seal, cut", ((SET,), (SEAL,)), kills=0, flush_faults=1, cuts=1),
    Config("set seal, large, read read", ((SET, SEAL), (LARGE,), (READ, READ)), kills=0),
    Config("set seal, progress seal", ((SET, SEAL), (PROGRESS, SEAL)), kills=1, write_faults=1),
    Config("set seal, expire", ((SET, SEAL), (EXPIRE,)), key=True, kills=1),
    Config("set seal set, tick", ((SET, SEAL, SET, SEAL), (TICK,)), kills=1),
)
CONFIGS = (*TINY,
    Config("set seal, set, cut", ((SET, SEAL), (SET,)), kills=1, flush_faults=1, cuts=1),
    Config("set seal, read read, fold", ((SET, SEAL), (READ, READ), (FOLD,)), kills=1, flush_faults=1),
    Config("set seal, vacuum, tick", ((SET, SEAL), (VACUUM,), (TICK,)), kills=1),
    Config("set seal, set seal, tick", ((SET, SEAL), (SET, SEAL), (TICK,)), kills=1),
    Config("set seal, set read, set", ((SET, SEAL), (SET, READ), (SET,)), kills=1),
    Config("set seal, pop, fold", ((SET, SEAL), (POP,), (FOLD,)), key=True, kills=1, flush_faults=1),
    Config("set seal set seal, read read", ((SET, SEAL, SET, SEAL), (READ, READ)), kills=1),
    Config("progress seal, flush, set", ((PROGRESS, SEAL), (FLUSH,), (SET,)), kills=1, flush_faults=1),
    Config("set seal, large, read read, kills", ((SET, SEAL), (LARGE,), (READ, READ)), kills=1),
    )
LONG = ()
