"""Detection of polls by taskiq's ``wait_result()``, and of their time-out.

``AsyncTaskiqTask.wait_result()`` calls ``is_result_ready`` in a loop and sleeps ``check_interval``,
by default 0.2 s, between the calls.  So it returns a result up to 0.2 s late, although a backend
may know of it within a millisecond.  A backend can avoid that: if ``is_result_ready`` waits for the
result, ``wait_result()`` calls it once and never sleeps.  All other callers need the current state:
a status page that checks 100 ids must not wait for any of them.  So a backend must know whether
``wait_result()`` is the caller, and its time-out.

Alternatives that do not work:

- **An option of the backend** (how long any call may wait): correct for programs that only wait,
  but not for programs that also check the state.  The sleeps still delay results.
- **The timing of the calls**: ``while not await task.is_ready(): show(task); sleep(1)`` has the
  timing of ``wait_result()``, but each of its calls must return immediately.
- **A special return value**: taskiq uses it as a bool, and cannot await it.
- **A hook of taskiq**: there is none.  The kicker constructs the task object, without a setting for
  its class, and passes the backend unchanged.  ``wait_result()`` sets no context variable and does
  not pass on ``check_interval`` or ``timeout``.
- **Replacing** ``wait_result`` **in taskiq's class**: this affects other backends, conflicts with
  other libraries that replace it, and loses changes in later versions of taskiq.
- **Ending the sleep early**: ending ``asyncio.sleep`` from outside needs private parts of a task,
  and would also wake an application that sleeps after a call.

The solution is to inspect the callers.  While a coroutine runs, the next outer frame is that of the
coroutine that awaits it, and so on up to the task of the event loop.  The outer frames of
``is_result_ready`` are then those of ``AsyncTaskiqTask.is_ready`` and
``AsyncTaskiqTask.wait_result``; the latter has the time-out and the start time in local variables.
Frames are only read.

Rules:

- Both frames must be of taskiq's own code, for a task of the same backend.  With another coroutine
  in between (such as a subclass that asks two backends, or a task that counts its polls), the call
  returns immediately.
- A call returns immediately if anything is unexpected, such as another version of taskiq or a
  compiled one.  ``wait_result()`` then polls, as with any backend.
- The wait exceeds the time-out of ``wait_result()`` by a millisecond, because taskiq checks the
  time-out only after a call has returned.
- ``taskiq.gather()`` polls, because it calls from its own tasks, which do not know its time-out.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable
from time import time
from types import CodeType
from typing import Any, NamedTuple

from taskiq.task import AsyncTaskiqTask

_OVERTIME_S = 0.001


def _code(function: Callable[..., Any]) -> CodeType | None:
    """Return the code of a function, or of the function inside a wrapper."""
    code: CodeType | None = getattr(inspect.unwrap(function), "__code__", None)
    return code


_IS_READY = _code(AsyncTaskiqTask.is_ready)
_WAIT_RESULT = _code(AsyncTaskiqTask.wait_result)


class Wait(NamedTuple):
    """A running call of ``wait_result()``."""

    timeout_s: float | None
    """How long the backend may wait, in seconds; None if there is no time-out."""


def current_wait(backend: object) -> Wait | None:
    """Return the wait that polls the calling ``is_result_ready``; None: return immediately.

    Only for that method itself: taskiq must have called it directly, not an overriding method.
    """
    asked_by = sys._getframe(1).f_back
    if asked_by is None or asked_by.f_code is not _IS_READY:
        return None
    waiting = asked_by.f_back
    if waiting is None or waiting.f_code is not _WAIT_RESULT:
        return None
    variables = waiting.f_locals
    task, timeout, start = (variables.get(name) for name in ("self", "timeout", "start_time"))
    if getattr(task, "result_backend", None) is not backend:
        return None
    if not isinstance(timeout, (int, float)) or not isinstance(start, float):
        return None
    if not 0 < timeout < math.inf:  # the same test as taskiq's
        return Wait(None)
    left = start + timeout - time()
    return Wait(left + _OVERTIME_S) if left > 0 else None
