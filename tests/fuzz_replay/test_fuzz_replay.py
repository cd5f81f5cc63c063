"""Every fuzzer on its corpus and its past findings, and for a moment on new inputs.

Each runs in a process of its own, for it forks.  ``make fuzz`` runs them for minutes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN_S = 250
EXECUTIONS = {
    "check": 60,
    "frames": 1500,
    "header": 40,
    "ids": 200,
    "log": 40,
    "outcomes": 800,
    "records": 1500,
    "table": 20,
    "urls": 1500,
    "values": 2500,
}


def test_every_fuzzer_is_run_here() -> None:
    assert set(EXECUTIONS) == {path.stem[5:] for path in (ROOT / "fuzz").glob("fuzz_*.py")}


def test_every_committed_input_is_some_fuzzers() -> None:
    for kind in ("corpus", "findings"):
        assert {path.name for path in (ROOT / "fuzz" / kind).iterdir()} <= set(EXECUTIONS)


@pytest.mark.parametrize("name", EXECUTIONS)
def test_corpus_past_findings_and_some_new_inputs_break_no_invariant(
    name: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "fuzz", name, "--seed=1"),
            *(f"--executions={EXECUTIONS[name]}", f"--save-in={tmp_path}"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=RUN_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
