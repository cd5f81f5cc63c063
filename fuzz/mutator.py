"""Mutations of bytes: small, blind, and drawn from one seeded generator.

Rules: a pure function of the generator's state and the inputs; never longer than ``bytes_max``.
What a format needs besides (a checksum put right, a field set) a target adds as a mutation of its
own: see :class:`fuzz.target.Target`.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

INTERESTING = (
    *(0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 35, 36, 37, 44, 63, 64, 100, 127, 128, 255),
    *(256, 479, 480, 481, 511, 512, 1023, 1024, 4095, 4096, 4097, 32767, 32768, 65535, 65536),
    *(1 << 20, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 40), (1 << 48) - 1),
    *((1 << 53) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1),
)
_WIDTHS = ("<B", "<H", ">H", "<I", ">I", "<Q", ">Q")
_BLOCK_MAX = 256

Mutation = Callable[[random.Random, bytearray, Sequence[bytes]], None]


def flip_bit(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """One bit."""
    data[_place(rng, data)] ^= 1 << rng.randrange(8)


def set_byte(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """One byte."""
    data[_place(rng, data)] = rng.randrange(256)


def set_integer(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """An integer of any width and byte order, of those that bounds are made of."""
    width = rng.choice(_WIDTHS)
    size = struct.calcsize(width)
    if len(data) >= size:
        at = rng.randrange(len(data) - size + 1)
        value = rng.choice(INTERESTING) & ((1 << (8 * size)) - 1)
        struct.pack_into(width, data, at, value)


def add_to_integer(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """A little more or less than the integer that is there."""
    width = rng.choice(_WIDTHS)
    size = struct.calcsize(width)
    if len(data) >= size:
        at = rng.randrange(len(data) - size + 1)
        (value,) = struct.unpack_from(width, data, at)
        struct.pack_into(width, data, at, (value + rng.randint(-35, 35)) % (1 << (8 * size)))


def zero_block(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """A run of zeros, as a medium that lost a write leaves."""
    start, end = _block(rng, data)
    data[start:end] = bytes(end - start)


def random_block(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """A run of noise."""
    start, end = _block(rng, data)
    data[start:end] = rng.randbytes(end - start)


def copy_block(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """A part written over another place, as a misdirected write does."""
    start, end = _block(rng, data)
    at = rng.randrange(len(data) - (end - start) + 1)
    data[at : at + end - start] = data[start:end]


def insert_block(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """A part once more, all behind it further on."""
    start, end = _block(rng, data)
    at = rng.randrange(len(data) + 1)
    data[at:at] = data[start:end]


def delete_block(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """A part cut out."""
    start, end = _block(rng, data)
    del data[start:end]


def cut(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """The end cut off."""
    del data[_place(rng, data) :]


def splice(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """The end of another input in place of this one's."""
    other = rng.choice(corpus)
    at = rng.randrange(min(len(data), len(other)) + 1)
    data[at:] = other[at:]


def overlay_block(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """A part of another input over this one."""
    other = rng.choice(corpus)
    if other:
        start, end = _block(rng, other)
        at = rng.randrange(len(data))
        data[at : at + end - start] = other[start:end]


MUTATIONS: tuple[Mutation, ...] = (
    *(flip_bit, flip_bit, set_byte, set_byte, set_integer, set_integer, add_to_integer),
    *(zero_block, random_block, copy_block, insert_block, delete_block, cut),
    *(splice, overlay_block),
)


def mutate(
    rng: random.Random,
    data: bytes,
    corpus: Sequence[bytes],
    *,
    bytes_max: int,
    extra: Sequence[Mutation] = (),
) -> bytes:
    """One to a few mutations of ``data``; ``extra`` are a target's own, drawn as often as these."""
    changed = bytearray(data)
    for _ in range(1 + min(int(rng.expovariate(0.7)), 8)):
        mutation = rng.choice(extra) if extra and rng.random() < 0.4 else rng.choice(MUTATIONS)
        if not changed:
            changed += rng.randbytes(rng.randint(1, 16))
        mutation(rng, changed, corpus)
    return bytes(changed[:bytes_max])


def _place(rng: random.Random, data: bytearray) -> int:
    return rng.randrange(len(data))


def _block(rng: random.Random, data: bytes | bytearray) -> tuple[int, int]:
    start = rng.randrange(len(data))
    size = min(int(rng.expovariate(1 / 24)) + 1, _BLOCK_MAX)
    return start, min(start + size, len(data))
