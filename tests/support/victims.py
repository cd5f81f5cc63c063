"""Jobs for processes that die or meet faults, and what a store may hold afterwards.

Rules: a step that was acked has happened; one that was begun and not acked, or that raised, may
have happened or not.  So each task id has a set of states that the store may show for it, and
whatever it shows once, it shows for ever.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import logstore

SUPPORT = Path(__file__).parent

# As in faults.c.
OP_WRITE, OP_SYNC, OP_OPEN, OP_RENAME, OP_UNLINK, OP_SIZE, OP_POINT = 1, 2, 4, 8, 16, 32, 64
OP_ALL = 127
COUNT, KILL_BEFORE, KILL_AFTER, FAIL, FAIL_LATE, SHORT = range(6)

Step = list[Any]
MISSING = None  # the state of a task id without a result
ANY = "any"


def build_faults(directory: Path) -> Path:
    """Compile the library of faults; a machine without a compiler skips, but not in CI."""
    library = directory / "faults.so"
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        if os.environ.get("CI"):
            pytest.fail("the fault tests need a C compiler")
        pytest.skip("no C compiler")
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library)]
    subprocess.run([*command, str(SUPPORT / "faults.c"), "-ldl"], check=True)
    return library


class Outcome(NamedTuple):
    """How a job ended: an exit status (-9 for a kill), and its journal."""

    status: int
    journal: list[list[Any]]
    path: str

    @property
    def calls(self) -> int:
        """How many calls were counted, if the job came to its end."""
        return int(next(line[1] for line in self.journal if line[0] == "calls"))

    @property
    def errors(self) -> list[tuple[str, str, str]]:
        """The steps that raised: step, type and message."""
        steps = self.steps
        return [
            (steps[line[1]][0], line[2], line[3]) for line in self.journal if line[0] == "error"
        ]

    @property
    def steps(self) -> dict[int, Step]:
        """The steps that were begun, by their number."""
        return {line[1]: line[2] for line in self.journal if line[0] == "begin"}

    def answer(self, name: str) -> Any:
        """What the last acked step of this name answered."""
        steps = self.steps
        found = [line[2] for line in self.journal if line[0] == "ack" and steps[line[1]][0] == name]
        return found[-1]


class Victims:
    """Runs jobs, each in a process forked from one that has everything loaded."""

    def __init__(self, library: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "tests.support.victim"],
            cwd=SUPPORT.parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "LD_PRELOAD": str(library)},
        )
        self._numbers = count(1)
        self._scratch = tempfile.mkdtemp(dir=fast_directory())

    def new_path(self) -> str:
        """A path for a store, in a new directory that nothing else uses."""
        directory = os.path.join(self._scratch, str(next(self._numbers)))
        os.mkdir(directory)
        return os.path.join(directory, "app.db")

    def start(
        self,
        path: str,
        steps: list[Step],
        *,
        before: list[Step] | None = None,
        after: list[Step] | None = None,
        **fault: int,
    ) -> tuple[int, str, str]:
        """Begin a job; :meth:`wait` for what it returns."""
        journal = os.path.join(self._scratch, f"journal-{next(self._numbers)}")
        job = {
            "path": path,
            "journal": journal,
            "before": before or [],
            "steps": steps,
            "after": after or [],
            "fault": fault,
        }
        return int(self._ask({"start": job})), journal, path

    def wait(self, started: tuple[int, str, str]) -> Outcome:
        """How a job has ended."""
        pid, journal, path = started
        status = int(self._ask({"wait": pid}))
        return Outcome(status, read_journal(journal), path)

    def run(
        self,
        path: str,
        steps: list[Step],
        *,
        before: list[Step] | None = None,
        after: list[Step] | None = None,
        **fault: int,
    ) -> Outcome:
        """Do a job to its end, whatever that is."""
        return self.wait(self.start(path, steps, before=before, after=after, **fault))

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the process that forks."""
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
        shutil.rmtree(self._scratch)


