"""Times to live of results, with the names and rules of taskiq-redis.

Rules: ``result_ex_time`` is in seconds, ``result_px_time`` in milliseconds.  Only one of them may
be given, and it must be above zero.  A task's label ``result_ex_time`` overrides the settings of
the backend.  An invalid label is logged and ignored, so that the result is not lost.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from logstore.taskiq.errors import (
    DuplicateExpireTimeSelectedError,
    ExpireTimeMustBeMoreThanZeroError,
)

LABEL = "result_ex_time"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Expiry:
    """Times to live in seconds; None means the store's default."""

    result_ttl_s: float | None
    failure_ttl_s: float | None
    progress_ttl_s: float | None

    @classmethod
    def chosen(
        cls,
        *,
        result_ex_time: float | None,
        result_px_time: float | None,
        failure_ex_time: float | None,
        progress_ex_time: float | None,
    ) -> Expiry:
        """Check the arguments of a backend.

        Raises :class:`~logstore.taskiq.errors.ExpireTimeMustBeMoreThanZeroError` and
        :class:`~logstore.taskiq.errors.DuplicateExpireTimeSelectedError`.
        """
        ex_time = _checked("result_ex_time", result_ex_time)
        px_time = _checked("result_px_time", result_px_time)
        if ex_time is not None and px_time is not None:
            raise DuplicateExpireTimeSelectedError(
                f"choose either result_ex_time or result_px_time, not both: "
                f"{result_ex_time} s and {result_px_time} ms"
            )
        result_ttl_s = px_time / 1000 if px_time is not None else ex_time
        failure_ttl_s = _checked("failure_ex_time", failure_ex_time)
        return cls(
            result_ttl_s=result_ttl_s,
            failure_ttl_s=result_ttl_s if failure_ttl_s is None else failure_ttl_s,
            progress_ttl_s=_checked("progress_ex_time", progress_ex_time),
        )

    def ttl_s(self, labels: Mapping[str, Any], *, failed: bool) -> float | None:
        """Return the time to live in seconds for the result of a task with these labels."""
        label = labels.get(LABEL)
        if label is not None:
            try:
                return _checked(LABEL, float(label))
            except Exception:  # a label may be anything
                _logger.warning(
                    "The label %s=%r of a task is not a time above zero; it is ignored.",
                    LABEL,
                    label,
                )
        return self.failure_ttl_s if failed else self.result_ttl_s


def _checked(name: str, value: float | None) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not math.isfinite(value) or value <= 0:
        raise ExpireTimeMustBeMoreThanZeroError(f"{name} must be more than zero, not {value}")
    return value
