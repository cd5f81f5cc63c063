"""The slots of a schedule: the moments at which it is to be sent.

Rules: pure functions on microseconds since 1970.  A slot does not depend on the process that looks
for it, nor on when it looks, so that all schedulers mean the same one.  Those of an interval are
its multiples, counted from the time at which the schedule was added.  Those of a cron expression
are the minutes that pycron, which taskiq uses, finds in it.

When clocks are changed, an expression that names its hours in a time zone is sent once on that day:
minutes that come twice are slots the first time, and for those that are left out the first minute
behind them is one.  All other expressions follow the time that passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pycron

from logstore._engine.frames import TIME_MAX

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
DAY_US = 24 * 60 * MINUTE_US
_BLOCK_US = 15 * MINUTE_US  # offsets of time zones are multiples of it
_BLOCK = timedelta(microseconds=_BLOCK_US)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Timing(NamedTuple):
    """When a schedule is to be sent: one of the three is set."""

    cron: str | None = None
    cron_offset: str | timedelta | None = None
    interval_us: int = 0
    time_us: int = 0

    def tolerance_us(self) -> int:
        """Return how far ahead of the clock a slot may lie before the clock is to blame."""
        return TIME_MAX if self.time_us else self.interval_us or DAY_US

    def grace_us(self) -> int:
        """Return after how long a slot that was not sent is a missed one."""
        return min(MINUTE_US, 5 * self.interval_us or MINUTE_US)

    def check(self) -> None:
        """Raise ValueError if there is no such expression or time zone."""
        if self.cron is None:
            return
        try:
            _is_now(self.cron, _EPOCH)
        except (ValueError, ArithmeticError) as exc:
            raise ValueError(f"not a cron expression of five fields: {self.cron!r}") from exc
        if isinstance(self.cron_offset, str):
            try:
                ZoneInfo(self.cron_offset)
            except (LookupError, ValueError, OSError, ImportError) as exc:
                raise ValueError(f"no such time zone: {self.cron_offset!r}") from exc


def moment(time_us: int) -> datetime:
    """Return a time in microseconds as a datetime in UTC."""
    return _EPOCH + timedelta(microseconds=time_us)


def microseconds(time: datetime) -> int:
    """Return a datetime in microseconds; as taskiq does, take one without a zone for UTC."""
    if time.tzinfo is None:
        time = time.replace(tzinfo=timezone.utc)
    return (time - _EPOCH) // timedelta(microseconds=1)


def slots(timing: Timing, since_us: int, after_us: int, until_us: int) -> Iterator[int]:
    """Yield the slots later than ``after_us``, up to ``until_us``, in their order."""
    after_us = max(after_us, since_us - 1)
    if timing.cron is not None:
        minute = after_us // MINUTE_US * MINUTE_US + MINUTE_US
        while minute <= until_us:
            if minute % _BLOCK_US == 0 and not _may_match(timing, minute):
                minute += _BLOCK_US
                continue
            if _matches(timing, minute):
                yield minute
            minute += MINUTE_US
    elif timing.interval_us:
        step = timing.interval_us
        yield from range(after_us + step - (after_us - since_us) % step, until_us + 1, step)
    elif after_us < timing.time_us <= until_us:
        yield timing.time_us


def last_slot(timing: Timing, since_us: int, after_us: int, until_us: int) -> int | None:
    """Return the last one of these slots, None if there is none."""
    after_us = max(after_us, since_us - 1)
    if timing.cron is None:
        if timing.interval_us:
            after_us = max(after_us, until_us - timing.interval_us)
        return next(slots(timing, since_us, after_us, until_us), None)
    minute = until_us // MINUTE_US * MINUTE_US
    while minute > after_us:
        start = minute // _BLOCK_US * _BLOCK_US
        if _may_match(timing, start):
            while minute >= start and minute > after_us:
                if _matches(timing, minute):
                    return minute
                minute -= MINUTE_US
        minute = start - MINUTE_US
    return None


@lru_cache(maxsize=4096)
def _may_match(timing: Timing, start_us: int) -> bool:
    """Return whether there may be a slot in a quarter of an hour.

    With all but the minutes of the expression; after a leap of the clock there may be any.
    """
    assert timing.cron is not None
    wall = _wall(timing, start_us)
    if isinstance(timing.cron_offset, timedelta) and timing.cron_offset % _BLOCK:
        return True
    if wall - _wall(timing, start_us - MINUTE_US) != timedelta(minutes=1):
        return True
    _, _, rest = timing.cron.partition(" ")
    return _is_now(f"* {rest}", wall)


def _matches(timing: Timing, minute_us: int) -> bool:
    """Return whether a minute is a slot."""
    assert timing.cron is not None
    wall = _wall(timing, minute_us)
    if not isinstance(timing.cron_offset, str) or "*" in timing.cron.split(" ")[1]:
        return _is_now(timing.cron, wall)
    # The local minutes since the one before: one, more after a leap, none that comes again.
    before = _wall(timing, minute_us - MINUTE_US)
    if moment(minute_us).astimezone(ZoneInfo(timing.cron_offset)).fold:
        return False
    skipped = (wall - before) // timedelta(minutes=1)
    at = (wall - timedelta(minutes=back) for back in range(max(skipped, 1)))
    return any(_is_now(timing.cron, one) for one in at)


def _wall(timing: Timing, time_us: int) -> datetime:
    """Return what the clock on the wall shows, without its zone."""
    time, offset = moment(time_us), timing.cron_offset
    if isinstance(offset, timedelta):
        time += offset
    elif offset:
        time = time.astimezone(ZoneInfo(offset))
    return time.replace(tzinfo=None)


def _is_now(cron: str, time: datetime) -> bool:
    return bool(pycron.is_now(cron, time))
