"""The README's code: every python block runs as it stands, and prints what it is said to print."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
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
        timeout=250,
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


# -- the list of modules -----------------------------------------------------------------------

PACKAGE = ROOT / "logstore"
LAYERS = [
    re.findall(r"`([^`]+)`", cells[1])
    for cells in (line.split("|") for line in README.split("## Reading the source")[1].splitlines())
    if len(cells) == 4 and cells[1].startswith(" `")
]


def _layer_of(module: Path) -> int:
    """The row of the list that names a module; a name without a directory is in the last one's."""
    name = module.relative_to(ROOT).as_posix()
    for number, patterns in enumerate(LAYERS):
        directory = patterns[0].rpartition("/")[0]
        for pattern in patterns:
            whole = pattern if "/" in pattern else f"{directory}/{pattern}"
            if name.startswith(whole) if whole.endswith("/") else module.match(whole):
                return number
    raise AssertionError(f"README's list does not name {name}")


def _imported(tree: ast.AST) -> Iterator[str]:
    """The modules that are imported as a module is: not within functions, not for types alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _imported(node)


MODULES = [
    path
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py" and not path.is_relative_to(PACKAGE / "testing")
]


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_imports_only_what_the_list_names_above_it(module: Path) -> None:
    layer = _layer_of(module)
    for name in _imported(ast.parse(module.read_text())):
        imported = ROOT.joinpath(*name.split(".")).with_suffix(".py")
        if name.startswith("logstore.") and imported.exists():
            assert _layer_of(imported) <= layer, f"{module.name} imports {name}"
