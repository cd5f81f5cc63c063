"""The check of the crash campaigns: what must hold in every state that a power cut can leave.

Rules: opening raises nothing; each client is where `fuzz.clients` allows it to be; what a living
process was shown and made durable is there; check() is clean; nothing else is in the store; it can
be written, closed and opened again and then shows the same; at rest it is one file.
"""

from __future__ import annotations

import os
from pathlib import Path

import logstore
from fuzz import version1
from fuzz.clients import (
    Script,
    State,
    digest_of,
    least_durable,
    listed,
    match,
    match_exactly,
    observe,
)
from fuzz.crash_plans import Run, run_of

FILE = "app.db"
RECOVERIES_MAX = 5
COMPACT_AT = 1 << 14


class Told:
    """What had been told when the power was cut."""

    def __init__(self, lines: list[str]) -> None:
        self.run: Run = run_of(lines[0])
        self.acked: dict[str, int] = {}
        self.final: dict[str, str] = {}
        self.kept: dict[str, int] = {}  # how many operations a close had made durable
        for line in lines[1:]:
            words = line.split()
            if words[0] == "final":
                self.final[words[1]] = words[2]
            elif words[0] == "closed":
                self.kept = {k: v for k, v in self.acked.items() if k not in self.final}
            else:
                self.acked[words[0]] = max(int(words[1]), self.acked.get(words[0], 0))

    def clients(self) -> list[Script]:
        """All that can have written."""
        recoveries = tuple(f"r{number}" for number in range(RECOVERIES_MAX))
        return [self.run.client(name) for name in self.run.plan.clients + recoveries]


def check(directory: Path, lines: list[str]) -> None:
    """Judges a state. Raises AssertionError, or what the store raises, if it does not hold."""
    told = Told(lines)
    path = os.fspath(directory / FILE)
    clients = told.clients()
    if told.run.plan.version == version1.OLD:
        version1.check_old_or_new(path)
        with logstore.open(path, mode="r") as reader:
            _look(reader, told, clients)
    with logstore.open(path, compact_at=COMPACT_AT) as store:
        seen = _look(store, told, clients)
        store.set_result("check", 1)
        _same(seen, _look(store, told, clients), "after a write")
        report = store.check()
        assert report.ok, report.problems
    _at_rest(directory)
    with logstore.open(path, compact_at=COMPACT_AT) as store:
        _same(seen, _look(store, told, clients), "after opening again")
        assert store.get_result("check") == 1
    _at_rest(directory)
    _backups(directory, told)


def _look(store: logstore.Store, told: Told, clients: list[Script]) -> dict[str, State]:
    plan = told.run.plan
    seen: dict[str, State] = {}
    expected: set[str] = set()
    for client in clients:
        name = client.client
        acked = told.acked.get(name, 0)
        ops = plan.ops if name in plan.clients else 1
        least = max(told.kept.get(name, 0), least_durable(client, acked, sync=plan.sync))
        found = seen[name] = observe(store, client, ops)
        expected |= listed(name, match(client, found, least, acked))
        if name in told.final:
            assert digest_of(found) == told.final[name], (
                f"client {name}: a living process had been shown something else"
            )
    there = {task.task_id for task in store.tasks()} - {"check"}
    assert there == expected, f"tasks() lists {sorted(there)}, expected {sorted(expected)}"
    return seen


def _same(seen: dict[str, State], again: dict[str, State], when: str) -> None:
    assert seen == again, f"{when} the store shows something else: {seen}, then {again}"


def _at_rest(directory: Path) -> None:
    found = [name for name in sorted(os.listdir(directory)) if not name.startswith("backup-")]
    assert found == [FILE], f"at rest there is {found}"


def _backups(directory: Path, told: Told) -> None:
    """Every backup that was acked is there, and whatever has a backup's name is whole."""
    for client in told.clients():
        for index in range(told.run.plan.ops):
            if client.op(index).name != "backup":
                continue
            file = directory / f"backup-{client.client}-{index}"
            if index < told.acked.get(client.client, 0):
                assert file.exists(), f"{file.name} was acked and is not there"
            if file.exists():
                with logstore.open(file) as store:
                    match_exactly(client, observe(store, client, told.run.plan.ops), index)
                    assert store.check().ok
