"""Progress in taskiq's form and in ours, to the store's form and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from taskiq.depends.progress_tracker import TaskProgress as TaskiqProgress
from taskiq.depends.progress_tracker import TaskState

from logstore.backends.progress import from_stored, reported, to_stored
from logstore.errors import UnserializableValueError
from logstore.progress import TaskProgress, decode_progress, encode_progress
from logstore.testing.conformance_cases.comparing import assert_same
from tests.backends.strategies import texts, values

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
        to_stored(TaskiqProgress(state="s", meta={"a": [object()]}))


@pytest.mark.parametrize("wrong", [None, {"progress": 0.5}, 0.5])
def test_what_is_no_progress_is_refused(wrong: Any) -> None:
    for convert in (reported, to_stored):
        with pytest.raises(TypeError, match="progress is a taskiq TaskProgress or a logstore"):
            convert(wrong)
