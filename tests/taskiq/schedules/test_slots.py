"""The slots of schedules: the same for every process, and once when clocks are changed."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pycron
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstore.taskiq.schedules.slots import (
    MINUTE_US,
    SECOND_US,
    Timing,
    last_slot,
    microseconds,
    moment,
    slots,
)

DAY = timedelta(days=1)
START = datetime(2026, 2, 27, 11, 58, 30, tzinfo=timezone.utc)


def found(timing: Timing, start: datetime, end: datetime, since_us: int = 0) -> list[datetime]:
    """The slots between two times; the last one is looked up from the other end, too."""
    after_us, until_us = microseconds(start), microseconds(end)
    all_slots = list(slots(timing, since_us, after_us, until_us))
    assert last_slot(timing, since_us, after_us, until_us) == (all_slots[-1] if all_slots else None)
    return [moment(slot_us) for slot_us in all_slots]


def local(times: list[datetime], zone: str) -> list[str]:
    return [time.astimezone(ZoneInfo(zone)).strftime("%d %H:%M") for time in times]


# -- cron ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cron", "offset"),
    [
        ("* * * * *", None),
        ("*/7 * * * *", None),
        ("0 12 * * *", None),
        ("59 23 * * *", timedelta(hours=-5, minutes=-7)),
        ("2 0 * * *", timedelta(hours=-5, minutes=-7)),
        ("0 0 1 * *", "Asia/Kathmandu"),
        ("15,45 */2 * * 0", "America/St_Johns"),
        ("30 4 29 2 *", None),
        ("0 9-17 * 3 mon", timedelta(hours=3)),
        ("0 0 13 * 5", None),
    ],
)
def test_the_slots_of_an_expression_are_the_minutes_that_taskiq_finds(
    cron: str, offset: str | timedelta | None
) -> None:
    start = START.replace(second=0)
    expected = []
    for minute in range(1, 3 * 24 * 60 + 1):
        time = start + timedelta(minutes=minute)
        shown = time.astimezone(ZoneInfo(offset)) if isinstance(offset, str) else time
        if pycron.is_now(cron, shown + (offset if isinstance(offset, timedelta) else timedelta())):
            expected.append(time)
    assert found(Timing(cron=cron, cron_offset=offset), start, start + 3 * DAY) == expected


@given(
    minute=st.integers(0, 59),
    hour=st.integers(0, 23),
    after_s=st.integers(0, 3 * 86400),
    for_s=st.integers(0, 2 * 86400),
)
def test_a_slot_is_found_from_both_ends(minute: int, hour: int, after_s: int, for_s: int) -> None:
    timing = Timing(cron=f"{minute} {hour} * * *")
    start = START + timedelta(seconds=after_s)
    days = [datetime(2026, 2, 27, hour, minute, tzinfo=timezone.utc) + n * DAY for n in range(7)]
    end = start + timedelta(seconds=for_s)
    assert found(timing, start, end) == [day for day in days if start < day <= end]


def test_a_rare_slot_is_found_over_years() -> None:
    timing = Timing(cron="0 0 29 2 *")
    assert found(timing, START, START + 1000 * DAY) == [datetime(2028, 2, 29, tzinfo=timezone.utc)]


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("30 2 * * *", ["24 02:30", "25 02:30", "26 02:30"]),
        ("*/30 2 * * *", ["24 02:00", "24 02:30", "25 02:00", "25 02:30", "26 02:00", "26 02:30"]),
        ("0 3 * * *", ["24 03:00", "25 03:00", "26 03:00"]),
    ],
)
def test_what_comes_twice_when_clocks_are_set_back_is_sent_once(
    cron: str, expected: list[str]
) -> None:
    timing = Timing(cron=cron, cron_offset="Europe/Berlin")
    start = datetime(2026, 10, 23, 22, tzinfo=timezone.utc)
    assert local(found(timing, start, start + 3 * DAY), "Europe/Berlin") == expected


def test_what_is_left_out_when_clocks_are_set_forward_is_sent_behind_it() -> None:
    timing = Timing(cron="30 2 * * *", cron_offset="Europe/Berlin")
    start = datetime(2026, 3, 27, 23, tzinfo=timezone.utc)
    shown = local(found(timing, start, start + 3 * DAY), "Europe/Berlin")
    assert shown == ["28 02:30", "29 03:00", "30 02:30"]


@pytest.mark.parametrize("day", [datetime(2026, 3, 28, 23), datetime(2026, 10, 24, 22)])
def test_an_expression_for_every_hour_follows_the_time_that_passes(day: datetime) -> None:
    timing = Timing(cron="15 * * * *", cron_offset="Europe/Berlin")
    start = day.replace(tzinfo=timezone.utc)
    times = found(timing, start, start + DAY)
    assert times == [start + timedelta(hours=n, minutes=15) for n in range(24)]


@pytest.mark.parametrize(
    ("cron", "offset", "message"),
    [
        ("* * * *", None, "not a cron expression of five fields"),
        ("*/0 * * * *", None, "not a cron expression of five fields"),
        ("* * * * *", "Mars/Olympus", "no such time zone: 'Mars/Olympus'"),
    ],
)
def test_what_is_no_expression_or_zone_is_refused(
    cron: str, offset: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Timing(cron=cron, cron_offset=offset).check()


# -- intervals and times -------------------------------------------------------------------------


@given(
    seconds=st.integers(1, 100),
    since=st.integers(1, 10**6),
    after=st.integers(0, 10**6),
    length=st.integers(0, 1000),
)
def test_slots_of_an_interval_are_its_multiples_since_it_began(
    seconds: int, since: int, after: int, length: int
) -> None:
    timing = Timing(interval_us=seconds)
    expected = [n for n in range(after + 1, after + length + 1) if n >= since]
    expected = [n for n in expected if (n - since) % seconds == 0]
    assert list(slots(timing, since, after, after + length)) == expected
    assert last_slot(timing, since, after, after + length) == (expected[-1] if expected else None)


def test_a_time_is_one_slot() -> None:
    timing = Timing(time_us=500)
    assert list(slots(timing, 0, 499, 10**9)) == [500]
    assert list(slots(timing, 0, 500, 10**9)) == list(slots(timing, 0, 0, 499)) == []
    assert last_slot(timing, 0, 499, 500) == 500


def test_a_slot_is_missed_after_a_minute_or_a_few_intervals() -> None:
    assert Timing(cron="* * * * *").grace_us() == MINUTE_US
    assert Timing(interval_us=3600 * SECOND_US).grace_us() == MINUTE_US
    assert Timing(interval_us=SECOND_US).grace_us() == 5 * SECOND_US


def test_a_time_without_a_zone_is_in_utc() -> None:
    assert microseconds(datetime(1970, 1, 2)) == 86400 * SECOND_US
    assert moment(86400 * SECOND_US) == datetime(1970, 1, 2, tzinfo=timezone.utc)
