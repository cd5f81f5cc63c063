"""How a slot gets to the kick that is meant: of its schedule, in its context, once."""

from __future__ import annotations

import asyncio

import pytest
from taskiq import BrokerMessage

from logstore._engine.messages import message_entry
from logstore._engine.schedules import Schedule
from logstore._engine.writes import Claim, Together, Write
from logstore.taskiq.schedules import firing
from logstore.taskiq.schedules.firing import Firing, take_firing


def message(**labels: str) -> BrokerMessage:
    return BrokerMessage(task_id="t", task_name="m:f", message=b"", labels=labels)


@pytest.mark.parametrize("labels", [{}, {"schedule_id": "another"}])
def test_another_message_takes_nothing(labels: dict[str, str]) -> None:
    async def main() -> None:
        firing.leave(Firing("s"))
        assert take_firing(message(**labels)) is None
        assert take_firing(message(schedule_id="s")) is firing.left()

    asyncio.run(main())


def test_a_firing_is_taken_once() -> None:
    async def main() -> None:
        assert take_firing(message(schedule_id="s")) is None
        firing.leave(Firing("s"))
        assert take_firing(message(schedule_id="s")) is not None
        assert take_firing(message(schedule_id="s")) is None

    asyncio.run(main())


def test_a_firing_is_of_its_own_task() -> None:
    async def leave() -> None:
        firing.leave(Firing("s"))

    async def main() -> None:
        await asyncio.create_task(leave())
        assert take_firing(message(schedule_id="s")) is None

    asyncio.run(main())


def test_a_claim_stands_before_the_message() -> None:
    claim = Claim(Schedule(b"s", b"d", 1, 0), 5, ahead_us=9)
    put = Write(b"t", message_entry(b"q", b"body"), sync=True)
    together = Firing("s", claim=claim).write(put)
    assert isinstance(together, Together)
    assert list(together.parts) == [claim, put]


def test_a_message_is_due_at_the_time_of_the_schedule() -> None:
    put = Write(b"t", message_entry(b"q", b"body", due_us=5), sync=True)
    assert Firing("s", due_us=7).write(put) is put
    assert put.entry == message_entry(b"q", b"body", due_us=7)
