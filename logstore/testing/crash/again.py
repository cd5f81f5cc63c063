"""Crashes during recovery: explore the states after a second crash.

Rules: some states are drawn from a recording. In each, the recovery workload is recorded again; all
lines acknowledged before count as acknowledged from the start. The crash states of the recovery are
judged in turn. So data acknowledged in the first run must also survive a crash of the recovery, to
any depth.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from logstore.testing.crash.checking import Check
from logstore.testing.crash.explorer import Exploration, Workload, explore, sample_states
from logstore.testing.crash.materialise import write_state
from logstore.testing.crash.recording import Recording
from logstore.testing.crash.states import Builder

__all__ = ["explore_again"]


def explore_again(
    recording: Recording,
    recovery: Workload,
    check: Check,
    *,
    into: str | os.PathLike[str],
    states: int = 20,
    depth: int = 1,
    max_states: int = 200,
    seed: int = 0,
    volatile: Sequence[str] = (),
    exit_codes: Sequence[int] = (0,),
    workers: int | None = None,
    isolation: str = "fork",
    state_timeout_s: float = 30.0,
    max_violations: int = 10,
    keep: bool = False,
) -> Exploration:
    """Record `recovery` on `states` crash states of a recording and judge its crash states.

    With `depth` 2, the recovery of a crashed recovery is crashed as well: one state of the recovery
    of each first state is used again, and so on. `max_states` is for each recovery. Recordings are
    made in the directory `into`; recordings without violations are removed. The other arguments are
    those of `explore`. Return the sum of all; raise the exceptions of `explore`.
    """
    total = Exploration(seed=seed)
    rng = random.Random(f"again:{seed}")
    place = Path(into)
    place.mkdir(parents=True, exist_ok=True)

    def once(base: Recording, state: str, target: Path) -> Exploration:
        builder = Builder(base.history, journaled=base.journaled, seed=seed)
        disk = builder.state(state)
        prefix = "crash-again-"
        with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as home:
            store = Path(home, "store")
            write_state(disk, store)
            return explore(
                recovery, check, store, recording=target, fs=recording.fs,
                volatile=volatile, base_acks=base.base_acks + builder.acks(),
                exit_codes=exit_codes, seed=seed, max_states=max_states, workers=workers,
                isolation=isolation, state_timeout_s=state_timeout_s,
                max_violations=max_violations, keep=keep, shown=False,
            )  # fmt: skip

    for number, first in enumerate(sample_states(recording, states, seed=seed)):
        base, state = recording, first
        targets = [place / f"{number}-{level}" for level in range(depth)]
        found: list[Exploration] = []
        for target in targets:
            found.append(once(base, state, target))
            base = Recording.load(target)
            state = rng.choice(sample_states(base, 20, seed=seed))
        for exploration in found:
            total.points += exploration.points
            total.states += exploration.states
            total.same += exploration.same
            total.seconds += exploration.seconds
            total.violations += exploration.violations
            total.warnings += [text for text in exploration.warnings if text not in total.warnings]
        if all(exploration.ok for exploration in found):
            for target in targets:
                shutil.rmtree(target)
        if len(total.violations) >= max_violations:
            break
    return total
