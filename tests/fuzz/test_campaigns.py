"""The campaigns: each passes on the engine as it is, and finds a fault planted in a copy of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from fuzz import campaign
from fuzz.crash_plans import PLANS, Run, run_of

ROOT = Path(__file__).resolve().parent.parent.parent
RUN_S = 500  # a busy machine is no hang

pytestmark = pytest.mark.timeout(2 * RUN_S)

needs_testcapi = pytest.mark.skipif(
    find_spec("_testcapi") is None, reason="this Python has no _testcapi"
)
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


class Fault(NamedTuple):
    """An edit of the engine that the campaign must notice."""

    file: str
    old: str
    new: str


NO_FLUSH = Fault("log.py", "        durability.sync_data(self.fd)\n", "        pass\n")
STALE_READER = Fault(
    "engine.py",
    "        if overlay.state == self.header.state and (\n"
    "            overlay.sealed is None or overlay.sealed.state == self.header.sealed\n"
    "        ):\n            return overlay\n",
    "        if self.header.state:\n            return overlay\n",
)
ERROR_IS_LOST = Fault(
    "groups.py",
    "            _fail(writes, write_error(engine.path, exc))\n",
    "            _succeed(writes)\n",
)
LAST_FRAME_LOST = Fault(
    "recovery.py",
    "    overlay.apply(entries, end)\n",
    "    overlay.apply(entries[:-1], end)\n",
)
OLD_LOG_IS_LOST = Fault(
    "recovery.py",
    "            Logs.create_odd(path, meta.uuid, arena_bytes(options))\n",
    "            Logs.create(path, meta.uuid, arena_bytes(options)).close()\n",
)
SEALED_UNFLUSHED = Fault(
    "sealing.py", "and engine.is_settled(end):\n", "and engine.is_settled(0):\n"
)


SLOT_IS_NOT_CLAIMED = Fault(
    "writes.py",
    "            or self.slot_us <= current.last_us <= self.ahead_us\n",
    "",
)


# What depends on the moment is looked for until it is found.
FIRST = ("--first", "--minutes", "5")


def run(root: Path, *words: str, place: Path) -> subprocess.CompletedProcess[str]:
    """A campaign of the package in `root`; everything that it makes is below `place`."""
    return subprocess.run(
        [sys.executable, "-m", f"fuzz.{words[0]}", *words[1:], "--findings", str(place / "kept")],
        cwd=root, text=True, capture_output=True, check=False, timeout=RUN_S,
        env={**os.environ, "TMPDIR": str(place), "PYTHONPATH": str(root)},
    )  # fmt: skip


@pytest.fixture
def broken(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the package with the fault that the test names."""
    fault: Fault = request.param
    root = tmp_path / "copy"
    for package in ("logstore", "fuzz"):
        shutil.copytree(
            ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    file = root / "logstore" / "_engine" / fault.file
    text = file.read_text()
    assert text.count(fault.old) == 1, "the fault no longer fits the code"
    file.write_text(text.replace(fault.old, fault.new))
    return root


@needs_strace
def test_crash_states_of_the_engine_pass(tmp_path: Path) -> None:
    done = run(
        ROOT, "crash_states", "--seed", "1", "--states", "50", "--workers", "1",
        "--only", "first-write", "--only", "compaction", place=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "100 distinct in 2 campaigns, 0 findings, seed 1" in done.stdout
    assert not list(tmp_path.iterdir())


@needs_strace
def test_crash_states_of_an_upgrade_pass(tmp_path: Path) -> None:
    done = run(
        ROOT, "crash_states", "--seed", "1", "--states", "40", "--workers", "1",
        "--only", "upgrade-ext4", "--only", "upgrade-closed", place=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "in 2 campaigns, 0 findings, seed 1" in done.stdout


@needs_strace
@pytest.mark.parametrize("broken", [OLD_LOG_IS_LOST], indirect=True)
def test_crash_states_find_an_upgrade_that_replaces_the_log_first(
    broken: Path, tmp_path: Path
) -> None:
    done = run(
        broken, "crash_states", "--seed", "1", "--states", "100", "--workers", "1",
        "--only", "upgrade", place=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the table is old, and its log of version 2" in done.stderr


@needs_strace
def test_crash_states_of_seals_and_folds_pass(tmp_path: Path) -> None:
    done = run(
        ROOT, "crash_states", "--seed", "1", "--states", "60", "--workers", "1",
        "--only", "sealing", "--only", "sealing-threads", place=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "120 distinct in 2 campaigns, 0 findings, seed 1" in done.stdout


@needs_strace
@pytest.mark.parametrize("broken", [SEALED_UNFLUSHED], indirect=True)
def test_crash_states_find_a_seal_of_what_is_not_on_the_disk(broken: Path, tmp_path: Path) -> None:
    done = run(
        broken, "crash_states", "--seed", "2", "--states", "300", "--rounds", "20",
        "--workers", "1", "--only", "sealing-interval", *FIRST, place=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "CorruptLogError" in done.stderr


@needs_strace
@pytest.mark.slow
def test_crash_states_of_recoveries_and_two_processes_pass(tmp_path: Path) -> None:
    done = run(
        ROOT, "crash_states", "--seed", "1", "--states", "40", "--workers", "1",
        "--only", "two-processes", place=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@needs_strace
@pytest.mark.parametrize("broken", [NO_FLUSH], indirect=True)
def test_crash_states_find_a_flush_that_is_gone(broken: Path, tmp_path: Path) -> None:
    done = run(
        broken, "crash_states", "--seed", "1", "--states", "60", "--workers", "1",
        "--only", "steady", place=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FINDING (seed 1): steady: state " in done.stderr
    assert "the store shows no state after" in done.stderr
    assert "again: python -m fuzz.crash_states --only steady --seed 1" in done.stderr
    replay = next(line for line in done.stderr.splitlines() if line.startswith("  replay: python"))
    again = subprocess.run(
        [sys.executable, *replay.split()[2:]], cwd=broken, text=True, capture_output=True,
        check=False, timeout=RUN_S, env={**os.environ, "PYTHONPATH": str(broken)},
    )  # fmt: skip
    assert again.returncode == 1, again.stdout + again.stderr
    assert "VIOLATION: AssertionError" in again.stdout


@needs_strace
def test_crash_states_of_queues_pass(tmp_path: Path) -> None:
    done = run(
        ROOT, "crash_states", "--seed", "1", "--states", "60", "--workers", "1",
        "--only", "queue", "--only", "queue-together", place=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "60 distinct in 2 campaigns, 0 findings, seed 1" in done.stdout


@needs_strace
@pytest.mark.parametrize("broken", [NO_FLUSH], indirect=True)
def test_crash_states_find_an_acked_message_that_is_gone(broken: Path, tmp_path: Path) -> None:
    done = run(
        broken, "crash_states", "--seed", "1", "--states", "100", "--workers", "1",
        "--only", "queue-together", place=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "expected Task(result=None, progress=None, gone=None, message=Message(" in done.stderr


@pytest.mark.parametrize("containers", [False, True])
def test_kills_lose_nothing(tmp_path: Path, containers: bool) -> None:
    if containers and os.getuid() != 0:
        pytest.skip("only root may make a namespace for pids")
    words = ["--containers"] * containers
    done = run(ROOT, "kills", "--seed", "1", "--kills", "8", *words, place=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 findings, seed 1" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("broken", [LAST_FRAME_LOST], indirect=True)
def test_kills_find_a_recovery_that_drops_a_frame(broken: Path, tmp_path: Path) -> None:
    # The first three rounds of this seed are without a peer, hence with many recoveries.
    done = run(broken, "kills", "--seed", "3", "--kills", "3000", *FIRST, place=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FINDING (seed 3): kills, round " in done.stderr
    assert "the store shows no state after" in done.stderr
    assert "again: python -m fuzz.kills --seed 3 --round " in done.stderr


def test_histories_are_linearizable(tmp_path: Path) -> None:
    done = run(
        ROOT, "histories", "--seed", "1", "--operations", "500", "--seconds", "1.5", place=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 findings, seed 1" in done.stdout


@pytest.mark.parametrize("broken", [STALE_READER], indirect=True)
def test_histories_find_a_reader_that_does_not_look(broken: Path, tmp_path: Path) -> None:
    done = run(
        broken, "histories", "--seed", "1", "--operations", "1000000", "--seconds", "1.5",
        *FIRST, place=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FINDING (seed 1): histories, round " in done.stderr
    assert "no order of these" in done.stderr


def test_slots_of_schedules_are_sent_once(tmp_path: Path) -> None:
    done = run(ROOT, "schedules", "--seed", "1", "--minutes", "0.2", "--every", "2", place=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 findings, seed 1" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("broken", [SLOT_IS_NOT_CLAIMED], indirect=True)
def test_schedules_find_a_slot_that_is_not_claimed(broken: Path, tmp_path: Path) -> None:
    done = run(
        broken, "schedules", "--seed", "1", "--minutes", "0.5", "--every", "20", place=tmp_path
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "was sent 2 times" in done.stderr
    assert "again: python -m fuzz.schedules --seed 1" in done.stderr


@needs_testcapi
def test_an_allocation_that_fails_loses_nothing(tmp_path: Path) -> None:
    done = run(ROOT, "nomemory", "--seed", "1", "--runs", "120", place=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "x MemoryError" in done.stdout
    assert "; 0 findings" in done.stdout


@needs_testcapi
@pytest.mark.parametrize("broken", [ERROR_IS_LOST], indirect=True)
def test_an_allocation_that_fails_shows_an_error_that_is_lost(broken: Path, tmp_path: Path) -> None:
    words = ("--seed", "1", "--runs", "400", "--only", "set", *FIRST)
    done = run(broken, "nomemory", *words, place=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FINDING (seed 1): set without its allocation " in done.stderr
    assert "AssertionError: new is None, expected" in done.stderr
    assert "again: python -m fuzz.nomemory --only set --nth " in done.stderr


def test_a_seed_comes_from_the_commit_or_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert campaign.commit_seed() == campaign.commit_seed()
    monkeypatch.setattr(campaign, "ROOT", Path("/"))
    assert campaign.commit_seed() == campaign.FIXED_SEED


@pytest.mark.parametrize("name", sorted(PLANS))
def test_a_plan_does_something_and_is_found_by_its_line(name: str) -> None:
    plan = PLANS[name]
    assert plan.set_up < plan.ops or plan.ops == 0
    assert run_of(Run(name, 5).line()) == Run(name, 5)


@needs_strace
@pytest.mark.parametrize(
    ("words", "under_way"),
    [
        (["crash_states", "--states", "100000", "--only", "steady"], "recording/meta.json"),
        (["kills", "--kills", "100000"], "store/app.db"),
        (["histories", "--operations", "100000000"], "results/*.history"),
        pytest.param(["nomemory", "--runs", "1000000"], "run/app.db", marks=needs_testcapi),
    ],
)
def test_a_campaign_that_is_told_to_end_leaves_nothing_behind(
    words: list[str], under_way: str, tmp_path: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", f"fuzz.{words[0]}", *words[1:], "--seed", "1"],
        cwd=ROOT, env={**os.environ, "FUZZ_DIR": str(tmp_path), "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + RUN_S
        while not any(tmp_path.glob(f"logstore-*/{under_way}")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.terminate()
        try:
            _, errors = process.communicate(timeout=RUN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert not list(tmp_path.iterdir())
    assert not list(_processes_in(tmp_path))


def _processes_in(directory: Path) -> Iterator[str]:
    """The processes that a campaign in that directory has started."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environ = (process / "environ").read_bytes()
        except OSError:
            continue
        if f"FUZZ_DIR={directory}\0".encode() in environ:
            yield f"{process.name}: {(process / 'cmdline').read_bytes()!r}"
