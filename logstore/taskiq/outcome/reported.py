"""Progress in both forms: taskiq's ``state`` and ``meta``, logstore's fraction and counts.

Rules: both kinds can be set.  The progress that is read has the fields of both kinds and is equal
to the progress that was set.  taskiq's ``state`` is logstore's ``status``.  taskiq has no fraction:
its progress gets 0.0, or 1.0 in the state SUCCESS.  taskiq's ``meta`` may be any value that can be
stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from functools import cached_property
from typing import Any

from taskiq.depends.progress_tracker import TaskProgress as TaskiqProgress
from taskiq.depends.progress_tracker import TaskState

from logstore._codec.hooks import EncHook
from logstore.progress import TaskProgress
from logstore.taskiq.outcome.plain import to_plain

_STATES = {state.value: state for state in TaskState}


class ReportedProgress(TaskiqProgress[Any]):
    """The progress of a task, as returned by ``get_progress`` of every backend.

    ``state`` and ``meta`` are taskiq's fields, and the only fields in a dump by pydantic.
    ``progress`` (a fraction from 0.0 to 1.0), ``status``, ``current`` and ``total`` are those of
    :class:`logstore.TaskProgress`.

    It is equal to a progress of either kind with the same values in the fields of that kind.
    """

    # Cached properties: pydantic copies and pickles their values, and ignores them in comparisons
    # and dumps.

    @cached_property
    def progress(self) -> float:
        """The completed fraction, from 0.0 to 1.0."""
        return _fraction(self.status)

    @cached_property
    def status(self) -> str:
        """The state as a plain text."""
        return _status(self.state)

    @cached_property
    def current(self) -> int | None:
        """The number of completed items, or None."""
        return None

    @cached_property
    def total(self) -> int | None:
        """The number of all items, or None."""
        return None

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ReportedProgress):
            return self._to_list() == other._to_list()
        if isinstance(other, TaskProgress):
            return self._to_list() == other.to_list()
        return super().__eq__(other)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield "state", self.state
        for name in ("progress", "status", "current", "total", "meta"):
            yield name, getattr(self, name)

    def _to_list(self) -> list[Any]:
        return [self.progress, self.status, self.current, self.total, self.meta]


class _Reported:
    """The type argument of :class:`ReportedProgress` as a ``TaskProgress[...]``, for pydantic."""


# pydantic treats models with the same generic origin as one type in comparisons.  This makes
# ``TaskProgress[dict](...) == found`` true as well, for which Python asks only the left side.
ReportedProgress.__pydantic_generic_metadata__ = {
    "origin": TaskiqProgress,
    "args": (_Reported,),
    "parameters": (),
}


def reported(progress: TaskiqProgress[Any] | TaskProgress) -> ReportedProgress:
    """Return the progress with the fields of both kinds.

    Raises ``TypeError`` for an object of neither kind.
    """
    return progress if isinstance(progress, ReportedProgress) else from_stored(to_stored(progress))


def to_stored(progress: TaskiqProgress[Any] | TaskProgress) -> TaskProgress:
    """Return the progress in the form of the store; its meta is not converted.

    Raises ``ValueError`` for a field out of range, ``TypeError`` for an object of neither kind.
    """
    if isinstance(progress, TaskProgress):
        return progress
    if isinstance(progress, ReportedProgress):
        return TaskProgress.with_any_meta(*progress._to_list())
    if isinstance(progress, TaskiqProgress):
        status = _status(progress.state)
        return TaskProgress.with_any_meta(_fraction(status), status, None, None, progress.meta)
    raise TypeError(
        "progress must be a taskiq TaskProgress or a logstore TaskProgress, "
        f"not {type(progress).__name__!r}"
    )


def with_plain_meta(
    stored: TaskProgress, *, on_loop: bool = False, enc_hook: EncHook | None = None
) -> TaskProgress:
    """Return the progress with a converted meta.

    Raises :class:`~logstore.errors.UnserializableValueError` for a meta that cannot be stored, and
    with ``on_loop`` :class:`BudgetExceededError` for one that is not small or needs the hook.
    """
    meta = to_plain(stored.meta, "progress.meta", on_loop=on_loop, enc_hook=enc_hook)
    return TaskProgress.with_any_meta(
        stored.progress, stored.status, stored.current, stored.total, meta
    )


def from_stored(stored: TaskProgress) -> ReportedProgress:
    """Return the progress that was passed to :func:`to_stored`, with the fields of both kinds."""
    state = _STATES.get(stored.status, stored.status)
    made = ReportedProgress.model_construct(state=state, meta=stored.meta)
    made.__dict__.update(
        progress=stored.progress,
        status=stored.status,
        current=stored.current,
        total=stored.total,
    )
    return made


def _status(state: object) -> str:
    if type(state) is str:
        return state
    return str(state.value if isinstance(state, Enum) else state)


def _fraction(status: str) -> float:
    return 1.0 if status == TaskState.SUCCESS.value else 0.0
