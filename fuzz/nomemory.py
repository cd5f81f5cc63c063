"""Memory runs out: one allocation of an operation fails: `python -m fuzz.nomemory --help`.

Invariants: the operation succeeds, or it raises MemoryError or an error of the store; no signal, no
hang. Whichever it was, everything that had been acked is there, what was under way is done or not
and stays so, the same process can read and write the store without opening it again, check() is
clean, the store closes to one file, and opens again with all that. After a close that has failed
the store may stay open in its process; the next one finds everything.

CPython lets the n-th of its allocations fail (`_testcapi.set_nomemory`). Each execution has a
process of its own, forked from one that has everything loaded, and a copy of the same store. Where
the interpreter or a library itself does not bear that, the execution is counted under the name of
the limitation (`LIMITATIONS`), and what was acked must be there all the same.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import linecache
import os
import random
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import logstore
from fuzz.campaign import (
    Bar,
    Findings,
    add_common,
    commit_seed,
    duration,
    end_tidily,
    undisturbed,
    workplace,
)
from fuzz.processes import run_and_leave
from fuzz.stores import engine_of, seal
from logstore import TaskProgress
from logstore._engine import maintenance, retention, sealing
from logstore._engine.groups import commit_group

try:
    _testcapi: Any = import_module("_testcapi")
except ImportError:  # a build of Python without its test modules
    _testcapi = None

FILE = "app.db"
STUCK_S = 20.0
LIMITATIONS = {
    "cbor2": "cbor2 panics",
    "lock": "CPython raises RuntimeError where no lock or thread can be made",
    "start": "CPython waits for ever in Thread.start() for a thread that could not begin",
    "with": "CPython keeps a lock when there is no memory to call its __exit__ with",
    "path": "CPython raises TypeError where it cannot look up __fspath__",
    "items": "CPython dies when the iterator of a dict's items cannot be made",
}
IN_TABLE = {f"table-{n}": {"n": n, "text": "x" * n} for n in range(8)}
IN_LOG: dict[str, Any] = {f"log-{n}": [n, "y" * n] for n in range(8)} | {"table-2": "again"}
GONE = None  # the state of an id without a result
ACKED: dict[str, Any] = IN_TABLE | IN_LOG
NEW = {"values": list(range(20)), "text": "z" * 100}
LARGE = "large" * 60_000
OPTIONS: dict[str, Any] = {"compact_at": 1 << 14, "sync_interval_s": 1e6, "write_timeout_s": 10.0}


class Operation(NamedTuple):
    """What runs out of memory, and what it changes if it succeeds."""

    allocations: int  # about as many; behind the last of them nothing fails
    run: Callable[[logstore.Store], object]
    changes: tuple[tuple[str, Any], ...] = ()


def _seal(store: logstore.Store) -> None:
    """A write that fills the log up: the next one goes into the other log."""
    engine = engine_of(store)
    engine.options = engine.options._replace(compact_at=1)
    store.set_result("new", NEW)


def _fold(store: logstore.Store) -> None:
    """The same, and a fold of the sealed log, if the maintenance thread has not made it."""
    _seal(store)
    sealing.fold_sealed(engine_of(store), time.monotonic() + STUCK_S / 2)


def _expire(store: logstore.Store) -> None:
    """Put results into the table that have expired; no thread removes them."""
    engine = engine_of(store)
    engine.on_sealed = lambda: None  # the maintenance thread would remove them
    for number in range(4):
        store.set_result(f"expired-{number}", "short", ttl_s=1e-6)
    seal(store)
    while not sealing.fold_sealed(engine, time.monotonic() + STUCK_S):
        expect(engine.deferral.applies(), "the log is not folded")  # because of a slow reader
    expect(engine.expiry_due(), "nothing has expired")


def _retire(store: logstore.Store) -> None:
    """What the maintenance thread does with results that have expired."""
    engine = engine_of(store)
    for writes in retention.due(engine):
        commit_group(engine, writes)
        for write in writes:
            if write.error is not None:
                raise write.error


OPERATIONS = {
    "set": Operation(117, lambda store: store.set_result("new", NEW), (("new", NEW),)),
    "replace": Operation(117, lambda store: store.set_result("log-1", NEW), (("log-1", NEW),)),
    "large": Operation(
        936, lambda store: store.set_result("table-1", LARGE), (("table-1", LARGE),)
    ),
    "seal": Operation(400, _seal, (("new", NEW),)),
    "fold": Operation(1200, _fold, (("new", NEW),)),
    "retire": Operation(600, _retire),
    "progress": Operation(
        121, lambda store: store.set_progress("running", TaskProgress(current=2))
    ),
    "delete": Operation(162, lambda store: store.delete_result("table-3"), (("table-3", GONE),)),
    "pop": Operation(139, lambda store: store.pop_result("log-3"), (("log-3", GONE),)),
    "get": Operation(108, lambda store: [store.get_result(key) for key in ("log-2", "table-4")]),
    "list": Operation(1296, lambda store: list(store.tasks())),
    "sync": Operation(72, lambda store: store.sync()),
    "compact": Operation(756, lambda store: store.compact()),
    "vacuum": Operation(1512, lambda store: store.vacuum()),
    "check": Operation(1080, lambda store: store.check()),
    "close": Operation(1152, lambda store: store.close()),
    "open": Operation(1944, lambda store: store),
    "recover": Operation(2592, lambda store: store),
}


def make_stores(place: Path) -> None:
    """The store that each execution gets a copy of: closed, and as a sudden death leaves it."""
    live = place / "live"
    live.mkdir()
    with logstore.open(live / FILE, **OPTIONS) as store:
        for task_id, value in IN_TABLE.items():
            store.set_result(task_id, value)
        store.compact()
        for task_id, value in IN_LOG.items():
            store.set_result(task_id, value)
        store.set_progress("running", TaskProgress(current=1))
        store.sync()
        (place / "dead").mkdir()
        for suffix in ("", "-log", "-log2", "-shm"):
            shutil.copyfile(f"{live / FILE}{suffix}", f"{place / 'dead' / FILE}{suffix}")
    shutil.copytree(live, place / "closed")
    shutil.rmtree(live)


# -- one execution -----------------------------------------------------------------------------


def execute(name: str, path: Path, nth: int) -> str:
    """Let the n-th allocation of an operation fail, look at everything; how the operation ended."""
    run = OPERATIONS[name].run
    store = None
    if name not in ("open", "recover"):
        store = logstore.open(path, **OPTIONS)
        if name == "retire":
            _expire(store)
        for task_id, value in IN_LOG.items():
            store.set_result(task_id, value)
    gc.collect()
    outcome = "done"
    _testcapi.set_nomemory(nth, nth + 1)
    try:
        if store is None:
            store = logstore.open(path, **OPTIONS)
        else:
            run(store)
    except BaseException as exc:
        _testcapi.remove_mem_hooks()
        outcome = outcome_of(exc)
    finally:
        _testcapi.remove_mem_hooks()
    if outcome == "done" or name != "close":
        look_on(path, store, name, outcome == "done")
    return outcome


def outcome_of(error: BaseException) -> str:
    """What an operation's error says; those that it may not raise are raised again."""
    kind, text = type(error).__name__, str(error)
    if kind == "PanicException":
        return LIMITATIONS["cbor2"]
    if kind == "RuntimeError" and ("can't allocate" in text or "can't start" in text):
        return LIMITATIONS["lock"]
    if kind == "TypeError" and "os.PathLike object" in text:
        return LIMITATIONS["path"]
    if isinstance(error, logstore.CorruptionError):
        raise error  # nothing is damaged
    if isinstance(error, MemoryError | logstore.LogstoreError):
        return kind
    raise error


