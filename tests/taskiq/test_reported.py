"""Progress in taskiq's form and in ours, to the store's form and back."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from taskiq.depends.progress_tracker import TaskProgress as TaskiqProgress
from taskiq.depends.progress_tracker import TaskState

from logstore.errors import UnserializableValueError
from logstore.progress import TaskProgress, decode_progress, encode_progress
from logstore.taskiq.outcome.reported import (
    ReportedProgress,
    from_stored,
    reported,
    to_stored,
    with_plain_meta,
)
from logstore.testing.conformance_cases.comparing import assert_same
from tests.taskiq.strategies import texts, values

counts = st.none() | st.integers(0, 2**62)
states = st.sampled_from(list(TaskState)) | texts
ours = st.builds(
    TaskProgress,
    progress=st.floats(0, 1),
    status=texts,
    current=counts,
    total=counts,
    meta=st.none() | st.dictionaries(texts, values, max_size=3),
)


def through_the_store(progress: TaskProgress) -> TaskProgress:
    return decode_progress(encode_progress(progress))


@given(ours)
def test_our_progress_comes_back_with_the_fields_of_both(progress: TaskProgress) -> None:
    found = from_stored(through_the_store(to_stored(progress)))
    assert (found.progress, found.status) == (progress.progress, progress.status)
    assert (found.current, found.total) == (progress.current, progress.total)
    assert found.state == progress.status
    assert_same(found.meta, progress.meta)


@given(states, values)
def test_taskiqs_progress_comes_back_with_the_fields_of_both(state: Any, meta: Any) -> None:
    found = from_stored(through_the_store(to_stored(TaskiqProgress(state=state, meta=meta))))
    assert isinstance(found, TaskiqProgress)
    assert found.state == state
    assert found.status == str(getattr(state, "value", state))
    assert found.progress == (1.0 if state == TaskState.SUCCESS else 0.0)
    assert_same(found.meta, meta)


@given(st.builds(TaskiqProgress, state=states, meta=values))
def test_what_comes_back_equals_taskiqs_progress(progress: TaskiqProgress[Any]) -> None:
    found = from_stored(through_the_store(to_stored(progress)))
    assert found == progress
    assert progress == found
    assert found.model_dump() == progress.model_dump()


@given(ours)
def test_what_comes_back_equals_our_progress(progress: TaskProgress) -> None:
    found = from_stored(through_the_store(to_stored(progress)))
    assert found == progress
    assert progress == found


@pytest.mark.parametrize(
    "kind", [TaskiqProgress, TaskiqProgress[Any], TaskiqProgress[dict[str, int]]]
)
def test_a_parametrised_progress_of_taskiq_is_equal_too(kind: type[TaskiqProgress[Any]]) -> None:
    progress = kind(state=TaskState.STARTED, meta={"n": 1})
    found = from_stored(to_stored(progress))
    assert found == progress
    assert progress == found
    for other in (kind(state="other", meta={"n": 1}), kind(state="STARTED", meta={"n": 2})):
        assert found != other
        assert other != found


@pytest.mark.parametrize(
    "other",
    [
        TaskProgress(0.5, "reading", 1, 20, {"f": 1}),
        TaskProgress(0.25, "writing", 1, 20, {"f": 1}),
        TaskProgress(0.25, "reading", 2, 20, {"f": 1}),
        TaskProgress(0.25, "reading", 1, 21, {"f": 1}),
        TaskProgress(0.25, "reading", 1, 20, {"f": 2}),
    ],
    ids=str,
)
def test_a_progress_that_differs_in_one_field_is_another(other: TaskProgress) -> None:
    found = from_stored(TaskProgress(0.25, "reading", 1, 20, {"f": 1}))
    assert found != other
    assert other != found
    assert found != from_stored(other)
    assert found != "reading"


def test_a_progress_with_more_fields_than_taskiqs_is_not_equal() -> None:
    class Detailed(TaskiqProgress[Any]):
        rows: int = 0

    found = from_stored(to_stored(TaskiqProgress(state="s", meta=None)))
    assert found != Detailed(state="s", meta=None, rows=5)


@pytest.mark.parametrize(
    "again",
    [
        copy.copy,
        copy.deepcopy,
        lambda found: pickle.loads(pickle.dumps(found)),
        lambda found: found.model_copy(),
    ],
)
def test_a_copy_has_the_fields_of_both(again: Callable[[ReportedProgress], Any]) -> None:
    ours = TaskProgress(0.25, "reading", 5, 20, {"f": 1})
    found = again(from_stored(ours))
    assert found == ours
    assert vars(found) == vars(from_stored(ours))


def test_models_and_schemas_may_name_both_progresses() -> None:
    class Page(BaseModel):
        theirs: TaskiqProgress[Any]
        plain: TaskiqProgress  # type: ignore[type-arg]
        ours: ReportedProgress

    found = from_stored(TaskProgress(0.25, "reading"))
    page = Page(theirs=TaskiqProgress[Any](state="s", meta=1), plain=found, ours=found)
    assert page.ours is found
    fields = {"state": "SUCCESS", "meta": 1}
    page = Page.model_validate({"theirs": fields, "plain": fields, "ours": fields})
    assert [type(page.theirs), type(page.plain)] == [TaskiqProgress[Any], TaskiqProgress]
    assert (type(page.ours), page.ours.progress, page.ours.status) == (
        ReportedProgress,
        1.0,
        "SUCCESS",
    )
    assert page.model_dump(mode="json")["ours"] == fields


def test_a_progress_shows_the_fields_of_both() -> None:
    shown = repr(from_stored(TaskProgress(0.25, "reading", 5, 20, {"f": 1})))
    assert shown == (
        "ReportedProgress(state='reading', progress=0.25, status='reading', current=5, total=20, "
        "meta={'f': 1})"
    )


@given(ours | st.builds(TaskiqProgress, state=states, meta=values))
def test_what_came_back_can_be_set_again(progress: Any) -> None:
    once = from_stored(to_stored(progress))
    again = from_stored(to_stored(once))
    assert_same(vars(again), vars(once))


@pytest.mark.parametrize("state", TaskState)
def test_a_state_of_taskiq_comes_back_as_one(state: TaskState) -> None:
    found = from_stored(to_stored(TaskiqProgress(state=state, meta=None)))
    assert found.state is state
    assert type(found.status) is str


def test_a_meta_that_cannot_be_stored_is_refused_with_its_path() -> None:
    with pytest.raises(UnserializableValueError, match=r"progress\.meta\['a'\]\[0\]"):
        with_plain_meta(to_stored(TaskiqProgress(state="s", meta={"a": [object()]})))


@pytest.mark.parametrize("wrong", [None, {"progress": 0.5}, 0.5])
def test_what_is_no_progress_is_refused(wrong: Any) -> None:
    for convert in (reported, to_stored):
        with pytest.raises(TypeError, match="progress must be a taskiq TaskProgress or a logstore"):
            convert(wrong)
