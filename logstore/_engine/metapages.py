"""LMDB's two meta pages, checked without LMDB, which believes whatever they say.

Rules: pure functions on bytes.  A commit writes one of the two pages, in turn, and LMDB goes by the
one with the higher transaction number.  They have no checksum: damage in the newer one makes LMDB
take the older, as if the last commit had never happened, or follow a wrong root.  So the values
that both pages must share, and the roots, are compared.  Layout: LMDB 0.9, 64 bits.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

MAGIC = 0xBEEFC0DE
VERSION = 1

_HEAD = struct.Struct("<QHHI")  # page number, pad, flags, bounds
_META = struct.Struct("<IIQQ")  # magic, version, address, map size
TREE = struct.Struct("<IHHQQQQQ")  # the fields of Tree
_TAIL = struct.Struct("<QQ")  # last page, transaction number
META_BYTES = _HEAD.size + _META.size + 2 * TREE.size + _TAIL.size
ROOT_BYTES = _HEAD.size
MAGIC_AT = _HEAD.size
assert META_BYTES == 152

META_PAGES = 2
BRANCH, LEAF, OVERFLOW, _META_PAGE = 1, 2, 4, 8  # flags of a page
_INTEGER_KEYS = 8
NO_PAGE = (1 << 64) - 1
_DEPTH_MAX = 32


class Tree(NamedTuple):
    """What a meta page says of one of its two trees: the free pages, and the databases."""

    page_bytes: int
    flags: int
    depth: int
    branches: int
    leaves: int
    large: int
    entries: int
    root: int

    @property
    def is_empty(self) -> bool:
        """Whether it has no page."""
        return self.root == NO_PAGE

    def problem(self, last_page: int) -> str | None:
        """Return what is impossible in it, None if nothing is."""
        pages = self.branches + self.leaves + self.large
        if self.is_empty:
            return "a tree without a root that has pages" if self.depth or pages else None
        if (
            not META_PAGES <= self.root <= last_page
            or not 1 <= self.depth <= _DEPTH_MAX
            or not 1 <= self.leaves <= pages <= last_page
            or (self.branches == 0) != (self.depth == 1)
        ):
            return (
                f"a tree of depth {self.depth} and {pages} pages with root {self.root} in a file "
                f"of {last_page + 1} pages"
            )
        return None

    def root_problem(self, raw: bytes) -> str | None:
        """Return what is wrong with the first :data:`ROOT_BYTES` bytes of its root, or None."""
        if len(raw) < ROOT_BYTES:
            return f"a root {self.root} that is not in the file"
        number, _, flags, bounds = _HEAD.unpack_from(raw)
        keys = ((bounds & 0xFFFF) - _HEAD.size) // 2
        wanted = LEAF if self.depth == 1 else BRANCH
        if number != self.root or flags != wanted or (self.depth == 1 and keys != self.entries):
            return f"a root {self.root} on whose page there is none"
        return None


class MetaPage(NamedTuple):
    """One meta page."""

    head: tuple[int, int, int, int]  # page number, pad, flags, bounds
    magic: int
    version: int
    address: int
    map_bytes: int
    free: Tree
    main: Tree
    last_page: int
    txn_id: int

    @property
    def page_bytes(self) -> int:
        """The size of all pages of the file."""
        return self.free.page_bytes


def decode(raw: bytes) -> MetaPage:
    """Decode a meta page from its first :data:`META_BYTES` bytes, whatever they say."""
    at = _HEAD.size + _META.size
    number, pad, flags, bounds = _HEAD.unpack_from(raw)
    magic, version, address, map_bytes = _META.unpack_from(raw, _HEAD.size)
    free, main = (Tree(*TREE.unpack_from(raw, at + n * TREE.size)) for n in (0, 1))
    last_page, txn_id = _TAIL.unpack_from(raw, at + 2 * TREE.size)
    head = (number, pad, flags, bounds)
    return MetaPage(head, magic, version, address, map_bytes, free, main, last_page, txn_id)


def encode(number: int, page: MetaPage) -> bytes:
    """Encode a whole meta page, as page ``number`` of its file."""
    data = (
        _HEAD.pack(number, 0, _META_PAGE, 0)
        + _META.pack(page.magic, page.version, 0, page.map_bytes)
        + TREE.pack(*page.free)
        + TREE.pack(*page.main)
        + _TAIL.pack(page.last_page, page.txn_id)
    )
    return data.ljust(page.page_bytes, b"\0")


def newest(pages: tuple[MetaPage, MetaPage]) -> MetaPage:
    """Return the page that LMDB uses."""
    return pages[pages[0].txn_id < pages[1].txn_id]


def problem(pages: tuple[MetaPage, MetaPage]) -> str | None:
    """Return what the two pages say that LMDB never writes, None if nothing."""
    for number, page in enumerate(pages):
        if page.head != (number, 0, _META_PAGE, 0) or page.address:
            return f"meta page {number} begins with {page.head}, {page.address:#x}"
        if (page.magic, page.version) != (MAGIC, VERSION):
            return f"meta page {number} is of magic {page.magic:#x}, version {page.version}"
    first, second = pages
    if (first.page_bytes, first.free.flags, first.main[:2]) != (
        second.page_bytes,
        second.free.flags,
        second.main[:2],
    ) or not first.free.flags & _INTEGER_KEYS:
        return "the meta pages are of different kinds"
    if (first.txn_id, second.txn_id) != (0, 0) and (
        abs(first.txn_id - second.txn_id) != 1 or first.txn_id % 2
    ):
        return (
            f"the meta pages are of transactions {first.txn_id} and {second.txn_id}, which do not "
            f"follow each other"
        )
    page = newest(pages)
    if page.last_page < max(first.last_page, second.last_page, 1):
        return f"the file has become smaller, down to {page.last_page + 1} pages"
    for tree in (page.free, page.main):
        found = tree.problem(page.last_page)
        if found is not None:
            return f"meta page {page.head[0]} has {found}"
    return None
