"""A run of a fuzzer: choose, mutate, run, keep what does something new, save what is wrong.

Rules: everything follows from the seed, the corpus and the number of executions.  A finding is
saved before it is printed, and is named by its content; of findings with one cause (the same
problem in the same place) the first few are kept.
"""

from __future__ import annotations

import hashlib
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fuzz.child import Outcome, run_batch
from fuzz.mutator import mutate
from fuzz.target import Target, save

SAME_CAUSE_MAX = 2
_CORPUS_MAX = 2000


@dataclass
class Report:
    """What a run has done."""

    target: str
    seed: int
    executions: int = 0
    seconds: float = 0.0
    labels: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    saved: list[Path] = field(default_factory=list)

    def line(self) -> str:
        """The figures in one line."""
        rate = self.executions / self.seconds if self.seconds else 0.0
        return (
            f"{self.target}: {self.executions} executions in {self.seconds:.1f} s "
            f"({rate:.0f}/s), {len(self.labels)} outcomes, {len(self.causes)} findings"
        )


def run_loop(
    target: Target,
    seed: int,
    *,
    executions: int | None = None,
    seconds: float | None = None,
    save_in: Path | None = None,
    keep_in: Path | None = None,
) -> Report:
    """Run the corpus, and then mutations until ``executions`` or ``seconds`` are spent.

    Findings are saved in ``save_in``, inputs that did something new in ``keep_in``.
    """
    rng = random.Random(f"{target.name}/{seed}")
    report = Report(target.name, seed)
    corpus = [data[: target.bytes_max] for data in target.corpus()]
    if executions is not None:
        executions += len(corpus)
    started = time.monotonic()
    queue, first = list(corpus), len(corpus)
    while True:
        report.seconds = time.monotonic() - started
        left = target.batch if executions is None else executions - report.executions
        if left <= 0 or (seconds is not None and report.seconds >= seconds):
            return report
        count = min(target.batch, left)
        while len(queue) < count:
            queue.append(_next(rng, target, corpus))
        inputs, queue = queue[:count], queue[count:]
        outcomes = run_batch(target, inputs)
        queue = inputs[len(outcomes) :] + queue
        for data, found in zip(inputs, outcomes, strict=False):
            report.executions += 1
            outcome = judged(target, data, found)
            if outcome.problem:
                _note(report, target, data, outcome, save_in)
            elif outcome.label not in report.labels and len(corpus) < _CORPUS_MAX:
                corpus.append(data)
                if keep_in is not None and report.executions > first:
                    save(keep_in / target.name / _digest(data), data)
            report.labels[outcome.label] += 1


def judged(target: Target, data: bytes, outcome: Outcome) -> Outcome:
    """The outcome, which is no problem if it is a known limitation."""
    known = target.known(data, outcome.problem) if outcome.problem else ""
    return Outcome(f"{outcome.label}, known: {known}") if known else outcome


def _next(rng: random.Random, target: Target, corpus: Sequence[bytes]) -> bytes:
    return mutate(
        rng, rng.choice(corpus), corpus, bytes_max=target.bytes_max, extra=target.mutations
    )


def _note(
    report: Report, target: Target, data: bytes, outcome: Outcome, save_in: Path | None
) -> None:
    cause = f"{outcome.problem}: {outcome.label}"
    report.causes[cause] += 1
    if report.causes[cause] > SAME_CAUSE_MAX or save_in is None:
        return
    path = save(save_in / target.name / f"{outcome.problem}-{_digest(data)}", data)
    report.saved.append(path)
    print(
        f"{target.name}: {cause} (seed {report.seed}, execution {report.executions})\n"
        f"{outcome.detail.rstrip()}\n  replay: python -m fuzz --replay {path}",
        file=sys.stderr,
        flush=True,
    )


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def replay(target: Target, inputs: Sequence[bytes]) -> list[Outcome]:
    """An outcome for each input, those behind one that ends its child included."""
    outcomes: list[Outcome] = []
    while len(outcomes) < len(inputs):
        rest = inputs[len(outcomes) : len(outcomes) + target.batch]
        found = run_batch(target, rest)
        outcomes += [judged(target, *pair) for pair in zip(rest, found, strict=False)]
    return outcomes
