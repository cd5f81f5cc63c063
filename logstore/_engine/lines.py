"""The line of each queue: which message is next, as one process sees it.

Rules: used under the take lock.  What the logs have of a queue is in memory, until it is in the
table; of the table only a few keys are read ahead.  What is found here may be out of date, so each
candidate is looked up before it is returned: it may be leased, settled, or delayed meanwhile.
After a log has been folded, all lines are read again.

The order is that of priorities, the highest first, then of the times at which messages became
ready.  Every OLDEST_EVERY-th one is the oldest of all, so that a low priority is not starved.  A
message that is not delayed is ready whatever the clock says.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection
from functools import partial

from logstore._engine import messages, queuetable
from logstore._engine.frames import MESSAGE, RETURNED
from logstore._engine.messages import Message, Settings
from logstore._engine.overlay import Change, Overlay
from logstore._engine.reading import BaseEngine
from logstore.errors import CorruptRecordError

READ_AHEAD = 256
OLDEST_EVERY = 16


class _Level:
    """The ready messages of one priority: those in memory, and the next ones in the table."""

    def __init__(self, *, in_table: bool) -> None:
        self.heap: list[tuple[int, int]] = []  # when it became ready, sequence
        self.ahead: deque[int] = deque()  # sequences, which are these times
        self.read_to = 0
        self.in_table = in_table  # there may be more in the table


class Line:
    """One queue's line."""

    def __init__(self, engine: BaseEngine, queue: bytes) -> None:
        self._engine = engine
        self._queue = queue
        self._taken = 0
        self.clear()

    def clear(self) -> None:
        """Start again, with what the table has."""
        in_table = self._engine.from_table(partial(queuetable.levels, queue=self._queue))
        self._levels = {priority: _Level(in_table=True) for priority in in_table}
        self._delayed: list[tuple[int, int, int]] = []  # when it is due, priority, sequence
        self._due_ahead: deque[tuple[int, int, int]] = deque()
        self._due_after: bytes | None = None
        self._more_due = True
        self._passed: dict[int, tuple[int, int]] = {}  # leased when they were met: priority, time

    def add(self, message: Message) -> None:
        """Put in a message that is in the log."""
        if message.due_us:
            heapq.heappush(self._delayed, (message.due_us, message.priority, message.sequence))
        else:
            self._push(message.priority, message.sequence, message.sequence)

    def _push(self, priority: int, ready_us: int, sequence: int) -> None:
        level = self._levels.setdefault(priority, _Level(in_table=False))
        heapq.heappush(level.heap, (ready_us, sequence))

    def put_back_passed(self) -> None:
        """Look again at those that were leased: a lease has ended."""
        passed, self._passed = self._passed, {}
        for sequence, (priority, ready_us) in passed.items():
            self._push(priority, ready_us, sequence)

    def candidate(self, leased: Collection[int], now_us: int) -> int | None:
        """Return the sequence of what seems to be next and is not leased, and pass it."""
        self._admit_due(now_us)
        self._taken += 1
        while True:
            heads = [
                (head, priority)
                for priority, level in self._levels.items()
                if (head := self._head(priority, level)) is not None
            ]
            if not heads:
                return None
            if self._taken % OLDEST_EVERY == 0:
                (ready_us, sequence), priority = min(heads)
            else:
                (ready_us, sequence), priority = max(heads, key=lambda head: head[1])
            self._pop(self._levels[priority], sequence)
            self._passed[sequence] = priority, ready_us
            if sequence not in leased:
                return sequence

    def forget(self, sequence: int) -> None:
        """Forget a candidate that is not to be delivered."""
        self._passed.pop(sequence, None)

    def _head(self, priority: int, level: _Level) -> tuple[int, int] | None:
        if not level.ahead and level.in_table:
            read = partial(
                queuetable.ready,
                queue=self._queue,
                priority=priority,
                after=level.read_to,
                limit=READ_AHEAD,
            )
            level.ahead.extend(self._engine.from_table(read))
            level.in_table = len(level.ahead) == READ_AHEAD
            if level.ahead:
                level.read_to = level.ahead[-1]
        heads = [level.heap[0]] if level.heap else []
        heads += [(level.ahead[0], level.ahead[0])] if level.ahead else []
        return min(heads, default=None)

    @staticmethod
    def _pop(level: _Level, sequence: int) -> None:
        if level.heap and level.heap[0][1] == sequence:
            heapq.heappop(level.heap)
        else:
            level.ahead.popleft()

    def _admit_due(self, now_us: int) -> None:
        """Move delayed messages whose time has come to the others."""
        for _ in range(READ_AHEAD):
            next_one = self._next_delayed()
            if next_one is None or next_one[0] > now_us:
                return
            if self._delayed and self._delayed[0] == next_one:
                heapq.heappop(self._delayed)
            else:
                self._due_ahead.popleft()
            due_us, priority, sequence = next_one
            self._push(priority, due_us, sequence)

    def _next_delayed(self) -> tuple[int, int, int] | None:
        if not self._due_ahead and self._more_due:
            read = partial(
                queuetable.due, queue=self._queue, after=self._due_after, limit=READ_AHEAD
            )
            keys = self._engine.from_table(read)
            self._more_due = len(keys) == READ_AHEAD
            self._due_after = keys[-1] if keys else self._due_after
            self._due_ahead.extend(map(messages.split_due, keys))
        heads = [*self._delayed[:1], *([self._due_ahead[0]] if self._due_ahead else [])]
        return min(heads, default=None)

    def next_due_us(self) -> int | None:
        """Return when the next delayed message is due."""
        next_one = self._next_delayed()
        return None if next_one is None else next_one[0]


