"""The public names with their signatures, as they are in `golden/public_api.txt`.

After a change that is meant, write the file again: ``python -m tests.test_public_api``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import logstore
import logstore.taskiq
from logstore.testing import crash, linearizability

GOLDEN = Path(__file__).parent / "golden" / "public_api.txt"
MODULES = (logstore, logstore.taskiq, crash, linearizability)


def public_names(module: ModuleType) -> Iterator[str]:
    """A line for each public function, class, method and property of a module."""
    for name in sorted(module.__all__):
        value = getattr(module, name)
        full = f"{module.__name__}.{name}"
        if inspect.isclass(value):
            bases = ", ".join(base.__name__ for base in value.__bases__)
            yield f"class {full}({bases})"
            if not issubclass(value, BaseException):
                yield from members(full, value)
        elif callable(value):
            yield f"{full}{inspect.signature(value)}"
        else:
            yield f"{full} = {value!r}"


def members(full: str, value: type) -> Iterator[str]:
    """The members that the class itself defines; of a named tuple its fields."""
    fields = getattr(value, "_fields", None)
    if fields is not None:
        yield f"    {', '.join(fields)}"
    for name, member in sorted(vars(value).items()):
        if name == "__init__" and inspect.isfunction(member):
            yield f"    {full}{inspect.signature(member)}"
        elif name.startswith("_"):
            continue
        elif isinstance(member, property):
            yield f"    {full}.{name}"
        elif isinstance(member, classmethod | staticmethod):
            yield f"    {full}.{name}{inspect.signature(member.__func__)}"
        elif inspect.isfunction(member):
            yield f"    {full}.{name}{inspect.signature(member)}"


def text() -> str:
    """The whole of it."""
    lines = "".join(f"{line}\n" for module in MODULES for line in public_names(module))
    return re.sub(r" at 0x[0-9a-f]+>", ">", lines)  # of a default that is an object


def test_the_public_names_and_their_signatures_are_those_that_are_written_down() -> None:
    assert text() == GOLDEN.read_text(encoding="utf-8")


if __name__ == "__main__":
    GOLDEN.write_text(text(), encoding="utf-8")
