"""A call that touches the store fails: once, or from then on until the fault ends.

Whatever fails, in a commit, compaction, vacuum, close or recovery, in our own calls or LMDB's:
the error is one of the store's own, reads go on, nothing acked is lost, nothing that was shown is
taken back, and the store works again when the fault has ended.
"""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path
from typing import NamedTuple

import pytest

import logstore
from tests.support import boundary
from tests.support.inside import in_one_group
from tests.support.victims import (
    COUNT,
    FAIL,
    FAIL_LATE,
    OP_OPEN,
    OP_RENAME,
    OP_SIZE,
    OP_SYNC,
    OP_UNLINK,
    OP_WRITE,
    SHORT,
    Allowed,
    Outcome,
    Step,
    Victims,
    verify,
)

LARGE = {"bytes": 300_000}
LOOK: Step = ["look", [*(f"base{i}" for i in range(6)), "a", "b", "l", "m", "n", "o"]]
BASE: list[Step] = [
    ["open", {"compact_at": 1 << 14}],
    ["group", {f"base{i}": i for i in range(20)}],
    ["compact"],
    ["group", {"base0": "new", "base3": {"bytes": 100}}],
    ["progress", "running", 1],
    ["delete", "base5"],
]
SCENARIOS: dict[str, list[Step]] = {
    "commits": [
        ["set", "a", 1],
        LOOK,
        ["progress", "running", 2],
        ["group", {"a": 2, "b": 2}],
        LOOK,
        ["delete", "base1"],
        ["sync"],
        LOOK,
    ],
    "large": [
        ["set", "l", "small"],
        ["set", "l", LARGE],
        LOOK,
        ["mixed", {"m": 1, "n": LARGE, "o": 3}],
        LOOK,
        ["set", "l", "small again"],
        LOOK,
    ],
    "compaction": [
        ["set", "a", {"bytes": 9000}],
        ["set", "b", {"bytes": 9000}],  # reaches the log's limit
        LOOK,
        ["set", "a", 2],
        ["compact"],
        LOOK,
        ["set", "b", 3],
        LOOK,
    ],
    "vacuum": [["set", "a", 1], ["vacuum"], LOOK, ["set", "b", 2], ["vacuum"], LOOK],
    "close": [["set", "a", 1], ["close"]],
}
AFTER: list[Step] = [LOOK, ["set", "z", 1], ["set", "l", LARGE], ["progress", "running", 9], LOOK]
DISK = OP_WRITE | OP_SYNC | OP_SIZE
FILES = OP_OPEN | OP_RENAME | OP_UNLINK


class Fault(NamedTuple):
    """What happens to the n-th call of some kinds."""

    ops: int
    action: int
    errno: int
    sticky: int

    @property
    def expected(self) -> set[str]:
        """The errors that may come of it."""
        if self.errno in (errno.ENOSPC, errno.EDQUOT):
            return {"DiskFullError"}
        return {"WriteError"}

    @property
    def expected_of_opening(self) -> str:
        """The error that comes of it if nothing was open yet."""
        return {
            errno.ENOSPC: "DiskFullError",
            errno.EDQUOT: "DiskFullError",
            errno.EMFILE: "ResourceLimitError",
            errno.ENOMEM: "ResourceLimitError",
        }.get(self.errno, "OpenError")


FAULTS = {
    "EIO once": Fault(DISK, FAIL, errno.EIO, 0),
    "EIO from then on": Fault(DISK, FAIL, errno.EIO, 1),
    "EIO told late, once": Fault(DISK, FAIL_LATE, errno.EIO, 0),
    "EIO told late, from then on": Fault(DISK, FAIL_LATE, errno.EIO, 1),
    "ENOSPC once": Fault(DISK, FAIL, errno.ENOSPC, 0),
    "ENOSPC from then on": Fault(DISK, FAIL, errno.ENOSPC, 1),
    "EDQUOT from then on": Fault(DISK, FAIL, errno.EDQUOT, 1),
    "EMFILE once": Fault(OP_OPEN, FAIL, errno.EMFILE, 0),
    "EMFILE from then on": Fault(OP_OPEN, FAIL, errno.EMFILE, 1),
    "ENOMEM from then on": Fault(OP_OPEN, FAIL, errno.ENOMEM, 1),
    "EIO on names, once": Fault(FILES, FAIL, errno.EIO, 0),
    "EIO on names, from then on": Fault(FILES, FAIL, errno.EIO, 1),
    "EIO on everything": Fault(DISK | FILES, FAIL, errno.EIO, 1),
}


pytestmark = pytest.mark.usefixtures("no_idle_compaction")


