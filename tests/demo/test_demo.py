from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import logstore
from logstore.demo.__main__ import Demo, main, parse_options, run_until_signal, summary
from logstore.demo.client import Outcome
from logstore.demo.display import Display
from logstore.demo.verify import Verdict

TIME_LIMIT_S = 250.0

# Takes the place of a worker that cannot start: ends every `taskiq` process, no other.
NO_TASKIQ = """\
import os, sys
if "taskiq" in sys.orig_argv:
    os.write(2, b"no taskiq today\\n")
    os._exit(3)
"""


@contextmanager
def started(temporary: Path, *options: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "logstore.demo", *options],
        cwd=Path(logstore.__file__).parent.parent,
        env={**os.environ, "TMPDIR": str(temporary), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        try:
            yield demo
        finally:
            demo.terminate()


def processes_of(temporary: Path) -> list[str]:
    """Return the command lines of the worker processes whose store is below ``temporary``."""
    found = []
    for process in Path("/proc").iterdir():
        with suppress(NotADirectoryError, FileNotFoundError, PermissionError, ProcessLookupError):
            environment = (process / "environ").read_bytes()
            if b"LOGSTORE_DEMO_STORE=" + os.fsencode(temporary) in environment:
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def assert_nothing_is_left(temporary: Path) -> None:
    assert processes_of(temporary) == []
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_kills_a_worker_and_loses_nothing(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(short_path))
    status = main([])
    output, errors = capsys.readouterr()
    assert (status, errors) == (0, "")
    assert "kill -9 " in output
    assert " is sent again: it ran in process " in output
    assert " is up again: process " in output
    kept = re.search(r" (\d+) of (\d+) acknowledged", output)
    assert kept is not None
    assert int(kept[1]) == int(kept[2]) >= 16  # more, if several are done at a time
    assert "32 of 32" in output
    assert "only app.db" in output
    assert "\x1b" not in output
    assert output.endswith("Nothing was lost.\n")
    assert_nothing_is_left(short_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_cleans_up_and_says_so(short_path: Path, number: int) -> None:
    with started(short_path) as demo:
        assert demo.stdout is not None
        assert any(line.startswith("worker 2 is up") for line in demo.stdout), "ended before"
        assert len(processes_of(short_path)) >= 2
        demo.send_signal(number)
        _, errors = demo.communicate(timeout=TIME_LIMIT_S)
    assert demo.returncode == 128 + number
    assert errors == f"interrupted by {signal.Signals(number).name}\n"
    assert_nothing_is_left(short_path)


@pytest.mark.slow
def test_workers_end_when_the_demo_is_killed(short_path: Path) -> None:
    with started(short_path) as demo:
        assert demo.stdout is not None
        assert any(line.startswith("worker 2 is up") for line in demo.stdout), "ended before"
        assert len(processes_of(short_path)) >= 2
        demo.kill()
        demo.communicate()
        deadline_s = time.monotonic() + TIME_LIMIT_S
        while processes_of(short_path) and time.monotonic() < deadline_s:
            time.sleep(0.05)
    assert processes_of(short_path) == []


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_the_demo(short_path: Path) -> None:
    with started(short_path) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        demo.stdout.readline()
        demo.stdout.close()
        assert demo.stderr.read() == ""
        assert demo.wait(TIME_LIMIT_S) == 1
    assert_nothing_is_left(short_path)


@pytest.mark.slow
def test_a_worker_that_cannot_start_fails_the_demo_and_its_log_is_shown(short_path: Path) -> None:
    temporary, site = short_path / "tmp", short_path / "site"
    temporary.mkdir()
    site.mkdir()
    (site / "sitecustomize.py").write_text(NO_TASKIQ)
    search_path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    with started(temporary, PYTHONPATH=search_path) as demo:
        _, errors = demo.communicate(timeout=TIME_LIMIT_S)
    assert demo.returncode == 1
    failed = re.match(r"FAILED: worker ([12]) exited \(3\)\n", errors)
    assert failed is not None, errors
    assert f"\n-- log of worker {failed[1]}\nno taskiq today\n" in errors
    assert_nothing_is_left(temporary)


@pytest.mark.slow
def test_too_little_to_analyse_is_said(short_path: Path) -> None:
    temporary, root = short_path / "tmp", short_path / "root"
    temporary.mkdir()
    root.mkdir()
    (root / "one.py").touch()
    with started(temporary, "--root", str(root)) as demo:
        _, errors = demo.communicate(timeout=TIME_LIMIT_S)
    assert demo.returncode == 1
    assert errors == f"FAILED: {root} has only 1 .py files, too few to analyse\n"
    assert_nothing_is_left(temporary)


@pytest.mark.parametrize("options", [["--workers", "1"], ["--tasks", "3"], ["--no-such"]])
def test_wrong_options_are_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(options)
    assert stopped.value.code == 2
    assert "usage: python -m logstore.demo" in capsys.readouterr().err


@pytest.mark.parametrize(("kept", "status"), [(True, 0), (False, 1)])
def test_the_exit_status_says_whether_anything_was_lost(kept: bool, status: int) -> None:
    class Ran(Demo):
        async def run(self) -> bool:
            return kept

    demo = Ran(parse_options([]), Display(io.StringIO()), Path("unused"))
    assert asyncio.run(run_until_signal(demo)) == status


def test_the_summary_names_what_was_lost() -> None:
    verdict = Verdict(results=3, problems=["slice-01: changed since it was acknowledged"])
    lines = summary(
        Outcome(acked_before_kill=frozenset({"slice-01"})), verdict, 4, 1.0
    ).splitlines()
    assert "0 of 1 acknowledged" in lines[0]
    assert lines[-2:] == ["LOST OR CHANGED: slice-01: changed since it was acknowledged", "FAILED"]
