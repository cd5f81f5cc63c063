from __future__ import annotations

import asyncio
import datetime as dt
import json
import multiprocessing
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from taskiq import ResultGetError

from logstore.progress import TaskProgress
from logstore.taskiq import FileResultBackend, ResultDamagedError, ResultIsReadyError
from logstore.taskiq.results.json_file import parse, render
from logstore.testing.conformance_cases.comparing import assert_same
from logstore.testing.conformance_cases.runner import failed, ok
from tests.taskiq.strategies import values

Backend = FileResultBackend[Any]
UTC = dt.timezone.utc
NO_CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.fixture
def backend(tmp_path: Path) -> Backend:
    return FileResultBackend(tmp_path / "results")


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


def test_a_result_file_is_readable_by_people(backend: Backend) -> None:
    run(backend.set_result("t-1", ok({"name": "Ünïcödé", "pair": (1, 2)}, labels={"queue": "q"})))
    text = (backend.storage_dir / "t-1.result.json").read_text()
    document = json.loads(text)
    assert document["task_id"] == "t-1"
    assert document["content"]["return_value"] == {
        "name": "Ünïcödé",
        "pair": {"$type": "tuple", "$value": [1, 2]},
    }
    assert "Ünïcödé" in text
    assert len(text.splitlines()) > 10


@pytest.mark.parametrize("excess", [0, 1])
def test_a_large_file_is_in_one_line(excess: int) -> None:
    content = {"a": "x" * ((1 << 16) - len('{"a":""}') + excess)}
    data = render("result", "t", content)
    assert len(data.splitlines()) == (1 if excess else 9)
    assert parse(data, "result", "t", "here") == content


def test_a_progress_file_is_readable_by_people(backend: Backend) -> None:
    run(backend.set_progress("t-1", TaskProgress(0.5, "half", 1, 2, {"a": 1})))
    document = json.loads((backend.storage_dir / "t-1.progress.json").read_text())
    assert document["content"] == {
        "progress": 0.5,
        "status": "half",
        "current": 1,
        "total": 2,
        "meta": {"a": 1},
    }


@settings(suppress_health_check=NO_CHECKS, max_examples=50)
@given(values)
def test_a_value_round_trips(backend: Backend, value: Any) -> None:
    async def main() -> Any:
        await backend.set_result("t", ok(value))
        return (await backend.get_result("t")).return_value

    assert_same(run(main()), value)


@settings(suppress_health_check=NO_CHECKS, max_examples=50)
@given(st.text(max_size=20) | st.text(st.sampled_from("./\\~%Aa"), max_size=400))
def test_every_id_has_its_files_in_the_directory(backend: Backend, task_id: str) -> None:
    async def main() -> None:
        await backend.startup()
        before = set(backend.storage_dir.parent.rglob("*"))
        await backend.set_result(task_id, ok(task_id))
        new = set(backend.storage_dir.parent.rglob("*")) - before
        assert {path.parent for path in new} <= {backend.storage_dir}
        assert (await backend.get_result(task_id)).return_value == task_id
        assert await backend.delete_result(task_id)

    run(main())


# -- damage ------------------------------------------------------------------------------------

_DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[:-20],
    "not-json": lambda data: b"hello",
    "binary": lambda data: bytes(range(256)),
    "another-json": lambda data: b'{"a": 1}',
    "a-list": lambda data: b"[]",
    "null": lambda data: b"null",
    "deep": lambda data: b"[" * 100_000,
    "changed": lambda data: data.replace(b'"kept"', b'"lost"'),
    "another-version": lambda data: data.replace(b'"version": 1', b'"version": 2'),
    "another-kind": lambda data: data.replace(b'"logstore": "result"', b'"logstore": "x"'),
    "another-task": lambda data: data.replace(b'"task_id": "t"', b'"task_id": "u"'),
    "no-checksum": lambda data: data.replace(b'"crc32"', b'"crc"'),
    "not-a-number": lambda data: data.replace(b"0.5", b"NaN"),
    "a-huge-number": lambda data: data.replace(b"0.5", b"1e999"),
    "many-digits": lambda data: data.replace(b"0.5", b"9" * 5000),
}


@pytest.mark.parametrize("damage", _DAMAGE.values(), ids=_DAMAGE)
def test_a_damaged_file_is_an_error_of_that_task_alone(
    backend: Backend, damage: Callable[[bytes], bytes]
) -> None:
    async def main() -> None:
        await backend.set_result("t", ok("kept"))
        await backend.set_result("other", ok("kept"))
        path = backend.storage_dir / "t.result.json"
        changed = damage(path.read_bytes())
        assert changed != path.read_bytes()
        path.write_bytes(changed)
        with pytest.raises(ResultDamagedError) as caught:
            await backend.get_result("t")
        assert str(path) in str(caught.value)
        assert isinstance(caught.value, ResultGetError)
        assert (await backend.get_result("other")).return_value == "kept"
        await backend.set_result("t", ok("mended"))
        assert (await backend.get_result("t")).return_value == "mended"

    run(main())


