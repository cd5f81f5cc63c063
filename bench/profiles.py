"""How much is measured: one row of data per make target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALL = tuple(f"W{number}" for number in range(1, 17))
# They have targets in milliseconds or percent alone, which fail no run.
WITHOUT_RATIOS = ("W9", "W10", "W11", "W16")


@dataclass(frozen=True, slots=True)
class Profile:
    """The size of a run. Times in seconds, of one slice unless said otherwise.

    It also travels to the workers as JSON, so a sequence may come back as a list.
    """

    name: str
    rounds: int  # W1 to W4
    slow_rounds: int  # W5 to W9, W12 and W13
    long_rounds: int  # W10 and W11: long slices, whose figure is steady in itself
    slice_s: float  # W1 to W4
    slow_slice_s: float  # W7 and W9: at 20 ms a flush, a slice needs time to mean something
    contention_s: float  # W5, W12 and W13
    store_sizes: Sequence[int]  # W6
    table_results: int  # W3: how many results the cold table holds
    device_results: int  # W8: enough to include a compaction
    wake_ups: int  # W10
    waiting_s: float  # W10
    soak_fill_s: float  # W11: at most
    soak_s: float  # W11
    soak_ttl_s: int  # W11
    writer_delays_ms: Sequence[float] = (0.2, 2, 20)  # W12 and W13
    writers: Sequence[int] = (1, 2, 4, 8)  # W12 and W13: the first is one process alone
    tail_rounds: int = 3  # W14 to W16: what is longest in a slice needs many
    tail_s: float = 1.5  # W14: enough to include compactions
    tail_delays_ms: Sequence[float] = (0, 2, 20)  # W14
    large_results: int = 100_000  # W14 to W16: how many the store holds
    log_sizes_kib: Sequence[int] = (256, 1024, 4096)  # W16
    log_results: int = 20_000  # W16: how many are written
    workloads: Sequence[str] = ALL
    peers: Sequence[str] | None = None  # None: all
    # Leave out what no target that can fail needs.
    targets_only: bool = False


PROFILES: dict[str, Profile] = {
    "smoke": Profile(
        name="smoke",
        rounds=3,
        slow_rounds=2,
        long_rounds=1,
        slice_s=0.2,
        slow_slice_s=0.4,
        contention_s=1.0,
        store_sizes=(10_000, 40_000),
        table_results=5_000,
        device_results=3_000,
        wake_ups=10,
        waiting_s=1.0,
        soak_fill_s=0.0,
        soak_s=0.0,
        soak_ttl_s=1,
        writer_delays_ms=(2,),
        writers=(1, 4),
        tail_rounds=1,
        tail_s=0.5,
        tail_delays_ms=(0,),
        large_results=10_000,
        workloads=tuple(name for name in ALL if name not in WITHOUT_RATIOS),
        targets_only=True,
        peers=("logstore", "bare", "lmdb", "sqlite-full", "aiosqlite-full", "aiosqlite-normal"),
    ),
    "quick": Profile(
        name="quick",
        rounds=3,
        slow_rounds=2,
        long_rounds=1,
        slice_s=0.3,
        slow_slice_s=0.6,
        contention_s=2.0,
        store_sizes=(10_000, 100_000, 1_000_000),
        table_results=5_000,
        device_results=3_000,
        wake_ups=20,
        waiting_s=3.0,
        soak_fill_s=10.0,
        soak_s=30.0,
        soak_ttl_s=5,
    ),
    "full": Profile(
        name="full",
        rounds=4,
        slow_rounds=3,
        long_rounds=1,
        slice_s=0.4,
        slow_slice_s=0.8,
        contention_s=2.5,
        store_sizes=(10_000, 100_000, 1_000_000, 10_000_000),
        table_results=20_000,
        device_results=5_000,
        wake_ups=50,
        waiting_s=5.0,
        soak_fill_s=10.0,
        soak_s=60.0,
        soak_ttl_s=4,
        tail_rounds=10,
        tail_s=3.0,
        large_results=1_000_000,
        log_sizes_kib=(256, 512, 1024, 2048, 4096, 8192),
        log_results=200_000,
    ),
}
