"""What is stored: ids, values and task results, the same for every peer.

Ids look like the ones taskiq makes (32 hexadecimal digits, in no order), because a B-tree is
faster on ordered keys than it would be in use. Everything comes from a seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskiq import TaskiqResult
    from taskiq.depends.progress_tracker import TaskProgress

SIZES: dict[str, int] = {"300B": 300, "4KiB": 4096, "1MiB": 1 << 20}


def task_id(space: str, number: int) -> str:
    """The id of task `number` of the id space `space`."""
    key = space.encode()[:64]
    return blake2b(number.to_bytes(8, "little"), digest_size=16, key=key).hexdigest()


class Ids:
    """A stream of fresh ids, made in blocks so that making one is not part of a measurement."""

    def __init__(self, space: str) -> None:
        self._space = space
        self._made = 0
        self._ready: list[str] = []

    def fill(self, count: int) -> None:
        """Have at least `count` ids ready."""
        missing = count - len(self._ready)
        if missing > 0:
            fresh = [task_id(self._space, self._made + step) for step in range(missing)]
            self._made += missing
            self._ready.extend(fresh)

    def take(self) -> str:
        """The next id; makes more when they have run out."""
        if not self._ready:
            self.fill(1024)
        return self._ready.pop()


def value(size: int, seed: int = 1) -> bytes:
    """`size` bytes that do not compress, so that a peer that compresses gains nothing by it."""
    return random.Random(seed).randbytes(size)


def pairs(space: str, count: int, size: int) -> Iterator[tuple[str, bytes]]:
    """`count` ids of `space` with values of `size` bytes, each different at its start."""
    body = value(size)
    for number in range(count):
        yield task_id(space, number), number.to_bytes(8, "little") + body[8:]


def return_value(number: int) -> dict[str, Any]:
    """What a task returns, as a guess: about 350 bytes, pickled or as JSON, of mixed fields."""
    return {
        "status": "done",
        "path": f"/data/incoming/2025/part-{number:08d}.parquet",
        "rows": 120_000 + number,
        "mean": 0.731 + number / 1000,
        "columns": ["id", "created_at", "customer", "amount", "currency"],
        "quality": {"missing": 12, "duplicated": 3, "out_of_range": 0},
        "notes": "two rows had no currency and were taken as EUR",
        "checksum": f"{number:040x}",
    }


def result(number: int) -> TaskiqResult[Any]:
    """A real taskiq result, as a worker would hand it to a backend."""
    from taskiq import TaskiqResult

    return TaskiqResult[Any](
        is_err=False,
        log=None,
        return_value=return_value(number),
        execution_time=0.125,
        labels={"queue": "default", "retry": 0},
    )


def progress(number: int) -> TaskProgress[Any]:
    """A progress report, as taskiq's ProgressTracker would hand it to a backend."""
    from taskiq.depends.progress_tracker import TaskProgress

    return TaskProgress[Any](
        state="STARTED",
        meta={"current": number % 1000, "total": 1000, "text": f"row {number} of the batch"},
    )