def test_reformatting_a_file_does_not_damage_it(backend: Backend) -> None:
    run(backend.set_result("t", ok({"a": [1.5, "é"]})))
    path = backend.storage_dir / "t.result.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=8))
    assert run(backend.get_result("t")).return_value == {"a": [1.5, "é"]}


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"logstore": "progress"}'])
def test_damaged_progress_is_an_error_of_that_task_alone(backend: Backend, damage: bytes) -> None:
    async def main() -> None:
        await backend.set_progress("t", TaskProgress())
        await backend.set_progress("other", TaskProgress(0.5))
        (backend.storage_dir / "t.progress.json").write_bytes(damage)
        with pytest.raises(ResultDamagedError, match=r"t\.progress\.json"):
            await backend.get_progress("t")
        progress = await backend.get_progress("other")
        assert progress is not None
        assert progress.progress == 0.5

    run(main())


@settings(suppress_health_check=NO_CHECKS, max_examples=60)
@given(st.data())
def test_a_flipped_byte_is_never_served(backend: Backend, data: st.DataObject) -> None:
    value = {"rows": [1, 2.5, "three", (4,)], "text": "x" * 20}

    async def main() -> None:
        await backend.set_result("t", ok(value))
        path = backend.storage_dir / "t.result.json"
        content = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)
        try:
            found = (await backend.get_result("t")).return_value
        except ResultDamagedError:
            return
        assert_same(found, value)  # the flip was in the layout

    run(main())


# -- trouble -----------------------------------------------------------------------------------


def test_readiness_that_cannot_be_told_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    backend: Backend = FileResultBackend(tmp_path / "file")
    with pytest.raises(ResultIsReadyError):
        run(backend.is_result_ready("t"))
    with pytest.raises(OSError, match="file"):
        run(backend.startup())


@pytest.mark.parametrize("read", ["get_result", "get_progress"])
def test_what_cannot_be_read_is_not_called_missing(backend: Backend, read: str) -> None:
    for kind in ("result", "progress"):
        (backend.storage_dir / f"t.{kind}.json").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        run(getattr(backend, read)("t"))


def test_a_relative_directory_is_fixed_when_the_backend_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    backend: Backend = FileResultBackend()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run(backend.set_result("t", ok(1)))
    assert (tmp_path / "task_results" / "t.result.json").exists()


def test_the_directory_may_vanish_between_writes(backend: Backend, tmp_path: Path) -> None:
    storage = tmp_path / "gone"
    backend = FileResultBackend(storage)

    async def main() -> None:
        await backend.startup()
        os.rmdir(storage)
        assert await backend.is_result_ready("t") is False
        await backend.set_result("t", ok(1))
        assert await backend.is_result_ready("t") is True

    run(main())


class Ambiguous(dt.tzinfo):
    """A zone in which each time is there twice: such a time is equal to none of another zone."""

    def utcoffset(self, when: dt.datetime | None) -> dt.timedelta:
        return dt.timedelta(hours=1 - (when.fold if when is not None else 0))

    def dst(self, when: dt.datetime | None) -> dt.timedelta:
        return dt.timedelta(0)

    def tzname(self, when: dt.datetime | None) -> str:
        return "ambiguous"


def test_a_result_that_would_not_come_back_from_its_file_is_an_error(backend: Backend) -> None:
    times = (dt.datetime(2024, 1, 1, 1, tzinfo=Ambiguous()), dt.datetime(2024, 1, 1, 0, tzinfo=UTC))
    run(backend.set_result("t", ok(dict.fromkeys(times, "kept"), labels={"queue": "q"})))
    found = run(backend.get_result("t"))
    assert found.is_err
    assert found.labels == {"queue": "q"}
    assert "cannot store result: a dict has equal keys" in str(found.error)


def test_exceptions_may_be_inert(tmp_path: Path) -> None:
    run(FileResultBackend(tmp_path).set_result("t", failed(KeyError("k"))))
    inert: Backend = FileResultBackend(tmp_path, exceptions="inert")
    assert type(run(inert.get_result("t")).error).__name__ == "RemoteError"


def _write_many(directory: str, number: int) -> None:
    async def main() -> None:
        backend: Backend = FileResultBackend(directory)
        await backend.startup()
        for step in range(40):
            await backend.set_result("shared", ok([number] * 200))
            await backend.set_result(f"{number}-{step}", ok(step))

    asyncio.run(main())


@pytest.mark.slow
def test_processes_share_a_directory(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(str(tmp_path), n)) for n in range(3)]
    for writer in writers:
        writer.start()
    backend: Backend = FileResultBackend(tmp_path)

    async def read_meanwhile() -> None:
        while any(writer.is_alive() for writer in writers):
            if await backend.is_result_ready("shared"):
                found = (await backend.get_result("shared")).return_value
                assert found == [found[0]] * 200
            await backend.startup()  # cleans up while others write

    run(read_meanwhile())
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    for number in range(3):
        for step in range(40):
            assert run(backend.get_result(f"{number}-{step}")).return_value == step
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
