"""Whether a question is a poll of taskiq's ``wait_result()``, and how long that will go on.

``AsyncTaskiqTask.wait_result()`` asks ``is_result_ready`` and sleeps for ``check_interval``, 0.2 s
unless told otherwise, until the answer is yes.  So it notices a result up to 0.2 s late, although a
backend may know of it within a millisecond.  A backend that gives the answer only when the result
is there mends that: ``wait_result()`` then asks once and never sleeps.  But all others who ask want
to know how it is now: a status page that asks for 100 ids must not wait for any of them.  So a
backend has to know which of the two is asking, and for how long ``wait_result()`` would go on.

What does not work:

- **An option of the backend** (for how long any question may wait) is right for programs that only
  wait, and wrong for a program that does both.  The sleeps in between still make results late.
- **The rhythm of the questions**: ``while not await task.is_ready(): show(task); sleep(1)`` has the
  rhythm of ``wait_result()``, and each of its questions must be answered at once.
- **An answer that is neither yes nor no**: taskiq tests it for its truth, and cannot await there.
- **A hook of taskiq**: there is none.  The task object is made by the kicker, which has no setting
  for its class, and it keeps the backend as it is.  ``wait_result()`` sets no context variable and
  passes neither ``check_interval`` nor ``timeout`` on.
- **Putting another** ``wait_result`` **into taskiq's class** changes it for the backends of others
  too, conflicts with other libraries that do so, and loses what a later taskiq adds to its own.
- **Waking the sleeper**: to end ``asyncio.sleep`` from outside takes private parts of a task, and
  an application that sleeps after a question would be woken as well.

What works is to look at the callers.  While a coroutine runs, the frame behind its own is that of
the coroutine that awaits it, and so on up to the task of the event loop.  Behind
``is_result_ready`` are then the frames of ``AsyncTaskiqTask.is_ready`` and
``AsyncTaskiqTask.wait_result``, and the latter has its time-out and its start among its variables.
Frames are only read here.

Rules:

- Exactly these two frames, of taskiq's own code, for a task of this very backend.  A coroutine in
  between (a subclass that asks an older backend next, a task that counts its polls) has more to do
  with the answer, so it gets it at once.
- A question is answered at once if anything is not as expected, as with another taskiq or a
  compiled one.  ``wait_result()`` then polls, as with any backend.
- The wait never outlasts the time-out of ``wait_result()`` by more than a millisecond, which makes
  taskiq see that it is over: it looks at the clock only when it has an answer.
- ``taskiq.gather()`` asks from tasks of its own which do not know its time-out: it polls.
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
    """Return the code of a function, also of one that somebody has wrapped."""
    code: CodeType | None = getattr(inspect.unwrap(function), "__code__", None)
    return code


_IS_READY = _code(AsyncTaskiqTask.is_ready)
_WAIT_RESULT = _code(AsyncTaskiqTask.wait_result)


class Wait(NamedTuple):
    """A call of ``wait_result()`` that is under way."""

    timeout_s: float | None
    """How long the answer may take, in seconds; None if there is no time-out."""


def current_wait(backend: object) -> Wait | None:
    """Return the wait whose poll the calling ``is_result_ready`` is; None: answer at once.

    For the method itself, which must be called by taskiq, not by a method that overrides it.
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
    if not 0 < timeout < math.inf:  # as taskiq tests it
        return Wait(None)
    left = start + timeout - time()
    return Wait(left + _OVERTIME_S) if left > 0 else None
