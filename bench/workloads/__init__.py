"""The workloads by name, in the order in which they are run and reported."""

from __future__ import annotations

from . import (
    w01_sync_set,
    w02_async_set,
    w03_get,
    w04_progress,
    w05_contention,
    w06_size,
    w07_slow_disk,
    w08_device,
    w09_stall,
    w10_wake,
    w11_soak,
    w12_writers,
    w13_taskiq,
    w14_tail,
    w15_recovery,
    w16_log_size,
)
from .base import Metric, Slice, Workload

WORKLOADS: dict[str, Workload] = {
    module.WORKLOAD.name: module.WORKLOAD
    for module in (
        w01_sync_set,
        w02_async_set,
        w03_get,
        w04_progress,
        w05_contention,
        w06_size,
        w07_slow_disk,
        w08_device,
        w09_stall,
        w10_wake,
        w11_soak,
        w12_writers,
        w13_taskiq,
        w14_tail,
        w15_recovery,
        w16_log_size,
    )
}

__all__ = ["WORKLOADS", "Metric", "Slice", "Workload"]