def look_on(path: Path, store: logstore.Store | None, name: str, done: bool) -> None:
    """Everything is there, for an open store and for the next to open it, and it goes on."""
    states: dict[str, list[Any]] = {key: [value] for key, value in ACKED.items()}
    for key, value in OPERATIONS[name].changes:
        states[key] = [value] if done else [*states.get(key, [GONE]), value]
    if store is None or store.closed:
        store = logstore.open(path, **OPTIONS)
    look(store, states)
    store.set_result("after", 1)
    states["after"] = [1]
    for key, value in OPERATIONS[name].changes:  # if it was left open, that write has decided it
        states[key].append(value)
    look(store, states)
    store.close()
    expect(os.listdir(path.parent) == [FILE], f"at rest there is {os.listdir(path.parent)}")
    with logstore.open(path, **OPTIONS) as again:
        look(again, states)


def look(store: logstore.Store, states: dict[str, list[Any]]) -> None:
    """Every id has one of its states, and only that from now on."""
    for key, allowed in states.items():
        try:
            found = store.get_result(key)
        except logstore.ResultError:
            found = GONE
        expect(found in allowed, f"{key} is {found!r:.80}, expected {allowed!r:.80}")
        states[key] = [found]
    progress = store.get_progress("running")
    expect(progress is not None and progress.current in (1, 2), f"progress is {progress}")
    problems = store.check().problems
    expect(not problems, f"the check finds {problems}")


def expect(holds: bool, message: str) -> None:
    """Raise AssertionError unless ``holds``."""
    if not holds:
        raise AssertionError(message)


