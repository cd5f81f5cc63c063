"""Which slots taskiq's scheduler is to send next.

Rules: used by one thread at a time, and touches no file.  taskiq's own loop decides by what it
remembers, so that it would send a slot again after a restart, and an interval from its start on.
So each slot is given to it by itself: as a schedule by time, with an id of its own, which it sends
once.  The schedule's id takes its place when it is sent.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Iterable, Iterator
from typing import Literal, NamedTuple

from pydantic import PrivateAttr
from taskiq.scheduler.scheduled_task import ScheduledTask

from logstore._engine.schedules import Schedule
from logstore.taskiq.schedules.definitions import Definition
from logstore.taskiq.schedules.slots import SECOND_US, last_slot, moment, slots

Missed = Literal["skip", "send", "send_all"]

AHEAD_US = 5 * SECOND_US  # how early a slot is given to the scheduler
BATCH = 64  # slots of one schedule at once
RETRY_S = 10.0  # after which a slot that was to be sent, and is not claimed, is given again

_At = tuple[bytes, bytes, int]  # id and definition of a schedule, slot
_numbers = itertools.count()


class Known(NamedTuple):
    """A schedule of the store and what its definition says."""

    schedule: Schedule
    definition: Definition

    @property
    def once(self) -> bool:
        """Whether nothing is left of it when it was sent."""
        return bool(self.definition.timing.time_us) and not self.definition.of_code

    def times_us(self, now_us: int) -> tuple[int, int]:
        """Return since when its slots count, and behind which time the next one lies.

        What lies far ahead of the clock is of a time when the clock was wrong.
        """
        timing, (_, _, since_us, last_us) = self.definition.timing, self.schedule
        wrong_us = now_us + timing.tolerance_us()
        if since_us > wrong_us:
            since_us = since_us % timing.interval_us if timing.interval_us else 0
        return since_us, last_us if last_us <= wrong_us else now_us - timing.grace_us()

    def is_missed(self, slot_us: int, now_us: int) -> bool:
        """Return whether it is too late for a slot; never for one by time."""
        timing = self.definition.timing
        return not timing.time_us and slot_us <= now_us - timing.grace_us()


class Slot(ScheduledTask):
    """One slot of a schedule, as taskiq's scheduler gets it."""

    _known: Known = PrivateAttr()
    _slot_us: int = PrivateAttr()
    _tried_at: float | None = PrivateAttr(default=None)

    @classmethod
    def of(cls, known: Known, slot_us: int) -> Slot:
        """Return a slot that has not been sent."""
        task = known.definition.task
        slot = cls(
            task_name=task.task_name,
            labels=task.labels,
            args=task.args,
            kwargs=task.kwargs,
            task_id=task.task_id,
            schedule_id=f"{task.schedule_id} at {moment(slot_us).isoformat()} {next(_numbers)}",
            time=moment(slot_us),
        )
        slot._known, slot._slot_us = known, slot_us
        return slot


class Plan:
    """The slots of all schedules that are due, or will be in a moment."""

    def __init__(self, missed: Missed) -> None:
        self._missed = missed
        self._given: dict[_At, Slot] = {}
        self._looked: dict[Schedule, int] = {}  # up to when it has missed nothing

    def slots(self, schedules: Iterable[Known], now_us: int) -> list[Slot]:
        """Return the slots to send, those of a schedule in their order.

        Some may have been tried a moment ago: these are not to be sent.
        """
        given: dict[_At, Slot] = {}
        looked: dict[Schedule, int] = {}
        for known in schedules:
            for slot_us in self._due(known, now_us, looked):
                at = known.schedule.key, known.schedule.definition, slot_us
                slot = self._given.get(at)
                tried_at = None if slot is None else slot._tried_at
                if slot is None or (tried_at and time.monotonic() - tried_at > RETRY_S):
                    slot = Slot.of(known, slot_us)
                given[at] = slot
        self._given, self._looked = given, looked
        return list(given.values())

    def _due(self, known: Known, now_us: int, looked: dict[Schedule, int]) -> Iterator[int]:
        timing = known.definition.timing
        since_us, after_us = known.times_us(now_us)
        if not timing.time_us:
            fresh_us = now_us - timing.grace_us()
            if after_us < fresh_us and self._missed != "skip":
                missed = self._missed_ones(known, since_us, after_us, fresh_us)
                if not missed:
                    looked[known.schedule] = fresh_us
                yield from missed
            after_us = max(after_us, fresh_us)
        yield from itertools.islice(slots(timing, since_us, after_us, now_us + AHEAD_US), BATCH)

    def _missed_ones(
        self, known: Known, since_us: int, after_us: int, until_us: int
    ) -> Collection[int]:
        timing = known.definition.timing
        after_us = max(after_us, self._looked.get(known.schedule, 0))
        if self._missed == "send_all":
            found = slots(timing, since_us, after_us, until_us)
            return list(itertools.islice(found, BATCH))
        last = last_slot(timing, since_us, after_us, until_us)
        return [] if last is None else [last]
