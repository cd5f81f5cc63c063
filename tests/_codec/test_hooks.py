"""An application's own types: enc_hook and dec_hook, in the codec and in the stores."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cbor2
import pytest

import logstore
from logstore import DecodeError, TaskProgress, UnserializableValueError
from logstore._codec.tags import TAG_HOOKED
from logstore._codec.values import MAX_DEPTH, decode_value, encode_value

if TYPE_CHECKING:
    from tests.support.stores import Stores


@dataclasses.dataclass(frozen=True)
class Money:
    amount: int
    currency: str


class Tree:
    def __init__(self, *below: Any) -> None:
        self.below = list(below)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tree) and self.below == other.below

    __hash__ = None  # type: ignore[assignment]


class Thing:
    """Nothing that a hook knows."""


def enc_hook(value: Any) -> Any:
    if isinstance(value, Money):
        return value.amount, value.currency
    if isinstance(value, Tree):
        return {"below": value.below}
    if isinstance(value, Price):
        return value.money
    if hasattr(value, "__next__"):
        return list(value)
    raise NotImplementedError(type(value))


def dec_hook(kind: Any, value: Any) -> Any:
    if kind is Money:
        return Money(*value)
    if kind is Tree:
        return Tree(*value["below"])
    if kind is Price:
        return Price(value)
    raise NotImplementedError(kind)


@dataclasses.dataclass
class Price:
    """Its hook returns an object for which the hook is called again."""

    money: Money


EURO = Money(5, "EUR")


def through(value: Any, hook: Any = dec_hook) -> Any:
    return decode_value(encode_value(value, enc_hook=enc_hook), hook)


@pytest.mark.parametrize(
    "value",
    [
        EURO,
        [EURO, {"k": (EURO, 1)}],
        {EURO: {EURO}, "s": frozenset({EURO})},
        Tree(Tree(), Tree(EURO), 1),
        Price(EURO),
        [EURO] * 3,
        {"plain": [1, (2, b"3")]},
    ],
    ids=repr,
)
def test_an_object_comes_back_through_both_hooks(value: Any) -> None:
    assert through(value) == value


def test_without_a_dec_hook_the_value_is_what_enc_hook_made() -> None:
    assert through([EURO, Tree(EURO)], None) == [(5, "EUR"), {"below": [(5, "EUR")]}]
    assert through(Price(EURO), None) == (5, "EUR")


def test_the_bytes_are_those_of_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Money, "__module__", "app")
    data = encode_value([EURO], enc_hook=enc_hook)
    assert data.hex() == "81d9b0138363617070654d6f6e6579d9b000820563455552"


def test_a_class_that_is_not_imported_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def hook(kind: Any, value: Any) -> Any:
        told.append(kind)
        return value

    monkeypatch.setattr(Money, "__module__", "antigravity")
    data = encode_value(EURO, enc_hook=enc_hook)
    monkeypatch.setattr(Money, "__module__", __name__)
    assert decode_value(data, hook) == (5, "EUR")
    assert told == ["antigravity.Money"]
    assert "antigravity" not in sys.modules


def test_each_object_is_asked_about_once() -> None:
    """A str with a surrogate is only seen at the end: a generator would then be empty."""
    asked: list[Any] = []

    def hook(value: Any) -> Any:
        asked.append(value)
        return enc_hook(value)

    value = [EURO, EURO, iter(["\ud800", "b"])]
    data = encode_value(value, enc_hook=hook)
    assert decode_value(data) == [(5, "EUR"), (5, "EUR"), ["\ud800", "b"]]
    assert asked == [EURO, value[2]]


# -- hooks that fail -----------------------------------------------------------------------------


def fail(value: Any) -> Any:
    raise ZeroDivisionError("in the hook")


def never_end(value: Any) -> Any:
    return never_end(value)


@pytest.mark.parametrize(
    ("hook", "value", "place", "told"),
    [
        (enc_hook, {"a": [Thing()]}, "result['a'][0]: the {}.Thing", "enc_hook does not support"),
        (fail, {"a": [Thing()]}, "result['a'][0]: the {}.Thing", "ZeroDivisionError: in the hook"),
        (never_end, [Thing()], "result[0]: the {}.Thing", "enc_hook raised RecursionError"),
        (lambda value: value, [Thing()], "result[0]: the {}.Thing", "returned the object itself"),
        (lambda value: Thing(), [Thing()], "result[0]: the {}.Thing", "deeper than 64 levels"),
        (lambda value: [Thing()], [Thing()], "result[0][0][0]", "deeper than 64 levels"),
        (lambda value: [1, open], [Thing()], "result[0][1][1]: the builtins.builtin", "itself"),
        (enc_hook, Tree(Thing()), "result['below'][0]: the {}.Thing", "of the {}.Tree"),
        (lambda value: [1], {Thing(), 2}, "result: keys or elements", "unhashable"),
    ],
)
def test_a_hook_that_fails_is_a_refusal_with_the_place(
    hook: Any, value: Any, place: str, told: str
) -> None:
    with pytest.raises(UnserializableValueError) as caught:
        encode_value(value, enc_hook=hook)
    assert f"cannot store {place.format(__name__)}" in str(caught.value)
    assert told.format(__name__) in str(caught.value)
    if hook is fail:
        assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_type_that_the_hook_does_not_support_is_told_in_one_sentence() -> None:
    with pytest.raises(UnserializableValueError) as caught:
        encode_value(Thing(), enc_hook=enc_hook)
    assert str(caught.value) == (
        f"cannot store result: the {__name__}.Thing there is of a type that cannot be stored, and "
        f"enc_hook does not support it"
    )


def test_an_object_that_holds_itself_through_a_hook_is_refused() -> None:
    tree = Tree()
    tree.below.append(tree)
    with pytest.raises(UnserializableValueError, match=r"Tree there holds itself"):
        encode_value({"t": tree}, enc_hook=enc_hook)


def test_nesting_through_hooks_is_limited_as_any_other() -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH // 3):
        value = Tree(value)  # a tag, a dict and a list
    assert through(value) == value
    with pytest.raises(UnserializableValueError, match="deeper"):
        encode_value(Tree(Tree(value)), enc_hook=enc_hook)


@pytest.mark.parametrize("hook", [fail, never_end])
def test_what_dec_hook_raises_is_a_decode_error_with_the_plain_value(hook: Any) -> None:
    data = encode_value([1, EURO], enc_hook=enc_hook)
    with pytest.raises(DecodeError, match=r"Money: \w+Error") as caught:
        decode_value(data, lambda kind, value: hook(value))
    assert isinstance(caught.value.__cause__, (ZeroDivisionError, RecursionError))
    assert caught.value.plain == [1, (5, "EUR")]


def test_what_dec_hook_does_not_support_is_what_enc_hook_made() -> None:
    assert through([iter([EURO]), EURO]) == [[EURO], EURO]


def test_a_hook_is_called_once_for_each_object_of_a_value_that_is_refused() -> None:
    asked: list[object] = []

    def noted(value: object) -> object:
        asked.append(value)
        return enc_hook(value)

    with pytest.raises(UnserializableValueError):
        encode_value([EURO, object(), EURO], enc_hook=noted)
    assert len(asked) == 2


@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_in_a_hook_is_not_taken_for_damage(kind: type[BaseException]) -> None:
    def interrupted(*_: Any) -> Any:
        raise kind

    data = encode_value([EURO], enc_hook=enc_hook)
    with pytest.raises(kind):
        decode_value(data, interrupted)
    with pytest.raises(kind):
        encode_value([EURO], enc_hook=interrupted)


@pytest.mark.parametrize(
    "payload",
    [1, [], ["m", "n"], ["m", "n", 1, 2], [b"m", "n", 1], ["m", 5, 1], {"m": 1}],
    ids=str,
)
@pytest.mark.parametrize("hook", [None, dec_hook], ids=["plain", "hook"])
def test_a_tag_that_is_never_written_so_is_a_decode_error(payload: Any, hook: Any) -> None:
    with pytest.raises(DecodeError):
        decode_value(cbor2.dumps(cbor2.CBORTag(TAG_HOOKED, payload)), hook)


def test_a_hook_never_sees_what_no_encoder_writes() -> None:
    seen: list[Any] = []
    data = cbor2.dumps(cbor2.CBORTag(TAG_HOOKED, ["m", "n", [cbor2.undefined]]))
    with pytest.raises(DecodeError):
        decode_value(data, lambda kind, value: seen.append(value))
    assert seen == []


@pytest.mark.parametrize("name", ["enc_hook", "dec_hook"])
def test_what_is_no_hook_is_a_type_error_and_creates_nothing(path: Path, name: str) -> None:
    async def coroutine(*_: Any) -> None: ...

    for wrong in (5, "app.hook", coroutine):
        with pytest.raises(TypeError, match=name):
            logstore.open(path, **{name: wrong})  # type: ignore[arg-type]
    assert not path.exists()


# -- in the stores -------------------------------------------------------------------------------


def test_a_store_passes_hooks_to_all_that_reads_and_writes(open_store: Stores) -> None:
    store = open_store(enc_hook=enc_hook, dec_hook=dec_hook)
    store.set_result("t", {"price": EURO})
    assert store.get_result("t") == store.wait_result("t") == {"price": EURO}
    store.compact()
    assert store.get_result("t") == {"price": EURO}
    store.set_progress("p", TaskProgress(0.5, meta={"price": EURO}))
    progress = store.get_progress("p")
    assert progress is not None
    assert progress.meta == {"price": EURO}
    assert [info.progress for info in store.tasks(status="running")] == [progress]
    with logstore.open(store.path) as plain:
        assert plain.get_result("t") == {"price": (5, "EUR")}
        assert store.check().ok
    assert store.pop_result("t") == {"price": EURO}


def test_what_a_hook_refuses_is_not_written(open_store: Stores) -> None:
    store = open_store(enc_hook=fail)
    with pytest.raises(UnserializableValueError, match=r"result\[0\].*in the hook"):
        store.set_result("t", [Thing()])
    with pytest.raises(UnserializableValueError, match=r"progress\.meta\['x'\].*in the hook"):
        store.set_progress("t", TaskProgress(meta={"x": Thing()}))
    assert store.status("t") == "unknown"


def test_a_result_that_dec_hook_fails_on_is_not_lost_by_a_pop(open_store: Stores) -> None:
    store = open_store(enc_hook=enc_hook, dec_hook=lambda kind, value: fail(value))
    store.set_result("t", [EURO])
    with pytest.raises(DecodeError) as caught:
        store.pop_result("t")
    assert caught.value.plain == [(5, "EUR")]


def test_hooks_run_beside_the_event_loop_and_stop_no_other_call(path: Path) -> None:
    threads: set[int] = set()
    entered, go_on = threading.Event(), threading.Event()

    def waiting(work: Callable[..., Any]) -> Callable[..., Any]:
        def hook(*given: Any) -> Any:
            threads.add(threading.get_ident())
            entered.set()
            assert go_on.wait(100)
            return work(*given)

        return hook

    async def held_up(store: logstore.AsyncStore, call: Any) -> Any:
        """Other calls are answered while the hook of this one waits."""
        entered.clear()
        go_on.clear()
        task = asyncio.ensure_future(call)
        assert await asyncio.to_thread(entered.wait, 100)
        assert await store.get_result("other") == [1]
        assert await store.is_result_ready("t2") is False
        go_on.set()
        return await task

    async def running(store: logstore.AsyncStore) -> list[TaskProgress | None]:
        return [info.progress async for info in store.tasks(status="running")]

    async def main() -> None:
        hooks: Any = {"enc_hook": waiting(enc_hook), "dec_hook": waiting(dec_hook)}
        async with logstore.open_async(path, **hooks) as store:
            await store.set_result("other", [1])
            await held_up(store, store.set_result("t", [EURO]))
            assert await held_up(store, store.get_result("t")) == [EURO]
            assert await held_up(store, store.pop_result("t")) == [EURO]
            await held_up(store, store.set_progress("p", TaskProgress(meta={"m": EURO})))
            progress = await held_up(store, store.get_progress("p"))
            assert progress.meta == {"m": EURO}
            assert await held_up(store, running(store)) == [progress]
        assert threading.get_ident() not in threads

    asyncio.run(asyncio.wait_for(main(), 100))
