"""A taskiq broker over ZeroMQ that sends each task to one worker, when that worker asks for it.

taskiq's own ``ZeroMQBroker`` uses PUB/SUB: every worker executes every task, and tasks sent before
a worker has subscribed are lost.  PUSH/PULL would send each task to one worker, but in turn, even
if it is busy, and tasks would queue up in a worker that may die.  Here a worker (DEALER) sends an
empty message for each task that it can accept, and the client (ROUTER) answers it.  So a task
leaves the client only when a worker can start it.

The broker alone delivers **at most once**.  It has no persistence and no acknowledgements: the
tasks of a dead worker are lost.  The client turns this into *at least once*: it sends a task
without a result again under the same task id, and a task may run twice.

Rules: there is one client per address at a time.  Workers that have asked a client that ends ask
the next one.  :meth:`startup` creates the sockets, in the process and on the event loop that use
them, so a broker object may be constructed before a fork.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator

import zmq
import zmq.asyncio
from taskiq import AsyncBroker, BrokerMessage

# taskiq's signal handler sets an event without waking the event loop.  Without a timer, an idle
# worker would never notice it.
WAKE_INTERVAL_MS = 200


class OnDemandBroker(AsyncBroker):
    """A broker for one ZeroMQ address, such as ``ipc:///run/app/tasks.sock``."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address
        self._context: zmq.asyncio.Context | None = None
        self._socket: zmq.asyncio.Socket | None = None
        self._disconnects: zmq.asyncio.Socket | None = None

    async def startup(self) -> None:
        """Bind (client) or connect (worker), then start the result backend.

        Raises ``zmq.ZMQError`` when the address is malformed or, for the client, already in use.
        """
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER if self.is_worker_process else zmq.ROUTER)
        self._socket.linger = 0
        if self.is_worker_process:
            # Requests are for a client that is there, and end with it.
            self._socket.immediate = True
            self._disconnects = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            self._socket.connect(self.address)
        else:
            # Makes an answer to a dead worker an error; by default it is silently dropped.
            self._socket.router_mandatory = True
            self._socket.bind(self.address)
        await super().startup()

    async def shutdown(self) -> None:
        """Close the socket, drop unsent messages, then stop the result backend."""
        if self._socket is not None:
            if self._disconnects is not None:
                self._socket.disable_monitor()
                self._disconnects.close(linger=0)
                self._disconnects = None
            self._socket.close()
            self._socket = None
        if self._context is not None:
            self._context.term()
            self._context = None
        await super().shutdown()

    async def kick(self, message: BrokerMessage) -> None:
        """Send the message to the worker that has waited longest; wait until one is free.

        When this returns, the message is on its way to a live worker; it is lost if that worker
        dies.  When this is cancelled, the message was not sent, but a worker may get no answer.
        """
        socket = self._started_socket()
        while True:
            worker, _ = await socket.recv_multipart()
            try:
                await socket.send_multipart([worker, message.message])
            except zmq.ZMQError as error:
                if error.errno != errno.EHOSTUNREACH:
                    raise
                continue  # the worker died after asking; try the next worker
            return

    async def listen(self) -> AsyncGenerator[bytes, None]:
        """Request one message at a time and yield it; ask again when the client was replaced."""
        socket = self._started_socket()
        while True:
            while not await socket.poll(WAKE_INTERVAL_MS, zmq.POLLOUT):  # type: ignore[call-arg]
                pass  # no client is there
            await self._client_has_gone()  # what ended before this request is no matter
            await socket.send(b"")
            while not await socket.poll(WAKE_INTERVAL_MS):
                if await self._client_has_gone():
                    break
            else:
                yield await socket.recv()

    async def _client_has_gone(self) -> bool:
        """Return whether the connection of a worker has ended since the last call."""
        gone = False
        while self._disconnects is not None and await self._disconnects.poll(0):
            await self._disconnects.recv_multipart()
            gone = True
        return gone

    def _started_socket(self) -> zmq.asyncio.Socket:
        if self._socket is None:
            raise RuntimeError(f"the broker on {self.address} is not started: call startup() first")
        return self._socket
