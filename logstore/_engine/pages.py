"""Copying the pages of a table that is in use, without a transaction that would pin them.

Rules: nothing here opens LMDB, takes a lock or holds a reader's slot, so a process that is stopped
in the middle of a copy does not keep pages from being used again.  After each read a copy finds out
whether its snapshot is still valid, before it interprets a byte.  A transaction of LMDB does not
use pages that the transaction before it has freed.  So even the second transaction after a snapshot
leaves its pages as they are, and when it commits, it writes its meta page over the snapshot's.
While that meta page is unchanged, everything that has been read belongs to the snapshot.

A copy has the used pages in their order, without the free pages between them; the page numbers
inside them are changed to match.  The data format is that of LMDB 0.9 as far as a store uses it:
named databases without duplicate keys.  Anything else is damage, which raises CorruptTableError.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Callable, Iterator

from logstore._engine import durability, metapages
from logstore._engine.metapages import BRANCH, LEAF, META_PAGES, NO_PAGE, OVERFLOW, MetaPage, Tree
from logstore.errors import CorruptTableError, LogstoreError

SLICE_BYTES = 1 << 20  # how much is read, and written, at once

_HEAD = struct.Struct("<QHHHH")  # of a page: number, pad, flags, lower and upper bound
_NODE = struct.Struct("<HHHH")  # low and high half of a size, flags, key length
_NUMBER = struct.Struct("<Q")
assert (_HEAD.size, _NODE.size) == (16, 8)

_BIG, _SUBDATABASE = 1, 2  # a node's flags: its data is in overflow pages, is a database
_ROOT_AT = metapages.TREE.size - _NUMBER.size
_SLACK_PAGES = 1 << 20  # how many free pages at the end may never have been written


class OvertakenError(LogstoreError):
    """The table has been written to since a copy began, so the copy is void."""


class Snapshot:
    """The pages of an open table file as one transaction left them."""

    def __init__(self, fd: int, path: str, transaction: int) -> None:
        """Start at the newest transaction, whose number the caller has from LMDB.

        Raises OvertakenError if it is no longer the newest, CorruptTableError.
        """
        self.path = path
        self._fd = fd
        self._transaction = _NUMBER.pack(transaction)
        first = self._read_meta(0)
        if first.page_bytes & (first.page_bytes - 1) or not 512 <= first.page_bytes <= 65536:
            raise self.damage(f"a page size of {first.page_bytes} in the header")
        self.page_bytes = first.page_bytes
        self._meta_at = (transaction & 1) * self.page_bytes
        self.meta = self._read_meta(self._meta_at)
        # The next transaction writes the other meta page.  Until it has, no other begins, so
        # this page was not being written while it was read.
        other = self._read_meta(self.page_bytes - self._meta_at)
        if self.meta.txn_id != transaction or other.txn_id > transaction:
            raise OvertakenError(f"{path}: written to while its header was read")
        if (self.meta.magic, self.meta.version) != (metapages.MAGIC, metapages.VERSION):
            raise self.damage("no header of the known format")
        if self.meta.page_bytes != self.page_bytes:
            raise self.damage(f"page sizes of {self.page_bytes} and {self.meta.page_bytes}")
        file_pages = os.fstat(fd).st_size // self.page_bytes
        if not META_PAGES <= self.meta.last_page + 1 <= 2 * file_pages + _SLACK_PAGES:
            raise self.damage(f"a last page of {self.meta.last_page} in {file_pages}")

    def _read_meta(self, at: int) -> MetaPage:
        data = os.pread(self._fd, metapages.META_BYTES, at)
        if len(data) < metapages.META_BYTES:
            raise self.damage("no whole header")
        return metapages.decode(data)

    def read(self, first: int, count: int) -> bytearray:
        """Read some pages.  Raises OvertakenError if they may no longer be the snapshot's."""
        data = bytearray(count * self.page_bytes)
        size = os.preadv(self._fd, [data], first * self.page_bytes)
        self.check()
        if size < len(data):
            raise self.damage(f"the file ends within the pages {first} to {first + count - 1}")
        return data

    def check(self) -> None:
        """Raise OvertakenError unless all that was read belongs to the snapshot."""
        at = self._meta_at + metapages.META_BYTES - _NUMBER.size
        if os.pread(self._fd, _NUMBER.size, at) != self._transaction:
            raise OvertakenError(f"{self.path}: written to while it was copied")

    def damage(self, what: str) -> CorruptTableError:
        """Return the error for bytes that LMDB does not write."""
        return CorruptTableError(
            f"{self.path}: damaged: {what}; restore a backup, or copy what can be read with "
            f"tasks() and get_result()"
        )

    def marks_of_free_pages(self) -> bytearray:
        """Return a byte for each page: 1 for pages that a copy leaves out, 0 for pages in use.

        Left out are the meta pages, the free pages, and the pages of the list of free pages.
        """
        marks = bytearray(self.meta.last_page + 1)
        marks[:META_PAGES] = b"\1" * META_PAGES
        left = [] if self.meta.free.is_empty else [self.meta.free.root]
        while left:
            page = left.pop()
            try:
                left += self._mark_listed(page, marks)
            except (struct.error, IndexError, ValueError) as exc:
                raise self.damage(f"page {page} of the list of free pages ({exc})") from exc
        return marks

    def _mark_listed(self, page: int, marks: bytearray) -> list[int]:
        """Mark one page of the list's tree and the pages listed in it; return its children."""
        _mark(marks, page, page + 1)
        data = self.read(page, 1)
        number, _, flags, lower, _ = _HEAD.unpack_from(data)
        if number != page or flags not in (BRANCH, LEAF):
            raise ValueError(f"number {number}, flags {flags:#x}")
        children: list[int] = []
        for at in struct.unpack_from(f"<{_count(lower)}H", data, _HEAD.size):
            low, high, top, key_bytes = _NODE.unpack_from(data, at)
            if flags == BRANCH:
                children.append(low | high << 16 | top << 32)
                continue
            size, begin = low | high << 16, at + _NODE.size + key_bytes
            if top & _BIG:
                run = _NUMBER.unpack_from(data, begin)[0]
                count = (_HEAD.size - 1 + size) // self.page_bytes + 1
                _mark(marks, run, run + count)
                listed = self.read(run, count)[_HEAD.size : _HEAD.size + size]
            else:
                listed = data[begin : begin + size]
            free = struct.unpack(f"<{size // 8}Q", listed)
            if free[0] != len(free) - 1:
                raise ValueError(f"{len(free) - 1} pages, said to be {free[0]}")
            for number in free[1:]:
                if marks[number]:
                    raise ValueError(f"page {number} is listed twice")
                marks[number] = 1
        return children


