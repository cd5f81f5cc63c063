"""kill -9 of processes at random moments: `python -m fuzz.kills --help`.

Invariants: everything that a killed process had acked, progress included, is there, with its
value; what it was doing is done or not, and stays so, also when the others die later; a living
peer sees the same; check() is clean; the store can be opened, written and closed, and is one file
then. Each round has a store, some clients that write, delete, compact and vacuum until they are
killed, and in about half of the rounds a peer that stays.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

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
from fuzz.clients import Script, digest_of, match, observe, perform
from fuzz.processes import Child, Talk, mount_at, start, wait_for_lines

FILE = "app.db"
ROUND_KILLS = 25
CLIENTS = 4
MOMENT_S = 0.04  # a victim lives up to so long after the last kill
OPS_MAX = 400  # or for up to so many operations
PEEK_S = 0.002
STUCK_S = 90.0
OPTIONS: tuple[dict[str, Any], ...] = (
    {"compact_at": 1 << 14},
    {"compact_at": 1 << 16},
    {"compact_at": 1 << 20},
    {"compact_at": 1 << 15, "sync": "interval", "sync_interval_s": 0.01},
)
KINDS = ("busy", "busy", "sealing", "sealing", "compacting", "vacuuming", "mixed", "large")


class WrongError(Exception):
    """An invariant does not hold."""


def main(argv: list[str] | None = None) -> int:
    """Runs the campaign and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.kills")
    add_common(parser)
    parser.add_argument("--kills", type=int, default=60, help="how many processes to kill")
    parser.add_argument("--round", type=int, help="only the round of that number")
    parser.add_argument(
        "--containers",
        action="store_true",
        help="each process has pid 1 in a namespace of its own, and every other one sees the "
        "directory at another mount (needs root)",
    )
    options = parser.parse_args(argv)
    seed = commit_seed() if options.seed is None else options.seed
    findings = Findings(options.findings, first=options.first)
    begun = time.monotonic()
    bar = Bar(options.kills, "kills")
    kills = acked = rounds = 0
    while kills < options.kills and time.monotonic() - begun < 60 * options.minutes:
        number = rounds if options.round is None else options.round
        with workplace("logstore-kills-") as place:
            kills_max = min(ROUND_KILLS, options.kills - kills)
            done = Round(seed, number, place, kills_max, contained=options.containers)
            try:
                done.run()
            except WrongError as error:
                kept = findings.keep(place, f"kills-{seed}-{number}")
                findings.tell(
                    f"kills, round {number}: {error}\n  the store is kept in {kept}", seed=seed,
                    command=f"python -m fuzz.kills --seed {seed} --round {number}"
                    + " --containers" * options.containers,
                )  # fmt: skip
            finally:
                done.end()
            kills += done.kills
            acked += sum(done.acked.values())
        rounds += 1
        bar.update(kills, f"{findings.count} findings")
        if options.round is not None or findings.enough:
            break
    bar.close()
    print(
        f"kills: {kills} of processes in {rounds} rounds, {acked} acked operations, "
        f"{findings.count} findings, seed {seed}, {duration(time.monotonic() - begun)}"
    )
    return 1 if findings.count else 0


