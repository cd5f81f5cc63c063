"""The work of the demo's tasks: count lines, functions, classes and imports of Python files.

Rules: pure functions of the files' bytes; nothing is imported or executed.  A file that cannot be
read or parsed (the standard library has some on purpose) is named in the report and does not stop
the task.  The same files always give the same report, so a task may run twice.
"""

from __future__ import annotations

import ast
import io
import sysconfig
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Directories below the standard library that contain third-party packages or caches.
FOREIGN_DIRECTORIES = frozenset({"site-packages", "dist-packages", "__pycache__"})

# Tokens that are layout: a line with only these tokens has no code.
_LAYOUT = frozenset(
    {
        tokenize.ENCODING,
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
)


@dataclass(slots=True)
class Report:
    """Counts over some files; ``imports`` counts import statements by top-level module."""

    files: int = 0
    lines: int = 0
    code_lines: int = 0
    functions: int = 0
    classes: int = 0
    imports: Counter[str] = field(default_factory=Counter)
    unparsable: list[str] = field(default_factory=list)

    def add(self, other: Report) -> None:
        """Add the counts of ``other`` to this report."""
        self.files += other.files
        self.lines += other.lines
        self.code_lines += other.code_lines
        self.functions += other.functions
        self.classes += other.classes
        self.imports.update(other.imports)
        self.unparsable.extend(other.unparsable)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "files": self.files,
            "lines": self.lines,
            "code_lines": self.code_lines,
            "functions": self.functions,
            "classes": self.classes,
            "imports": dict(self.imports),
            "unparsable": list(self.unparsable),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """Return the report for data of :meth:`to_dict`."""
        return cls(**{**data, "imports": Counter(data["imports"])})


def standard_library() -> Path:
    """Return the directory of the running Python's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def find_sources(root: Path) -> list[str]:
    """Return all ``.py`` files below ``root``, as relative paths, without third-party packages."""
    found = (path.relative_to(root) for path in root.rglob("*.py") if path.is_file())
    return sorted(str(path) for path in found if not FOREIGN_DIRECTORIES & set(path.parts))


def deal(root: Path, sources: Iterable[str], count: int) -> list[list[str]]:
    """Divide the files into at most ``count`` non-empty slices of about equal work."""
    by_size = sorted(sources, key=lambda name: (-(root / name).stat().st_size, name))
    return [sorted(by_size[start::count]) for start in range(min(count, len(by_size)))]


def analyse_file(root: Path, name: str) -> Report:
    """Return the report of one file."""
    report = Report(files=1)
    try:
        source = (root / name).read_bytes()
        report.lines = source.count(b"\n")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ignore bad escapes in the analysed files
            tree = ast.parse(source)
        report.code_lines = _count_code_lines(source)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        # The parser also raises MemoryError for nesting that is too deep.
        report.unparsable.append(f"{name}: {type(error).__name__}")
        return report
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            report.functions += 1
        elif isinstance(node, ast.ClassDef):
            report.classes += 1
        elif isinstance(node, ast.Import):
            report.imports.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            report.imports[node.module.partition(".")[0]] += 1
    return report


def _count_code_lines(source: bytes) -> int:
    """Return the number of lines with a token other than comments and layout."""
    lines: set[int] = set()
    try:
        for token in tokenize.tokenize(io.BytesIO(source).readline):
            if token.type not in _LAYOUT:
                lines.update(range(token.start[0], token.end[0] + 1))
    except tokenize.TokenError:
        pass  # the parser accepts the file and the tokenizer does not; keep the count so far
    return len(lines)
