"""Texts about objects whose own code may fail: names of classes, ``str``, ``repr``, errors.

Rules: nothing here raises an ``Exception``, whatever the object does; every text is of bounded
length and can be encoded.  The name of a class is read without running code of the class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

NAME_CHARS_MAX = 200
"""How much of a module's or a class's name is shown."""

TEXT_CHARS_MAX = 1 << 16
"""How much is kept of a text that says what an object is."""

_ERROR_CHARS_MAX = 500

# Not kind.__module__: a metaclass may have an opinion of its own.
_module_of: Any = vars(type)["__module__"].__get__
_qualname_of: Any = vars(type)["__qualname__"].__get__

bases_of: Callable[[type], tuple[type, ...]] = vars(type)["__mro__"].__get__
"""A class and its bases, in the order in which attributes are looked up."""

namespace_of: Callable[[type], Mapping[str, Any]] = vars(type)["__dict__"].__get__
"""What a class defines itself."""


def class_names(kind: type) -> tuple[str, str]:
    """Return the module and the qualified name of a class."""
    try:
        module = _module_of(kind)
    except Exception:  # a class without a module
        module = None
    if not isinstance(module, str):
        module = "?"
    return str.__str__(module), str.__str__(_qualname_of(kind))


def type_name(kind: type) -> str:
    """Return the dotted name of a class, to be shown."""
    return ".".join(safe_text(name, NAME_CHARS_MAX) for name in class_names(kind))


def text_of(function: Callable[[Any], str], value: object, chars_max: int) -> str:
    """Return ``str`` or ``repr`` of anything, or a text that says what that raised."""
    try:
        return safe_text(str.__str__(function(value)), chars_max)
    except Exception as failure:
        kind = _qualname_of(type(value))
        return f"<{kind}; its {function.__name__}() raised {_qualname_of(type(failure))}>"


def describe(error: BaseException) -> str:
    """Return the class and the message of an error in one line."""
    name = safe_text(_qualname_of(type(error)), NAME_CHARS_MAX)
    message = text_of(str, error, _ERROR_CHARS_MAX)
    return f"{name}: {message}" if message else name


def safe_text(text: str, chars_max: int) -> str:
    """Return a text that every encoding can hold, of bounded length."""
    if len(text) > chars_max:
        text = f"{text[:chars_max]} [{len(text) - chars_max} more characters]"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
