"""The application's own types: ``enc_hook`` and ``dec_hook`` of :func:`logstore.open`.

Names and meaning are msgspec's:

- ``enc_hook(obj)`` is called for an object of a type that is not stored.  It returns an object that
  is, or one for which it will be called again; ``NotImplementedError`` says that it does not
  support the type.
- ``dec_hook(type, obj)`` is called with the type of that object and with what ``enc_hook`` made of
  it, and returns the value to be read.  ``NotImplementedError`` says that it does not support it:
  what ``enc_hook`` made is then the value, as it is without a ``dec_hook``.

msgspec takes the type from the schema that it decodes for.  A store has none: the name of the class
stands beside the value.  ``type`` is the class of this name if its module is imported and has it,
and otherwise the dotted name as a str.  Nothing is imported because of what was read.

Rules: hooks are only called here, and in any thread.  Whatever ``Exception`` they raise becomes
the error of the codec, with the hook's as its cause.
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
    """What ``enc_hook`` made of an object, and the class of the object."""

    module: str
    qualname: str
    value: Any


def hooked(kind: type, value: Any) -> Hooked:
    """Return ``value`` as what was made of an instance of ``kind``."""
    return Hooked(*class_names(kind), value)


def call_enc_hook(enc_hook: EncHook, value: object) -> Any:
    """Return what the hook makes of ``value``.  Raises :class:`Refused`, and ``MemoryError``."""
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
    """Raise ``TypeError`` unless ``hook`` is None or a function that is no coroutine function."""
    if hook is None:
        return
    import inspect  # large, and most stores have no hooks

    if not callable(hook):
        raise TypeError(f"{name} must be a function, not {type_name(type(hook))}")
    if inspect.iscoroutinefunction(hook):
        raise TypeError(f"{name} must not be a coroutine function: it is called from threads")


def find_class(module: str, qualname: str) -> type | None:
    """Return the class of that name, if its module is imported and has it.

    No code of the module or of a class runs.
    """
    found: Any = sys.modules.get(module)
    try:
        for name in qualname.split("."):
            # Not getattr: a module's __getattr__, or a lazy module's, may import anything.
            found = object.__getattribute__(found, "__dict__").get(name)
    except AttributeError:
        return None
    return found if isinstance(found, type) else None


class Revival:
    """One decoding with a ``dec_hook``: what it made, and how it failed."""

    def __init__(self, dec_hook: DecHook, check: Callable[[Any, Revival], None]) -> None:
        self._dec_hook = dec_hook
        self._check = check
        self._made: dict[int, Any] = {}  # keeps them alive, so that ids stay theirs
        self.failure: DecodeError | None = None

    def is_made(self, value: object) -> bool:
        """Return whether ``value`` is what the hook has returned: it may be of any type."""
        return id(value) in self._made

    def read(self, payload: list[Any]) -> Any:
        """Return what the hook makes of a tagged value."""
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
    """Return module, name and value.  Raises ``ValueError`` for what is never written."""
    module, qualname, value = payload
    if type(module) is not str or type(qualname) is not str:
        raise ValueError("expected the module and the name of a class")
    return module, qualname, value
