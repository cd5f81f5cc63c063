"""The package as numbered statements: what an instrumented copy notes, and what is near a point.

Rules: pure functions of the sources.  Only statements of functions have numbers: what runs at
import is run by every test alike.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

from fuzz.mutant_points import FUNCTIONS, Point, statements_of

NOT_THE_PRODUCT = ("demo/*", "testing/*")

_HITS = """\
import mmap
import os

HIT = bytearray({size})
if "MUTANT_HITS" in os.environ:
    with open(os.environ["MUTANT_HITS"], "r+b") as file:
        HIT = mmap.mmap(file.fileno(), 0)
"""


class Package:
    """The sources of the product, and their statements numbered through."""

    def __init__(self, root: Path) -> None:
        """Read what is below ``root``.  Raises SyntaxError."""
        names = [str(path.relative_to(root)) for path in sorted(root.rglob("*.py"))]
        self.sources = {
            name: (root / name).read_text()
            for name in names
            if not any(fnmatch(name, glob) for glob in NOT_THE_PRODUCT)
        }
        self._trees = {name: ast.parse(source) for name, source in self.sources.items()}
        self._statements = {name: statements_of(tree) for name, tree in self._trees.items()}
        self._starts: dict[str, int] = {}
        self.size = 0
        for name, statements in self._statements.items():
            self._starts[name] = self.size
            self.size += len(statements)

    def instrument(self, root: Path) -> None:
        """Have the copy below ``root`` note each statement in the file that MUTANT_HITS names.

        All its processes map that file, so what a process has run is there whatever ends it.
        """
        (root.parent / "mutant_hits.py").write_text(_HITS.format(size=self.size))
        for name, start in self._starts.items():
            (root / name).write_text(instrumented(self.sources[name], start))

    def split(self, hits: bytes) -> dict[str, bytes]:
        """What was run, by module; modules of which nothing was are left out."""
        parts = {
            name: hits[start : start + len(self._statements[name])]
            for name, start in self._starts.items()
        }
        return {name: part for name, part in parts.items() if any(part)}

    def joined(self, parts: Mapping[str, bytes]) -> bytes:
        """The inverse of :meth:`split`."""
        return b"".join(
            parts.get(name, bytes(len(statements))) for name, statements in self._statements.items()
        )

    def near(self, point: Point) -> set[int]:
        """The statements whose tests may notice a point.

        Its own; for what runs at import, those that use the names which it defines, or those of
        its function or class.
        """
        if point.statement >= 0:
            return {self._starts[point.file] + point.statement}
        numbers = self._using(self.names(point))
        for node in self._around(point)[-1:]:
            numbers |= self._within(point.file, node)
        return numbers or self._within(point.file, self._trees[point.file])

    def names(self, point: Point) -> set[str]:
        """What a point defines that runs at import; nothing for one in a function."""
        if point.statement >= 0:
            return set()
        around = self._around(point)
        names = {node.name for node in around if isinstance(node, ast.ClassDef)}
        return names.union(*(_defined(node) for node in around[-1:]))

    def _around(self, point: Point) -> list[ast.stmt]:
        """The statements outside of functions that hold a point, the innermost last."""
        return [node for node in _at_import(self._trees[point.file]) if _holds(node, point.line)]

    def _within(self, file: str, node: ast.AST) -> set[int]:
        """Statements of functions in a part of a file."""
        inside = {id(child) for child in ast.walk(node)}
        return {
            self._starts[file] + number
            for number, statement in enumerate(self._statements[file])
            if id(statement) in inside
        }

    def _using(self, names: set[str]) -> set[int]:
        """Statements of functions that use names, directly or through others defined from them."""
        numbers: set[int] = set()
        wanted, known = names, set(names)
        while wanted:
            derived: set[str] = set()
            for file, tree in self._trees.items():
                for node in _at_import(tree):
                    if isinstance(node, FUNCTIONS):
                        if any(wanted & _mentioned(part) for part in _header(node)):
                            numbers |= self._within(file, node)
                    elif not isinstance(node, ast.ClassDef) and wanted & _mentioned(node):
                        derived |= _defined(node)
                numbers |= {
                    self._starts[file] + number
                    for number, statement in enumerate(self._statements[file])
                    if wanted & _mentioned(statement)
                }
            wanted = derived - known
            known |= wanted
        return numbers


def instrumented(source: str, start: int) -> str:
    """A source that notes its statements, numbered from ``start``."""
    tree = ast.parse(source)
    numbers = {id(node): start + n for n, node in enumerate(statements_of(tree))}
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list):
                setattr(node, field, list(_noting(block, numbers)))
    first = [
        *(n for n, node in enumerate(tree.body) if getattr(node, "module", "") == "__future__"),
        *([0] if ast.get_docstring(tree) is not None else []),
    ]
    at = max(first, default=-1) + 1
    tree.body[at:at] = ast.parse("from mutant_hits import HIT as _HIT").body
    return ast.unparse(ast.fix_missing_locations(tree))


def _noting(block: Sequence[ast.stmt], numbers: dict[int, int]) -> Iterator[ast.stmt]:
    for node in block:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if id(node) in numbers and not is_text:
            yield from ast.parse(f"_HIT[{numbers[id(node)]}] = 1").body
        yield node


def _at_import(node: ast.AST) -> Iterator[ast.stmt]:
    """What runs at import, from the outside in; functions as a whole."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        if not isinstance(child, FUNCTIONS):
            yield from _at_import(child)


def _holds(node: ast.stmt, line: int) -> bool:
    assert node.end_lineno is not None
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(one.lineno for one in decorators)]) <= line <= node.end_lineno


def _header(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.expr]:
    """What is computed when a function is defined."""
    defaults = [*node.args.defaults, *(one for one in node.args.kw_defaults if one is not None)]
    return [*node.decorator_list, *defaults]


def _defined(node: ast.stmt) -> set[str]:
    """The names that a statement binds."""
    if isinstance(node, ast.ClassDef):
        return {node.name}
    if isinstance(node, FUNCTIONS):
        return set()  # its users run its statements
    return {
        child.id
        for child in ast.walk(node)
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store)
    }


def _mentioned(node: ast.AST) -> set[str]:
    """The names that are in a part of a tree, also as attributes."""
    names = {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}
    return names | {child.attr for child in ast.walk(node) if isinstance(child, ast.Attribute)}
