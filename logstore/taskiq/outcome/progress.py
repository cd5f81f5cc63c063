"""Progress for both sides: taskiq's ``state`` and ``meta``, logstore's fraction and counts.

Rules: either kind can be set; what comes back has the fields of both and is equal to what was set.
taskiq's ``state`` is logstore's ``status`` and the other way round; taskiq knows no fraction, so
that a progress of its kind has 0.0, or 1.0 in the state SUCCESS.  taskiq's ``meta`` may be anything
that can be stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from functools import cached_property
from typing import Any

from taskiq.depends.progress_tracker import TaskProgress as TaskiqProgress
from taskiq.depends.progress_tracker import TaskState

from logstore._codec.hooks import EncHook
from logstore._codec.values import encode_small
from logstore.progress import TaskProgress
from logstore.taskiq.outcome.plain import to_plain

_STATES = {state.value: state for state in TaskState}


class ReportedProgress(TaskiqProgress[Any]):
    """How far a task has got; what every backend's ``get_progress`` returns.

    ``state`` and ``meta`` are taskiq's, and the only fields for pydantic: a dump has these.
    ``progress`` (a fraction from 0.0 to 1.0), ``status``, ``current`` and ``total`` are those of
    :class:`logstore.TaskProgress`.

    It is equal to a progress of either kind that has the same values in the fields of that kind.
    """

    # Cached properties, because pydantic copies and pickles their values, and ignores them when it
    # compares and dumps.

    @cached_property
    def progress(self) -> float:
        """How much is done, from 0.0 to 1.0."""
        return _fraction(self.status)

    @cached_property
    def status(self) -> str:
        """The state as a plain text."""
        return _status(self.state)

    @cached_property
    def current(self) -> int | None:
        """How many items are done, or None."""
        return None

    @cached_property
    def total(self) -> int | None:
        """How many items there are, or None."""
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
    """What :class:`ReportedProgress` is a ``TaskProgress[...]`` of, for pydantic."""


# When pydantic compares models it takes those of one generic origin for one type.  With this,
# ``TaskProgress[dict](...) == found`` holds too, where Python asks only the left side.
ReportedProgress.__pydantic_generic_metadata__ = {
    "origin": TaskiqProgress,
    "args": (_Reported,),
    "parameters": (),
}


def reported(progress: TaskiqProgress[Any] | TaskProgress) -> ReportedProgress:
    """Return the progress with the fields of both kinds.

    Raises ``TypeError`` for what is of neither kind.
    """
    if isinstance(progress, ReportedProgress):
        return progress
    if isinstance(progress, TaskProgress):
        return _report(progress, progress.meta)
    if isinstance(progress, TaskiqProgress):
        status = _status(progress.state)
        return _report(TaskProgress(progress=_fraction(status), status=status), progress.meta)
    raise _of_neither_kind(progress)


def to_stored(
    progress: TaskiqProgress[Any] | TaskProgress,
    *,
    parts_max: int | None = None,
    enc_hook: EncHook | None = None,
) -> TaskProgress:
    """Return the progress as the store keeps it.

    Raises :class:`~logstore.errors.UnserializableValueError` for a meta that cannot be stored,
    ``ValueError`` for a field out of its range, and
    :class:`BudgetExceededError` when the meta has more than
    ``parts_max`` parts, or needs the hook.
    """
    if isinstance(progress, ReportedProgress):
        fields = progress.progress, progress.status, progress.current, progress.total
    elif isinstance(progress, TaskProgress):
        if progress.meta is None:
            return progress
        fields = progress.progress, progress.status, progress.current, progress.total
    elif isinstance(progress, TaskiqProgress):
        status = _status(progress.state)
        fields = _fraction(status), status, None, None
    else:
        raise _of_neither_kind(progress)
    meta = to_plain(progress.meta, "progress.meta", parts_max=parts_max, enc_hook=enc_hook)
    return TaskProgress.with_any_meta(*fields, meta)


def encode_small_report(progress: object) -> bytes | None:
    """The bytes of what :func:`to_stored` makes of a progress of taskiq's that is small and plain.

    None for any other.
    """
    if not isinstance(progress, TaskiqProgress) or isinstance(progress, ReportedProgress):
        return None
    status = _status(progress.state)
    return encode_small([_fraction(status), status, None, None, progress.meta])


def from_stored(stored: TaskProgress) -> ReportedProgress:
    """Return what :func:`to_stored` was given, with the fields of both kinds."""
    return _report(stored, stored.meta)


def _report(progress: TaskProgress, meta: Any) -> ReportedProgress:
    state = _STATES.get(progress.status, progress.status)
    made = ReportedProgress.model_construct(state=state, meta=meta)
    made.__dict__.update(
        progress=progress.progress,
        status=progress.status,
        current=progress.current,
        total=progress.total,
    )
    return made


def _status(state: object) -> str:
    if type(state) is str:
        return state
    return str(state.value if isinstance(state, Enum) else state)


def _fraction(status: str) -> float:
    return 1.0 if status == TaskState.SUCCESS.value else 0.0


def _of_neither_kind(progress: object) -> TypeError:
    return TypeError(
        "progress is a taskiq TaskProgress or a logstore TaskProgress, "
        f"not {type(progress).__name__!r}"
    )
