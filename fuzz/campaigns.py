"""All crash campaigns one after the other: `make crash` and `make crash-long`.

Rules: a campaign with findings does not keep the next one from running; the exit code is 1 if any
had findings. `--long` takes more than an hour on two processors, and needs root for the containers.
"""

from __future__ import annotations

import argparse
import sys

from fuzz import crash_states, histories, kills, nomemory
from fuzz.campaign import commit_seed, end_tidily

SHORT = (
    (crash_states.main, "--states 200 --plans 5"),
    (kills.main, "--kills 50"),
    (histories.main, "--operations 40000"),
    (nomemory.main, "--runs 300"),
)
LONG = (
    (crash_states.main, "--states 5000 --rounds 2"),
    (kills.main, "--kills 2000"),
    (kills.main, "--kills 2000 --containers"),
    (histories.main, "--operations 2000000"),
    (nomemory.main, "--runs 20000"),
)


def main(argv: list[str] | None = None) -> int:
    """Runs them and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.campaigns")
    parser.add_argument("--long", action="store_true", help="an hour instead of minutes")
    parser.add_argument("--seed", type=int, help="of everything that is drawn; else the commit's")
    options = parser.parse_args(argv)
    seed = commit_seed() if options.seed is None else options.seed
    codes = [
        campaign([*words.split(), "--seed", str(seed)])
        for campaign, words in (LONG if options.long else SHORT)
    ]
    return max(codes)


if __name__ == "__main__":
    end_tidily()
    sys.exit(main())
