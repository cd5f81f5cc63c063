"""Progress: validation, dicts and bytes, and what taskiq's tracker needs of it."""

from __future__ import annotations

import copy
import enum
import math
import pickle
import subprocess
import sys
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

import logstore
from logstore.errors import DecodeError, UnserializableValueError, ValueTooLargeError
from logstore.progress import TaskProgress, decode_progress, encode_progress
from tests.support.drawn import FUZZ

DEPTH_MAX = 64  # of a value


class State(str, enum.Enum):
    STARTED = "STARTED_VALUE"


def metas() -> st.SearchStrategy[Any]:
    return st.none() | st.dictionaries(st.text(), st.integers() | st.text() | st.tuples(st.text()))


def progresses() -> st.SearchStrategy[TaskProgress]:
    counts = st.none() | st.integers(0)
    made = st.builds(TaskProgress, st.floats(0, 1), st.text(), counts, counts, metas())
    free = metas() | st.lists(st.integers()) | st.text() | st.integers()
    return made | st.builds(TaskProgress.from_state, st.text(), free)


@FUZZ
@given(progresses())
def test_any_progress_comes_back_from_its_dict_and_from_its_bytes(progress: TaskProgress) -> None:
    assert TaskProgress.from_dict(progress.to_dict()) == progress
    assert decode_progress(encode_progress(progress)) == progress
    assert decode_progress(memoryview(encode_progress(progress))) == progress
    assert pickle.loads(pickle.dumps(progress)) == progress


def test_the_defaults_are_those_of_a_task_that_has_not_begun() -> None:
    progress = TaskProgress()
    assert progress.to_dict() == {
        "progress": 0.0,
        "status": "PENDING",
        "current": None,
        "total": None,
        "meta": None,
    }
    assert TaskProgress.from_dict({}) == progress
    assert progress != TaskProgress(0.5)


@pytest.mark.parametrize("fraction", [0, 1])
def test_an_int_fraction_becomes_a_float(fraction: int) -> None:
    progress = TaskProgress(fraction)
    assert type(progress.progress) is float
    assert TaskProgress.from_dict({"progress": fraction}).progress == fraction


WRONG: dict[str, list[Any]] = {
    "progress": [
        *(-0.001, 1.001, 2, -1, 10**400, -(10**400), math.nan, math.inf, -math.inf),
        *(True, False, None, "0.5", 1j, [0.5]),
    ],
    "status": [None, 1, b"text", ["text"]],
    "current": [-1, 1.0, True, "1", -(10**5000)],
    "total": [-1, 1.0, False, "1", []],
    "meta": [[], "text", 0, (), [("a", 1)]],
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in WRONG.items() for value in values],
    ids=lambda item: item if isinstance(item, str) else type(item).__name__,
)
def test_a_wrong_field_is_a_value_error_that_names_it(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field} must"):
        TaskProgress(**{field: value})
    with pytest.raises(ValueError, match=f"^{field} must"):
        TaskProgress.from_dict({field: value})


@pytest.mark.parametrize("data", [None, [], "text", [("progress", 0.5)]])
def test_what_is_not_a_dict_is_a_value_error(data: Any) -> None:
    with pytest.raises(ValueError, match="must be a dict"):
        TaskProgress.from_dict(data)


def test_unknown_keys_are_ignored() -> None:
    data: Any = {"progress": 0.5, "eta": 3, 1: 2, None: [], "Progress": "no"}
    assert TaskProgress.from_dict(data) == TaskProgress(0.5)


def test_a_progress_cannot_be_changed() -> None:
    progress = TaskProgress(0.5)
    for field in ("progress", "status", "state", "other"):
        with pytest.raises((AttributeError, TypeError)):
            setattr(progress, field, 2.0)
    assert progress == TaskProgress(0.5)


def test_instances_of_subclasses_become_what_they_are_underneath() -> None:
    class Count(enum.IntEnum):
        THREE = 3

    class Meta(dict[str, int]):
        pass

    progress = TaskProgress(1, State.STARTED, Count.THREE, Count.THREE, Meta(a=1))
    assert [type(value) for value in progress.to_dict().values()] == [float, str, int, int, dict]
    assert progress.status == "STARTED_VALUE"
    assert decode_progress(encode_progress(progress)) == progress


@pytest.mark.parametrize("meta", [None, {"a": 1}, {}, [1, (2,)], "text", 0, False, b"", {1: {2}}])
def test_a_state_with_any_meta_is_kept(meta: Any) -> None:
    progress = TaskProgress.from_state(State.STARTED, meta)
    for back in (
        progress,
        decode_progress(encode_progress(progress)),
        TaskProgress.from_dict(progress.to_dict()),
    ):
        assert back.state == back.status == "STARTED_VALUE"
        assert back.state == State.STARTED
        assert type(back.state) is str
        assert back.meta == meta
        assert type(back.meta) is type(meta)
        assert (back.progress, back.current, back.total) == (0.0, None, None)


