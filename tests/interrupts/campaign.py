"""One call after the other, interrupted at one place after the other, and what is left then.

Rules: after each interrupted call another thread and another process write and read at once, while
the main thread does nothing and the traceback is alive, as it is in a notebook; then the main
thread does; then everything that the process holds must be as before.  What was acked is there at
the end.  A world in which something has failed is abandoned.  Each campaign has a process of its
own, forked, so that what hangs in one hangs no other.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fuzz.processes import run_and_leave
from logstore import UnserializableValueError
from tests.support.bystanders import Holdings, ask, until
from tests.support.interrupts import (
    Interrupt,
    Outcome,
    Place,
    find_moments,
    find_places,
    interrupt,
    interrupt_meanwhile,
)
from tests.support.peers import Peer

from .world import PEER_CODE, TIMEOUT_S, World

LIMIT_S = 30.0  # of one try
KINDS: tuple[type[BaseException], ...] = (Interrupt, TimeoutError)
ATTEMPTS_S = 1.5  # where threads meet, a call may go another way than before


Interrupting = Callable[[Callable[[], object], Place, BaseException], Outcome]


@dataclass
class Scenario:
    """A call in a state of the store, and how to see that it had its effect."""

    call: Callable[[World], object]
    prepare: Callable[[World], object] = field(default=lambda world: None)
    complete: Callable[[World, Any], object] = field(default=lambda world, value: None)
    settle: Callable[[World], object] = field(default=lambda world: None)  # before anybody looks
    after: Callable[[World], object] = field(default=lambda world: None)
    here: bool = True  # whether this process has the store open all the time
    there: bool = True  # whether another process has
    waits: bool = False  # whether the others wait for results, too
    watched: bool = False  # whether changes are always watched
    moments: bool = True  # whether threads that the call waits for are stopped, too
    first_self: bool = False  # whether ``after`` comes first every other time
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Report:
    """What a campaign has found."""

    places: int = 0  # of the main thread
    moments: int = 0  # of threads that it waits for
    begun: int = 0
    reached: int = 0
    unreached: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def tries(self) -> int:
        """How often a call was to be interrupted."""
        return self.places * len(KINDS) + self.moments


def run(scenario: Scenario, *, failures_max: int) -> Report:
    """Interrupt a scenario's call at every place, with each kind of exception."""
    report = Report()
    while len(report.failures) < failures_max:
        before = report.begun
        if _run_in_a_process(scenario, report, failures_max) == 0 or report.begun == before:
            break
    return report


