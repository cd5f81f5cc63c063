"""Processes that die or meet a fault at a given step: forked, one per job, from this program.

Rules: it reads a job a line, as JSON, and answers each with one line.  ``start`` forks a process
that opens the job's store, does the steps of its ``before`` list, arms the fault, does the steps
of its ``steps`` list, and disarms it.  ``wait`` answers with how it ended.  Each step is written
to the job's journal before it begins and when it has ended, so that the journal says what was
acked whatever becomes of the process.  Run with the library made from ``faults.c`` preloaded.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import logstore
from fuzz.processes import run_and_leave
from tests.support import boundary, inside

inside.no_idle_compaction().start()  # the steps alone decide what happens

LIBRARY = ctypes.CDLL(None)
OPTIONS: dict[str, Any] = {"sync_interval_s": 1e6, "write_timeout_s": 60.0}


class Journal:
    """What a process has begun and ended, in a file that outlives it."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def tell(self, *words: object) -> None:
        """Write one line."""
        os.write(self._fd, json.dumps(words).encode() + b"\n")


def as_value(spec: Any) -> Any:
    """The value that a step's specification means: a number means that many bytes."""
    return b"\x5a" * spec["bytes"] if isinstance(spec, dict) else spec


class Hammer:
    """Threads that write, read, delete, compact and vacuum, each by its own seed.

    A key has one writer, whose versions of it grow: so a thread knows what its own keys hold, and
    no reader may ever see a version older than one it has seen.
    """

    KEYS = 6

    def __init__(self, store: logstore.Store, journal: Journal, spec: dict[str, Any]) -> None:
        self._store = store
        self._journal = journal
        self._spec = spec
        self._numbers = count(1)  # steps of all threads; next() on it is atomic
        self._end = time.monotonic() + spec.get("seconds", 1e6)

    def run(self) -> None:
        """Until every thread has done its share."""
        threads = [
            threading.Thread(target=self._run, args=(number,))
            for number in range(self._spec["threads"])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _run(self, thread: int) -> None:
        try:
            self._work(thread)
        except BaseException:
            self._journal.tell("wrong", traceback.format_exc())

    def _work(self, thread: int) -> None:
        store, spec = self._store, self._spec
        worker, workers = spec["worker"], spec["workers"]
        chosen = random.Random(f"{spec['seed']} {worker} {thread}")
        own: dict[str, Any] = {}
        seen: dict[str, int] = {}
        for version in range(1, spec.get("steps", 1 << 40)):
            if time.monotonic() > self._end and version > spec.get("steps_min", 0):
                return
            name = chosen.choices(
                ("set", "large", "progress", "delete", "own", "other", "compact", "vacuum"),
                spec.get("weights", (30, 1, 8, 5, 20, 30, 0.5, 0.2)),
            )[0]
            key = f"{spec['prefix']} {worker} {thread} {chosen.randrange(self.KEYS)}"
            if name in ("set", "large"):
                value = version if name == "set" else {"bytes": 300_000 + version}
                self._step(["set", key, value], lambda k, v: store.set_result(k, as_value(v)))
                own[key] = value
            elif name == "progress":
                self._step(
                    ["progress", key, version],
                    lambda k, v: store.set_progress(k, logstore.TaskProgress(current=v)),
                )
            elif name == "delete":
                self._step(["delete", key], store.delete_result)
                own[key] = None
            elif name == "own":
                found = shown(store, key)
                assert found == own.get(key), (key, found, own.get(key))
            elif name == "other":
                other, number = chosen.randrange(workers), chosen.randrange(spec["threads"])
                key = f"{spec['prefix']} {other} {number} {chosen.randrange(self.KEYS)}"
                found = shown(store, key)
                if found is not None:
                    newest = found["bytes"] - 300_000 if isinstance(found, dict) else found
                    assert newest >= seen.get(key, 0), (key, newest, seen[key])
                    seen[key] = newest
            elif name == "compact":
                store.compact()
            else:
                try:
                    store.vacuum()
                except logstore.StoreBusyError:
                    pass  # another one is running

    def _step(self, step: list[Any], do: Callable[..., Any]) -> None:
        number = next(self._numbers) + 1_000_000
        self._journal.tell("begin", number, step)
        do(*step[1:])
        self._journal.tell("ack", number, None)


class Steps:
    """Does the steps of one job."""

    def __init__(self, path: str, journal: Journal) -> None:
        self._path = path
        self._journal = journal
        self._count = 0
        self.store: logstore.Store | None = None

    def run(self, steps: list[list[Any]]) -> None:
        """Do them in order, also after an error of the store's own, which goes to the journal."""
        for step in steps:
            self._count += 1
            self._journal.tell("begin", self._count, step)
            try:
                answer = self._do(*step)
            except logstore.LogstoreError as exc:
                self._journal.tell("error", self._count, type(exc).__name__, str(exc))
            else:
                self._journal.tell("ack", self._count, answer)

    def _do(self, name: str, *args: Any) -> Any:
        if name == "open":
            self.store = logstore.open(self._path, **{**OPTIONS, **(args[0] if args else {})})
            return None
        if name == "fail_log_once":
            boundary.fail_next("fdatasync")  # so that the log has to be replaced
            return None
        if name == "alarm":
            # The signal's default action ends the process as abruptly as SIGKILL does.
            signal.setitimer(signal.ITIMER_REAL, args[0])
            return None
        if name == "cycle":
            return self._cycle(**args[0])
        assert self.store is not None, "no step has opened the store"
        return getattr(self, "_" + name)(self.store, *args)

    def _cycle(self, rounds: int, prefix: str) -> None:
        """Open, write one result and close, again and again."""
        for number in range(rounds):
            step = 1_000_000 + number
            with logstore.open(self._path, **OPTIONS) as store:
                if number:
                    assert store.get_result(f"{prefix} {number - 1}") == number - 1
                self._journal.tell("begin", step, ["set", f"{prefix} {number}", number])
                store.set_result(f"{prefix} {number}", number)
                self._journal.tell("ack", step, None)

    def _hammer(self, store: logstore.Store, spec: dict[str, Any]) -> None:
        Hammer(store, self._journal, spec).run()

    def _set(self, store: logstore.Store, key: str, value: Any) -> None:
        store.set_result(key, as_value(value))

    def _group(self, store: logstore.Store, values: dict[str, Any]) -> None:
        for error in self._commit(store, values).values():
            if error is not None:
                raise error

    def _mixed(self, store: logstore.Store, values: dict[str, Any]) -> dict[str, str | None]:
        """As ``group``, with an outcome for each write."""
        errors = self._commit(store, values)
        return {
            key: None if error is None else type(error).__name__ for key, error in errors.items()
        }

    def _commit(
        self, store: logstore.Store, values: dict[str, Any]
    ) -> dict[str, BaseException | None]:
        calls = [("result", key, as_value(value)) for key, value in values.items()]
        return dict(zip(values, inside.in_one_group(store, *calls), strict=True))

    def _progress(self, store: logstore.Store, key: str, current: int) -> None:
        store.set_progress(key, logstore.TaskProgress(current=current))

    def _delete(self, store: logstore.Store, key: str) -> bool:
        return store.delete_result(key)

    def _pop(self, store: logstore.Store, key: str) -> None:
        store.pop_result(key)

    def _look(self, store: logstore.Store, keys: list[str]) -> dict[str, Any]:
        """What the store shows: each result as a step specifies it."""
        return {key: shown(store, key) for key in keys}

    def _compact(self, store: logstore.Store) -> None:
        store.compact()

    def _vacuum(self, store: logstore.Store) -> None:
        store.vacuum()

    def _backup(self, store: logstore.Store, destination: str) -> None:
        store.backup(destination)

    def _sync(self, store: logstore.Store) -> None:
        store.sync()

    def _close(self, store: logstore.Store) -> None:
        store.close()


def shown(store: logstore.Store, key: str) -> Any:
    """A result as a step specifies it, None if there is none."""
    try:
        value = store.get_result(key)
    except logstore.ResultError:
        return None
    return {"bytes": len(value)} if isinstance(value, bytes) else value


def run_job(job: dict[str, Any]) -> None:
    """Do a job, in a process of its own."""
    journal = Journal(job["journal"])
    steps = Steps(job["path"], journal)
    steps.run(job.get("before", []))
    fault = job.get("fault", {})
    LIBRARY.fault_arm(
        os.path.dirname(job["path"]).encode(),
        fault.get("ops", 0),
        fault.get("action", 0),
        ctypes.c_long(fault.get("nth", 0)),
        fault.get("errno", 0),
        fault.get("sticky", 0),
    )
    steps.run(job["steps"])
    LIBRARY.fault_disarm.restype = ctypes.c_long
    journal.tell("calls", LIBRARY.fault_disarm())
    steps.run(job.get("after", []))
    journal.tell("end")


def main() -> None:
    """Answer jobs until the input ends."""
    inside.between_system_calls(LIBRARY.fault_point)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = os.fork()
            if not answer:
                run_and_leave(partial(run_job, request["start"]))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