def attempt(victims: Victims, name: str, fault: Fault, nth: int) -> Outcome:
    """One run of a scenario with its verification."""
    path = victims.new_path()
    reopened: list[Step] = [["open"]] if name == "close" else []
    outcome = victims.run(
        path,
        SCENARIOS[name],
        before=BASE,
        after=[*reopened, *AFTER, ["close"]],
        ops=fault.ops,
        action=fault.action,
        nth=nth,
        errno=fault.errno,
        sticky=fault.sticky,
    )
    try:
        assert outcome.status == 0
        check_errors(outcome, fault)
        allowed = Allowed()
        allowed.take(outcome.journal)
        verify(path, allowed)
    except BaseException:
        print(f"replay: attempt(victims, {name!r}, {fault}, {nth})")
        for line in outcome.journal:
            print("   ", str(line)[:400])
        raise
    return outcome


def check_errors(outcome: Outcome, fault: Fault) -> None:
    """Only while the fault lasted, only of the right type, and none from a read."""
    ended = False
    steps = outcome.steps
    for line in outcome.journal:
        ended = ended or line[0] == "calls"
        if line[0] == "error":
            assert not ended, f"still failing after the fault: {steps[line[1]]} {line}"
            if steps[line[1]][0] == "look":
                # A table that LMDB refuses to use any longer can only be opened again.
                assert fault.sticky
                assert fault.ops & OP_OPEN, line
            else:
                assert line[2] in fault.expected, line


def run_all(victims: Victims, name: str, fault: Fault, sample: int | None = None) -> int:
    """Let each call of a scenario fail, or a seeded sample of them; how many."""
    calls = attempt(victims, name, fault._replace(action=COUNT), 0).calls
    cases = list(range(1, calls + 1))
    if sample is not None and sample < calls:
        cases = random.Random(name).sample(cases, sample)
    for nth in cases:
        attempt(victims, name, fault, nth)
    return len(cases)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_failing_call(victims: Victims, name: str, fault: str) -> None:
    run_all(victims, name, FAULTS[fault], sample=4)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_call_fails_in_every_way(victims: Victims, name: str) -> None:
    assert sum(run_all(victims, name, fault) for fault in FAULTS.values()) > 20


@pytest.mark.parametrize("fault", FAULTS)
def test_recovery_fails(victims: Victims, fault: str) -> None:
    """Opening what a crash has left fails at some call; the next try finds everything."""
    ops, action, code, sticky = FAULTS[fault]
    calls = 12
    for nth in random.Random(fault).sample(range(1, calls), 4):
        path = victims.new_path()
        steps: list[Step] = [["set", "a", 1], ["progress", "running", 2]]
        crashed = victims.run(path, steps, before=BASE)
        failed = victims.run(
            path, [["open"]], ops=ops, action=action, nth=nth, errno=code, sticky=sticky
        )
        assert failed.status == 0, failed
        for _, kind, message in failed.errors:
            assert kind == FAULTS[fault].expected_of_opening, message
            assert "acknowledged" not in message
        allowed = Allowed()
        allowed.take(crashed.journal)
        verify(path, allowed)


def test_a_group_does_not_go_on_with_a_failed_log(tmp_path: Path) -> None:
    """A flush that succeeds after one that failed says nothing: the pages may be gone."""
    real = {name: getattr(os, name) for name in ("fdatasync", "fsync")}
    path = tmp_path / "app.db"
    with logstore.open(path, sync_interval_s=1e6) as store:
        store.set_result("before", 1)
        log = os.stat(f"{path}-log").st_ino
        for name in real:
            boundary.fail_next(name)
        first, large, third = in_one_group(
            store,
            ("result", "first", 1),
            ("result", "large", bytes(300_000)),
            ("result", "third", 3),
        )
        # The log could not be replaced at once either.
        assert {name: getattr(os, name) for name in real} == real
        assert isinstance(first, logstore.WriteError)
        assert isinstance(large, logstore.WriteError)  # it had to wait for both
        assert third is None
        assert os.stat(f"{path}-log").st_ino != log
        assert [store.status(key) for key in ("first", "large")] == ["unknown", "unknown"]
        assert store.get_result("third") == 3


def test_short_writes_are_finished(victims: Victims) -> None:
    for name in SCENARIOS:
        outcome = attempt(victims, name, Fault(OP_WRITE, SHORT, 0, 1), 1)
        assert [error for error in outcome.errors if error[1] != "WriteError"] == []


@pytest.mark.parametrize("name", SCENARIOS)
def test_interrupted_calls(victims: Victims, name: str) -> None:
    run_all(victims, name, Fault(OP_WRITE | OP_SYNC, FAIL, errno.EINTR, 0), sample=8)