def _run_in_a_process(scenario: Scenario, report: Report, failures_max: int) -> int:
    """Go on behind what was begun; the exit status."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        with os.fdopen(writing, "w", buffering=1) as output:

            def tell(*words: object) -> None:
                output.write(json.dumps(words) + "\n")

            failures_left = failures_max - len(report.failures)
            run_and_leave(lambda: _Campaign(scenario, tell).run(report.begun, failures_left))
    os.close(writing)
    now = "before the first"
    with os.fdopen(reading) as lines:
        for line in lines:
            kind, *words = json.loads(line)
            if kind == "places":
                report.places, report.moments = words
            elif kind == "begin":
                report.begun += 1
                now = words[0]
            elif kind == "reached":
                report.reached += 1
            elif kind == "unreached":
                report.unreached.append(now)
            else:
                report.failures.append(f"{now}\n    {words[0]}")
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        report.failures.append(f"{now}\n    the process hung or has died: {status}")
    return status


class _Campaign:
    """In the process that does it."""

    def __init__(self, scenario: Scenario, tell: Callable[..., None]) -> None:
        self._scenario = scenario
        self._tell = tell
        gc.collect()
        gc.freeze()  # what is here already is not looked through again and again
        self._limit_time()
        self._peer = self._new_peer()
        self._abandoned: list[World] = []
        self._before: Holdings | None = None
        self._world = self._build()

    @staticmethod
    def _limit_time() -> None:
        """From now until the next time: else the process ends and tells where it was."""
        faulthandler.dump_traceback_later(LIMIT_S, exit=True)

    @staticmethod
    def _new_peer() -> Peer:
        peer = Peer()
        ask(peer, PEER_CODE)
        return peer

    def _build(self) -> World:
        scenario = self._scenario
        if self._peer.process.poll() is not None:
            self._peer = self._new_peer()
        self._before = None
        self._world = World(
            self._peer, here=scenario.here, there=scenario.there, **scenario.options
        )
        self._world.waits = scenario.waits
        if scenario.watched:
            self._world.watch()
        self._work()
        return self._world

    def _work(self) -> None:
        """What a call does that is not interrupted."""
        for _ in range(2):  # what is made once is made the first time
            self._scenario.prepare(self._world)
            self._judge(Outcome(False, None, self._call(), []), Interrupt())
            self._look(turn=0)

    def _call(self) -> object:
        return self._scenario.call(self._world)

    def _holdings(self) -> Holdings:
        return Holdings.now(self._world.directory)

    def _usual_holdings(self) -> Holdings:
        """What there is after each call, when the threads of the store have come to rest."""
        self._work()
        return Holdings.at_rest(self._world.directory)

    def run(self, start: int, failures_max: int) -> None:
        """Interrupt the call everywhere, but for the first ``start`` times."""
        self._before = self._usual_holdings()
        places = self._find(find_places)
        moments = self._find(find_moments) if self._scenario.moments else []
        self._tell("places", len(places), len(moments))
        tries = [
            (interrupt, place, kind, (number + turn) % 2)
            for number, place in enumerate(places)
            for turn, kind in enumerate(KINDS)
        ]
        tries += [
            (interrupt_meanwhile, place, KINDS[number % 2], number // 2 % 2)
            for number, place in enumerate(moments)
        ]
        failures = 0
        for how, place, kind, turn in tries[start:]:
            self._tell("begin", f"{how.__name__} {kind.__name__} at {place}")
            failures += self._try(how, place, kind, turn)
            if failures >= failures_max:
                return
        self._world.close()
        self._peer.close()

    def _find(self, find: Callable[[Callable[[], object]], list[Place]]) -> list[Place]:
        values: list[object] = []
        self._scenario.prepare(self._world)
        places = find(lambda: values.append(self._call()))
        self._judge(Outcome(False, None, values.pop(), []), Interrupt())
        self._look(turn=0)
        return places

    def _try(self, how: Interrupting, place: Place, kind: type[BaseException], turn: int) -> int:
        """Interrupt the call at one place; the number of failures."""
        self._limit_time()
        end = time.monotonic() + ATTEMPTS_S
        while time.monotonic() < end:
            self._scenario.prepare(self._world)
            error = kind()
            outcome = how(self._call, place, error)
            fired = outcome.fired
            problems: list[str] = []
            try:
                self._judge(outcome, error)
            except AssertionError as exc:
                problems.append(f"the call: {exc}")
            del outcome
            abandoned = False
            try:
                self._look(turn, error)
            except Exception as exc:
                problems.append(f"afterwards: {type(exc).__name__}: {exc}")
                abandoned = True
            if abandoned:
                error.__traceback__ = error.__context__ = error.__cause__ = None
                self._begin_again()
            for problem in problems:
                self._tell("failure", problem)
            if fired:
                self._tell("reached")
            if fired or problems:
                return len(problems)
        self._tell("unreached")
        return 0

    def _begin_again(self) -> None:
        """Leave everything as it is; threads that hang in it go on hanging."""
        world = self._world
        self._abandoned.append(world)  # so that nothing of it goes away later
        if world.there and world.peer.process.poll() is None:
            with contextlib.suppress(Exception):
                ask(world.peer, "store.close()")
        self._build()
        self._before = self._usual_holdings()

    def _judge(self, outcome: Outcome, error: BaseException) -> None:
        """The call has raised the error, or had its effect."""
        self._scenario.settle(self._world)
        others = [exc for exc in outcome.unraisable if exc is not error]
        assert not others, f"unraisable {others!r}"
        if outcome.raised is None:
            self._scenario.complete(self._world, outcome.value)
        elif isinstance(outcome.raised, UnserializableValueError) and isinstance(error, Exception):
            # While a value is converted, what is raised may be its own code's: nothing was written.
            assert outcome.raised.__cause__ is error, f"raised {outcome.raised!r}"
        else:
            assert outcome.raised is error, f"raised {outcome.raised!r}"

    def _look(self, turn: int, error: BaseException | None = None) -> None:
        """Nothing is left behind by the call, and everybody can go on."""
        scenario, world = self._scenario, self._world
        asked = [world.ask_peer, world.ask_thread]
        if turn:
            asked.reverse()
        if scenario.first_self and turn:
            scenario.after(world)
        for one in asked:
            one()
        world.ask_self()
        if error is not None:  # no reference to a handle that the call made is left
            error.__traceback__ = error.__context__ = error.__cause__ = None
            gc.collect()
        if not (scenario.first_self and turn):
            scenario.after(world)
        world.decide()
        before = self._before
        if before is not None:
            until(lambda: not self._holdings().beyond(before), TIMEOUT_S)
            assert not (found := self._holdings().beyond(before)), found
