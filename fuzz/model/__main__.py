"""Explore the protocol, and show that faults in it are found.

python -m fuzz.model            the bounded form
python -m fuzz.model --long     with more processes' operations and faults
python -m fuzz.model -k pop     the configurations and mutants whose name contains a word
"""

from __future__ import annotations

import argparse
import sys
import time

from fuzz.model import slots
from fuzz.model.configs import CONFIGS, LONG, LONG_SLOTS, SLOTS
from fuzz.model.mutants import MUTANTS, SLOT_MUTANTS, Mutant, mutated
from fuzz.model.protocol import Config, Protocol
from fuzz.model.search import Model, Result, explore


def find(mutant: Mutant) -> Result:
    """Search the configuration that a mutant names for what breaks a guarantee."""
    config = next(each for each in (*CONFIGS, *SLOTS) if each.name == mutant.config)
    return explore(mutated(mutant)(config))


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz.model", description=__doc__)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("-k", default="", metavar="WORD")
    arguments = parser.parse_args()
    is_bad = False
    configs: list[Config | slots.Config] = [*CONFIGS, *SLOTS]
    if arguments.long:
        configs += [*LONG, *LONG_SLOTS]
    states = transitions = 0
    for config in configs:
        if arguments.k in config.name:
            started = time.monotonic()
            result = explore(_model_of(config), trace=True)
            states, transitions = states + result.states, transitions + result.transitions
            print(
                f"{config.name + _faults(config):<50}{result.states:>11,} states,"
                f"{result.transitions:>12,} transitions, {time.monotonic() - started:.1f} s",
                flush=True,
            )
            if result.violation:
                print(*result.trace, result.violation, sep="\n")
                is_bad = True
    print(f"in all {states:,} states, {transitions:,} transitions")
    for mutant in (*MUTANTS, *SLOT_MUTANTS):
        if arguments.k in mutant.what:
            violation = find(mutant).violation
            print(f"{'found' if violation else 'NOT FOUND'}: {mutant.what}", flush=True)
            print(f"    {mutant.config}: {violation}")
            is_bad = is_bad or not violation
    return int(is_bad)


def _model_of(config: Config | slots.Config) -> Model:
    return Protocol(config) if isinstance(config, Config) else slots.Slots(config)


def _faults(config: Config | slots.Config) -> str:
    """The faults that may come, and how many of each."""
    named = (
        ("kills", "kills"),
        ("flush_faults", "failing flushes"),
        ("write_faults", "failing writes"),
        ("faults", "failing commits"),
        ("cuts", "power cuts"),
    )
    counts = [(getattr(config, field, 0), what) for field, what in named]
    return "".join(f", {count} {what}" for count, what in counts if count)


if __name__ == "__main__":
    sys.exit(main())
