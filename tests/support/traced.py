"""Does to a store what its first argument names, and writes each ack to standard output.

To be run under strace: the acks are single writes, so their place among the store's own calls
shows what had reached the disk before.
"""

from __future__ import annotations

import os
import sys
from itertools import count

import logstore
from tests.support.inside import no_idle_compaction

no_idle_compaction().start()
STEADY = 500


def ack(what: str) -> None:
    """Write what has been acked."""
    os.write(1, f"ack {what}\n".encode())


def steady(path: str) -> None:
    """Results one after the other."""
    with logstore.open(path) as store:
        store.set_result("first", 0)
        ack(f"begin {sum(os.stat(path + name).st_size for name in ('-log', '-log2'))}")
        for number in range(STEADY):
            store.set_result(f"task {number}", {"number": number})
            ack(str(number))
        ack(f"end {sum(os.stat(path + name).st_size for name in ('-log', '-log2'))}")


def verbs(path: str) -> None:
    """Everything that is acked as durable."""
    numbers = count()
    for _ in range(2):
        with logstore.open(path) as store:
            for size in (1, 300_000, 300_000, 1):
                task_id = f"task {next(numbers)}"
                store.set_result(task_id, bytes(size))
                ack(f"set {size}")
                store.set_progress(task_id, logstore.TaskProgress())
                store.sync()
                ack("sync")
                store.pop_result(task_id)
                ack("pop")
                store.set_result(task_id, 1)
                ack("set again")
            assert store.delete_result(task_id)
            ack("delete")
            store.compact()
            ack("compact")
            store.set_result("a", 1)
            ack("set after the compaction")
            store.vacuum()
            ack("vacuum")
            store.set_result("b", 1)
            ack("set after the vacuum")
            store.backup(f"{path}-backup-{next(numbers)}")
            ack("backup")
            store.set_progress("running", logstore.TaskProgress())
        ack("close")


if __name__ == "__main__":
    {"steady": steady, "verbs": verbs}[sys.argv[1]](sys.argv[2])
