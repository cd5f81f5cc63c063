"""Backends under pickle and copy: they hold a configuration, and travel as one."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from taskiq.depends.progress_tracker import TaskProgress
from taskiq.serializers import PickleSerializer

from logstore.taskiq import (
    DummyResultBackend,
    FileResultBackend,
    InmemoryResultBackend,
    LogStoreResultBackend,
    RemoteError,
    ResultIsMissingError,
)
from logstore.testing.conformance_cases.runner import failed, ok


def hook(value: Any) -> Any:
    return [repr(value)]


BACKENDS: dict[str, Callable[[Path], Any]] = {
    "dummy": lambda place: DummyResultBackend(),
    "memory": lambda place: InmemoryResultBackend(max_stored_results=3),
    "file": lambda place: FileResultBackend(place / "results", exceptions=[KeyError]),
    "file-inert": lambda place: FileResultBackend(place / "results", exceptions="inert"),
    "logstore": lambda place: LogStoreResultBackend(
        place / "app.db", prefix_str="p", exceptions=["builtins"], enc_hook=hook, sync="interval"
    ),
    "logstore-pickle": lambda place: LogStoreResultBackend(
        place / "app.db", serializer=PickleSerializer(), result_ex_time=100
    ),
}


def by_pickle(protocol: int) -> Callable[[Any], Any]:
    return lambda made: pickle.loads(pickle.dumps(made, protocol))


REMAKES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"pickle-{number}": by_pickle(number) for number in range(2, pickle.HIGHEST_PROTOCOL + 1)},
}


async def use(backend: Any) -> list[str]:
    """Store and read; return what came back, as texts."""
    await backend.startup()
    try:
        await backend.set_result("t", ok({"a": (1, 2)}))
        await backend.set_result("e", failed(KeyError("k")))
        await backend.set_result("f", failed(ValueError("v")))
        await backend.set_progress("t", TaskProgress(state="s", meta=1))
        found = [str(await backend.get_progress("t"))]
        for task_id in ("t", "e", "f"):
            try:
                result = await backend.get_result(task_id)
            except ResultIsMissingError as error:
                found.append(str(error))
            else:
                found.append(f"{result.return_value} {result.error!r}".replace(", None)", ")"))
        return found
    finally:
        await backend.shutdown()


def use_it(backend: Any) -> list[str]:
    return asyncio.run(use(backend))


@pytest.mark.parametrize("remake", REMAKES.values(), ids=list(REMAKES))
@pytest.mark.parametrize("make", BACKENDS.values(), ids=list(BACKENDS))
def test_a_remade_backend_works_as_the_first(
    tmp_path: Path, make: Callable[[Path], Any], remake: Callable[[Any], Any]
) -> None:
    backend = make(tmp_path)
    again = remake(backend)
    assert type(again) is type(backend)
    expected = use_it(backend)
    assert use_it(again) == expected
    assert use_it(remake(backend)) == expected  # after its use, too


def test_a_backend_in_use_can_be_remade(tmp_path: Path) -> None:
    async def main(backend: Any) -> None:
        await backend.startup()
        for remake in REMAKES.values():
            await backend.set_result("t", ok(1))
            again = remake(backend)
            await again.startup()
            assert await again.is_result_ready("t") is isinstance(backend, LogStoreResultBackend)
            await again.set_result("t", ok(2))
            await again.shutdown()
            expected = 2 if isinstance(backend, LogStoreResultBackend) else 1
            assert (await backend.get_result("t")).return_value == expected
        await backend.shutdown()

    for name in ("memory", "logstore"):
        asyncio.run(main(BACKENDS[name](tmp_path)))


def test_a_backend_that_is_closing_its_store_can_be_remade(tmp_path: Path) -> None:
    async def main() -> None:
        backend = BACKENDS["logstore"](tmp_path)
        await backend.startup()
        shutdown = asyncio.create_task(backend.shutdown())
        await asyncio.sleep(0)
        again = pickle.loads(pickle.dumps(backend))
        assert not shutdown.done()
        await shutdown
        await again.set_result("t", ok(1))
        await again.shutdown()

    asyncio.run(main())


def test_backends_travel_to_a_pool_of_spawned_processes(tmp_path: Path) -> None:
    backends = [make(tmp_path / name) for name, make in BACKENDS.items()]
    for name in BACKENDS:
        (tmp_path / name).mkdir()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(use_it, backends))
    assert found == [use_it(backend) for backend in backends]


def test_what_a_backend_has_returned_can_be_pickled(tmp_path: Path) -> None:
    async def main() -> None:
        backend: Any = LogStoreResultBackend(tmp_path / "app.db")
        error = KeyError("k", object())
        error.__cause__ = KeyboardInterrupt()
        await backend.set_result("t", failed(error))
        result = await backend.get_result("t")
        await backend.shutdown()
        again = pickle.loads(pickle.dumps(result))
        assert isinstance(again.error, KeyError)
        assert str(again.error) == str(error)
        assert again.error.args == result.error.args
        assert isinstance(pickle.loads(pickle.dumps(result.error.__cause__)), RemoteError)

    asyncio.run(main())