def fast_directory() -> str | None:
    """A directory in memory, if there is one: what a kill leaves is the same on any disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def read_journal(path: str) -> list[list[Any]]:
    """The lines of a journal."""
    if not os.path.exists(path):
        return []
    # A victim can be killed within a line: a line without an end was neither begun nor acked.
    whole = Path(path).read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


# -- what may be there -------------------------------------------------------------------------


class Allowed:
    """For each task id the states that the store may show."""

    def __init__(self) -> None:
        self.results: dict[str, list[Any]] = {}
        self.progress: dict[str, list[Any]] = {}

    def take(self, journal: list[list[Any]]) -> None:
        """Take in what a journal says."""
        acked = {line[1]: line[2] for line in journal if line[0] == "ack"}
        for line in journal:
            if line[0] == "begin":
                self._step(line[2], line[1] in acked, acked.get(line[1]))

    def _step(self, step: Step, acked: bool, answer: Any) -> None:
        name, *args = step
        if name == "set":
            self._put(self.results, args[0], args[1], acked)
        elif name == "group":
            for key, value in args[0].items():
                self._put(self.results, key, value, acked)
        elif name == "mixed":
            for key, value in args[0].items():
                self._put(self.results, key, value, acked and answer[key] is None)
        elif name == "progress":
            self._put(self.progress, args[0], args[1], acked)
        elif name == "look":
            for key, seen in (answer or {}).items():
                self.narrow(self.results, key, seen, decided=False)
        elif name in ("delete", "pop"):
            self._put(self.results, args[0], MISSING, acked)
            self._put(self.progress, args[0], None, acked)

    @staticmethod
    def _put(states: dict[str, list[Any]], key: str, value: Any, acked: bool) -> None:
        states[key] = [value] if acked else [*states.get(key, [None]), value]

    def observe(self, store: logstore.Store, *, decided: bool = True) -> None:
        """Look at everything: only what is allowed may show, and from now on only that.

        Before the first write after a crash it is not ``decided`` yet whether a step that was
        begun will land; once it shows, it stays.
        """
        for key in self.results:
            self.narrow(self.results, key, result_of(store, key), decided=decided)
        for key in self.progress:
            progress = store.get_progress(key)
            current = None if progress is None else progress.current
            self.narrow(self.progress, key, current, decided=decided)

    @staticmethod
    def narrow(states: dict[str, list[Any]], key: str, seen: Any, *, decided: bool) -> None:
        """The store has shown one of the states."""
        allowed = states.get(key, [None])
        assert seen in allowed, (key, shown(seen), [shown(state) for state in allowed])
        states[key] = [seen] if decided else allowed[allowed.index(seen) :]


def shown(value: Any) -> str:
    """A value for a message."""
    return repr(value)[:60]


def result_of(store: logstore.Store, key: str) -> Any:
    """A result as a step specifies it, MISSING if there is none."""
    try:
        value = store.get_result(key)
    except logstore.ResultError:
        return MISSING
    return {"bytes": len(value)} if isinstance(value, bytes) else value


def verify(path: str, allowed: Allowed, peer: logstore.Store | None = None) -> None:
    """A live peer and the next process find what is allowed, also after a further write."""
    if peer is not None:
        allowed.observe(peer, decided=False)
        peer.set_result("peer's own", 1)
        allowed.observe(peer)
        assert peer.check().problems == ()
        peer.close()
        assert os.listdir(os.path.dirname(path)) == ["app.db"]
    for round_number in range(2):
        with logstore.open(path) as store:
            allowed.observe(store)
            store.set_result(f"after {round_number}", round_number)
            allowed.observe(store)
            problems = store.check().problems
            assert problems == (), problems
        assert os.listdir(os.path.dirname(path)) == ["app.db"]
    with logstore.open(path) as store:
        allowed.observe(store)
        assert store.get_result("after 0") == 0
        assert store.get_result("after 1") == 1


@contextlib.contextmanager
def victims_of(library: Path) -> Iterator[Victims]:
    """Victims that end with the block."""
    victims = Victims(library)
    try:
        yield victims
    finally:
        victims.close()
