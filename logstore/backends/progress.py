"""Progress for both sides: taskiq's ``state`` and ``meta``, logstore's fraction and counts.

Rules: either kind can be set, and what comes back has the fields of both.  taskiq's ``state`` is
logstore's ``status`` and the other way round; taskiq knows no fraction, so that a progress of its
kind has 0.0, or 1.0 in the state SUCCESS.  taskiq's ``meta`` may be anything that can be stored.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from taskiq.depends.progress_tracker import TaskProgress as TaskiqProgress
from taskiq.depends.progress_tracker import TaskState

from logstore.backends.plain import to_plain
from logstore.codec import encode_small
from logstore.codec_hooks import EncHook
from logstore.progress import TaskProgress

_STATES = {state.value: state for state in TaskState}


class ReportedProgress(TaskiqProgress[Any]):
    """How far a task has got; what every backend's ``get_progress`` returns.

    ``state`` and ``meta`` are taskiq's; ``progress`` (a fraction from 0.0 to 1.0), ``status``,
    ``current`` and ``total`` are those of :class:`logstore.TaskProgress`.
    """

    progress: float = 0.0
    status: str = "PENDING"
    current: int | None = None
    total: int | None = None


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
    :class:`~logstore.backends.plain.BudgetExceededError` when the meta has more than
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
    return ReportedProgress.model_construct(
        state=_STATES.get(progress.status, progress.status),
        meta=meta,
        progress=progress.progress,
        status=progress.status,
        current=progress.current,
        total=progress.total,
    )


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