def test_a_state_with_a_dict_equals_a_progress_with_that_status() -> None:
    assert TaskProgress.from_state("RUN", {"a": 1}) == TaskProgress(status="RUN", meta={"a": 1})


class Reordered(TaskProgress):
    """A subclass whose constructor takes the fields in another order, and by name only."""

    __slots__ = ()

    def __init__(
        self,
        *,
        meta: Any = None,
        total: int | None = None,
        current: int | None = None,
        status: str = "PENDING",
        progress: float = 0.0,
    ) -> None:
        super().__init__(progress, status, current, total, meta)


@pytest.mark.parametrize("meta", [None, {"a": 1}, [1]])
def test_a_subclass_with_a_constructor_of_its_own_is_kept(meta: Any) -> None:
    made = Reordered.with_any_meta(0.5, "RUN", 1, 2, meta)
    assert type(made) is Reordered
    assert made.to_list() == [0.5, "RUN", 1, 2, meta]
    assert Reordered.from_state("RUN", meta).to_list() == [0.0, "RUN", None, None, meta]
    assert Reordered.from_dict(made.to_dict()) == made
    assert copy.deepcopy(made) == made
    assert pickle.loads(pickle.dumps(made)) == made


def test_a_dict_with_a_state_and_no_status_takes_the_state() -> None:
    assert TaskProgress.from_dict({"state": "RUN", "meta": [1]}).status == "RUN"
    with pytest.raises(ValueError, match=r"^state must"):
        TaskProgress.from_dict({"state": 1})
    with pytest.raises(ValueError, match=r"^state must"):
        TaskProgress.from_state(None)  # type: ignore[arg-type]


def test_a_meta_that_cannot_be_stored_is_refused_with_its_path() -> None:
    progress = TaskProgress(meta={"rows": [1, object()]})
    with pytest.raises(UnserializableValueError, match=r"progress\.meta\['rows'\]\[1\]: "):
        encode_progress(progress)


def test_a_meta_that_is_too_deep_with_the_array_around_it_is_refused(
    store: logstore.Store,
) -> None:
    meta: dict[str, Any] = {}
    for _ in range(DEPTH_MAX - 1):
        meta = {"k": meta}
    store.set_result("t", meta)
    with pytest.raises(UnserializableValueError, match="deeper"):
        encode_progress(TaskProgress(meta=meta))


def test_the_size_of_a_progress_is_limited() -> None:
    with pytest.raises(ValueTooLargeError):
        encode_progress(TaskProgress(status="x" * 100), max_bytes=100)


def test_the_bytes_are_those_of_the_format() -> None:
    data = encode_progress(TaskProgress(0.5, "run", 1, 2, {"a": 3}))
    assert data.hex() == "85fb3fe00000000000006372756e0102a1616103"


def test_items_of_a_later_version_are_ignored() -> None:
    assert decode_progress(cbor2.dumps([0.5, "run", 1, 2, None, "eta"])) == TaskProgress(
        0.5, "run", 1, 2
    )


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        [],
        "text",
        [0.5, "run", 1, 2],
        cbor2.CBORTag(45056, [0.5, "run", 1, 2, None]),  # a tuple
        [2.0, "run", 1, 2, None],
        [math.nan, "run", 1, 2, None],
        [True, "run", 1, 2, None],
        [0.5, b"run", 1, 2, None],
        [0.5, "run", -1, 2, None],
        [0.5, "run", 1, 2.0, None],
    ],
    ids=repr,
)
def test_a_value_that_is_no_progress_raises_a_decode_error(value: object) -> None:
    with pytest.raises(DecodeError, match="of a progress"):
        decode_progress(cbor2.dumps(value))


@FUZZ
@given(st.data())
def test_a_damaged_progress_is_a_progress_or_a_decode_error(data: st.DataObject) -> None:
    damaged = bytearray(encode_progress(TaskProgress(0.5, "running", 12, 345, {"a": [1, "x"]})))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        progress = decode_progress(bytes(damaged))
    except DecodeError:
        return
    assert TaskProgress.from_dict(progress.to_dict()).status == progress.status
    assert cbor2.loads(encode_progress(progress)) is not None


def test_the_module_needs_no_taskiq() -> None:
    script = "import sys, logstore.progress; sys.exit('taskiq' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_states_of_taskiq_and_their_meta_are_kept() -> None:
    tracker = pytest.importorskip("taskiq.depends.progress_tracker")
    theirs = tracker.TaskProgress(state=tracker.TaskState.SUCCESS, meta=["any", 1])
    ours = TaskProgress.from_state(theirs.state, theirs.meta)
    back = decode_progress(encode_progress(ours))
    assert back.state == tracker.TaskState.SUCCESS
    assert back.meta == ["any", 1]