class Lines:
    """The lines of all queues.  Used by one thread at a time."""

    def __init__(self, engine: BaseEngine) -> None:
        self._engine = engine
        self._lines: dict[bytes, Line] = {}
        self._at: tuple[int, bool] | None = None  # which logs it has seen
        self._seen = 0  # how many frames of the open one
        self._returns = 0  # how many leases had ended unsettled

    def clear(self) -> None:
        """Forget everything; it is read again."""
        self._lines.clear()
        self._at = None

    def take(
        self, queues: Collection[bytes], leased: Collection[int], returns: int, now_us: int
    ) -> Message | None:
        """Return the first message in line of some queues, the first of these first.

        It is neither leased nor settled.  The caller leases it before anyone else looks.
        """
        view = self._catch_up()
        if returns != self._returns:
            self._returns = returns
            for line in self._lines.values():
                line.put_back_passed()
        for queue in queues:
            if settings(self._engine, view, queue).paused:
                continue
            line = self._line(queue, view)
            while (sequence := line.candidate(leased, now_us)) is not None:
                found = find(self._engine, view, sequence)
                if found is None or found.reason:
                    line.forget(sequence)  # it is settled, or dead
                elif found.due_us <= now_us or not found.due_us:
                    return found
                else:
                    line.forget(sequence)  # it is delayed now, and in line again
        return None

    def next_due_us(self, queues: Collection[bytes]) -> int | None:
        """Return when the next delayed message of some queues is due; not of paused ones."""
        view = self._catch_up()
        found = [
            self._line(queue, view).next_due_us()
            for queue in queues
            if not settings(self._engine, view, queue).paused
        ]
        return min((due_us for due_us in found if due_us is not None), default=None)

    def _line(self, queue: bytes, view: Overlay) -> Line:
        line = self._lines.get(queue)
        if line is None:
            line = self._lines[queue] = Line(self._engine, queue)
            for part in view.parts():
                if part.queued is not None:
                    end = self._seen if part is view else len(part.queued.order)
                    self._feed(view, part.queued.order[:end], only=queue)
        return line

    def _catch_up(self) -> Overlay:
        view = self._engine.view()
        at = view.epoch, view.sealed is not None
        if at != self._at:
            for line in self._lines.values():
                line.clear()
            self._at, self._seen = at, 0
            if view.sealed is not None and view.sealed.queued is not None:
                self._feed(view, view.sealed.queued.order)
        if view.queued is not None:
            end = len(view.queued.order)
            self._feed(view, view.queued.order[self._seen : end])
            self._seen = end
        return view

    def _feed(self, view: Overlay, changes: list[Change], only: bytes | None = None) -> None:
        for key, entry in changes:
            if entry.kind == MESSAGE:
                message: Message | None = messages.decode_message(key, entry)
            elif entry.kind == RETURNED:
                try:
                    message = find(self._engine, view, messages.sequence_of(entry))
                except CorruptRecordError:
                    continue
            else:
                continue
            if message is None or (only is not None and message.queue != only):
                continue
            line = self._lines.get(message.queue)
            if line is not None:
                line.add(message)


def settings(engine: BaseEngine, view: Overlay, queue: bytes) -> Settings:
    """Return what is set for a queue."""
    entry = view.find_settings(queue)
    if entry is not None:
        return messages.decode_settings(entry.payload)
    return engine.from_table(partial(queuetable.settings, queue=queue))


def find(engine: BaseEngine, view: Overlay, sequence: int) -> Message | None:
    """Return a message as it is now, live or dead; None if it is settled or unknown.

    Raises CorruptRecordError.
    """
    return queuetable.message_in(engine, sequence, *view.find_message(sequence))
