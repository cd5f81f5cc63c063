"""What a one-point mutant is: one replaced piece of one file of the package."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator
from typing import NamedTuple

COMPARISON, CONSTANT, AND_OR = "comparison", "constant", "and-or"
STATEMENT, NOT, EXCEPT, LOCK = "statement", "not", "except", "lock"
KINDS = (COMPARISON, CONSTANT, AND_OR, STATEMENT, NOT, EXCEPT, LOCK)

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Point(NamedTuple):
    """One possible mutant of one file."""

    file: str  # below the package
    function: str  # its qualified name; "" outside of functions
    kind: str
    line: int
    column: int
    variant: int  # tells apart the points of one kind at one place
    start: int  # the replaced bytes of the source
    end: int
    new: str
    statement: int  # the statement of a function that it is in, -1 if it runs at import

    @property
    def name(self) -> str:
        """What tells it from all others in this version of the package."""
        return f"{self.file}:{self.line}:{self.column}:{self.kind}:{self.variant}"

    def applied(self, source: str) -> str:
        """The file's text with the fault."""
        data = source.encode()
        return (data[: self.start] + self.new.encode() + data[self.end :]).decode()

    def lines(self, source: str) -> tuple[str, str]:
        """The changed lines before and after, without indentation: they outlive their number."""
        old, new = source.splitlines(), self.applied(source).splitlines()
        before, after = [], []
        for tag, i, j, k, m in difflib.SequenceMatcher(None, old, new, False).get_opcodes():
            if tag != "equal":
                before += old[i:j]
                after += new[k:m]
        return " ".join(map(str.strip, before)), " ".join(map(str.strip, after))

    def diff(self, source: str) -> str:
        """The edit, for people."""
        old, new = source.splitlines(), self.applied(source).splitlines()
        lines = list(difflib.unified_diff(old, new, n=1, lineterm=""))
        return "\n".join(lines[2:])


def statements_of(tree: ast.AST) -> list[ast.stmt]:
    """The statements inside of functions, which is what tests can run, in the order of the text."""

    def inside(node: ast.AST, in_function: bool) -> Iterator[ast.stmt]:
        for child in ast.iter_child_nodes(node):
            if in_function and isinstance(child, ast.stmt):
                yield child
            yield from inside(child, in_function or isinstance(child, FUNCTIONS))

    return list(inside(tree, False))
