"""``python -m logstore``: what there is to run."""

from __future__ import annotations

import logstore

TEXT = """\
logstore {version}: an embedded, crash-safe store for task results and progress on one host.

It is a library: `help(logstore)` in Python lists what it has.  Programs:

  python -m logstore.demo            tasks on worker processes, one of which is killed half-way
  python -m logstore.testing.crash   explore the crash states of a program under strace

Check a store, at rest or in use:

  python -c "import logstore; print(logstore.check('app.db'))"
"""


def main() -> None:
    """Print it."""
    print(TEXT.format(version=logstore.__version__), end="")


if __name__ == "__main__":
    main()
