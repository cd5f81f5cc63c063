"""Run a Python function as a workload.

Usage: `python -m logstore.testing.crash.call module:function DIR`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from logstore.testing.crash.checking import resolve


def command_of(name: str, directory: Path) -> list[str]:
    """Return the command that calls the function of this name."""
    return [sys.executable, "-m", "logstore.testing.crash.call", name, str(directory)]


def python_path() -> dict[str, str]:
    """Return the variable that lets other interpreters find the modules of this one."""
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def main() -> None:
    """Call the function of the first argument with the directory of the second."""
    name, directory = sys.argv[1:]
    resolve(name)(Path(directory))


if __name__ == "__main__":
    main()
