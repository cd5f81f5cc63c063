"""Code with one fault of each kind, each reached by some inputs, for the fuzzing loop to find."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fuzz.command import main
from fuzz.mutator import Mutation
from fuzz.target import Run, Target, expect


def seeds() -> Sequence[bytes]:
    """Inputs that reach no fault."""
    return [b"GOOD" + bytes(8), b"GOOD and longer than the other"]


def run(data: bytes) -> str:
    """Fail if the fault's byte is at the fault's place."""
    fault = data[4:5] if data[4:5] in FAULTS else b""
    if data[:4] != b"GOOD" or len(data) < 5:
        return "refused"
    if fault == b"s":
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == b"h":
        time.sleep(600)
    if fault == b"c":
        end = time.process_time() + CPU_S + 0.2
        while time.process_time() < end:
            pass
    if fault == b"m":
        held = bytearray(os.urandom(1 << 20)) * 40
        return f"{len(held)}"
    if fault == b"M":
        return f"{len(bytes(1 << 40))}"
    if fault == b"e":
        raise KeyError(data)
    if fault == b"x":
        os._exit(3)
    expect(fault != b"v", "an invariant")
    return "fine"


def set_fault(rng: object, data: bytearray, corpus: Sequence[bytes]) -> None:
    """Reach a fault: blind mutation would need long."""
    data[:5] = b"GOOD" + bytes((FAULTS[len(data) % len(FAULTS)],))


@contextmanager
def session() -> Iterator[Run]:
    """Nothing to set up."""
    yield run


FAULTS = sys.argv.pop(1).encode()
CPU_S = 0.4 if FAULTS == b"c" else 20.0  # nor is one that takes long for pages slow
MUTATIONS: tuple[Mutation, ...] = (set_fault,) if FAULTS else ()
TARGET = Target(
    "planted",
    seeds,
    session,
    batch=20,
    bytes_max=64,
    seconds_max=6.0 if FAULTS == b"h" else 60.0,  # a busy machine is no hang
    cpu_seconds_max=CPU_S,
    memory_base_bytes=16 << 20,
    mutations=MUTATIONS,
)

if __name__ == "__main__":
    main(TARGET)