def _count(lower: int) -> int:
    """Return how many nodes a page has."""
    return (lower - _HEAD.size) >> 1


def _mark(marks: bytearray, begin: int, end: int) -> None:
    if end > len(marks) or any(marks[begin:end]):
        raise ValueError(f"page {begin} is used twice or is after the last one")
    marks[begin:end] = b"\1" * (end - begin)


def copy_pages(
    fd: int, path: str, transaction: int, target_fd: int, pulse: Callable[[int], None]
) -> None:
    """Copy the used pages of an open table file to an empty file, which is not synced.

    ``transaction`` is the number of the newest transaction; ``path`` is for messages.  ``pulse``
    is called after each step with the number of bytes written so far; an exception of it ends the
    copy.  Raises OvertakenError if the table was written to so often that the copy is void,
    CorruptTableError, and OSError if the target cannot be written.
    """
    snapshot = Snapshot(fd, path, transaction)
    _Copy(snapshot, target_fd).run(pulse)


class _Copy:
    """One copy: the new number of each page, and the rest of a run of overflow pages."""

    def __init__(self, snapshot: Snapshot, target_fd: int) -> None:
        self._snapshot = snapshot
        self._target_fd = target_fd
        marks = snapshot.marks_of_free_pages()
        self._runs = list(_runs(marks))
        self._numbers = array("Q", bytes(8 * len(marks)))  # 0 for a page that is not copied
        self._end = META_PAGES
        for first, end in self._runs:
            new = range(self._end, self._end + end - first)
            self._numbers[first:end] = array("Q", new)
            self._end = new.stop
        self._overflow_left = 0  # pages of a value whose first page has been seen

    def run(self, pulse: Callable[[int], None]) -> None:
        """Copy all pages, the meta pages last."""
        snapshot, page_bytes = self._snapshot, self._snapshot.page_bytes
        step = SLICE_BYTES // page_bytes
        for run_first, run_end in self._runs:
            for first in range(run_first, run_end, step):
                count = min(step, run_end - first)
                data = snapshot.read(first, count)
                self._renumber(data, first, count)
                offset = self._numbers[first] * page_bytes
                durability.pwrite_all(self._target_fd, memoryview(data), offset)
                pulse(offset + len(data))
            if self._overflow_left:
                raise snapshot.damage(f"page {run_end} is free and part of a value")
        for number, meta in enumerate(self._metas()):
            page = metapages.encode(number, meta)
            durability.pwrite_all(self._target_fd, page, number * page_bytes)

    def _metas(self) -> tuple[MetaPage, MetaPage]:
        """Return the meta pages of an empty file, and of one transaction that filled it."""
        old = self._snapshot.meta
        empty = old._replace(
            free=Tree(*old.free[:2], 0, 0, 0, 0, 0, NO_PAGE),
            main=Tree(0, 0, 0, 0, 0, 0, 0, NO_PAGE),
            last_page=META_PAGES - 1,
            txn_id=0,
        )
        root = NO_PAGE if old.main.is_empty else self._new_number(old.main.root)
        main = old.main._replace(root=root)
        return empty, empty._replace(main=main, last_page=self._end - 1, txn_id=1)

    def _new_number(self, old: int) -> int:
        new = self._numbers[old] if old < len(self._numbers) else 0
        if not new:
            raise self._snapshot.damage(f"page {old} is in use, but free or after the last one")
        return new

    def _renumber(self, data: bytearray, first: int, count: int) -> None:
        """Change the page numbers inside some pages."""
        page, end = first + self._overflow_left, first + count
        while page < end:
            at = (page - first) * self._snapshot.page_bytes
            number, _, flags, lower, upper = _HEAD.unpack_from(data, at)
            try:
                if number != page:
                    raise ValueError(f"it says that it is page {number}")
                _NUMBER.pack_into(data, at, self._numbers[page])
                if flags == LEAF:
                    self._renumber_leaf(data, at, _count(lower))
                elif flags == BRANCH:
                    self._renumber_branch(data, at, _count(lower))
                elif flags != OVERFLOW or not lower | upper:
                    raise ValueError(f"flags {flags:#x}")
            except (struct.error, IndexError, ValueError) as exc:
                raise self._snapshot.damage(f"page {page} ({exc})") from exc
            page += lower | upper << 16 if flags == OVERFLOW else 1
        self._overflow_left = page - end

    def _renumber_leaf(self, data: bytearray, at: int, count: int) -> None:
        flags_at = at + 4
        for node in struct.unpack_from(f"<{count}H", data, at + _HEAD.size):
            if not data[flags_at + node]:  # as almost everywhere: the data is in the node
                continue
            _, _, flags, key_bytes = _NODE.unpack_from(data, at + node)
            pointer = at + node + _NODE.size + key_bytes
            if flags == _SUBDATABASE:
                pointer += _ROOT_AT
            elif flags != _BIG:
                raise ValueError(f"a node with flags {flags:#x}")
            old = _NUMBER.unpack_from(data, pointer)[0]
            if old != NO_PAGE or flags == _BIG:
                _NUMBER.pack_into(data, pointer, self._new_number(old))

    def _renumber_branch(self, data: bytearray, at: int, count: int) -> None:
        for node in struct.unpack_from(f"<{count}H", data, at + _HEAD.size):
            low, high, top, key_bytes = _NODE.unpack_from(data, at + node)
            new = self._new_number(low | high << 16 | top << 32)
            _NODE.pack_into(data, at + node, new & 0xFFFF, new >> 16 & 0xFFFF, new >> 32, key_bytes)


def _runs(marks: bytearray) -> Iterator[tuple[int, int]]:
    """Yield the first page of each run of used pages, and the first page after it."""
    end = 0
    while (first := marks.find(0, end)) >= 0:
        end = marks.find(1, first)
        if end < 0:
            end = len(marks)
        yield first, end
