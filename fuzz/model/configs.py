"""What is explored.  The tests take the first ones, ``make model`` the bounded form, LONG=1 all."""

from __future__ import annotations

from fuzz.model import slots
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
    Config("set and large", ((SET,), (LARGE,)), kills=1, flush_faults=1),
    Config("progress and flush", ((PROGRESS,), (FLUSH,)), kills=1, flush_faults=1),
    Config("set, seal tick", ((SET,), (SEAL, TICK)), kills=2, flush_faults=1),
    Config("set, seal tick, a power cut", ((SET,), (SEAL, TICK)), flush_faults=1, cuts=1),
    Config("sets around a seal, a power cut", ((SET, SET, SEAL, SET, SET),), kills=1, cuts=1),
    Config("set set seal, set", ((SET, SET, SEAL), (SET,)), kills=1),
    Config("set seal, set", ((SET, SEAL), (SET,)), flush_faults=1),
    Config("pop seal, pop", ((POP, SEAL), (POP,)), key=True),
    Config("set seal tick, expire", ((SET, SEAL, TICK), (EXPIRE,)), key=True, kills=1),
    Config("set seal, progress seal", ((SET, SEAL), (PROGRESS, SEAL)), kills=1, write_faults=1),
    Config("set seal set seal, tick", ((SET, SEAL, SET, SEAL), (TICK,)), kills=1),
)
CONFIGS = (
    *TINY,
    Config("set, set, fold", ((SET,), (SET,), (FOLD,))),
    Config("set seal, set, a power cut", ((SET, SEAL), (SET,)), kills=1, flush_faults=1, cuts=1),
    Config("set seal, set seal, tick", ((SET, SEAL), (SET, SEAL), (TICK,)), kills=1),
    Config("set seal, vacuum, tick", ((SET, SEAL), (VACUUM,), (TICK,)), kills=1),
    Config("set seal, vacuum, reads", ((SET, SEAL), (VACUUM,), (READ, READ))),
    Config("set seal tick, fold, reads", ((SET, SEAL, TICK), (FOLD,), (READ, READ))),
    Config("set seal set seal, reads", ((SET, SEAL, SET, SEAL), (READ, READ)), kills=1),
    Config("set seal tick, pop, fold", ((SET, SEAL, TICK), (POP,), (FOLD,)), key=True),
    Config("set seal tick, large, reads", ((SET, SEAL, TICK), (LARGE,), (READ, READ))),
    Config("progress seal, flush, set", ((PROGRESS, SEAL), (FLUSH,), (SET,)), kills=1),
    Config("expire fold, set, reads", ((EXPIRE, FOLD), (SET,), (READ, READ)), key=True, kills=1),
)
LONG = (
    Config("three sets", ((SET,), (SET,), (SET,)), kills=1, flush_faults=1),
    Config("set seal, vacuum, reads", ((SET, SEAL), (VACUUM,), (READ, READ)), kills=1),
    Config("set seal tick, large, reads", ((SET, SEAL, TICK), (LARGE,), (READ, READ)), kills=1),
    Config("set seal, set read, set", ((SET, SEAL), (SET, READ), (SET,)), kills=1),
    Config("set seal, pop, fold", ((SET, SEAL), (POP,), (FOLD,)), True, kills=1, flush_faults=1),
    Config("progress seal, flush, set", ((PROGRESS, SEAL), (FLUSH,), (SET,)), False, 1, 1),
    Config("set seal, set seal, fold", ((SET, SEAL), (SET, SEAL), (FOLD,)), kills=2),
    Config("set seal tick, fold, reads", ((SET, SEAL, TICK), (FOLD,), (READ, READ)), kills=1),
)

SLOTS = (
    slots.Config("a read, four folds", ((slots.READ,), (slots.FOLD,) * 4)),
    slots.Config("a read, a slot of the dead", ((slots.READ,), (slots.FOLD,) * 3), left=1),
    slots.Config(
        "two reads, folds", ((slots.READ,) * 2, (slots.FOLD,) * 3, (slots.FOLD,)), kills=1
    ),
    slots.Config(
        "a read, folds, failing commits", ((slots.READ,), (slots.FOLD,) * 4), kills=1, faults=1
    ),
)
LONG_SLOTS = (
    slots.Config("two readers, folds", ((slots.READ,), (slots.READ,), (slots.FOLD,) * 3)),
)
