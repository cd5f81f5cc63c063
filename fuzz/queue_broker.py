"""A small broker on a store's queue, with all that a schedule source needs of one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from taskiq import AckableMessage, AsyncBroker, BrokerMessage, TaskiqMessage

import logstore
from logstore._codec.values import decode_value
from logstore._engine.messages import message_entry
from logstore._engine.writes import SlotTakenError, Write
from logstore.taskiq.schedules.firing import take_firing

if TYPE_CHECKING:
    from logstore._handle import OpenOptions


class QueueBroker(AsyncBroker):
    """Puts messages into the queue ``default``, and takes them from there."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.store_options: OpenOptions = {}
        self._store: logstore.AsyncStore | None = None

    async def store(self) -> logstore.AsyncStore:
        if self._store is None or self._store.closed:
            self._store = await logstore.open_async(self.path)
        return self._store

    def task_message(self, body: bytes) -> TaskiqMessage:
        return self.formatter.loads(decode_value(body))

    async def startup(self) -> None:
        await super().startup()
        await self.store()

    async def shutdown(self) -> None:
        await super().shutdown()
        if self._store is not None:
            await self._store.close()

    async def kick(self, message: BrokerMessage) -> None:
        store = await self.store()
        firing = take_firing(message)
        entry = message_entry(b"default", store._handle.encoded(message.message))
        put = Write(message.task_id.encode(), entry, sync=True)
        try:
            await store._write(put if firing is None else firing.write(put))
        except SlotTakenError:
            return
        store._handle.taker.announce(1)

    async def listen(self) -> AsyncGenerator[AckableMessage, None]:
        queue = (await self.store()).queue()
        while True:
            lease = await queue.take()
            if lease is not None:
                yield AckableMessage(data=lease.payload, ack=lease.ack)
