"""The fuzzing loop itself: it finds planted faults, goes on after each, and repeats itself."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.mutator import MUTATIONS, copy_block, mutate
from fuzz.target import load, save

ROOT = Path(__file__).parents[2]
RUN_S = 250

FOUND = {
    "s": "signal: signal SIGSEGV",
    "h": "hang: hang",
    "c": "slow: fine",
    "m": "memory: 41943040",
    "M": "memory: MemoryError at planted.py",
    "e": "exception: KeyError at planted.py",
    "x": "exit: exit",
    "v": "exception: Violation at planted.py",
}


def run_planted(faults: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "tests.fuzz_replay.planted", faults),
            *("--seed=1", *arguments),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=RUN_S,
    )


@pytest.mark.parametrize("fault", FOUND)
def test_a_planted_fault_is_found_saved_and_replayed(fault: str, tmp_path: Path) -> None:
    count = 2 if fault == "h" else 25  # a hang takes its time
    done = run_planted(fault, f"--executions={count}", f"--save-in={tmp_path}")
    assert done.returncode == 1, done.stdout + done.stderr
    assert FOUND[fault] in done.stdout
    saved = sorted((tmp_path / "planted").iterdir())
    assert saved
    assert all(load(path)[4:5] == fault.encode() for path in saved)
    assert f"replay: python -m fuzz --replay {saved[0]}" in done.stderr
    again = run_planted(fault, "--replay", str(saved[0]))
    assert again.returncode == 1
    assert f"{saved[0]}: {FOUND[fault].partition(':')[0]}" in again.stdout


def test_after_an_input_that_ends_the_process_the_rest_is_run(tmp_path: Path) -> None:
    done = run_planted("s", "--executions=60", f"--save-in={tmp_path}", "--outcomes")
    assert "planted: 62 executions" in done.stdout
    assert " fine" in done.stdout


def test_code_without_a_fault_gives_no_finding(tmp_path: Path) -> None:
    done = run_planted("0", "--executions=200", f"--save-in={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


def test_one_seed_gives_the_same_inputs_and_another_gives_others() -> None:
    def inputs(seed: int) -> list[bytes]:
        rng = random.Random(seed)
        return [mutate(rng, b"abcdefgh" * 4, [b"xyz" * 9], bytes_max=40) for _ in range(50)]

    assert inputs(1) == inputs(1)
    assert inputs(1) != inputs(2)


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("size", [1, 2, 7, 300])
def test_every_mutation_takes_every_size_and_changes_something(mutation: object, size: int) -> None:
    assert callable(mutation)
    rng = random.Random(size)
    start = rng.randbytes(size)
    changed = set()
    for _ in range(200):
        data = bytearray(start)
        mutation(rng, data, [b"another input", b""])
        changed.add(bytes(data))
    assert changed - {start} or (size == 1 and mutation is copy_block)


def test_an_input_is_never_longer_than_allowed() -> None:
    rng = random.Random(0)
    for _ in range(500):
        assert len(mutate(rng, b"x" * 30, [b"y" * 30], bytes_max=32)) <= 32


def test_what_is_saved_is_loaded_and_large_inputs_are_compressed(tmp_path: Path) -> None:
    small, large = save(tmp_path / "a", b"abc"), save(tmp_path / "b", bytes(5000))
    assert (small.name, large.name) == ("a", "b.z")
    assert (load(small), load(large)) == (b"abc", bytes(5000))
    assert large.stat().st_size < 100
