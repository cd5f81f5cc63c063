"""Types of the application: ``enc_hook`` and ``dec_hook`` of :func:`logstore.open`.

The names and their meaning are those of msgspec:

- ``enc_hook(obj)`` is called with an object of an unsupported type.  It returns an object of a
  supported type, or an object for which it is called again.  It raises ``NotImplementedError`` for
  types that it does not support.
- ``dec_hook(type, obj)`` is called with the type of that object and the result of ``enc_hook``.  It
  returns the value for the reader.  If it raises ``NotImplementedError``, the reader gets the
  result of ``enc_hook``, as without a ``dec_hook``.

msgspec knows the type from its schema.  A store has no schema: it saves the name of the class with
the value.  ``type`` is the class of this name if its module is imported and has it, otherwise the
dotted name as a str.  Decoding imports nothing.

Rules: hooks are called only in this module, in any thread.  An ``Exception`` from a hook becomes
the cause of an error of the codec.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from logstore._codec.path import Refused
from logstore._codec.text import class_names, describe, type_name
from logstore.errors import DecodeError

EncHook = Callable[[Any], Any]
DecHook = Callable[[Any, Any], Any]


class Hooked(NamedTuple):
    """The result of ``enc_hook`` for an object, and the class of the object."""

    module: str
    qualname: str
    value: Any


def hooked(kind: type, value: Any) -> Hooked:
    """Return ``value``, marked as the result for an instance of ``kind``."""
    return Hooked(*class_names(kind), value)


def call_enc_hook(enc_hook: EncHook, value: object) -> Any:
    """Return the result of the hook for ``value``.  Raises :class:`Refused`, ``MemoryError``."""
    try:
        made = enc_hook(value)
    except NotImplementedError:
        reason = "is of a type that cannot be stored, and enc_hook does not support it"
        raise Refused(value, reason) from None
    except MemoryError:
        raise
    except Exception as error:
        raise Refused.failed(value, error, "cannot be stored: enc_hook raised") from error
    if made is value:
        raise Refused(value, "cannot be stored: enc_hook returned the object itself")
    return made


def check_hook(name: str, hook: object) -> None:
    """Raise ``TypeError`` unless ``hook`` is None or a function and not a coroutine function."""
    if hook is None:
        return
    import inspect  # slow to import, and most stores have no hooks

    if not callable(hook):
        raise TypeError(f"{name} must be a function, not {type_name(type(hook))}")
    if inspect.iscoroutinefunction(hook):
        raise TypeError(f"{name} must not be a coroutine function: it is called from threads")


def find_class(module: str, qualname: str) -> type | None:
    """Return the class of this name, or None if its module is not imported or has no such class.

    No code of the module or of a class runs.
    """
    found: Any = sys.modules.get(module)
    try:
        for name in qualname.split("."):
            # Not getattr: the __getattr__ of a module may import anything.
            found = object.__getattribute__(found, "__dict__").get(name)
    except AttributeError:
        return None
    return found if isinstance(found, type) else None


class Revival:
    """The state of one decoding with a ``dec_hook``: its results and its failure."""

    def __init__(self, dec_hook: DecHook, check: Callable[[Any, Revival], None]) -> None:
        self._dec_hook = dec_hook
        self._check = check
        self._made: dict[int, Any] = {}  # keeps the objects alive, so that ids are not reused
        self.failure: DecodeError | None = None

    def is_made(self, value: object) -> bool:
        """Return whether the hook returned ``value``, which may be of any type."""
        return id(value) in self._made

    def read(self, payload: list[Any]) -> Any:
        """Return the result of the hook for a tagged value."""
        module, qualname, value = checked_payload(payload)
        self._check(value, self)
        name = f"{module}.{qualname}"
        try:
            made = self._dec_hook(find_class(module, qualname) or name, value)
        except MemoryError:
            raise
        except NotImplementedError:
            return value
        except Exception as error:
            self.failure = DecodeError(
                f"a value cannot be read: dec_hook raised for {name}: {describe(error)}"
            )
            raise self.failure from error
        self._made[id(made)] = made
        return made


def checked_payload(payload: list[Any]) -> tuple[str, str, Any]:
    """Return module, name and value.  Raises ``ValueError`` for an invalid payload."""
    module, qualname, value = payload
    if type(module) is not str or type(qualname) is not str:
        raise ValueError("expected the module and the name of a class")
    return module, qualname, value
