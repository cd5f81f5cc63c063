"""``python -m logstore``: print an overview of the package and its programs."""

from __future__ import annotations

import sys

import logstore

TEXT = """\
logstore {version}: an embedded, crash-safe store for task results and progress on one host.

It is a library: `help(logstore)` in Python lists what it has.  Programs:

  python -m logstore.demo            run tasks on worker processes and kill one of them half-way
  python -m logstore.testing.crash   explore the crash states of a program under strace

Check a store; other processes may use it meanwhile:

  python -c "import logstore; print(logstore.check('app.db'))"
"""


def main() -> None:
    """Print the overview; an argument is an error, as there are no commands."""
    if not set(sys.argv[1:]) <= {"-h", "--help"}:
        sys.exit("python -m logstore takes no arguments; without any it says what there is")
    print(TEXT.format(version=logstore.__version__), end="")


if __name__ == "__main__":
    main()
