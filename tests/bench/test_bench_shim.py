"""The modelled slow disk slows and counts every way to make data durable, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.shim import Control, ShimUnavailableError, build

# Prints how long each way took, in milliseconds: plain ones first, then the ones that are delayed.
PROGRAM = """
import mmap, os, sys, time
path = sys.argv[1]
fd = os.open(path, os.O_RDWR | os.O_CREAT)
synced = os.open(path, os.O_RDWR | os.O_DSYNC)
os.pwrite(fd, bytes(4096), 0)
page = mmap.mmap(fd, 4096)
ways = [
    *[lambda: os.pwrite(fd, b"x", 0)] * 10,
    lambda: os.fsync(fd),
    lambda: os.fdatasync(fd),
    lambda: page.flush(),
    lambda: os.pwrite(synced, b"x", 0),
    lambda: os.pwritev(synced, [b"x", b"y"], 0),
    lambda: os.write(synced, b"x"),
]
for way in ways:
    before = time.monotonic()
    way()
    print((time.monotonic() - before) * 1000)
"""
PLAIN, DELAY_MS = 10, 60


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return build(tmp_path_factory.mktemp("shim"))
    except ShimUnavailableError as reason:
        pytest.skip(str(reason))


def run(library: Path, control: Control, tmp_path: Path) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "data")],
        env={**os.environ, **control.environment(library)},
        capture_output=True,
        text=True,
        check=True,
    )
    return [float(line) for line in done.stdout.splitlines()]


def test_every_flush_is_delayed_and_counted_and_a_plain_write_is_not(
    library: Path, tmp_path: Path
) -> None:
    control = Control(tmp_path / "control")
    control.set_delay(DELAY_MS / 1000)
    times = run(library, control, tmp_path)
    plain, flushed = times[:PLAIN], times[PLAIN:]
    assert min(plain) < DELAY_MS  # a busy machine may hold one up
    assert len(flushed) == 6
    assert min(flushed) >= DELAY_MS
    counted = control.flushes()
    assert (counted.fsyncs, counted.fdatasyncs, counted.msyncs) == (1, 1, 1)
    assert counted.synced_writes == 3
    assert counted.total == 6
    control.close()


def test_without_a_delay_it_only_counts(library: Path, tmp_path: Path) -> None:
    control = Control(tmp_path / "control")
    run(library, control, tmp_path)
    assert control.flushes().total == 6
    control.close()


def test_lmdb_needs_two_flushes_per_commit_which_a_count_of_fsync_alone_would_miss(
    library: Path, tmp_path: Path
) -> None:
    control = Control(tmp_path / "control")
    program = (
        "import lmdb, sys\n"
        "env = lmdb.open(sys.argv[1], subdir=False)\n"
        "for number in range(10):\n"
        "    with env.begin(write=True) as txn: txn.put(b'%d' % number, b'x')\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "data.mdb")],
        env={**os.environ, **control.environment(library)},
        check=True,
    )
    counted = control.flushes()
    assert counted.fdatasyncs >= 10
    assert counted.synced_writes >= 10
    control.close()


def test_a_process_that_the_library_did_not_reach_is_seen(library: Path, tmp_path: Path) -> None:
    control = Control(tmp_path / "control")
    seen = []
    for environment in (control.environment(library), {}):
        with subprocess.Popen(
            [sys.executable, "-c", "print(flush=True); input()"],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            seen.append(control.steers(process.pid))
            process.communicate(b"\n")
    assert seen == [True, False]
    control.close()


def test_a_missing_compiler_is_said_and_not_raised_as_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ShimUnavailableError, match="no C compiler"):
        build(tmp_path)
