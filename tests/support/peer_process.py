"""A second process for tests: runs what it reads from its input, one JSON string of code a line.

Rules: each line is run in one namespace that lives as long as the process; if its last statement
is an expression, the answer is the expression's ``repr``.  An error is answered with its type and
message, and the process goes on.  The answer is one JSON object a line on standard output.
"""

from __future__ import annotations

import ast
import json
import sys
from typing import Any


def run(source: str, namespace: dict[str, Any]) -> str:
    """Run some code; the repr of its last expression, "None" if it has none."""
    tree = ast.parse(source)
    last = tree.body[-1] if tree.body else None
    if not isinstance(last, ast.Expr):
        exec(compile(tree, "<peer>", "exec"), namespace)
        return "None"
    tree.body.pop()
    exec(compile(tree, "<peer>", "exec"), namespace)
    return repr(eval(compile(ast.Expression(last.value), "<peer>", "eval"), namespace))


def main() -> None:
    """Answer until the input ends."""
    namespace: dict[str, Any] = {}
    for line in sys.stdin:
        try:
            answer = {"value": run(json.loads(line), namespace)}
        except BaseException as exc:
            answer = {"error": type(exc).__name__, "message": str(exc)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
