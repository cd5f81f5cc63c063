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

and run it with pytest. The cases run in anyio's pytest plugin, which comes with taskiq; each has an
event loop of its own.

Rules:

- ``make_backend`` returns a backend that has not been started. ``place`` is a directory, new and
  empty for each case. Backends for the same ``place`` use the same storage; backends for different
  places share nothing.
- ``known_differences`` lists known deviations of the backend, with reasons. A key is a capability
  (see :data:`CAPABILITIES`), a test, or one case of a test. Every case of a key is a strict xfail:
  it must fail, and one that passes is reported as a failure, so that the list stays correct.
- ``not_run`` has the same keys, for cases that cannot be run, for example because their outcome is
  random. They are skipped.
- A case fails after ``timeout_s``. Within a case, waiting for a task's result or progress is
  limited to ``wait_s``.
- A backend that stores data outside ``place`` must keep the data of its places apart, and remove it
  in ``clean_up``.
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
    """The whole suite; see the module for usage."""

    __test__ = False
