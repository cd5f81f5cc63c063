"""Running inputs in a child process, and what became of each.

Rules: the child is forked from a process with one thread, runs a batch in one session, and tells
the parent after each input.  A signal, a hang, too much memory and an exception are each an
outcome of the input that was being run; nothing that a child does ends the parent.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import resource
import select
import signal
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from fuzz.processes import run_and_leave
from fuzz.target import Target, Violation

MEMORY = "/dev/shm"  # where what is made for a batch is put, if it is there
STDERR = "stderr"
MEMORY_HARD_BYTES = 1 << 28  # beyond this an allocation fails in the child
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Outcome:
    """What one input led to; ``problem`` is empty if the invariants held."""

    label: str
    problem: str = ""
    detail: str = ""


def run_batch(target: Target, inputs: Sequence[bytes]) -> list[Outcome]:
    """Run inputs in one child: an outcome for each, up to the first that ended the child."""
    memory = MEMORY if os.path.isdir(MEMORY) else None
    with tempfile.TemporaryDirectory(prefix="logstore-fuzz-", dir=memory) as scratch:
        return _run_batch(target, inputs, scratch)


def _run_batch(target: Target, inputs: Sequence[bytes], scratch: str) -> list[Outcome]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        run_and_leave(lambda: _run_in_child(target, inputs, writer, scratch))
    os.close(writer)
    outcomes: list[Outcome] = []
    try:
        hung = _collect(target, reader, len(inputs), outcomes)
    finally:
        os.close(reader)
    if hung:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if hung:
        outcomes.append(Outcome("hang", "hang", f"not done after {target.seconds_max} s"))
    elif len(outcomes) < len(inputs):
        outcomes.append(_death(status, scratch))
    elif status:  # leaving the session failed: of all inputs, the last one is blamed
        outcomes[-1] = _death(status, scratch)
    return outcomes


def _death(status: int, scratch: str) -> Outcome:
    with open(os.path.join(scratch, STDERR), encoding="utf-8", errors="replace") as file:
        said = file.read()
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return Outcome(f"signal {name}", "signal", f"{name} {said}")
    return Outcome("exit", "exit", f"the child ended with status {status >> 8}: {said}")


def _collect(target: Target, reader: int, count: int, outcomes: list[Outcome]) -> bool:
    """Read the child's reports; True if it went silent for too long."""
    pending = b""
    while len(outcomes) < count:
        ready, _, _ = select.select([reader], [], [], target.seconds_max)
        if not ready:
            return True
        part = os.read(reader, 1 << 16)
        if not part:
            return False
        *lines, pending = (pending + part).split(b"\n")
        outcomes += [Outcome(*json.loads(line)) for line in lines]
    return False


# -- in the child ------------------------------------------------------------------------------


def _run_in_child(target: Target, inputs: Sequence[bytes], writer: int, scratch: str) -> None:
    tempfile.tempdir = scratch
    os.dup2(os.open(os.path.join(scratch, STDERR), os.O_WRONLY | os.O_CREAT), 2)
    faulthandler.disable()  # a signal is reported by the parent
    data_pages = int(open("/proc/self/statm", encoding="ascii").read().split()[5])  # noqa: SIM115
    limit = data_pages * _PAGE + MEMORY_HARD_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    gc.collect()
    gc.freeze()
    with target.session() as run:
        for data in inputs:
            outcome = _run_one(target, run, data)
            line = json.dumps([outcome.label, outcome.problem, outcome.detail]).encode() + b"\n"
            while line:
                line = line[os.write(writer, line) :]


def _run_one(target: Target, run: object, data: bytes) -> Outcome:
    assert callable(run)
    memory, started = _peak_bytes(), time.process_time()
    try:
        label = str(run(data))
    except BaseException as exc:
        places = traceback.extract_tb(exc.__traceback__)
        place = places[-2 if isinstance(exc, Violation) and len(places) > 1 else -1]
        label = f"{type(exc).__name__} at {os.path.basename(place.filename)}:{place.lineno}"
        kind = "memory" if isinstance(exc, MemoryError) else "exception"
        return Outcome(label, kind, "".join(traceback.format_exception(exc)))
    seconds = time.process_time() - started
    if seconds > target.cpu_seconds_max:
        return Outcome(label, "slow", f"{seconds:.1f} s of processor time")
    grown, allowed = _peak_bytes() - memory, target.memory_bytes_max(len(data))
    if grown > allowed:
        return Outcome(label, "memory", f"{grown} bytes for an input of {len(data)}")
    return Outcome(label)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def error_label(error: BaseException) -> str:
    """What an expected error says of the path that the input took."""
    places = traceback.extract_tb(error.__traceback__)
    inner = error.__cause__
    last = places[-1] if places else None
    where = f"{last.name}:{last.lineno}" if last else ""
    return f"{type(error).__name__} {where} {type(inner).__name__ if inner else ''}".rstrip()
