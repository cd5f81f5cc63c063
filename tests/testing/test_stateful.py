"""The state machines over every backend and both stores; and over ones with planted faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from taskiq.result import TaskiqResult

import logstore
from logstore.taskiq import (
    DummyResultBackend,
    FileResultBackend,
    InmemoryResultBackend,
    LogStoreResultBackend,
)
from logstore.testing.stateful import BackendMachine, Machine, StoreMachine

PROFILE = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=20,
    stateful_step_count=25,
    suppress_health_check=list(HealthCheck),
)


pytestmark = pytest.mark.usefixtures("no_idle_compaction")

FINDING = settings(
    PROFILE, max_examples=1000, phases=(Phase.generate,), report_multiple_bugs=False
)  # until it is found, and not for the shortest program


def run(machine: type[Machine], profile: settings = PROFILE) -> None:
    run_state_machine_as_test(machine, settings=profile)


# -- backends --------------------------------------------------------------------------------


class InmemoryMachine(BackendMachine):
    handles_max = 1
    survives_restart = False

    async def make_backend(self, place: Path) -> InmemoryResultBackend[Any]:
        return InmemoryResultBackend()


class DummyMachine(BackendMachine):
    keeps_nothing = True

    async def make_backend(self, place: Path) -> DummyResultBackend[Any]:
        return DummyResultBackend()


class FileMachine(BackendMachine):
    survives_crash = True

    async def make_backend(self, place: Path) -> FileResultBackend[Any]:
        return FileResultBackend(place)


class LogStoreMachine(BackendMachine):
    survives_crash = True

    async def make_backend(self, place: Path) -> LogStoreResultBackend[Any]:
        return LogStoreResultBackend(place / "app.db", compact_at=1 << 14)


class OneTimeMachine(BackendMachine):
    reading_deletes = True

    async def make_backend(self, place: Path) -> LogStoreResultBackend[Any]:
        return LogStoreResultBackend(place / "app.db", keep_results=False)


@pytest.mark.filterwarnings("ignore::logstore.taskiq.errors.WaitingForNothingWarning")
@pytest.mark.parametrize(
    "machine", [InmemoryMachine, DummyMachine, FileMachine, LogStoreMachine, OneTimeMachine]
)
def test_a_backend_does_what_the_model_does(machine: type[Machine]) -> None:
    run(machine)


# -- stores ----------------------------------------------------------------------------------


class SyncStoreMachine(StoreMachine):
    survives_crash = True

    def open_store(self, place: Path) -> logstore.Store:
        return logstore.open(place / "app.db", compact_at=1 << 14)


class AsyncStoreMachine(StoreMachine):
    survives_crash = True

    async def open_store(self, place: Path) -> logstore.AsyncStore:
        return await logstore.open_async(place / "app.db")


@pytest.mark.parametrize("machine", [SyncStoreMachine, AsyncStoreMachine])
def test_a_store_does_what_the_model_does(machine: type[Machine]) -> None:
    run(machine)


# -- planted faults --------------------------------------------------------------------------


class ForgetsOverwrites(InmemoryResultBackend[Any]):
    async def set_result(self, task_id: str, result: TaskiqResult[Any]) -> None:
        if not await self.is_result_ready(task_id):
            await super().set_result(task_id, result)


class KeepsProgress(InmemoryResultBackend[Any]):
    async def delete_result(self, task_id: str) -> bool:
        return self._results.pop(task_id, None) is not None


class SaysDeletedAlways(InmemoryResultBackend[Any]):
    async def delete_result(self, task_id: str) -> bool:
        await super().delete_result(task_id)
        return True


class MixesIds(InmemoryResultBackend[Any]):
    async def set_result(self, task_id: str, result: TaskiqResult[Any]) -> None:
        await super().set_result(task_id[:1].upper(), result)

    async def get_result(self, task_id: str, with_logs: bool = True) -> TaskiqResult[Any]:
        return await super().get_result(task_id[:1].upper(), with_logs)


class ReturnsLogsAlways(InmemoryResultBackend[Any]):
    async def get_result(self, task_id: str, with_logs: bool = True) -> TaskiqResult[Any]:
        return await super().get_result(task_id)


@pytest.mark.parametrize(
    "backend", [ForgetsOverwrites, KeepsProgress, SaysDeletedAlways, MixesIds, ReturnsLogsAlways]
)
def test_a_backend_with_a_fault_is_found_out(backend: type[InmemoryResultBackend[Any]]) -> None:
    class Faulty(InmemoryMachine):
        async def make_backend(self, place: Path) -> InmemoryResultBackend[Any]:
            return backend()

    with pytest.raises(AssertionError):
        run(Faulty, FINDING)


def test_a_backend_that_loses_everything_at_a_restart_is_found_out() -> None:
    class Forgetful(InmemoryMachine):
        survives_restart = True

    with pytest.raises(AssertionError):
        run(Forgetful, FINDING)


def test_a_backend_that_writes_when_it_is_shut_down_is_found_out_by_a_crash() -> None:
    class Late(FileResultBackend[Any]):
        """Keeps results in memory until the end."""

        late: ClassVar[dict[str, TaskiqResult[Any]]] = {}

        async def set_result(self, task_id: str, result: TaskiqResult[Any]) -> None:
            self.late[task_id] = result

        async def get_result(self, task_id: str, with_logs: bool = True) -> TaskiqResult[Any]:
            return self.late[task_id] if task_id in self.late else await super().get_result(task_id)

        async def is_result_ready(self, task_id: str) -> bool:
            return task_id in self.late or await super().is_result_ready(task_id)

        async def delete_result(self, task_id: str) -> bool:
            here = self.late.pop(task_id, None) is not None
            return await super().delete_result(task_id) or here

        async def shutdown(self) -> None:
            for task_id in list(self.late):
                await super().set_result(task_id, self.late.pop(task_id))

    class LateMachine(FileMachine):
        handles_max = 1
        keeps_logs = False
        survives_crash = False

        async def make_backend(self, place: Path) -> FileResultBackend[Any]:
            Late.late.clear()
            return Late(place)

    class CrashingMachine(LateMachine):
        survives_crash = True

    run(LateMachine)
    with pytest.raises(AssertionError):
        run(CrashingMachine, FINDING)


def test_a_store_that_lists_in_another_order_is_found_out() -> None:
    class Unordered:
        """A store whose lists are by id."""

        def __init__(self, store: logstore.Store) -> None:
            self.store = store

        def __getattr__(self, name: str) -> Any:
            return getattr(self.store, name)

        def tasks(self, *, status: Any, newest_first: bool) -> Any:
            found = self.store.tasks(status=status, newest_first=newest_first)
            return sorted(found, key=lambda info: info.task_id)

    class UnorderedMachine(SyncStoreMachine):
        def open_store(self, place: Path) -> Any:
            return Unordered(super().open_store(place))

    with pytest.raises(AssertionError, match="order"):
        run(UnorderedMachine, FINDING)


def test_a_machine_removes_what_it_made_and_closes_what_it_opened(tmp_path: Path) -> None:
    with mock.patch("tempfile.tempdir", str(tmp_path)):
        run(LogStoreMachine, settings(PROFILE, max_examples=2))
    assert not list(tmp_path.iterdir())


def test_a_call_that_hangs_fails_the_step() -> None:
    import asyncio

    class Hanging(InmemoryResultBackend[Any]):
        async def set_result(self, task_id: str, result: TaskiqResult[Any]) -> None:
            await asyncio.Event().wait()

    class HangingMachine(InmemoryMachine):
        timeout_s = 0.01
        is_cancellable = False

        async def make_backend(self, place: Path) -> InmemoryResultBackend[Any]:
            return Hanging()

    with pytest.raises((TimeoutError, asyncio.TimeoutError)):
        run(HangingMachine, FINDING)