class Round:
    """The life of one store, in a directory that has nothing else in it."""

    def __init__(self, seed: int, number: int, place: Path, kills: int, *, contained: bool) -> None:
        self._rng = random.Random(f"kills {seed} {number}")
        self._seed = seed * 1000 + number
        self._contained = contained
        self._home = place / "store"
        self._home.mkdir()
        self._mount = place / "mount"
        self._errors = place / "errors"
        self._errors.mkdir()
        self.path = os.fspath(self._home / FILE)
        self.kills = 0
        self._kills_max = kills
        self._children: list[Child] = []  # all that were ever started
        self._victims: list[Child] = []
        self._peer: Child | None = None
        self._kinds: dict[str, str] = {}
        self.acked: dict[str, int] = {}
        self._dead: dict[str, int] = {}
        self._decided: dict[str, str] = {}

    def run(self) -> None:
        """Kills, looks, kills. Raises WrongError."""
        rng = self._rng
        with_peer = rng.random() < 0.5
        if with_peer:
            self._peer = self._start("peer", lambda talk: _peer(self.path, talk))
        while self.kills < self._kills_max:
            while len(self._victims) < CLIENTS:
                self._add_victim()
            chosen = rng.choice(self._victims)
            self._let_work(chosen)
            all_of_them = rng.random() < (0.2 if with_peer else 0.5)
            self._kill(list(self._victims) if all_of_them else [chosen])
            if self._peer is not None:
                self._ask_peer()
                if rng.random() < 0.05:
                    peer, self._peer = self._peer, None
                    self._reap([peer])
                    self.kills += 1
            elif not self._victims:
                self._look_alone()
        self._kill(list(self._victims))
        if self._peer is not None:
            self._ask_peer()
            self._peer.hush()
            self._await_end(self._peer)
            self._peer = None
            self._at_rest()
        self._look_alone()

    def end(self) -> None:
        """Leaves nothing running."""
        with undisturbed():
            for child in self._children:
                child.signal(signal.SIGKILL)
                child.end()

    def _let_work(self, chosen: Child) -> None:
        """Until a random moment: soon, or after some operations of one of them."""
        rng = self._rng
        if rng.random() < 0.4:
            self._note(
                wait_for_lines(self._victims, rng.random() * rng.choice((0.1, 1)) * MOMENT_S)
            )
            return
        enough = self.acked[chosen.name] + rng.randrange(1, OPS_MAX)
        deadline = time.monotonic() + STUCK_S
        while self.acked[chosen.name] < enough:
            self._note(wait_for_lines(self._victims, rng.random() * PEEK_S))
            for child in self._victims:
                if child.error:
                    raise WrongError(f"{child.name} ended by itself:\n{child.error}")
            if time.monotonic() > deadline:
                raise WrongError(f"{chosen.name} does nothing any more")

    def _start(self, name: str, work: Any) -> Child:
        others = [*self._victims, *([self._peer] if self._peer else [])]
        with undisturbed():
            child = start(name, work, self._errors / name, others, contained=self._contained)
            self._children.append(child)
        return child

    def _add_victim(self) -> None:
        name = f"w{len(self._kinds)}"
        kind = self._kinds[name] = self._rng.choice(KINDS)
        options = self._rng.choice(OPTIONS)
        script = Script(kind, self._seed, name)
        self.acked[name] = 0
        elsewhere = self._contained and len(self._kinds) % 2

        def work(talk: Talk) -> None:
            path = self.path
            if elsewhere:
                mount_at(self._mount, self._home)
                path = os.fspath(self._mount / FILE)
            _victim(path, script, options, talk)

        self._victims.append(self._start(name, work))

    def _note(self, heard: dict[str, list[str]]) -> None:
        for name, lines in heard.items():
            if lines:
                self.acked[name] = int(lines[-1])

    def _kill(self, victims: list[Child]) -> None:
        for child in victims:
            self._victims.remove(child)
        self._reap(victims)
        for child in victims:
            self._note({child.name: child.drain()})
            self._dead[child.name] = self.acked[child.name]
        self.kills += len(victims)

    def _reap(self, children: list[Child]) -> None:
        for child in children:
            child.signal(signal.SIGKILL)
        for child in children:
            code = child.end()
            if child.error or code != -signal.SIGKILL:
                raise WrongError(f"{child.name} ended by itself, exit code {code}:\n{child.error}")

    def _ask_peer(self) -> None:
        assert self._peer is not None
        fresh = {k: v for k, v in self._dead_kinds().items() if k not in self._decided}
        self._peer.say(json.dumps({"dead": fresh}))
        deadline = time.monotonic() + STUCK_S
        heard: list[str] = []
        while not heard:
            lines = wait_for_lines([self._peer], 0.5).get("peer", [])
            if self._peer.error or time.monotonic() > deadline:
                raise WrongError(f"the peer: {self._peer.error or 'says nothing any more'}")
            heard += lines
        self._decided |= json.loads(heard[-1])

    def _dead_kinds(self) -> dict[str, tuple[str, int, int]]:
        return {name: (self._kinds[name], self._seed, acked) for name, acked in self._dead.items()}

    def _look_alone(self) -> None:
        """Opens the store with no other process there, looks, writes, closes, looks again."""

        def look(talk: Talk) -> None:
            decided = dict(self._decided)
            for _ in range(2):
                with logstore.open(self.path) as store:
                    store.set_result("looking", 1)
                    decided = judge(store, self._dead_kinds(), decided)
                    report = store.check()
                    assert report.ok, report.problems
            talk.say(json.dumps(decided))

        child = self._start("look", look)
        self._await_end(child)
        self._decided = json.loads(child.drain()[-1])
        self._at_rest()

    def _await_end(self, child: Child) -> None:
        deadline = time.monotonic() + STUCK_S
        while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if time.monotonic() > deadline:
                child.signal(signal.SIGKILL)
                child.end()
                raise WrongError(f"{child.name} does not come to its end")
            time.sleep(0.001)
        if child.end():
            raise WrongError(f"{child.name}:\n{child.error}")

    def _at_rest(self) -> None:
        found = sorted(os.listdir(self._home))
        if found != [FILE]:
            raise WrongError(f"at rest there is {found}")


@lru_cache(maxsize=256)
def script_of(kind: str, seed: int, name: str) -> Script:
    """A script is the same for each caller, so a process makes it once."""
    return Script(kind, seed, name)


def judge(store: logstore.Store, dead: dict[str, Any], decided: dict[str, str]) -> dict[str, str]:
    """What the store shows of the dead is what they acked, and what was seen before.

    Returns what was seen now. Raises AssertionError.
    """
    seen: dict[str, str] = {}
    for name, (kind, seed, acked) in dead.items():
        client = script_of(kind, seed, name)
        found = observe(store, client, acked + 1)
        match(client, found, acked, acked)
        seen[name] = digest_of(found)
        assert decided.get(name, seen[name]) == seen[name], (
            f"client {name}: what had been decided has changed: {found}"
        )
    return seen


def _victim(path: str, client: Script, options: dict[str, Any], talk: Talk) -> None:
    store = logstore.open(path, **options)
    index = 0
    while True:
        perform(store, client, index)
        index += 1
        talk.say(str(index))


def _peer(path: str, talk: Talk) -> None:
    """Has the store open, and looks when it is asked to."""
    with logstore.open(path) as store:
        number = 0
        while (line := talk.hear()) is not None:
            asked = json.loads(line)
            number += 1
            store.set_result("peer", number)  # decides what the dead have left undecided
            talk.say(json.dumps(judge(store, asked["dead"], {})))
            assert store.get_result("peer") == number


if __name__ == "__main__":
    end_tidily()
    sys.exit(main())
