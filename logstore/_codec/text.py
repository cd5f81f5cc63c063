"""Texts about objects whose own code may fail: class names, ``str``, ``repr``, errors.

Rules: no function raises an ``Exception``, whatever the object does.  Every text has a bounded
length and can be encoded.  Reading the name of a class runs no code of the class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

NAME_CHARS_MAX = 200
"""The maximum length of a module or class name in a text."""

TEXT_CHARS_MAX = 1 << 16
"""The maximum length of a text about an object."""

_ERROR_CHARS_MAX = 500

# Not kind.__module__: a metaclass may override it.
_module_of: Any = vars(type)["__module__"].__get__
_qualname_of: Any = vars(type)["__qualname__"].__get__

bases_of: Callable[[type], tuple[type, ...]] = vars(type)["__mro__"].__get__
"""Returns a class and its bases, in method resolution order."""

namespace_of: Callable[[type], Mapping[str, Any]] = vars(type)["__dict__"].__get__
"""Returns the attributes that a class itself defines."""


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
    """Return the dotted name of a class for a message."""
    return ".".join(safe_text(name, NAME_CHARS_MAX) for name in class_names(kind))


def text_of(function: Callable[[Any], str], value: object, chars_max: int) -> str:
    """Return the ``str`` or ``repr`` of any object, or a text about the error that it raised."""
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
    """Return a text of bounded length without surrogates."""
    if len(text) > chars_max:
        text = f"{text[:chars_max]} [{len(text) - chars_max} more characters]"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
