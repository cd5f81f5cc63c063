"""How a case is run and compared with the known differences.

Rules: a case is a coroutine method with an argument ``kit``; :func:`case` makes a test of it for
anyio's pytest plugin.  Every case has its own event loop, its own place and a time limit.  All
backends that it opened are always shut down afterwards.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest
from taskiq import AsyncTaskiqTask, InMemoryBroker
from taskiq.abc.result_backend import AsyncResultBackend
from taskiq.result import TaskiqResult

CAPABILITIES: dict[str, str] = {
    "results": "a stored result can be read",
    "overwrite": "setting a result again replaces it",
    "missing": "reading a missing result raises ResultGetError",
    "logs": "the log is returned on request",
    "deletion": "delete_result",
    "isolation": "changes of an object passed in or returned do not change the stored data",
    "lifecycle": "startup and shutdown, in any order and number",
    "loops": "several event loops use one backend",
    "sharing": "a second backend on the same storage sees the changes of the first",
    "durability": "stored data is there after a restart",
    "types": "values keep their types",
    "models": "taskiq rebuilds models, dataclasses and enums from stored data",
    "large": "large values",
    "exceptions": "errors keep their class and data",
    "progress": "progress in taskiq's form",
    "fields": "progress in logstore's form, and the fields of both forms",
    "ids": "any text is a task id, and different texts are different ids",
    "concurrency": "many tasks at the same time",
    "cancellation": "a cancelled call does no damage",
    "worker": "results of a taskiq broker's tasks reach their waiters",
}
"""The keys that ``known_differences`` may have besides tests and cases."""

_CAPABILITY = "_conformance_capability"
_CASES = "_conformance_cases"

Backend = AsyncResultBackend[Any]


class Kit:
    """The tools of a case."""

    def __init__(self, suite: ConformanceSuite, place: Path) -> None:
        self.suite = suite
        self.place = place
        self._opened: list[Backend] = []
        self.backend: Any = None

    async def open(self, place: Path | None = None) -> Any:
        """Return another started backend, on the same storage or the storage of another place.

        Its type is Any, because ``delete_result`` is not in taskiq's interface.
        """
        backend = await self.suite.make_backend(self.place if place is None else place)
        self._opened.append(backend)
        await backend.startup()
        return backend

    @functools.cached_property
    def broker(self) -> InMemoryBroker:
        """A broker whose tasks' results go to the case's backend."""
        return InMemoryBroker().with_result_backend(self.backend)

    async def stored(self, result: TaskiqResult[Any], *, with_logs: bool = True) -> Any:
        """Store a result of the task ``"t"``, and return what is read."""
        await self.backend.set_result("t", result)
        return await self.backend.get_result("t", with_logs=with_logs)

    async def value(self, task_id: str) -> Any:
        """Return the value that is stored for a task."""
        return (await self.backend.get_result(task_id)).return_value

    async def wait(self, task: AsyncTaskiqTask[Any]) -> TaskiqResult[Any]:
        """Wait for a task's result, at most as long as a case may."""
        return await task.wait_result(check_interval=0.005, timeout=self.suite.wait_s)

    async def check_numbers(self, numbers: Iterable[int], backend: Any = None) -> None:
        """Check that the result of each task ``t0``, ``t1``... is its number."""
        for number in numbers:
            result = await (backend or self.backend).get_result(f"t{number}")
            assert result.return_value == number

    async def close(self, backend: Backend) -> None:
        """Shut the backend down."""
        self._opened.remove(backend)
        await backend.shutdown()

    async def restart(self) -> Any:
        """Shut down the case's backend, and return a new one on the same storage."""
        await self.close(self.backend)
        self.backend = await self.open()
        return self.backend

    async def close_all(self) -> None:
        """Shut down all open backends."""
        while self._opened:
            await self._opened.pop().shutdown()


class ConformanceSuite:
    """The base of a user's class; see :mod:`logstore.testing.conformance`."""

    known_differences: ClassVar[Mapping[str, str]] = {}
    not_run: ClassVar[Mapping[str, str]] = {}
    timeout_s: ClassVar[float] = 100.0
    wait_s: ClassVar[float] = 30.0

    async def make_backend(self, place: Path) -> Backend:
        """Return a backend with its storage at ``place``, not started."""
        raise NotImplementedError("a conformance suite needs make_backend()")

    async def clean_up(self, place: Path) -> None:
        """Remove data that backends of ``place`` stored elsewhere; called after each case."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "__test__" not in cls.__dict__:
            cls.__test__ = True  # type: ignore[attr-defined]
        known = set(CAPABILITIES)
        for name, member in inspect.getmembers(cls, inspect.isfunction):
            if hasattr(member, _CAPABILITY):
                known |= {name, *(f"{name}[{case_id}]" for case_id in getattr(member, _CASES))}
        for listed in ("known_differences", "not_run"):
            wrong = sorted(set(getattr(cls, listed)) - known)
            if wrong:
                raise ValueError(f"{cls.__qualname__}.{listed} has unknown keys: {wrong}")

    @pytest.fixture
    def anyio_backend(self) -> str:
        """Return the name of the only event loop that taskiq runs on."""
        return "asyncio"

    @pytest.fixture
    async def kit(self, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Kit]:
        """Yield the tools of a case, unless it is not run; a known difference is a strict xfail."""
        function = request.function
        keys = (request.node.name, function.__name__, getattr(function, _CAPABILITY))
        if reason := _reason(self.not_run, keys):
            pytest.skip(reason)
        if reason := _reason(self.known_differences, keys):
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
        kit = Kit(self, tmp_path / "place")
        kit.place.mkdir()
        yield kit
        try:
            with anyio.fail_after(self.timeout_s):
                await kit.close_all()
        finally:
            await self.clean_up(kit.place)


def case(
    capability: str, **parameter: Mapping[str, Any]
) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., Awaitable[None]]]:
    """Make a test from a coroutine method; with ``name={id: value}``, one for each value."""
    assert capability in CAPABILITIES, capability

    def decorate(method: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        @functools.wraps(method)
        async def test(self: ConformanceSuite, kit: Kit, **given: Any) -> None:
            with anyio.fail_after(self.timeout_s):
                kit.backend = await kit.open()
                await method(self, kit, **given)

        setattr(test, _CAPABILITY, capability)
        setattr(test, _CASES, [case_id for cases in parameter.values() for case_id in cases])
        for name, cases in parameter.items():
            test = pytest.mark.parametrize(name, list(cases.values()), ids=list(cases))(test)
        return pytest.mark.anyio(test)  # type: ignore[no-any-return]

    return decorate


def _reason(listed: Mapping[str, str], keys: tuple[str, ...]) -> str | None:
    return next((f"{key}: {listed[key]}" for key in keys if key in listed), None)


def ok(value: Any = None, **fields: Any) -> TaskiqResult[Any]:
    """Return the result of a task that returned ``value``."""
    return TaskiqResult(is_err=False, return_value=value, **{"execution_time": 0.5, **fields})


def failed(error: BaseException, **fields: Any) -> TaskiqResult[Any]:
    """Return the result of a task that raised ``error``."""
    return TaskiqResult(
        is_err=True, return_value=None, error=error, **{"execution_time": 0.5, **fields}
    )
