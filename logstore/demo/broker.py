"""A taskiq broker over ZeroMQ that gives each task to one worker.

taskiq's own ``ZeroMQBroker`` is PUB/SUB: every worker executes every task, and what is sent before
a worker has subscribed is lost.  This one is PUSH/PULL: the client binds, any number of workers
connect, and each message goes to one of them in turn.

Delivery, honestly: **at most once by the broker alone**.  Nothing is written down and nothing is
acknowledged; a worker that dies takes along the task it runs and what waits in its queue.  Queues
are kept to one message at each end, but the socket's own buffers hold more, so a client that wants
little to be lost keeps few tasks in flight.  *At least once* is made by the client: it sends again
what it gets no result for, under the same task id, and its tasks may run twice.

Rules: one client per address.  Sockets are made in :meth:`startup`, in the process and on the event
loop that use them, so a broker object may be built before a fork.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

import zmq
import zmq.asyncio
from taskiq import AsyncBroker, BrokerMessage

# taskiq's signal handler sets an event without waking the event loop; an idle worker whose loop has
# no timer would never see that it was asked to stop.
WAKE_INTERVAL_MS = 200


class PushPullBroker(AsyncBroker):
    """Tasks over one ZeroMQ address, such as ``ipc:///run/app/tasks.sock``."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address
        self._context: zmq.asyncio.Context | None = None
        self._socket: zmq.asyncio.Socket | None = None

    async def startup(self) -> None:
        """Bind (client) or connect (worker), then start the result backend.

        Raises ``zmq.ZMQError`` when the address is malformed or, for the client, taken.
        """
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.PULL if self.is_worker_process else zmq.PUSH)
        self._socket.set_hwm(1)
        self._socket.linger = 0
        if self.is_worker_process:
            self._socket.connect(self.address)
        else:
            self._socket.bind(self.address)
        await super().startup()

    async def shutdown(self) -> None:
        """Close the socket, dropping what was not yet sent, then stop the result backend."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._context is not None:
            self._context.term()
            self._context = None
        await super().shutdown()

    async def kick(self, message: BrokerMessage) -> None:
        """Hand the message to a worker's queue; waits while no worker has room."""
        await self._started_socket().send(message.message)

    async def listen(self) -> AsyncGenerator[bytes, None]:
        """Yield the messages that this worker is given."""
        while True:
            if await self._started_socket().poll(WAKE_INTERVAL_MS):
                yield await self._started_socket().recv()

    def _started_socket(self) -> zmq.asyncio.Socket:
        if self._socket is None:
            raise RuntimeError(f"the broker on {self.address} is not started: call startup() first")
        return self._socket
