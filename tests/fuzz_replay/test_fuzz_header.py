"""The fuzzer of the shared header notices what is put into a copy of the package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN_S = 250
# Module, the text there, and what is put in its place.
FAULTS: dict[str, list[tuple[str, str, str]]] = {
    "an old header is not wiped out": [
        ("header.py", "            self.words[index] = 0\n", "            pass\n"),
    ],
    "the header of an earlier boot is trusted": [
        (
            "header.py",
            "            and (self.boot_low, self.boot_high) == _halves(system.boot_id())\n",
            "",
        ),
    ],
    "less than was published counts as all": [
        ("logview.py", "if whole_to != end:", "if False:"),
    ],
    "of an interrupted append only the word is cleared": [
        (
            "engine.py",
            "        return bool(header.writing or header.log_failed)\n",
            "        header.writing = 0\n        return bool(header.log_failed)\n",
        ),
    ],
    "a table that was replaced is not noticed": [
        ("joining.py", "if _inode(path) != header.table_inode:", "if False:"),
        (
            "identity.py",
            "    found = (table.meta.incarnation, table.inode, table.meta.uuid)\n",
            "    found = (table.meta.incarnation, published[1], table.meta.uuid)\n",
        ),
    ],
    "a store whose files were replaced is joined": [
        ("joining.py", "if header.is_live() and not header.replaced:", "if header.is_live():"),
    ],
    "the table of a dead vacuum is not joined": [
        ("joining.py", "                _publish_vacuumed(path, header, log)\n", ""),
    ],
    "a table that was overwritten is not noticed": [
        ("identity.py", "    elif is_overwritten(engine):", "    elif False:"),
    ],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_planted_in_the_engine_is_found(fault: str, tmp_path: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__")
    for package in ("logstore", "fuzz"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignore)
    for name, old, new in FAULTS[fault]:
        file = tmp_path / "logstore" / "_engine" / name
        source = file.read_text()
        assert source.count(old) == 1
        file.write_text(source.replace(old, new))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "fuzz", "header", "--seed=1"),
            *("--executions=40", f"--save-in={tmp_path / 'found'}"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=RUN_S,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Violation at fuzz_header.py" in done.stdout or "CorruptLogError" in done.stdout
