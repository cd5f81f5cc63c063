"""Queues from event loops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import logstore
from logstore import AsyncStore, MessageSettledError

pytestmark = pytest.mark.anyio
LONG_S = 60.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def store(path: Path, no_idle_compaction: None) -> AsyncIterator[AsyncStore]:
    async with logstore.open_async(path) as opened:
        yield opened
        assert (await opened.check()).ok


async def test_all_verbs(store: AsyncStore) -> None:
    queue = store.queue("q")
    assert queue.name == "q"
    task_id = await queue.put({"n": 1}, priority=2)
    assert task_id is not None
    assert await queue.put(1, task_id=task_id, unique=True) is None
    lease = await queue.take(0)
    assert lease is not None
    assert (lease.task_id, lease.payload, lease.priority, lease.attempts) == (
        task_id,
        {"n": 1},
        2,
        0,
    )
    assert await queue.take(0) is None
    await lease.ack_with_result("done")
    assert await store.get_result(task_id) == "done"
    with pytest.raises(MessageSettledError):
        await lease.ack()
    ids = await queue.put_many(["a", "b", "c"])
    assert await queue.put_many([]) == []
    assert [info.task_id async for info in queue.messages("ready", limit=2)] == ids[:2]
    assert await queue.cancel(ids[1])
    await queue.pause()
    assert await queue.take(0) is None
    await queue.resume()
    lease = await queue.take()
    assert lease is not None
    await lease.release()
    lease = await queue.take()
    assert lease is not None
    await lease.retry()
    lease = await queue.take()
    assert lease is not None
    assert (lease.payload, lease.attempts) == ("a", 1)
    await lease.dead("poison")
    assert (await queue.stats()) == (1, 0, 0, 1, False)
    assert await queue.requeue() == 1
    assert await queue.purge() == 2


async def test_a_take_waits_and_a_cancelled_one_takes_nothing(store: AsyncStore) -> None:
    queue = store.queue()
    waiting = asyncio.create_task(queue.take())
    await asyncio.sleep(0.05)
    await queue.put("x")
    lease = await asyncio.wait_for(waiting, LONG_S)
    assert lease is not None
    await lease.ack()
    assert await queue.take(0.05) is None
    for moment in range(20):
        taking = asyncio.create_task(queue.take())
        await queue.put(moment)
        for _ in range(moment % 5):
            await asyncio.sleep(0)
        taking.cancel()
        try:
            lease = await taking
        except asyncio.CancelledError:
            lease = await queue.take(LONG_S)
        assert lease is not None
        assert lease.payload == moment
        await lease.ack()


async def test_iterating(store: AsyncStore) -> None:
    queue = store.queue()
    await queue.put_many(range(5))
    found = []
    async for lease in queue:
        found.append(lease.payload)
        await lease.ack()
        if len(found) == 5:
            break
    assert found == list(range(5))
