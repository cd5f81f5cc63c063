"""Explore the protocol, and show that faults in it are found.

python -m fuzz.model            the bounded form
python -m fuzz.model --long     with more processes' operations and faults
python -m fuzz.model -k pop     the configurations and mutants whose name contains a word
"""

from __future__ import annotations

import argparse
import sys
import time

from fuzz.model.configs import CONFIGS, LONG
from fuzz.model.mutants import MUTANTS, mutated
from fuzz.model.protocol import Config, Protocol
from fuzz.model.search import Result, explore


def find(protocol: type[Protocol]) -> tuple[Config, Result] | None:
    """The first bounded configuration that breaks a guarantee."""
    for config in CONFIGS:
        result = explore(protocol, config)
        if result.violation:
            return config, result
    return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz.model", description=__doc__)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("-k", default="", metavar="WORD")
    arguments = parser.parse_args()
    is_bad = False
    states = transitions = 0
    for config in (*CONFIGS, *LONG) if arguments.long else CONFIGS:
        if arguments.k in config.name:
            started = time.monotonic()
            result = explore(Protocol, config, trace=True)
            states, transitions = states + result.states, transitions + result.transitions
            print(
                f"{config.name:<32} {config.kills} kills, {config.flush_faults} failing flushes, "
                f"{config.write_faults} failing writes: {result.states:,} states, "
                f"{result.transitions:,} transitions, {time.monotonic() - started:.1f} s",
                flush=True,
            )
            if result.violation:
                print(*result.trace, sep="\n")
                is_bad = True
    print(f"in all {states:,} states, {transitions:,} transitions")
    for mutant in MUTANTS:
        if arguments.k in mutant.what:
            found = find(mutated(mutant))
            print(f"{'found' if found else 'NOT FOUND'}: {mutant.what}", flush=True)
            if found:
                print(f"    {found[0].name}: {found[1].violation}")
            is_bad = is_bad or not found
    return int(is_bad)


if __name__ == "__main__":
    sys.exit(main())
