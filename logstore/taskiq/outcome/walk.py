"""One pass over a value, which converts it and collects the path of a refused part.

Rules: values of the supported types are passed on and containers are copied.  All other types are
converted by the table in ``plain.py``.  An exception from the code of a value becomes an
refusal with the path of that value.  The path is built only after a refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from logstore._codec.hooks import EncHook, call_enc_hook, hooked
from logstore._codec.numbers import converter_for, exact
from logstore._codec.path import Refused
from logstore._codec.tags import LEAVES
from logstore._codec.text import TEXT_CHARS_MAX, bases_of, text_of
from logstore._codec.values import MAX_DEPTH
from logstore._codec.weight import PARTS_MAX, BudgetExceededError

DEPTH_MAX = MAX_DEPTH - 8
"""The maximum nesting of a value: the limit of the codec minus the containers of a result."""

LEAF_TYPES: frozenset[type] = frozenset(
    {type(None), bool, int, float, str, bytes, *(leaf.kind for leaf in LEAVES)}
)

_REPR_CHARS_MAX = 60


class Walk:
    """One pass over one value.

    ``other_converter`` returns the converter for an object of an unsupported type.  ``same_kind``
    is true while every converted object is of its original type or of a base of it.
    """

    def __init__(
        self,
        other_converter: Callable[[type, Any], Converter | None],
        on_loop: bool,
        enc_hook: EncHook | None,
    ) -> None:
        self.other_converter = other_converter
        self.parts_left = PARTS_MAX if on_loop else None
        self.enc_hook = enc_hook
        self.above: set[int] = set()
        self.same_kind = True

    def convert(self, value: Any) -> Any:
        """Return ``value`` as data.  Raises :class:`Refused`, :class:`BudgetExceededError`."""
        kind = type(value)
        try:
            if kind in LEAF_TYPES:
                return value
            if len(self.above) >= DEPTH_MAX:
                raise Refused(value, f"is nested deeper than {DEPTH_MAX} levels")
            if id(value) in self.above:
                raise Refused(value, "holds itself")
            self.above.add(id(value))
            try:
                converter = _CONTAINERS.get(kind)
                if converter is not None:
                    return converter(self, value)
                return self._of_other_type(kind, value)
            finally:
                self.above.discard(id(value))
        except (Refused, BudgetExceededError):
            raise
        except Exception as error:
            raise Refused.failed(value, error, "cannot be converted:") from error

    def _of_other_type(self, kind: type, value: Any) -> Any:
        converter = self.other_converter(kind, value)
        if converter is not None:
            plain = converter(self, value)
            if type(plain) not in bases_of(kind):
                self.same_kind = False
            return plain
        number = converter_for(kind)
        if number is not None:
            return exact(number, value)
        if self.enc_hook is None:
            raise Refused.for_type(value)
        if self.parts_left is not None:
            raise BudgetExceededError
        return hooked(kind, self.convert(call_enc_hook(self.enc_hook, value)))

    def spend(self, parts_count: int) -> None:
        """Count the parts of a container against the budget."""
        if self.parts_left is not None:
            self.parts_left -= parts_count + 1
            if self.parts_left < 0:
                raise BudgetExceededError


Converter = Callable[[Walk, Any], Any]


def _convert_each(walk: Walk, values: Collection[Any], step: str) -> list[Any]:
    walk.spend(len(values))
    items: list[Any] = []
    add = items.append
    try:
        for item in values:
            add(item if type(item) in LEAF_TYPES else walk.convert(item))
    except Refused as refused:
        refused.steps.append(step.format(len(items)))
        raise
    return items


def convert_list(walk: Walk, value: Any) -> list[Any]:
    """Convert the items to a list."""
    return _convert_each(walk, value, "[{}]")


def convert_tuple(walk: Walk, value: Any) -> tuple[Any, ...]:
    """Convert the items to a tuple."""
    return tuple(_convert_each(walk, value, "[{}]"))


def convert_set(walk: Walk, value: Any) -> Any:
    """Convert the elements to a set, or to a list if they are no longer hashable or distinct."""
    items = _convert_each(walk, value, ".elements()[{}]")
    try:
        plain = (frozenset if isinstance(value, frozenset) else set)(items)
    except TypeError:
        plain = set()  # models became dicts; a list can be parsed as a set type as well
    # Different elements may have become equal, such as an enum member and its value.
    if len(plain) == len(items):
        return plain
    walk.same_kind = False
    return items


def convert_dict(walk: Walk, value: Any) -> dict[Any, Any]:
    """Convert the keys and values to a dict."""
    return convert_pairs(walk, value.items())


def convert_pairs(walk: Walk, pairs: Collection[tuple[Any, Any]]) -> dict[Any, Any]:
    """Convert pairs of a key and a value to a dict."""
    walk.spend(2 * len(pairs))
    plain: dict[Any, Any] = {}
    key: Any = None
    try:
        for key, item in pairs:
            plain_key = key if type(key) in LEAF_TYPES else walk.convert(key)
            if _is_in(plain, plain_key, key):
                raise Refused(key, f"and another key are both stored as {_short(plain_key)}")
            plain[plain_key] = item if type(item) in LEAF_TYPES else walk.convert(item)
    except Refused as refused:
        refused.steps.append(f"[{_short(key)}]")
        raise
    return plain


def _is_in(plain: dict[Any, Any], plain_key: Any, key: Any) -> bool:
    try:
        return plain_key in plain
    except TypeError as error:
        raise Refused(key, f"is stored as an unhashable value: {error}") from None


def _short(value: Any) -> str:
    text = text_of(repr, value, TEXT_CHARS_MAX)
    return text if len(text) <= _REPR_CHARS_MAX else f"{text[: _REPR_CHARS_MAX - 3]}..."


_CONTAINERS: dict[type, Converter] = {
    dict: convert_dict,
    list: convert_list,
    tuple: convert_tuple,
    set: convert_set,
    frozenset: convert_set,
}
