"""Leases: which messages are being worked on, in shared memory.

Rules: each worker has a page of words, behind the readers' slots of the ``-shm`` file.  A lock on
one byte shows that it lives; the kernel releases it when the worker dies.  The page lists the
messages that the worker holds, each with its attempts so far: they differ if a worker returned a
message before it died.  Only the worker writes into its page, or who has its lock because it has
died.  Taking a message writes nothing to the disk: a lease that is lost is a delivery again.
Nothing is delivered twice at once, because leases are read, and set, under the take lock; and they
are read before the view of the log, since a settlement is published before its lease is cleared.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from logstore._engine import locks
from logstore.errors import StoreBusyError

PAGES, PAGE_WORDS = 128, 64
BYTES = PAGES * PAGE_WORDS * 8
LOCKS_AT = 1 << 41  # the offset of the byte that is locked for page 0
# Words of page 0, which no worker has.
USED, RETURNS = 0, 1  # how many pages have ever been used; counts leases given back unsettled
# Words of a page.
PROCESS, FIRST = 0, 1  # process id, the first lease
LEASES_MAX = PAGE_WORDS - FIRST
# Parts of the word of a lease.  Every sequence is smaller than 2**58.
SEQUENCE_BITS = 58
SEQUENCES = (1 << SEQUENCE_BITS) - 1
ATTEMPTS = (1 << 64 - SEQUENCE_BITS) - 1  # only their lowest bits


class Leases:
    """The leases of a store, as one process sees them."""

    def __init__(self, fd: int, memory: memoryview) -> None:
        self.words = memory.cast("Q")
        self._fd = fd
        self._mine: set[int] = set()
        self._lock = threading.Lock()  # of ``_mine``: one's own lock looks like that of a dead one

    def clear(self) -> None:
        """Set all words to 0; only for a process that is alone with the store."""
        self.words[:] = memoryview(bytes(self.words.nbytes)).cast("Q")

    # -- pages ----------------------------------------------------------------------------------

    def join(self, path: str, process: int) -> int:
        """Return a free page, with no leases in it.  Raises StoreBusyError if there is none."""
        with self._lock:
            for page in range(1, PAGES):
                if page in self._mine or not locks.try_lock_byte(self._fd, _lock_of(page)):
                    continue
                if any(self._leases(page)):
                    self._unlock(page)  # a dead worker's: they are to be returned first
                    continue
                self._mine.add(page)
                self.words[page * PAGE_WORDS] = process
                self.words[USED] = max(self.words[USED], page + 1)
                return page
        raise StoreBusyError(f"{path}: {PAGES - 1} workers, which are as many as there can be")

    def leave(self, page: int) -> None:
        """Give a page back; it has no leases any more."""
        with self._lock:
            self.words[page * PAGE_WORDS] = 0
            self._mine.discard(page)
            self._unlock(page)

    def _unlock(self, page: int) -> None:
        locks.unlock_byte(self._fd, _lock_of(page))

    def dead(self) -> Iterator[int]:
        """Yield the pages of dead workers; each is locked until the next is asked for."""
        for page in range(1, self.words[USED]):
            if not self.words[page * PAGE_WORDS]:
                continue
            with self._lock:
                if page in self._mine or not locks.try_lock_byte(self._fd, _lock_of(page)):
                    continue
                self._mine.add(page)
            try:
                yield page
            finally:
                with self._lock:
                    self._mine.discard(page)
                    self._unlock(page)

    def processes(self) -> list[int]:
        """Return the process ids in all pages that are in use, each as its own namespace has it."""
        used = range(1, self.words[USED])
        return [process for page in used if (process := self.words[page * PAGE_WORDS])]

    # -- leases ---------------------------------------------------------------------------------

    def all(self) -> set[int]:
        """Return the sequences of all messages that are being worked on; take lock held."""
        words = self.words[: self.words[USED] * PAGE_WORDS].tolist()
        for page in range(1, len(words) // PAGE_WORDS):
            words[page * PAGE_WORDS] = 0
        return {word & SEQUENCES for word in words[PAGE_WORDS:] if word}

    def of(self, page: int) -> list[tuple[int, int]]:
        """Return sequence and attempts, modulo 64, of the messages in a page."""
        words = self._leases(page)
        return [(word & SEQUENCES, word >> SEQUENCE_BITS) for word in words if word]

    def _leases(self, page: int) -> list[int]:
        begin = page * PAGE_WORDS
        return self.words[begin + FIRST : begin + PAGE_WORDS].tolist()

    def has_room(self, page: int) -> bool:
        """Return whether a page has room for one more."""
        return 0 in self._leases(page)

    def add(self, page: int, sequence: int, attempts: int) -> None:
        """Lease a message in a page that has room for it; take lock held."""
        word = (attempts & ATTEMPTS) << SEQUENCE_BITS | sequence
        self.words[page * PAGE_WORDS + FIRST + self._leases(page).index(0)] = word

    def remove(self, page: int, sequence: int) -> None:
        """End a lease."""
        for number, word in enumerate(self._leases(page), page * PAGE_WORDS + FIRST):
            if word & SEQUENCES == sequence:
                self.words[number] = 0

    def count_return(self) -> None:
        """Note that leases have ended whose messages are to be delivered again; take lock held."""
        self.words[RETURNS] += 1

    def clear_page(self, page: int) -> None:
        """End all leases of a page; it is free when its lock is released."""
        begin = page * PAGE_WORDS
        for word in range(begin, begin + PAGE_WORDS):
            self.words[word] = 0


def _lock_of(page: int) -> locks.ByteLock:
    return locks.ByteLock(LOCKS_AT + page)
