"""The result backend of a broker: a result and the settlement of its message are one write.

Rules: only the receiver's own call for the task that it runs settles a message.  A result that a
program or a task sets, for any id, is stored as with any LogStoreResultBackend.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from taskiq.acks import AcknowledgeType
from taskiq.result import TaskiqResult

from logstore.taskiq.abstract import _ReturnType
from logstore.taskiq.broker.delivery import ack_time_of, current_delivery
from logstore.taskiq.errors import DeadTaskError
from logstore.taskiq.results.logstore import LogStoreResultBackend

if TYPE_CHECKING:
    from logstore._engine.writes import Write
    from logstore._handle import Handle


class BrokerResultBackend(LogStoreResultBackend[_ReturnType]):
    """A LogStoreResultBackend that settles what its broker has delivered."""

    async def set_result(self, task_id: str, result: TaskiqResult[_ReturnType]) -> None:
        """Store the result, and settle the message that the receiver has run.

        Raises as for LogStoreResultBackend, TaskInterruptedError for a task that will run again,
        and MessageSettledError for one that was cancelled meanwhile.
        """
        ack_time = ack_time_of(sys._getframe(1))
        delivery = current_delivery()
        if delivery is None or ack_time is None:
            await super().set_result(task_id, result)
            return
        store, key = await self._opened(), self._key(task_id)
        encode = partial(self._result_write, store._handle, key, result)
        await delivery.save(result.error, encode, acks=ack_time != AcknowledgeType.MANUAL)

    def error_write(self, handle: Handle, task_id: str, error: Exception) -> Write:
        """Return the write of an error as the result of a task."""
        result: TaskiqResult[Any] = TaskiqResult(
            is_err=True, return_value=None, execution_time=0.0, error=error
        )
        return self._result_write(handle, self._key(task_id), result, "any")

    def dead_write(self, handle: Handle, task_id: str, reason: str) -> Write:
        """Return the write of the result that a dead task leaves."""
        error = DeadTaskError(f"task {task_id!r} is dead: {reason}")
        return self.error_write(handle, task_id, error)
