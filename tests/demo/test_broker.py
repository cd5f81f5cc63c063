from __future__ import annotations

import asyncio
import errno
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest
import zmq
import zmq.asyncio
from taskiq import BrokerMessage

from logstore.demo.broker import OnDemandBroker

MESSAGES = 40
TIME_LIMIT_S = 200.0


def message(text: str) -> BrokerMessage:
    return BrokerMessage(task_id=text, task_name="t", message=text.encode(), labels={})


def worker_broker(address: str) -> OnDemandBroker:
    broker = OnDemandBroker(address)
    broker.is_worker_process = True
    return broker


@pytest.fixture
def address(short_path: Path) -> str:
    return f"ipc://{short_path}/s"


def test_each_message_goes_to_one_worker_and_none_is_lost_before_they_connect(
    address: str,
) -> None:
    async def run() -> tuple[Counter[str], Counter[int], int]:
        client = OnDemandBroker(address)
        workers = [worker_broker(address) for _ in range(2)]
        received: Counter[str] = Counter()
        by_worker: Counter[int] = Counter()
        arrived = asyncio.Event()

        async def listen(number: int, broker: OnDemandBroker) -> None:
            async for data in broker.listen():
                received[data.decode()] += 1
                by_worker[number] += 1
                arrived.set()

        await client.startup()
        early = asyncio.create_task(client.kick(message("early")))
        for broker in workers:
            await broker.startup()
        listening = [asyncio.create_task(listen(n, broker)) for n, broker in enumerate(workers)]
        await early
        sent = 1
        while sent < MESSAGES or len(by_worker) < len(workers):  # one may be late to connect
            await client.kick(message(str(sent)))
            sent += 1
        while received.total() < sent:
            await arrived.wait()
            arrived.clear()
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)
        for broker in [*workers, client]:
            await broker.shutdown()
        return received, by_worker, sent

    received, by_worker, sent = asyncio.run(asyncio.wait_for(run(), TIME_LIMIT_S))
    assert len(received) == sent
    assert set(received.values()) == {1}
    assert set(by_worker) == {0, 1}


def test_a_busy_worker_is_given_nothing_while_another_one_asks(address: str) -> None:
    async def run() -> tuple[bytes, list[bytes]]:
        client, busy, free = OnDemandBroker(address), worker_broker(address), worker_broker(address)
        for broker in (client, busy, free):
            await broker.startup()
        busy_listener, free_listener = busy.listen(), free.listen()
        first = asyncio.ensure_future(anext(busy_listener))
        await client.kick(message("long"))
        taken = await first  # and does not ask for more
        others = []
        for number in range(5):
            waiting = asyncio.ensure_future(anext(free_listener))
            await client.kick(message(str(number)))
            others.append(await waiting)
        for broker in (busy, free, client):
            await broker.shutdown()
        return taken, others

    taken, others = asyncio.run(asyncio.wait_for(run(), TIME_LIMIT_S))
    assert taken == b"long"
    assert others == [b"0", b"1", b"2", b"3", b"4"]


async def until_unreachable(socket: Any, worker: bytes) -> None:
    """Until the socket has noticed that a worker is gone, which it does in a thread of its own."""
    while True:
        try:
            await socket.send_multipart([worker, b"never read"])
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            return
        await asyncio.sleep(0.001)


class Repeating:
    """A socket with a request that was taken from it in front of the others."""

    def __init__(self, socket: Any, request: list[bytes]) -> None:
        self._socket = socket
        self._requests = [request]
        self.send_multipart = socket.send_multipart

    async def recv_multipart(self) -> list[bytes]:
        return self._requests.pop() if self._requests else await self._socket.recv_multipart()


def test_a_worker_that_asked_and_died_is_passed_over(address: str) -> None:
    async def run() -> bytes:
        client, dead, alive = (
            OnDemandBroker(address),
            worker_broker(address),
            worker_broker(address),
        )
        await client.startup()
        await dead.startup()
        asking = asyncio.ensure_future(anext(dead.listen()))
        socket: Any = client._socket
        request = await socket.recv_multipart()  # it has to be there before the worker goes
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await dead.shutdown()
        await until_unreachable(socket, request[0])
        client._socket = cast("zmq.asyncio.Socket", Repeating(socket, request))
        kicked = asyncio.create_task(client.kick(message("x")))
        await alive.startup()
        received = await anext(alive.listen())
        await kicked
        client._socket = socket
        await alive.shutdown()
        await client.shutdown()
        return received

    assert asyncio.run(asyncio.wait_for(run(), TIME_LIMIT_S)) == b"x"


def test_a_worker_that_has_asked_a_client_asks_the_next_one(address: str) -> None:
    async def run() -> list[bytes]:
        worker = worker_broker(address)
        await worker.startup()
        received: asyncio.Queue[bytes] = asyncio.Queue()

        async def listen() -> None:
            async for data in worker.listen():
                received.put_nowait(data)

        listening = asyncio.create_task(listen())
        found = []
        for text in ("first", "second", "third"):
            client = OnDemandBroker(address)
            await client.startup()
            await client.kick(message(text))
            found.append(await received.get())
            await client.shutdown()
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await worker.shutdown()
        return found

    found = asyncio.run(asyncio.wait_for(run(), TIME_LIMIT_S))
    assert found == [b"first", b"second", b"third"]


def test_a_broker_can_be_started_again_after_its_shutdown(address: str) -> None:
    async def run() -> list[bytes]:
        client, worker = OnDemandBroker(address), worker_broker(address)
        received = []
        for text in ("first", "second"):
            await client.startup()
            await worker.startup()
            receiving = asyncio.ensure_future(anext(worker.listen()))
            await client.kick(message(text))
            received.append(await receiving)
            await worker.shutdown()
            await client.shutdown()
        return received

    assert asyncio.run(asyncio.wait_for(run(), TIME_LIMIT_S)) == [b"first", b"second"]


def test_an_idle_listener_wakes_the_loop_so_that_signals_are_seen(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logstore.demo.broker.WAKE_INTERVAL_MS", 1)

    async def run() -> int:
        worker = worker_broker(address)
        await worker.startup()
        selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
        select, wakes = selector.select, 0
        enough = asyncio.Event()

        def counted(timeout: float | None) -> object:
            nonlocal wakes
            wakes += 1
            if wakes >= 20:
                enough.set()
            assert timeout is not None, "the loop would sleep for ever"
            return select(timeout)

        listener = worker.listen()
        waiting = asyncio.ensure_future(anext(listener))
        await asyncio.sleep(0)
        selector.select = counted
        await enough.wait()
        selector.select = select
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await worker.shutdown()
        return wakes

    assert asyncio.run(asyncio.wait_for(run(), TIME_LIMIT_S)) >= 20


def test_sending_before_startup_is_an_error_that_says_so(address: str) -> None:
    with pytest.raises(RuntimeError, match=r"call startup\(\) first"):
        asyncio.run(OnDemandBroker(address).kick(message("x")))
