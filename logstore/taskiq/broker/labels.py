"""How a task is sent, from its labels.

Rules: a label is a number or its text, as taskiq passes both; None and "None" are no label.  What a
worker or a middleware could not read later is refused when the task is sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from taskiq.acks import parse_acknowledge_type

from logstore._engine.frames import QUEUE_NAME_BYTES_MAX
from logstore._engine.messages import PRIORITY_MAX
from logstore.queue import Sending
from logstore.taskiq.errors import LabelError

DELAY_S_MAX = 1e9


def sending(task_id: str, labels: Mapping[str, Any], max_attempts: int) -> Sending:
    """Return how a task with these labels is put into a queue.  Raises LabelError."""
    found = checked(labels)
    return Sending(
        task_id,
        priority=found.get("priority", 0),
        delay_s=found.get("delay"),
        max_attempts=max_attempts,
    )


def queue_name(labels: Mapping[str, Any], default: str) -> str:
    """Return the name of the queue for a task.  Raises LabelError."""
    name: str = checked(labels).get("queue_name", default)
    return name


def checked(labels: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the labels that have a meaning here.  Raises LabelError."""
    found = {}
    for label, (parse, expected) in _LABELS.items():
        value = labels.get(label)
        if value is None or value == "None":
            continue
        try:
            found[label] = parse(value)
        except (ValueError, TypeError, OverflowError):
            raise LabelError(f"the label {label} must be {expected}, not {value!r}") from None
    return found


def _number(low: float, high: float) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        number = float(value)
        if isinstance(value, bool) or not math.isfinite(number) or not low <= number <= high:
            raise ValueError
        return number

    return parse


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        number = int(value)
        if isinstance(value, bool) or number != float(value) or not low <= number <= high:
            raise ValueError
        return number

    return parse


def _name(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value.encode()) <= QUEUE_NAME_BYTES_MAX:
        raise ValueError
    return value


def _flag(value: Any) -> bool:
    text = str(value).lower()
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


_LABELS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "delay": (_number(0, DELAY_S_MAX), f"a number of seconds from 0 to {DELAY_S_MAX:.0e}"),
    "priority": (_whole(0, PRIORITY_MAX), f"a whole number from 0 to {PRIORITY_MAX}"),
    "queue_name": (_name, f"a text of 1 to {QUEUE_NAME_BYTES_MAX} bytes"),
    "timeout": (_number(0, DELAY_S_MAX), f"a number of seconds from 0 to {DELAY_S_MAX:.0e}"),
    "max_retries": (_whole(0, 1 << 31), "a whole number"),
    "retry_on_error": (_flag, "true or false"),
    "ack_type": (parse_acknowledge_type, "a name of taskiq's AcknowledgeType"),
}
