"""The status of a task, from its newest records.

Rules: pure functions; ``now_us`` is wall time (see clock.py).  The entry of a result is RESULT,
expired or not, DELETED, or EXPIRED.  A DELETED entry without HAD_RESULT removed progress only; the
task had no result.
"""

from __future__ import annotations

from logstore._engine.clock import runs_again
from logstore._engine.frames import DELETED, EXPIRED, HAD_RESULT, RESULT, Entry
from logstore.errors import ResultDeletedError, ResultExpiredError, ResultIsMissingError


def is_live_result(entry: Entry | None, now_us: int) -> bool:
    """Return whether there is a result that readers may see."""
    return (
        entry is not None
        and entry.kind == RESULT
        and (not entry.expires_us or entry.expires_us > now_us)
    )


def is_live_progress(entry: Entry | None, now_us: int) -> bool:
    """Return whether there is progress that readers may see."""
    return entry is not None and (not entry.expires_us or entry.expires_us > now_us)


def is_known(entry: Entry | None) -> bool:
    """Return whether there is or was a result."""
    return entry is not None and (entry.kind != DELETED or bool(entry.flags & HAD_RESULT))


def is_running(result: Entry | None, progress: Entry | None, now_us: int) -> bool:
    """Return whether a task has progress and no newer result.

    If its progress is newer than the end of a result, the task runs again under its old id.
    """
    if progress is None or not is_live_progress(progress, now_us) or is_live_result(result, now_us):
        return False
    if result is None or result.kind == DELETED:
        return True
    return runs_again(result, progress.time_us)


def missing_result(key: bytes, entry: Entry | None) -> Exception:
    """Return the error that says why there is no live result."""
    task_id = key.decode("utf-8", "replace")
    if entry is None or not is_known(entry):
        return ResultIsMissingError(f"no result is stored for task {task_id!r}")
    if entry.kind == DELETED:
        return ResultDeletedError(f"the result of task {task_id!r} has been deleted")
    assert entry.kind in (RESULT, EXPIRED)
    return ResultExpiredError(f"the result of task {task_id!r} has expired")
