"""What the store keeps of a schedule: taskiq's ``ScheduledTask`` without its id, as a value.

Rules: pure functions.  A definition comes from code, as the label ``schedule`` of a task, or was
added at run time.  The id of one that comes from code is made of its task and its timing, so that
it is the same in every process: a schedule whose arguments change keeps its slots, and one whose
timing changes is another one.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from logging import getLogger
from typing import TYPE_CHECKING, Any, NamedTuple

from taskiq.scheduler.scheduled_task import ScheduledTask

from logstore._engine.frames import KEY_BYTES_MAX
from logstore.taskiq.schedules.slots import Timing, microseconds

if TYPE_CHECKING:
    from taskiq.abc.broker import AsyncBroker

logger = getLogger(__name__)

OF_CODE = "of_code"  # key of a definition: it comes from the label of a task
_KINDS = ("cron", "interval", "time")


class Definition(NamedTuple):
    """A schedule as taskiq has it, and where it comes from."""

    task: ScheduledTask
    timing: Timing
    of_code: bool = False

    def value(self) -> dict[str, Any]:
        """Return what is stored."""
        found = {key: value for key, value in self.task.model_dump().items() if value is not None}
        del found["schedule_id"]
        if self.of_code:
            found[OF_CODE] = True
        return found


def defined(task: ScheduledTask, *, of_code: bool = False) -> Definition:
    """Return the definition of a schedule.  Raises ValueError for an unknown timing."""
    if task.cron is not None:
        timing = Timing(cron=task.cron, cron_offset=task.cron_offset)
    elif task.interval is not None:
        seconds = task.interval
        interval = seconds if isinstance(seconds, timedelta) else timedelta(seconds=seconds)
        timing = Timing(interval_us=interval // timedelta(microseconds=1))
    else:
        assert task.time is not None
        timing = Timing(time_us=max(1, microseconds(task.time)))
    timing.check()
    return Definition(task, timing, of_code)


def definition_of(schedule_id: str, value: Any) -> Definition:
    """Return the definition that is stored.  Raises ValueError, as pydantic's are."""
    if not isinstance(value, dict):
        raise ValueError(f"expected a dict, found {type(value).__name__}")
    task = ScheduledTask.model_validate({**value, "schedule_id": schedule_id})
    return defined(task, of_code=OF_CODE in value)


def definitions_in_code(
    broker: AsyncBroker, is_storable: Callable[[object], bool]
) -> dict[str, Definition]:
    """Return the schedules in the labels of a broker's tasks, by their ids.

    What is no schedule is left out, with a warning.
    """
    found: dict[str, Definition] = {}
    for name, task in broker.get_all_tasks().items():
        if task.broker is not broker:
            continue
        labels = {
            key: value
            for key, value in task.labels.items()
            if key != "schedule" and is_storable(value)
        }
        for fields in task.labels.get("schedule") or ():
            if not any(kind in fields for kind in _KINDS):
                continue
            try:
                one = _of_label(name, fields, labels, found)
            except ValueError as exc:
                logger.warning("The label schedule of %s is left out: %s", name, exc)
                continue
            found[one.task.schedule_id] = one
    return found


def _of_label(
    name: str, fields: Mapping[str, Any], labels: Mapping[str, Any], taken: Iterable[str]
) -> Definition:
    known = ("args", "kwargs", "cron", "cron_offset", "interval", "time", "task_id")
    task = ScheduledTask(
        task_name=name,
        labels={**fields.get("labels", {}), **labels},
        schedule_id="-",
        **{
            "args": [],
            "kwargs": {},
            **{key: fields[key] for key in known if fields.get(key) is not None},
        },
    )
    schedule_id = fields.get("schedule_id")
    if schedule_id is None:
        when = " ".join(
            f"{kind} {fields[kind]}" for kind in (*_KINDS, "cron_offset") if kind in fields
        )
        schedule_id = _free_id(f"{name} {when}", taken)
    return defined(task.model_copy(update={"schedule_id": schedule_id}), of_code=True)


def _free_id(wanted: str, taken: Iterable[str]) -> str:
    if len(wanted.encode()) > KEY_BYTES_MAX - 10:
        wanted = hashlib.sha256(wanted.encode()).hexdigest()
    found, number = wanted, 1
    while found in taken:
        number += 1
        found = f"{wanted} #{number}"
    return found


def is_known_here(broker: AsyncBroker, task_name: str) -> bool:
    """Return whether this process has the code of a task, or has the module without the task."""
    module, _, _ = task_name.rpartition(":")
    return task_name in broker.get_all_tasks() or (module != "__main__" and module in sys.modules)
