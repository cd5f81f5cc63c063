"""The conformance suite itself: it can fail, and its list of differences is held to."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from logstore.testing.conformance import CAPABILITIES, BackendConformance

pytest_plugins = ["pytester"]

_HEAD = """
import asyncio
from taskiq import TaskiqResult
from logstore.taskiq import InmemoryResultBackend
from logstore.testing.conformance import BackendConformance

class Forgetful(InmemoryResultBackend):
    async def is_result_ready(self, task_id):
        return True

class Unstartable(InmemoryResultBackend):
    async def startup(self):
        raise OSError

class Unstoppable(InmemoryResultBackend):
    async def shutdown(self):
        await asyncio.Event().wait()

class Hanging(InmemoryResultBackend):
    async def get_result(self, task_id, with_logs=True):
        await asyncio.Event().wait()

class TestIt(BackendConformance):
    async def make_backend(self, place):
        return {backend}()
"""

_READY = "test_a_result_is_not_ready_before_it_is_set"
_TWICE = "test_a_result_can_be_got_twice"


def outcomes(pytester: pytest.Pytester, backend: str, more: str, case: str) -> dict[str, int]:
    pytester.makepyfile(_HEAD.format(backend=backend) + more)
    result = pytester.runpytest_inprocess("-k", case, "-p", "no:cacheprovider")
    found = result.parseoutcomes()
    found.pop("deselected", None)
    return found


def test_a_backend_that_conforms_passes(pytester: pytest.Pytester) -> None:
    assert outcomes(pytester, "InmemoryResultBackend", "", _READY) == {"passed": 1}


def test_a_backend_that_does_not_conform_fails(pytester: pytest.Pytester) -> None:
    assert outcomes(pytester, "Forgetful", "", _READY) == {"failed": 1}


@pytest.mark.parametrize("key", [_READY, "missing"])
def test_a_known_difference_is_expected(pytester: pytest.Pytester, key: str) -> None:
    more = f"    known_differences = {{{key!r}: 'it forgets'}}\n"
    assert outcomes(pytester, "Forgetful", more, _READY) == {"xfailed": 1}


def test_a_backend_that_does_not_start_may_be_a_known_difference(
    pytester: pytest.Pytester,
) -> None:
    assert outcomes(pytester, "Unstartable", "", _READY) == {"failed": 1}
    more = "    known_differences = {'missing': 'it does not start'}\n"
    assert outcomes(pytester, "Unstartable", more, _READY) == {"xfailed": 1}


def test_a_backend_that_does_not_stop_is_an_error(pytester: pytest.Pytester) -> None:
    found = outcomes(pytester, "Unstoppable", "    timeout_s = 0.05\n", _READY)
    assert found == {"passed": 1, "errors": 1}


def test_a_known_difference_that_is_none_fails(pytester: pytest.Pytester) -> None:
    more = f"    known_differences = {{{_READY!r}: 'it forgets'}}\n"
    assert outcomes(pytester, "InmemoryResultBackend", more, _READY) == {"failed": 1}


def test_one_case_of_a_test_can_be_listed(pytester: pytest.Pytester) -> None:
    more = "    known_differences = {'test_value_round_trips[tuple]': 'is none'}\n"
    found = outcomes(pytester, "InmemoryResultBackend", more, "test_value_round_trips")
    assert found["failed"] == 1
    assert found["passed"] > 20


def test_a_case_that_is_not_run_is_skipped(pytester: pytest.Pytester) -> None:
    more = f"    not_run = {{{_READY!r}: 'a matter of chance'}}\n"
    assert outcomes(pytester, "Forgetful", more, _READY) == {"skipped": 1}


def test_a_hang_is_a_failure(pytester: pytest.Pytester) -> None:
    assert outcomes(pytester, "Hanging", "    timeout_s = 0.05\n", _TWICE) == {"failed": 1}


def test_a_suite_without_a_backend_fails(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "from logstore.testing.conformance import BackendConformance\n"
        "class TestIt(BackendConformance):\n    pass\n"
    )
    result = pytester.runpytest_inprocess("-k", _READY, "-p", "no:cacheprovider")
    result.assert_outcomes(failed=1, deselected=result.parseoutcomes()["deselected"])


@pytest.mark.parametrize("listed", ["known_differences", "not_run"])
def test_a_key_that_names_nothing_is_refused(listed: str) -> None:
    with pytest.raises(ValueError, match="has unknown keys"):
        type("Wrong", (BackendConformance,), {listed: {"test_no_such_thing": "why"}})


def test_the_suite_is_not_collected_by_itself(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("from logstore.testing.conformance import BackendConformance\n")
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    assert result.parseoutcomes() == {}


def test_there_are_some_hundred_cases_in_every_capability() -> None:
    count, capabilities = 0, set()
    for _, member in inspect.getmembers(BackendConformance, inspect.isfunction):
        if hasattr(member, "_conformance_capability"):
            count += len(vars(member)["_conformance_cases"]) or 1
            capabilities.add(vars(member)["_conformance_capability"])
    assert capabilities == set(CAPABILITIES)
    assert count >= 100


def test_the_example_in_the_docstring_is_python() -> None:
    import logstore.testing.conformance as module

    lines = (module.__doc__ or "").splitlines()
    code = "\n".join(line[4:] for line in lines if line.startswith("    "))
    compile(code, str(Path(module.__file__ or "")), "exec")
