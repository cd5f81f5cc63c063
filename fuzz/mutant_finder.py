"""Where one edit changes what the package does: the points of a file.

Rules: pure functions of a source text, whose order depends on it alone.  Left out is what has no
behaviour: annotations, docstrings, assertions, the texts of errors and of the log, ``__repr__``,
and what compiles to the same bytecode.
"""

from __future__ import annotations

import ast
import re
from types import CodeType

from fuzz.mutant_points import (
    AND_OR,
    COMPARISON,
    CONSTANT,
    EXCEPT,
    FUNCTIONS,
    LOCK,
    NOT,
    STATEMENT,
    Point,
    statements_of,
)

_COMPARISONS: dict[type[ast.cmpop], tuple[str, tuple[str, ...]]] = {
    ast.Lt: ("<", ("<=", ">=")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<=")),
    ast.GtE: (">=", (">", "<")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: (r"is\s+not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: (r"not\s+in", ("in",)),
}
_REMOVABLE = (
    *(ast.Expr, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Delete, ast.Return, ast.Raise),
    *(ast.Break, ast.Continue),
)
# What catches them is widened beyond Exception.
_WIDE = {"Exception", "CancelledError", "GeneratorExit", "KeyboardInterrupt", "SystemExit"}
_FOR_PEOPLE = re.compile(r"(Error|Exception|Warning)$")
_OWN_MISTAKE = re.compile(r"raise (AssertionError|NotImplementedError)\b")  # as an assertion
_LOG = {"debug", "info", "warning", "error", "exception", "critical", "warn"}
# A list of names, or taskiq's name for the text of an error.
_NAMES_ONLY = {"__all__", "__slots__", "__match_args__", "__template__"}


def find(file: str, source: str) -> list[Point]:
    """All points of a file, in the order of its text.  Raises SyntaxError."""
    tree = ast.parse(source)
    finder = _Finder(file, source, tree)
    finder.visit(tree)
    before = _behaviour(compile(source, file, "exec", dont_inherit=True))
    points = []
    for point in finder.points:
        mutant = point.applied(source)
        try:
            after = _behaviour(compile(mutant, file, "exec", dont_inherit=True))
        except SyntaxError:
            continue  # such as a function without the value that it yields to
        if after != before:
            points.append(point)
    return sorted(points, key=lambda p: (p.line, p.column, p.kind, p.variant))


def _behaviour(code: CodeType) -> tuple[object, ...]:
    """What a code object does, without the places in the text that it comes from."""
    constants = tuple(
        _behaviour(constant) if isinstance(constant, CodeType) else (type(constant), repr(constant))
        for constant in code.co_consts
    )
    return (
        *(code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars),
        *(code.co_cellvars, code.co_flags, code.co_argcount, code.co_kwonlyargcount),
        getattr(code, "co_exceptiontable", b""),
    )


class _Finder(ast.NodeVisitor):
    """Walks over a file and notes its points."""

    def __init__(self, file: str, source: str, tree: ast.Module) -> None:
        self.points: list[Point] = []
        self._file = file
        self._source = source.encode()
        self._line_starts = [0]
        for line in self._source.splitlines(keepends=True):
            self._line_starts.append(self._line_starts[-1] + len(line))
        self._numbers = {id(node): number for number, node in enumerate(statements_of(tree))}
        self._names: list[str] = []  # of the classes and functions around
        self._statement = -1
        self._for_people = False  # whether texts are only read by people

    # -- noting

    def _place(self, node: ast.AST) -> tuple[int, int]:
        """Where a node's text begins and ends."""
        assert isinstance(node, ast.expr | ast.stmt)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self._line_starts[node.lineno - 1] + node.col_offset,
            self._line_starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def _note(self, kind: str, start: int, end: int, *news: str) -> None:
        line = next(n for n, at in enumerate(self._line_starts) if at > start)
        column = start - self._line_starts[line - 1]
        self.points += [
            Point(
                *(self._file, ".".join(self._names), kind, line, column, variant),
                *(start, end, new, self._statement),
            )
            for variant, new in enumerate(news)
        ]

    # -- where we are

    def visit(self, node: ast.AST) -> None:
        """Look at a node and at what is in it, unless it has no behaviour."""
        if isinstance(node, ast.Assert) or _has_no_behaviour(node):
            return
        statement = self._statement
        self._statement = self._numbers.get(id(node), statement)
        if isinstance(node, _REMOVABLE):
            self._removed(node)
        super().visit(node)
        self._statement = statement

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """Look at the defaults and the body."""
        self._names.append(node.name)
        defaults = [default for default in node.args.kw_defaults if default is not None]
        for child in (*node.decorator_list, *node.args.defaults, *defaults, *node.body):
            self.visit(child)
        self._names.pop()

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """Look at the defaults and the body: it has no annotations."""
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Look at the body."""
        self._names.append(node.name)
        for child in (*node.keywords, *node.decorator_list, *node.body):
            self.visit(child)
        self._names.pop()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Look at the value alone."""
        if node.value is not None:
            self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        """Leave out what only a type checker reads."""
        if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for child in node.orelse:
                self.visit(child)
        else:
            self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Leave out formatted texts: before Python 3.12 their parts have no places."""

    # -- the kinds

    def _removed(self, node: ast.stmt) -> None:
        if isinstance(node, ast.AnnAssign) and node.value is None:
            return
        if isinstance(node, ast.Raise) and _OWN_MISTAKE.match(ast.unparse(node)):
            return
        self._note(STATEMENT, *self._place(node), "pass")

    def visit_Compare(self, node: ast.Compare) -> None:
        """Put other operators between two operands."""
        left = node.left
        for operator, right in zip(node.ops, node.comparators, strict=True):
            start, end = self._place(left)[1], self._place(right)[0]
            pattern, others = _COMPARISONS[type(operator)]
            found = re.search(pattern, self._source[start:end].decode())
            assert found is not None
            self._note(COMPARISON, start + found.start(), start + found.end(), *others)
            left = right
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """Put ``or`` for an ``and``, and the other way round."""
        word, other = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for i, (left, right) in enumerate(zip(node.values, node.values[1:], strict=False)):
            start, end = self._place(left)[1], self._place(right)[0]
            found = re.search(rf"\b{word}\b", self._source[start:end].decode())
            assert found is not None, i
            self._note(AND_OR, start + found.start(), start + found.end(), other)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """Remove a ``not``."""
        if isinstance(node.op, ast.Not):
            start, _ = self._place(node)
            space = re.match(rb"not\s*", self._source[start:])
            assert space is not None
            self._note(NOT, start, start + space.end(), "")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """Put another value of the same type."""
        if isinstance(node.value, str | bytes) and self._for_people:
            return
        self._note(CONSTANT, *self._place(node), *_others(node.value))

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        """Let it catch more."""
        if node.type is not None:
            self._widened(node.type)
        for child in node.body:
            self.visit(child)

    def _widened(self, caught: ast.expr) -> None:
        names = {name.rpartition(".")[2] for name in re.findall(r"[\w.]+", ast.unparse(caught))}
        if "BaseException" not in names:
            wider = "BaseException" if names & _WIDE else "Exception"
            self._note(EXCEPT, *self._place(caught), wider)

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        """Remove what is held without a name: a lock."""
        for item in node.items:
            if item.optional_vars is None and not _is_call(item.context_expr, "suppress"):
                rest = [ast.unparse(other) for other in node.items if other is not item]
                word = "async with" if isinstance(node, ast.AsyncWith) else "with"
                new = f"{word} {', '.join(rest)}" if rest else "if True"
                # Up to the colon, with the parentheses that may be around the items.
                first = self._place(node.body[0])[0]
                start, end = self._place(node)[0], self._place(node.items[-1].context_expr)[1]
                if node.items[-1].optional_vars is not None:
                    end = self._place(node.items[-1].optional_vars)[1]
                end += self._source[end:first].index(b":")
                self._note(LOCK, start, end, new)
        self.generic_visit(node)

    visit_AsyncWith = visit_With

    # -- calls

    def visit_Raise(self, node: ast.Raise) -> None:
        """The text of an error is for people."""
        self._read_by_people(node)

    def visit_Call(self, node: ast.Call) -> None:
        """Tell calls that only make a text for people or a type."""
        name = ast.unparse(node.func).rpartition(".")[2]
        if name == "suppress":
            for argument in node.args[:1]:
                self._widened(argument)
        elif name == "cast":
            for argument in node.args[1:]:
                self.visit(argument)
        elif name == "Thread":
            node.keywords = [word for word in node.keywords if word.arg != "name"]
            self.generic_visit(node)
        elif _FOR_PEOPLE.search(name) or name in _LOG:
            self._read_by_people(node)
        else:
            self.generic_visit(node)

    def _read_by_people(self, node: ast.AST) -> None:
        before, self._for_people = self._for_people, True
        self.generic_visit(node)
        self._for_people = before


def _has_no_behaviour(node: ast.AST) -> bool:
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)  # a docstring, an ellipsis
    if isinstance(node, FUNCTIONS):
        decorators = {ast.unparse(one).rpartition(".")[2] for one in node.decorator_list}
        return node.name == "__repr__" or "overload" in decorators
    if isinstance(node, ast.Assign):
        names = {ast.unparse(target) for target in node.targets}
        return bool(names & _NAMES_ONLY) or any(
            _is_call(node.value, kind) for kind in ("TypeVar", "ParamSpec", "NewType")
        )
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "__name__ == '__main__'"
    return isinstance(node, ast.Import | ast.ImportFrom)


def _is_call(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == name


def _others(value: object) -> tuple[str, ...]:
    """What is put in place of a constant."""
    if isinstance(value, bool):
        return (repr(not value),)
    if isinstance(value, int):
        return (str(value + 1), str(value - 1)) if value > 0 else (str(value + 1),)
    if isinstance(value, float):
        return (repr(value + 1.0),)
    if isinstance(value, str):
        return (repr(value + "X"),)
    if isinstance(value, bytes):
        return (repr(value + b"X"),)
    return ()