class Ended(NamedTuple):
    """How a process ended: what it told, its exit status or signal, and what it wrote."""

    told: str
    status: int
    output: str


def in_child(output: Path, work: Callable[[], str]) -> Ended:
    """Do something in a process of its own, which does not outlive the call."""
    reader, writer = os.pipe()
    pid = 0
    try:
        with undisturbed():
            pid = os.fork()
            if not pid:
                tell(writer, output, work)
        os.close(writer)
        with open(reader, "rb") as pipe:
            told = pipe.read().decode()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        pid = 0
    finally:
        if pid:
            with undisturbed():
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
    return Ended(told, status, output.read_text(errors="replace"))


def tell(writer: int, output: Path, work: Callable[[], str]) -> NoReturn:
    """Do something, write down what it returns, and end the process."""

    def write_down() -> None:
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
        faulthandler.enable()
        faulthandler.dump_traceback_later(STUCK_S, exit=True)
        os.write(writer, work().encode())

    run_and_leave(write_down)


def run(place: Path, name: str, nth: int) -> Ended:
    """One execution; if its process did not come to its end, another one looks at the store."""
    directory = place / "run"
    shutil.copytree(place / ("dead" if name == "recover" else "closed"), directory)
    path = directory / FILE
    try:
        ended = in_child(place / "output", lambda: execute(name, path, nth))
        if ended.told and name != "close":
            return ended
        limitation = ended.told or limitation_of(ended)
        if limitation:

            def look_again() -> str:
                look_on(path, None, name, limitation == "done")
                return limitation

            return in_child(place / "output", look_again)
        return ended
    finally:
        shutil.rmtree(directory)


def limitation_of(ended: Ended) -> str:
    """Which limitation ended a process, "" if none that is known."""
    lines = ended.output.splitlines()
    own = [line for line in lines if "(most recent call first)" in line]
    start = next((n for n, line in enumerate(lines) if line in own[-1:]), 0)
    frames = re.findall(r'File "(.*)", line (\d+) in (\w+)', "\n".join(lines[start:]))
    if not frames:
        return ""
    innermost = linecache.getline(frames[0][0], int(frames[0][1])).strip()
    if ended.status == -signal.SIGSEGV and ".items()" in innermost:
        return LIMITATIONS["items"]
    if any(line.startswith("Timeout (") for line in lines):
        # acquire() and release() would do, but for a signal that comes right behind acquire().
        if re.match(r"with .*lock|with .*gate", innermost):
            return LIMITATIONS["with"]
        if any(file.endswith("threading.py") and name == "start" for file, _, name in frames):
            return LIMITATIONS["start"]
    return ""


# -- the campaign ------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    """Runs the campaign and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.nomemory")
    add_common(parser)
    parser.add_argument("--runs", type=int, default=300, help="how many operations run out")
    parser.add_argument("--only", choices=OPERATIONS, help="one operation")
    parser.add_argument("--nth", type=int, help="one allocation")
    options = parser.parse_args(argv)
    if _testcapi is None:
        print("nomemory: this Python has no _testcapi, which lets allocations fail")
        return 0
    seed = commit_seed() if options.seed is None else options.seed
    names = [options.only] if options.only else list(OPERATIONS)
    findings = Findings(options.findings, first=options.first)
    outcomes: Counter[str] = Counter()
    begun = time.monotonic()
    bar = Bar(options.runs, "runs")
    maintenance.IDLE_S = 1e6
    rng = random.Random(seed)
    runs = 0
    with workplace("logstore-nomemory-") as place:
        make_stores(place)
        while runs < options.runs and time.monotonic() - begun < 60 * options.minutes:
            name = names[runs % len(names)]
            drawn = rng.randrange(OPERATIONS[name].allocations)
            nth = drawn if options.nth is None else options.nth
            ended = run(place, name, nth)
            runs += 1
            outcomes[ended.told or "FINDING"] += 1
            if not ended.told:
                what = f"{name} without its allocation {nth}: exit status {ended.status}"
                findings.tell(
                    f"{what}\n{ended.output}",
                    seed=seed,
                    command=f"python -m fuzz.nomemory --only {name} --nth {nth} --runs 1",
                )
            bar.update(runs, f"{findings.count} findings")
            if findings.enough:
                break
    bar.close()
    told = ", ".join(f"{count} x {outcome}" for outcome, count in outcomes.most_common())
    print(
        f"nomemory: {runs} runs of {len(names)} operations in "
        f"{duration(time.monotonic() - begun)}, seed {seed}: {told}; {findings.count} findings"
    )
    return 1 if findings.count else 0


if __name__ == "__main__":
    end_tidily()
    sys.exit(main())
