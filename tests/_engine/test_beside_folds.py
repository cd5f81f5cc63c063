"""Reads of several processes beside folds, all values checked.

Invariants: a reader gets each value whole, under its key, and never an older one than before.  Each
commit writes half a meta page first, which hardly ever happens by itself.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import logstore
from logstore._engine import metapages
from logstore._engine.readers import Readers
from tests.support.inside import live, no_idle_compaction
from tests.support.peers import CHILD_S, ROOT

KEYS = 1000
FOLDS = 50
PROCESSES = 4

READER = """
import random, select, sys, time
import logstore
from logstore._codec.values import decode_value
from logstore._engine import lmdbfile, readers
# The test's half commits take long, on a busy machine.
readers.COMMIT_S, lmdbfile.LOOKS = 200.0, 10**9

path, keys, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = random.Random(seed)
store = logstore.open(path, mode="r")
seen = [0] * keys
reads = slow = 0

def visit(table, txn):
    global reads, slow
    if rng.random() < 0.05:
        slow += 1
        time.sleep(0.03)  # some folds pass, or would
    for _ in range(20):
        key = rng.randrange(keys)
        name = b"job-%d" % key
        found = table.record_in(txn, b"results", table.mark_in(txn, name).result_us, name)
        number, time_ns, _ = decode_value(found.entry.payload)
        assert number == key, (number, key)
        assert time_ns >= seen[key], "an older value than before"
        seen[key] = time_ns
        reads += 1

print("ready", flush=True)

while not select.select([sys.stdin], [], [], 0)[0]:
    engine = store._handle.engine
    engine.view()  # follows a vacuum
    engine.from_table(lambda table: table.read(lambda txn: visit(table, txn)))
print(reads, slow, flush=True)
store.close()
"""


@contextmanager
def half_commits(store: logstore.Store) -> Iterator[None]:
    """Write half a meta page before each commit, and let readers wait for its end."""
    real = Readers.begin_commit
    readers = live(store).header.readers

    def begin(self: Readers, newest: int, *, has_new: bool) -> None:
        if self is not readers:  # a commit to a vacuum's copy
            real(self, newest, has_new=has_new)
            return
        real(self, newest, has_new=True)
        with open(store.path, "r+b", buffering=0) as file:
            fd = file.fileno()
            number = newest + 1 & 1
            first = metapages.decode(os.pread(fd, metapages.META_BYTES, 0))
            at = first.page_bytes * number
            whole = os.pread(fd, metapages.META_BYTES, at)
            torn = metapages.decode(whole)._replace(txn_id=newest + 1)
            os.pwrite(fd, metapages.encode(number, torn)[: metapages.META_BYTES], at)
            time.sleep(0.001)
            os.pwrite(fd, whole, at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Readers, "begin_commit", begin)
        yield


def write(store: logstore.Store, rng: random.Random, keys: list[int]) -> None:
    for key in keys:
        store.set_result(f"job-{key}", [key, time.monotonic_ns(), bytes(rng.randrange(1, 900))])


@pytest.mark.parametrize("vacuums", [False, True], ids=["folds", "folds and vacuums"])
def test_readers_of_all_processes_get_whole_values_beside_folds(path: Path, vacuums: bool) -> None:
    rng = random.Random(1)
    with no_idle_compaction(), logstore.open(path, sync="interval") as store:
        write(store, rng, list(range(KEYS)))
        store.compact()
        readers = [
            subprocess.Popen(
                [sys.executable, "-X", "faulthandler", "-c", READER, path, str(KEYS), str(seed)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for seed in range(PROCESSES)
        ]
        try:
            for reader in readers:
                assert reader.stdout is not None
                assert reader.stdout.readline() == "ready\n"
            with half_commits(store):
                for fold in range(FOLDS):
                    write(store, rng, rng.sample(range(KEYS), 60))
                    store.compact()
                    if vacuums and fold % 25 == 0:
                        store.vacuum()
            for reader in readers:
                out, errors = reader.communicate("\n", timeout=CHILD_S)
                assert (reader.returncode, errors) == (0, "")
                reads, slow = map(int, out.split())
                assert reads > 20 * slow > 0
        finally:
            for reader in readers:
                reader.kill()
                reader.wait()
        assert store.check().ok
