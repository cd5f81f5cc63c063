"""The mistakes of the first hour, each answered by one sentence that says what to do."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import logstore
from logstore import AsyncStore, TaskProgress

BLOCK = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {names!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Missing())
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False
    )


# -- await ---------------------------------------------------------------------------------------


def test_a_forgotten_await_says_so(path: Path) -> None:
    store: Any = logstore.open_async(path)
    with pytest.raises(AttributeError, match=r"await logstore\.open_async"):
        store.set_result("a", 1)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = store.nonsense


def test_a_plain_with_says_that_it_must_be_async_with(path: Path) -> None:
    opening: Any = logstore.open_async(path)
    with pytest.raises(TypeError, match="use `async with"), opening:
        pass

    async def main() -> None:
        async with logstore.open_async(path) as opened:
            store: Any = opened
            with pytest.raises(TypeError, match="use `async with"), store:
                pass

    asyncio.run(main())


# -- names ---------------------------------------------------------------------------------------


def test_taskiqs_name_for_the_time_out_is_taken_too(path: Path) -> None:
    with logstore.open(path) as store:
        assert not store.wait_ready("a", timeout=0.001)
        with pytest.raises(logstore.WaitTimeoutError, match=r"within 0\.001 s"):
            store.wait_result("a", timeout=0.001)
        with pytest.raises(TypeError, match="timeout_s or timeout, not both"):
            store.wait_ready("a", timeout=1, timeout_s=1)

    async def main() -> None:
        async with logstore.open_async(path) as store:
            assert not await store.wait_ready("a", timeout=0.001)
            with pytest.raises(logstore.WaitTimeoutError, match=r"within 0\.001 s"):
                await store.wait_result("a", timeout=0.001)

    asyncio.run(main())


@pytest.mark.parametrize("value", [50, 1.5, -1, float("nan")])
def test_a_progress_that_is_no_fraction_is_named(value: float) -> None:
    with pytest.raises(ValueError, match=f"from 0.0 to 1.0, not {value}$"):
        TaskProgress(progress=value)


def test_a_progress_that_is_a_huge_number_is_not_printed() -> None:
    with pytest.raises(ValueError, match="not a very large number"):
        TaskProgress(progress=10**10_000)


# -- what is not installed -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "names", "sentence"),
    [
        (
            "from logstore.taskiq import LogStoreResultBackend",
            ("taskiq",),
            "logstore.taskiq.LogStoreResultBackend needs taskiq: "
            "pip install 'taskiq-logstore[taskiq]'",
        ),
        (
            "from logstore.testing.conformance import BackendConformance",
            ("taskiq",),
            "logstore.testing.conformance needs taskiq: pip install 'taskiq-logstore[testing]'",
        ),
        (
            "from logstore.testing.stateful import StoreMachine",
            ("hypothesis",),
            "logstore.testing.stateful needs hypothesis: pip install 'taskiq-logstore[testing]'",
        ),
    ],
)
def test_what_an_extra_brings_is_missed_in_one_sentence(
    statement: str, names: tuple[str, ...], sentence: str
) -> None:
    done = run(BLOCK.format(names=names) + statement)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.splitlines()[-1] == f"ImportError: {sentence}"


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_another_system_is_refused_at_the_import(platform: str) -> None:
    done = run(f"import sys; sys.platform = {platform!r}; import logstore")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: logstore needs Linux")
    assert platform in last


# -- what there is -------------------------------------------------------------------------------


def test_the_package_can_be_run_and_says_what_there_is() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "logstore"], capture_output=True, text=True, check=True
    )
    assert logstore.__version__ in done.stdout
    for module in ("logstore.demo", "logstore.testing.crash"):
        assert f"python -m {module}" in done.stdout
    assert done.stdout.endswith('"\n')


def test_a_command_that_does_not_exist_is_an_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "logstore", "check", "app.db"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "takes no arguments" in done.stderr


def test_help_shows_the_users_part() -> None:
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        help(logstore)
    text = shown.getvalue()
    for name in (
        "class AsyncStore",
        "class Store",
        "class TaskProgress",
        "open(",
        "check(",
    ):
        assert name in text
    assert "set_encoded" not in text


def test_the_asynchronous_verbs_take_what_the_synchronous_ones_take() -> None:
    for name, verb in vars(logstore.Store).items():
        if name.startswith("_") or not inspect.isfunction(verb):
            continue
        other = getattr(AsyncStore, name)
        assert list(inspect.signature(other).parameters) == list(inspect.signature(verb).parameters)
