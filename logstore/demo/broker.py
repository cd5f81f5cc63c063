"""A taskiq broker over ZeroMQ that gives each task to one worker, when that worker asks for it.

taskiq's own ``ZeroMQBroker`` is PUB/SUB: every worker executes every task, and what is sent before
a worker has subscribed is lost.  PUSH/PULL would give each task to one worker, but in turn, whether
it is busy or not, and tasks would pile up in the queue of a worker that may die.  Here a worker
(DEALER) sends an empty message for each task that it has room for, and the client (ROUTER) answers
it; so a task leaves the client when a worker can begin it.

Delivery, honestly: **at most once by the broker alone**.  Nothing is written down and nothing is
acknowledged; a worker that dies takes along the tasks it was given.  *At least once* is made by the
client: it sends again what it gets no result for, under the same task id, and tasks may run twice.

Rules: one client per address, and it is there for as long as its workers.  Sockets are made in
:meth:`startup`, in the process and on the event loop that use them, so a broker object may be built
before a fork.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator

import zmq
import zmq.asyncio
from taskiq import AsyncBroker, BrokerMessage

# taskiq's signal handler sets an event without waking the event loop; an idle worker whose loop has
# no timer would never see that it was asked to stop.
WAKE_INTERVAL_MS = 200


class OnDemandBroker(AsyncBroker):
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
        self._socket = self._context.socket(zmq.DEALER if self.is_worker_process else zmq.ROUTER)
        self._socket.linger = 0
        if self.is_worker_process:
            self._socket.connect(self.address)
        else:
            # An answer to a worker that is gone is an error then, not dropped in silence.
            self._socket.router_mandatory = True
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
        """Give the message to the worker that has waited longest; waits while none has room.

        When it returns the message is on its way to a worker that was there; it is lost if that
        worker dies.  When it is cancelled the message was not sent, but a worker may be left
        waiting.
        """
        socket = self._started_socket()
        while True:
            worker, _ = await socket.recv_multipart()
            try:
                await socket.send_multipart([worker, message.message])
            except zmq.ZMQError as error:
                if error.errno != errno.EHOSTUNREACH:
                    raise
                continue  # it asked and died since; the next one
            return

    async def listen(self) -> AsyncGenerator[bytes, None]:
        """Ask for one message after the other, and yield them."""
        socket = self._started_socket()
        while True:
            await socket.send(b"")
            while not await socket.poll(WAKE_INTERVAL_MS):
                pass
            yield await socket.recv()

    def _started_socket(self) -> zmq.asyncio.Socket:
        if self._socket is None:
            raise RuntimeError(f"the broker on {self.address} is not started: call startup() first")
        return self._socket
