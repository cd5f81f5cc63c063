"""Which module may import which: no cycles, and each layer only what is below it.

Imports for types alone and imports within functions count, too.  The core of the tests, which is
about what a user can do, read and meet, uses public names only.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "logstore"

# From the bottom to the top.  A layer is a list of packages and modules.
LAYERS = [
    ["errors", "_extras"],
    ["_codec"],
    ["progress"],
    ["types"],
    ["_engine"],
    ["_arguments"],
    ["_handle"],
    ["_watch"],
    ["queue"],
    ["store"],
    ["_loops"],
    ["_aioqueue"],
    ["aio", "_check"],
    ["__init__"],
    ["taskiq.errors"],
    ["taskiq.outcome"],
    ["taskiq.opening"],
    ["taskiq.schedules"],
    ["taskiq.abstract"],
    ["taskiq.results"],
    ["taskiq.broker"],
    ["taskiq.urls"],
    ["taskiq"],
    ["testing", "demo", "__main__"],
]


def module_name(path: Path) -> str:
    """The dotted name of a module below the package."""
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imported(path: Path) -> Iterator[str]:
    """The modules of the package that a module imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if is_module(whole) else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def graph() -> dict[str, set[str]]:
    """What each module of the package imports of it."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        names = {name for name in imported(path) if name.partition(".")[0] == "logstore"}
        found[module_name(path)] = {
            name.removeprefix("logstore").removeprefix(".") or "__init__" for name in names
        }
    return found


GRAPH = graph()


def layer_of(name: str) -> int:
    for number, parts in enumerate(LAYERS):
        if name in parts:
            return number
    parent = name.rpartition(".")[0]
    assert parent, f"no layer has {name}"
    return layer_of(parent)


@pytest.mark.parametrize("name", GRAPH)
def test_a_module_imports_only_from_its_own_layer_and_those_below(name: str) -> None:
    wrong = [other for other in GRAPH[name] if layer_of(other) > layer_of(name)]
    assert not wrong, f"{name} imports {wrong}"


def test_there_is_no_cycle() -> None:
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        assert name not in path, " imports ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in sorted(GRAPH[name]):
                visit(other, [*path, name])
            done.add(name)

    for name in GRAPH:
        visit(name, [])


def test_the_graph_sees_every_kind_of_import() -> None:
    assert "_engine.engine" in GRAPH["_handle"]  # from logstore._engine.engine import Engine
    assert "_engine.futex" in GRAPH["_engine.header"]  # from logstore._engine import futex
    assert "aio" in GRAPH["__init__"]  # within a function
    assert "__init__" in GRAPH["taskiq.results.logstore"]  # import logstore


# -- the tests ---------------------------------------------------------------------------------

TESTS = ROOT / "tests"
FOLDERS = ("crash", "examples", "golden", "interrupts", "support", "testing")
CORE = sorted(
    [*TESTS.glob("*.py"), *(p for name in FOLDERS for p in TESTS.glob(f"{name}/**/*.py"))]
)
EXCEPTIONS = {
    "support/inside.py": "the one module that reaches into the package",
    "test_aio.py": "many of its tests are about the threads behind the loop",
    "test_layers.py": "names private modules, and imports none",
}
PYTHONS_OWN = {"_exit", "_getframe", "_replace"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names(source: str) -> list[str]:
    """The private names that a test uses, also in code that it gives to another process."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom | ast.Import):
            module = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names = [*module, *(alias.name for alias in node.names)]
            parts = [part for name in names for part in name.split(".")]
            found += [part for part in parts if is_private(part)]
            found += [part for part in parts if part == "live"]
        elif isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if (is_private(node.attr) and not own and node.attr not in PYTHONS_OWN) or (
                isinstance(node.value, ast.Name)
                and (node.value.id, node.attr) == ("inside", "live")
            ):
                found.append(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += re.findall(r"logstore\._\w+|\._(?:handle|engine|lease)\b", node.value)
    return found


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(TESTS)))
def test_the_core_of_the_tests_uses_public_names_only(path: Path) -> None:
    if str(path.relative_to(TESTS)) not in EXCEPTIONS:
        assert private_names(path.read_text(encoding="utf-8")) == []


def test_a_private_name_is_seen_wherever_a_test_uses_it() -> None:
    for source in (
        "from logstore._engine import maintenance",
        "from logstore import _handle",
        "import logstore._engine.log",
        "from tests.support.inside import live",
        "inside.live(store)",
        "store._handle.engine",
        "peer.run('store._handle.engine')",
        "peer.run('from logstore._engine import log')",
    ):
        assert private_names(source), source
    assert private_names("self._handle = os._exit; import logstore.demo.__main__") == []
