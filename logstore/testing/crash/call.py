"""Run a Python function as a workload.

Usage: `python -m logstore.testing.crash.call module:function DIR`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from logstore.testing.crash.checking import resolve


def main() -> None:
    """Call the function of the first argument with the directory of the second."""
    name, directory = sys.argv[1:]
    resolve(name)(Path(directory))


if __name__ == "__main__":
    main()
