"""Taking messages, and what becomes of those of dead workers: one process's side of the queues.

Rules: a message that is taken is leased in shared memory (leases.py) and stays in line on the disk.
It is settled, returned or buried by a write, and its lease is cleared after that.  A lease that
ends without a write, as when a worker stops, delivers the message again at once, and does not count
as an attempt.  Whoever finds a dead worker returns its messages, one attempt more.  So does, for a
lease whose object is gone, the process that had it.  A lease is made where no signal handler
interrupts it; from then on its object keeps it.
"""

from __future__ import annotations

import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeVar

from logstore._engine import clock, lines, locks, messages, queuetable
from logstore._engine.engine import Engine
from logstore._engine.foldlock import FoldLock
from logstore._engine.frames import Entry
from logstore._engine.leases import ATTEMPTS, RETURNS
from logstore._engine.lines import Lines
from logstore._engine.messages import ATTEMPTS_MAX, Message, Settings
from logstore._engine.shelter import sheltered
from logstore._engine.writes import Change, Write
from logstore.errors import WriteTimeoutError

T = TypeVar("T")
L = TypeVar("L")
Died = Callable[[Message, Write], Write]

LISTED = 256  # messages read at once
RECHECK_S = 0.5  # how long a wait for a message lasts before it looks again
DIED = "the worker died"
DROPPED = "the worker dropped it"


class _Owner(weakref.ref[Any]):
    """The object of a lease, as long as somebody has it."""

    __slots__ = ("sequence",)
    sequence: int


class _Held(NamedTuple):
    """A message that this process has leased."""

    page: int
    message: Message
    owner: _Owner
    handle: object  # that it was taken with


