"""The README's code: every python block runs as it stands, and prints what it is said to print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()

# A python block and, directly behind it, the text block that shows its output.
_BLOCK = re.compile(
    r"(?<! -->\n)^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL
)
BLOCKS = [(match[1], match[2]) for match in _BLOCK.finditer(README)]

# A script that stands in a file too, where its own tests run it.
QUOTED = re.findall(
    r"^<!-- (\S+\.py) -->\n```python\n(.*?)^```\n", README, re.MULTILINE | re.DOTALL
)


@pytest.mark.parametrize(("code", "output"), BLOCKS, ids=range(len(BLOCKS)))
def test_a_code_block_runs_when_pasted_and_prints_what_it_says(
    tmp_path: Path, code: str, output: str | None
) -> None:
    (tmp_path / "pasted.py").write_text(code)
    search_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-W", "error", "pasted.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": search_path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert output is None or done.stdout == output
    databases = {path.name for path in tmp_path.iterdir()} - {"pasted.py"}
    assert all(name.endswith(".db") for name in databases), databases


def test_no_python_block_escapes_the_pattern() -> None:
    assert len(BLOCKS) + len(QUOTED) == README.count("```python")
    assert len(BLOCKS) >= 3


def test_the_examples_are_quoted_as_they_stand() -> None:
    assert {name for name, _ in QUOTED} == {
        f"tests/examples/{name}"
        for name in ("fibonacci.py", "reported_progress.py", "file_results.py", "zeromq_workers.py")
    }
    for name, code in QUOTED:
        assert code == (ROOT / name).read_text(), name


def test_the_quick_start_is_short() -> None:
    assert len(BLOCKS[0][0].strip().splitlines()) <= 10


def test_every_file_the_readme_names_is_there() -> None:
    named = set(re.findall(r"`(logstore/[\w/]+(?:\.\w+|/))`", README))
    assert named
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_every_error_the_readme_names_exists() -> None:
    import logstore.errors

    named = set(re.findall(r"`(\w+Error)`", README)) - {"ValueError", "RemoteError"}
    assert named
    assert {name for name in named if not hasattr(logstore.errors, name)} == set()
