"""One test suite for every taskiq result backend.

Write a test file that subclasses :class:`BackendConformance`::

    from logstore.testing.conformance import BackendConformance

    class TestMyBackend(BackendConformance):
        known_differences = {
            "deletion": "taskiq's interface has no delete_result",
            "test_value_round_trips[tuple]": "JSON has no tuples",
        }

        async def make_backend(self, place):
            return MyResultBackend(directory=place)

and run it with pytest; no plugin is needed, each case has an event loop of its own.

Rules:

- ``make_backend`` returns a backend that has not been started.  Called again with the same
  ``place`` (a directory that is new and empty for each case) it returns one over the same storage,
  and called with another, one that shares nothing with it.
- ``known_differences`` says where the backend is known to behave otherwise, and why.  A key is a
  capability (see :data:`CAPABILITIES`), a test, or one case of a test.  Every case that a key
  stands for must really fail: it is then reported as an expected failure, and otherwise as a
  failure, so that the list stays true.
- ``not_run`` has the same keys, for cases that cannot be run at all, such as those whose outcome
  is a matter of chance; they are skipped.
- A case that hangs fails after ``timeout_s``; one that waits for a task's result or progress does
  so for ``wait_s``.
- A backend that stores outside ``place`` tells its places apart itself, and removes what it has
  stored in ``clean_up``.
"""

from __future__ import annotations

from logstore._extras import missing

try:
    from logstore.testing.conformance_cases.concurrency import ConcurrencyCases
    from logstore.testing.conformance_cases.exceptions import ExceptionCases
    from logstore.testing.conformance_cases.lifecycle import LifecycleCases
    from logstore.testing.conformance_cases.progress import ProgressCases
    from logstore.testing.conformance_cases.results import ResultCases
    from logstore.testing.conformance_cases.runner import CAPABILITIES
    from logstore.testing.conformance_cases.values import ValueCases
    from logstore.testing.conformance_cases.worker import WorkerCases
except ModuleNotFoundError as error:
    raise missing(__name__, "testing", error) from None

__all__ = ["CAPABILITIES", "BackendConformance"]


class BackendConformance(
    ResultCases,
    LifecycleCases,
    ValueCases,
    ExceptionCases,
    ProgressCases,
    ConcurrencyCases,
    WorkerCases,
):
    """The whole suite; see the module for how to use it."""

    __test__ = False