class Taker:
    """The messages that one process works on.  Safe to use from any thread."""

    def __init__(self, engine: Engine) -> None:
        header = engine.header
        self._engine = engine
        self._leases = header.leases
        self._lines = Lines(engine)
        self._lock = FoldLock(header, engine.presence_fd, locks.TAKE, header.takes)
        self._held: dict[int, _Held] = {}  # by sequence
        # Leases whose objects are gone.  A method of C, so that it is called where a handler of a
        # signal or a lack of memory has ended the code that had the object, too.
        self._dropped: deque[_Owner] = deque()
        self._own: list[int] = []  # pages
        # By queue: what may replace the write that returns or buries a message, for instance by one
        # that also stores a result.
        self.died: dict[bytes, Died] = {}

    # -- taking -----------------------------------------------------------------------------

    def take(
        self, queues: Collection[bytes], make: Callable[[Message], L], handle: object
    ) -> L | None:
        """Lease the first message in line, the first queue first; None if none is ready.

        Returns what ``make`` makes of it.  When that object is gone, and the lease has not ended,
        the message is returned by :meth:`return_dropped`.  The lease also ends when the ``handle``
        is given to :meth:`leave`.  Raises WriteTimeoutError if another process keeps the take lock
        for as long as ``write_timeout_s``, StoreBusyError if this one cannot hold any more
        messages, and what reading the store raises.
        """
        return sheltered(lambda: self._locked(lambda: self._take(queues, make, handle)))

    def wait(self, seen: int, queues: Collection[bytes], timeout_s: float) -> None:
        """Sleep until messages became ready since the word was ``seen``, or one is due."""
        due_us = self._locked(lambda: self._lines.next_due_us(queues))
        if due_us is not None:
            timeout_s = min(timeout_s, max(0.0, (due_us - clock.now_us()) / 1e6))
        self._engine.header.ready_messages.wait(seen, min(timeout_s, RECHECK_S))

    def seen(self) -> int:
        """Return the word to wait on, to be read before a take."""
        return self._engine.header.ready_messages.value

    def announce(self, count: int) -> None:
        """Wake sleepers for so many messages that are ready or delayed."""
        word = self._engine.header.ready_messages
        word.add_one()
        word.wake(count)

    def _locked(self, work: Callable[[], T]) -> T:
        found = self._lock.hold(work, time.monotonic() + self._engine.options.write_timeout_s)
        if found is None:
            raise self._engine.timeout_error()
        return found[0]

    def _take(
        self, queues: Collection[bytes], make: Callable[[Message], L], handle: object
    ) -> L | None:
        leases = self._leases
        try:
            returns = leases.words[RETURNS]
            leased = leases.all()
            message = self._lines.take(queues, leased, returns, clock.now_us())
            if message is None:
                return None
            made = make(message)
            owner = _Owner(made, self._dropped.append)
            owner.sequence = message.sequence
            self._lease(message, owner, handle)
        except BaseException:
            self._lines.clear()  # what has been passed is in line again
            raise
        return made

    def _lease(self, message: Message, owner: _Owner, handle: object) -> None:
        sequence = message.sequence
        page = next((page for page in self._own if self._leases.has_room(page)), 0)
        if not page:
            page = self._leases.join(self._engine.path, os.getpid())
            self._own.append(page)
        self._held[sequence] = _Held(page, message, owner, handle)
        try:
            self._leases.add(page, sequence, message.attempts)
        except BaseException:
            del self._held[sequence]
            raise

    # -- looking ----------------------------------------------------------------------------

    def leased(self) -> set[int]:
        """Return the sequences of the messages that some worker has at this moment."""
        return self._leases.all()

    def settings(self, queue: bytes) -> Settings:
        """Return what is set for a queue."""
        return lines.settings(self._engine, self._engine.view(), queue)

    def messages(self) -> Iterator[Message]:
        """Yield all messages of all queues, dead ones too, by sequence."""
        engine = self._engine
        view = engine.view()
        in_log = sorted(sequence for part in view.queued_since(0) for sequence in part.messages)
        of_log = frozenset(in_log)
        for message in self._in_table():
            if message.sequence not in of_log:
                now = lines.find(engine, engine.view(), message.sequence)
                if now is not None:
                    yield now
        for sequence in in_log:
            now = lines.find(engine, engine.view(), sequence)
            if now is not None:
                yield now

    def _in_table(self) -> Iterator[Message]:
        after: int | None = 0
        while after is not None:
            read = partial(queuetable.listed, after=after, limit=LISTED)
            found, after = self._engine.from_table(read)
            yield from found

    def messages_of(self, key: bytes) -> list[Message]:
        """Return the messages of a task, dead ones not included."""
        engine = self._engine
        view = engine.view()
        sequences = set(engine.from_table(partial(queuetable.held, key=key))) | set(view.held(key))
        found = (lines.find(engine, view, sequence) for sequence in sorted(sequences))
        return [message for message in found if message is not None and not message.reason]

    # -- ending leases ----------------------------------------------------------------------

    def settled(self, sequence: int) -> None:
        """End the lease of a message that was settled by a write."""
        held = self._held.pop(sequence, None)
        if held is not None:
            self._leases.remove(held.page, sequence)

    def returned(self, sequences: Collection[int]) -> None:
        """End the leases of messages that others are to see in line again, and wake sleepers.

        Others may have passed them meanwhile, because they were still leased.
        """
        try:
            self.give_back(sequences)
        except WriteTimeoutError:
            for sequence in sequences:
                self.settled(sequence)  # those who have passed it see it after the next fold

    def give_back(self, sequences: Iterable[int]) -> None:
        """End leases; their messages are delivered again, here or elsewhere."""

        def remove() -> int:
            held = [sequence for sequence in sequences if sequence in self._held]
            for sequence in held:
                self.settled(sequence)
            if held:
                self._leases.count_return()
            return len(held)

        count = sheltered(lambda: self._locked(remove))
        if count:
            self.announce(count)

    def return_dropped(self) -> int:
        """Return or bury the messages whose leases' objects are gone; return how many.

        See :meth:`return_those_of_the_dead`.
        """
        count = 0
        while self._dropped:
            sequence = self._dropped[0].sequence
            held = self._held.get(sequence)
            if held is not None and held.owner is self._dropped[0]:
                self._return([(sequence, held.message.attempts)], DROPPED)
                self.returned([sequence])
                count += 1
            self._dropped.popleft()
        return count

    def leave(self, handle: object) -> None:
        """Give back what was taken with a handle, as when it is closed."""
        of_it = [number for number, held in list(self._held.items()) if held.handle is handle]
        if of_it:
            self.returned(of_it)

    def close(self) -> None:
        """Give back the pages, with what is still in them."""
        for sequence in list(self._held):
            self.settled(sequence)
        while self._own:
            self._leases.leave(self._own.pop())

    def processes(self) -> list[int]:
        """Return the process ids of all workers."""
        return self._leases.processes()

    # -- the dead ---------------------------------------------------------------------------

    def return_those_of_the_dead(self) -> int:
        """Return or bury what dead workers held; return how many messages there were.

        Raises the errors of a write; what is left is tried again by the next call.
        """
        return sheltered(self._return_all)

    def _return_all(self) -> int:
        count = 0
        for page in self._leases.dead():
            held = self._leases.of(page)
            self._return(held, DIED)

            def clear(page: int = page) -> None:
                self._leases.clear_page(page)
                self._leases.count_return()

            self._locked(clear)
            count += len(held)
        if count:
            self.announce(count)
        return count

    def _return(self, leased: Iterable[tuple[int, int]], reason: str) -> None:
        engine = self._engine
        engine.sync()  # what the dead one has appended may settle it
        view = engine.view()
        writes: list[Write] = []
        for sequence, attempts in leased:
            message = lines.find(engine, view, sequence)
            if message is None or message.reason:
                continue
            if message.attempts & ATTEMPTS == attempts & ATTEMPTS:  # else it has been returned
                write: Write = Change(message.key, ended(message, reason))
                died = self.died.get(message.queue)
                writes.append(write if died is None else died(message, write))
        if writes:
            engine.commit_queue.run(writes)
        for write in writes:
            if write.error is not None:
                raise write.error


def ended(message: Message, reason: str, due_us: int = 0) -> Entry:
    """Return what a delivery without an outcome leaves: the message again, or a dead one."""
    attempts = min(message.attempts + 1, ATTEMPTS_MAX)
    if message.attempts_max and attempts >= message.attempts_max:
        return messages.buried_entry(message.sequence, attempts, reason)
    return messages.returned_entry(message.sequence, attempts, due_us)
