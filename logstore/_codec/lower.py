"""The first half of encoding: values as plain CBOR types and tags.

Rules: pure functions.  All refusals happen here, before any output.  Types are compared exactly,
never with ``isinstance``.  A part of a value that needs no tag is passed on without a copy: the
common case takes a few set operations per container.  An exception from the code of a value (a time
zone, a number, a hash) is a refusal with the path of that value.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Any

from cbor2 import CBORTag

from logstore._codec.hooks import EncHook, Hooked, call_enc_hook, hooked
from logstore._codec.numbers import converter_for, exact, is_numpys
from logstore._codec.path import Refused
from logstore._codec.tags import (
    LEAVES,
    MAX_DEPTH,
    PLAIN,
    STORED,
    TAG_DICT,
    TAG_FROZENSET,
    TAG_HOOKED,
    TAG_SET,
    TAG_SURROGATES,
    TAG_TUPLE,
    Leaf,
)
from logstore._codec.text import bases_of
from logstore._codec.weight import UnknownTypeError
from logstore.errors import ValueTooLargeError

SAME_HASH_MAX = 1000
"""How many keys of one dict, or elements of one set, may have the same hash.

Dicts with only str or bytes keys are not checked: the hashes of these types are salted, so that
collisions cannot be constructed.
"""

TOO_DEEP = f"is nested deeper than {MAX_DEPTH} levels"

_PLAIN_BUT_STR = PLAIN - {str}
_TEXT_KEYS = frozenset({str, bytes})
_BYTES_KEYS = frozenset({bytes})


class Job:
    """The state of one encoding."""

    def __init__(
        self, max_bytes: int, enc_hook: EncHook | None = None, *, stored_only: bool = False
    ) -> None:
        self.max_bytes = max_bytes
        self.enc_hook = enc_hook
        self.stored_only = stored_only  # run no code of other types
        self.room = max_bytes  # each item takes at least a byte: bounds lists that are shared
        # The types that need no tag, and the key types of a CBOR map.
        self.plain = PLAIN
        self.keys = _TEXT_KEYS
        self.changed = False  # met values that may be equal after decoding but are not equal now
        self.keyed = False  # met a set, or a dict that is written as an array
        # The results of the hook by the ids of the objects: it is called once for each object.
        self.made: dict[int, Hooked] = {}
        self.kept: list[object] = []

    def again_with_surrogates(self) -> None:
        """Start again and check each str, because CBOR refused one."""
        self.room = self.max_bytes
        self.plain = _PLAIN_BUT_STR
        self.keys = _BYTES_KEYS

    def enter(self, container: Collection[Any], depth: int) -> None:
        if depth >= MAX_DEPTH:
            raise Refused(container, TOO_DEEP, nesting=True)
        self.room -= len(container)
        if self.room < 0:
            raise too_large(self.max_bytes - self.room, self.max_bytes)


def lower(value: Any, depth: int, job: Job) -> Any:
    """Return ``value`` in types of CBOR; ``value`` itself if nothing in it needs a tag."""
    try:
        kind = type(value)
        if kind in job.plain:
            return value
        return _LOWER.get(kind, _lower_other)(value, depth, job)
    except (Refused, UnknownTypeError, ValueTooLargeError, MemoryError):
        raise
    except Exception as error:  # from a time zone, a number, the hash of a key, a metaclass
        raise Refused.failed(value, error) from error


def _lower_other(value: Any, depth: int, job: Job) -> Any:
    if job.stored_only:
        raise UnknownTypeError
    kind = type(value)
    convert = converter_for(kind)
    if convert is not None and (is_numpys(kind) or not _is_subclass_of_ours(kind)):
        job.changed = True
        return lower(exact(convert, value), depth, job)
    if job.enc_hook is None:
        raise Refused.for_type(value)
    return _lower_hooked(value, depth, job, job.enc_hook)


def _lower_hooked(value: Any, depth: int, job: Job, enc_hook: EncHook) -> CBORTag:
    made = job.made.get(id(value))
    if made is None:
        made = hooked(type(value), call_enc_hook(enc_hook, value))
        job.made[id(value)] = made
        job.kept.append(value)  # keeps the id from being reused
    return _lower_made(made, depth, job, value)


def _lower_made(made: Hooked, depth: int, job: Job, value: object) -> CBORTag:
    if depth >= MAX_DEPTH:
        raise Refused(value, TOO_DEEP, nesting=True)
    job.changed = True
    names = [lower(made.module, depth, job), lower(made.qualname, depth, job)]
    try:
        return CBORTag(TAG_HOOKED, [*names, lower(made.value, depth + 1, job)])
    except Refused as refused:
        refused.inside(value, (made.value,), "")
        refused.of_hook(f"{made.module}.{made.qualname}")
        raise


def _is_subclass_of_ours(kind: type) -> bool:
    return any(base is ours for base in bases_of(kind) for ours in STORED)


def _lower_each(values: Iterable[Any], depth: int, job: Job) -> list[Any]:
    plain = job.plain
    return [item if type(item) in plain else lower(item, depth, job) for item in values]


def _lower_items(value: Collection[Any], depth: int, job: Job, step: str = "[{}]") -> list[Any]:
    try:
        return _lower_each(value, depth + 1, job)
    except Refused as refused:
        refused.inside(value, value, step)
        raise


def _lower_list(value: list[Any], depth: int, job: Job) -> list[Any]:
    job.enter(value, depth)
    return value if job.plain.issuperset(map(type, value)) else _lower_items(value, depth, job)


def _lower_tuple(value: tuple[Any, ...], depth: int, job: Job) -> CBORTag:
    job.enter(value, depth)
    return CBORTag(TAG_TUPLE, _lower_items(value, depth, job))


def _lower_set(value: Collection[Any], depth: int, job: Job) -> CBORTag:
    job.enter(value, depth)
    check_hashes(value)
    job.keyed = True
    tag = TAG_SET if type(value) is set else TAG_FROZENSET
    return CBORTag(tag, _lower_items(value, depth, job, ".elements()[{}]"))


def _lower_dict(value: dict[Any, Any], depth: int, job: Job) -> dict[Any, Any] | CBORTag:
    job.enter(value, depth)
    plain = job.plain
    depth += 1
    try:
        if job.keys.issuperset(map(type, value)):
            if plain.issuperset(map(type, value.values())):
                return value
            return {
                key: item if type(item) in plain else lower(item, depth, job)
                for key, item in value.items()
            }
        check_hashes(value)
        job.keyed = True
        flat: list[Any] = [None] * (2 * len(value))
        flat[::2] = _lower_each(value, depth, job)
        flat[1::2] = _lower_each(value.values(), depth, job)
        return CBORTag(TAG_DICT, flat)
    except Refused as refused:
        if not refused.inside(value, value, ".keys()[{}]"):
            refused.inside(value, value.values(), "[{}]", names=value)
        raise


def _lower_surrogates(value: str, depth: int, job: Job) -> str | CBORTag:
    # Only in the second attempt: some str of the value has a lone surrogate.
    try:
        value.encode()
    except UnicodeEncodeError:
        return CBORTag(TAG_SURROGATES, value.encode("utf-8", "surrogatepass"))
    return value


def _leaf_lowering(leaf: Leaf) -> Callable[[Any, int, Job], CBORTag]:
    tag, kind, _, write, _ = leaf
    has_zone = kind in (dt.datetime, dt.time)

    def lower_leaf(value: Any, depth: int, job: Job) -> CBORTag:
        payload = write(value)  # may run the code of a time zone
        if has_zone and type(value.tzinfo) not in (type(None), dt.timezone):
            job.changed = True
        if str not in job.plain:
            lower_payload = _lower_each if type(payload) is list else lower
            payload = lower_payload(payload, depth, job)
        return CBORTag(tag, payload)

    return lower_leaf


_LOWER: dict[type, Callable[[Any, int, Job], Any]] = {
    list: _lower_list,
    tuple: _lower_tuple,
    dict: _lower_dict,
    set: _lower_set,
    frozenset: _lower_set,
    str: _lower_surrogates,
    Hooked: lambda made, depth, job: _lower_made(made, depth, job, made),
    **{leaf.kind: _leaf_lowering(leaf) for leaf in LEAVES},
}


def too_large(size: int, max_bytes: int) -> ValueTooLargeError:
    return ValueTooLargeError(
        f"the encoded value has at least {size} bytes, the limit is {max_bytes}"
    )


def check_hashes(keys: Collection[Any]) -> None:
    if len(keys) > SAME_HASH_MAX:
        count = Counter(map(hash, keys)).most_common(1)[0][1]
        if count > SAME_HASH_MAX:
            raise Refused(keys, f"has {count} keys of one hash, the limit is {SAME_HASH_MAX}")
