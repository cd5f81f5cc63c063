"""What the children of the tests do."""

from __future__ import annotations

import sys

from bench.children import Channel


def echo(channel: Channel) -> None:
    """Send back what comes, and print to standard output like a careless library."""
    while (message := channel.receive()) is not None:
        print("a library's own words")
        channel.send({"echo": message})


def fail(channel: Channel) -> None:
    raise RuntimeError("the disk is on fire")


def end(channel: Channel) -> None:
    print("last words", file=sys.stderr)
    sys.exit(3)


def silent(channel: Channel) -> None:
    channel.receive()
    channel.receive()


def whose(channel: Channel) -> None:
    import logstore

    channel.send({"file": logstore.__file__})
