"""The schedules in a store: read, decoded, and written.

Rules: every function may wait for the disk.  What cannot be decoded is left out, with a warning
when it is met first.
"""

from __future__ import annotations

from logging import getLogger
from typing import TYPE_CHECKING

from logstore._arguments import task_key
from logstore._engine import clock
from logstore._engine.queuetable import all_schedules, schedule_in
from logstore._engine.schedules import Schedule
from logstore._engine.writes import PutSchedule
from logstore.errors import (
    CorruptRecordError,
    DecodeError,
    UnserializableValueError,
    ValueTooLargeError,
)
from logstore.taskiq.schedules.definitions import Definition, definition_of
from logstore.taskiq.schedules.plan import Known
from logstore.taskiq.schedules.slots import SECOND_US

if TYPE_CHECKING:
    from logstore._handle import Handle

logger = getLogger(__name__)


class Stored:
    """The schedules of one store, with their definitions, which are decoded once."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._decoded: dict[bytes, tuple[bytes, Definition | None]] = {}

    def read(self, handle: Handle) -> list[Known]:
        """Return all schedules that can be read."""
        schedules = all_schedules(handle.writable_engine)
        found = [self._known(handle, schedule) for schedule in schedules]
        decoded = self._decoded  # another thread may do the same
        self._decoded = {one.key: decoded[one.key] for one in schedules if one.key in decoded}
        return [known for known in found if known is not None]

    def find(self, handle: Handle, schedule_id: str) -> Known | None:
        """Return a schedule.  Raises CorruptRecordError."""
        engine, key = handle.writable_engine, task_key(schedule_id)
        schedule = schedule_in(engine, key, engine.view().find_schedule(key))
        return None if schedule is None else self._known(handle, schedule)

    def _known(self, handle: Handle, schedule: Schedule) -> Known | None:
        found = self._decoded.get(schedule.key)
        if found is None or found[0] != schedule.definition:
            found = schedule.definition, self._decode(handle, schedule)
            self._decoded[schedule.key] = found
        definition = found[1]
        return None if definition is None else Known(schedule, definition)

    def _decode(self, handle: Handle, schedule: Schedule) -> Definition | None:
        schedule_id = schedule.key.decode()
        try:
            return definition_of(schedule_id, handle.decoded(schedule.definition))
        except (DecodeError, ValueError) as exc:
            logger.warning("The schedule %s of %s is left out: %s", schedule_id, self._path, exc)
            return None

    def put_write(self, handle: Handle, definition: Definition) -> PutSchedule:
        """Return the write that adds or changes a schedule; its slots are from now on."""
        timing = definition.timing
        schedule_id = definition.task.schedule_id
        try:
            known = self.find(handle, schedule_id)
        except CorruptRecordError:
            known = None  # it replaces damage
        now_us = clock.now_us()
        since_us = now_us // SECOND_US * SECOND_US + SECOND_US
        if timing.time_us:
            since_us = min(since_us, timing.time_us)
        return PutSchedule(
            task_key(schedule_id),
            handle.encoded(definition.value()),
            since_us,
            restarts=known is None or known.definition.timing != timing,
        )


def is_storable(handle: Handle, value: object) -> bool:
    """Return whether the store can keep a value."""
    try:
        handle.encoded(value)
    except (UnserializableValueError, ValueTooLargeError):
        return False
    return True
