from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from logstore.testing.linearizability import (
    IMPOSSIBLE,
    MISSING,
    UNKNOWN,
    Operation,
    Recorder,
    RegisterModel,
    ResultModel,
    check_linearizable,
    load_history,
)
from tests.support.untraced import Untraced


def op(
    name: str,
    argument: object,
    result: object,
    called: int,
    returned: int | None,
    key: str = "k",
) -> Operation:
    return Operation(f"c{called}", key, name, argument, result, called, returned)


# -- histories made by hand --------------------------------------------------------------------

GOOD = {
    "nothing": [],
    "one after the other": [
        op("set", 1, None, 0, 1),
        op("get", None, 1, 2, 3),
        op("delete", None, True, 4, 5),
        op("get", None, MISSING, 6, 7),
    ],
    "a read during a write sees the old": [
        op("set", 1, None, 0, 10),
        op("get", None, MISSING, 1, 9),
    ],
    "a read during a write sees the new": [op("set", 1, None, 0, 10), op("get", None, 1, 1, 9)],
    "a write that was never answered is seen late": [
        op("set", 1, UNKNOWN, 0, None),
        op("get", None, MISSING, 5, 6),
        op("get", None, 1, 7, 8),
    ],
    "a write that was never answered never happens": [
        op("set", 1, UNKNOWN, 0, None),
        op("get", None, MISSING, 5, 6),
    ],
    "two pops overlap and one gets it": [
        op("set", 1, None, 0, 1),
        op("pop", None, 1, 2, 10),
        op("pop", None, MISSING, 3, 9),
    ],
    "an operation that took effect early returns last": [
        op("set", 1, None, 0, 100),
        op("get", None, 1, 1, 2),
        op("set", 2, None, 3, 4),
        op("get", None, 2, 5, 6),
    ],
    "times that touch count as overlapping": [
        op("set", 1, None, 0, 5),
        op("get", None, MISSING, 5, 6),
    ],
}

BAD = {
    "a stale read": [
        op("set", 1, None, 0, 1),
        op("set", 2, None, 2, 3),
        op("get", None, 1, 4, 5),
    ],
    "a lost write": [op("set", 1, None, 0, 1), op("get", None, MISSING, 2, 3)],
    "a value from nowhere": [op("get", None, 7, 0, 1)],
    "a value comes back": [
        op("set", 1, None, 0, 1),
        op("pop", None, 1, 2, 3),
        op("get", None, 1, 4, 5),
    ],
    "two pops get the same": [
        op("set", 1, None, 0, 1),
        op("pop", None, 1, 2, 10),
        op("pop", None, 1, 3, 9),
    ],
    "readers disagree on the order": [
        op("set", 1, None, 0, 100),
        op("get", None, 1, 1, 2),
        op("get", None, MISSING, 3, 4),
    ],
    "two deletes succeed": [
        op("set", 1, None, 0, 1),
        op("delete", None, True, 2, 9),
        op("delete", None, True, 3, 8),
    ],
    "an unanswered write is undone": [
        op("set", 1, UNKNOWN, 0, None),
        op("get", None, 1, 1, 2),
        op("get", None, MISSING, 3, 4),
    ],
    "ready before anything was set": [op("ready", None, True, 0, 1)],
}


@pytest.mark.parametrize("name", GOOD)
def test_a_history_that_an_order_explains_passes(name: str) -> None:
    assert check_linearizable(GOOD[name]).ok


@pytest.mark.parametrize("name", BAD)
def test_a_history_that_no_order_explains_fails(name: str) -> None:
    verdict = check_linearizable(BAD[name])
    assert not verdict.ok
    assert [example.key for example in verdict.counter_examples] == ["k"]


def test_keys_are_independent() -> None:
    history = [op("set", 1, None, 0, 1, key="a"), op("get", None, MISSING, 2, 3, key="b")]
    verdict = check_linearizable(history)
    assert verdict.ok
    assert (verdict.keys, verdict.operations) == (2, 2)


def test_the_register_model_knows_set_get_and_clear() -> None:
    model = RegisterModel()
    good = [op("set", 1, None, 0, 1), op("clear", None, None, 2, 3), op("get", None, MISSING, 4, 5)]
    assert check_linearizable(good, model).ok
    assert not check_linearizable([*good, op("get", None, 1, 6, 7)], model).ok


def test_an_unknown_operation_is_refused() -> None:
    with pytest.raises(ValueError, match="'frob'"):
        check_linearizable([op("frob", None, None, 0, 1)])
    assert ResultModel().step(MISSING, op("pop", None, 1, 0, 1), 1) is IMPOSSIBLE


def test_a_hopeless_search_is_undecided_and_not_ok() -> None:
    history = [op("set", number, UNKNOWN, number, None) for number in range(30)]
    history += [op("get", None, MISSING, 100, 101), op("get", None, 99, 102, 103)]
    verdict = check_linearizable(history, configurations_max=1000)
    assert not verdict.ok
    assert list(verdict.undecided) == ["k"]
    assert "configurations" in str(verdict)


# -- shrinking ---------------------------------------------------------------------------------


def test_the_counter_example_is_as_small_as_can_be_and_readable() -> None:
    noise = [op("get", None, MISSING, -100 + 2 * n, -99 + 2 * n) for n in range(40)]
    noise += [op("set", 50 + n, None, 200 + 2 * n, 201 + 2 * n) for n in range(40)]
    verdict = check_linearizable([*noise, *BAD["a stale read"]])
    (example,) = verdict.counter_examples
    assert [str(operation) for operation in example.operations] == [
        "set(1) -> None",
        "set(2) -> None",
        "get() -> 1",
    ]
    assert example.left_out == len(noise)
    assert "set(2) -> None" in str(example)
    assert "|" in str(example)


def test_a_write_that_explains_a_read_is_not_shrunk_away() -> None:
    # Without the write of 1 the read of 1 would be wrong, but that is not what is wrong here.
    history = [
        op("set", 1, None, 0, 1),
        op("get", None, 1, 2, 3),
        op("delete", None, True, 4, 5),
        op("get", None, 1, 6, 7),
    ]
    (example,) = check_linearizable(history).counter_examples
    assert [operation.name for operation in example.operations] == ["set", "delete", "get"]


# -- simulated stores --------------------------------------------------------------------------


def simulate(
    seed: int, operations: int, *, clients: int, keys: int, unknown: float = 0.0, stale: float = 0.0
) -> list[Operation]:
    """What clients of a truly linearizable store see: each operation takes effect at a moment
    between its call and its return. With `stale`, some reads give what was there before."""
    rng = random.Random(seed)
    free_at = [0] * clients
    plan = []
    for _ in range(operations):
        client = rng.randrange(clients)
        called = free_at[client] + rng.randrange(1, 50)
        effect = called + rng.randrange(1, 100)
        free_at[client] = returned = effect + rng.randrange(1, 100)
        plan.append((effect, called, returned, client))
    store: dict[str, int] = {}
    before: dict[str, int] = {}
    history = []
    for number, (_, called, returned, client) in enumerate(sorted(plan)):
        key = f"k{rng.randrange(keys)}"
        name = rng.choice(["set", "get", "get", "delete", "pop", "ready"])
        lost = rng.random() < unknown
        if lost and rng.random() < 0.5:
            history.append(
                Operation(
                    f"c{client}",
                    key,
                    name,
                    number if name == "set" else None,
                    UNKNOWN,
                    called,
                    None,
                )
            )
            continue  # it never happened, and no read shows it
        result: object = None
        argument: object = None
        held: object = store.get(key, MISSING)
        if name == "get":
            result = before.get(key, held) if rng.random() < stale else held
        elif name in ("delete", "ready"):
            result = held is not MISSING
        elif name == "pop":
            result = held
        if name in ("set", "delete", "pop"):
            if key in store:
                before[key] = store[key]
            store.pop(key, None)
        if name == "set":
            argument = store[key] = number
        history.append(
            Operation(
                f"c{client}",
                key,
                name,
                argument,
                UNKNOWN if lost else result,
                called,
                None if lost else returned,
            )
        )
    return history


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    seed=st.integers(0, 2**32),
    operations=st.integers(1, 150),
    clients=st.integers(1, 8),
    keys=st.integers(1, 4),
    unknown=st.sampled_from([0.0, 0.02, 0.05]),
)
def test_a_linearizable_store_always_passes(
    seed: int, operations: int, clients: int, keys: int, unknown: float
) -> None:
    history = simulate(seed, operations, clients=clients, keys=keys, unknown=unknown)
    verdict = check_linearizable(history)
    assert not verdict.counter_examples, str(verdict)


@pytest.mark.parametrize("seed", range(10))
def test_stale_reads_are_found(seed: int) -> None:
    history = simulate(seed, 600, clients=4, keys=3, stale=0.5)
    verdict = check_linearizable(history)
    assert verdict.counter_examples
    for example in verdict.counter_examples:
        assert len(example.operations) <= 6, str(example)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_million_operations_take_less_than_two_minutes() -> None:
    with Untraced():
        history = simulate(1, 1_000_000, clients=16, keys=2000)
        begun = time.process_time()  # not what the machine does for others
        verdict = check_linearizable(history)
        used_s = time.process_time() - begun
    assert verdict.ok
    assert verdict.operations == 1_000_000
    assert used_s < 120


# -- recording ---------------------------------------------------------------------------------


def test_threads_that_share_a_locked_dictionary_are_linearizable() -> None:
    recorder = Recorder()
    lock = threading.Lock()
    store: dict[str, int] = {}

    def client(number: int) -> None:
        rng = random.Random(number)
        for turn in range(100):
            key = f"k{rng.randrange(3)}"
            value = 1000 * number + turn
            if rng.random() < 0.5:
                with recorder.operation(key, "set", value, client=f"t{number}") as operation:
                    with lock:
                        store[key] = value
                    operation.returned()
            else:
                recorder.call(key, "get", lambda key=key: store[key], missing=(KeyError,))  # type: ignore[misc]

    threads = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    verdict = check_linearizable(recorder.history())
    assert verdict.ok, str(verdict)
    assert verdict.operations == 400


async def _tasks(recorder: Recorder) -> None:
    store: dict[str, int] = {}

    async def put(number: int) -> None:
        await asyncio.sleep(0)
        store["k"] = number
        await asyncio.sleep(0)

    async def get() -> int:
        await asyncio.sleep(0)
        return store["k"]

    async def client(number: int) -> None:
        for turn in range(20):
            value = 100 * number + turn
            await recorder.call_async("k", "set", partial(put, value), value, client=f"a{number}")
            await recorder.call_async("k", "get", get, missing=(KeyError,), client=f"a{number}")

    await asyncio.gather(*(client(number) for number in range(4)))


def test_tasks_are_recorded_with_their_overlaps() -> None:
    recorder = Recorder()
    asyncio.run(_tasks(recorder))
    history = recorder.history()
    assert len(history) == 160
    assert check_linearizable(history).ok
    assert any(a.called < b.called < (a.returned or 0) for a, b in pairwise(history))


def test_an_exception_leaves_the_outcome_unknown_and_did_nothing_leaves_no_trace() -> None:
    recorder = Recorder()

    def fails() -> None:
        raise TimeoutError("no answer")

    with pytest.raises(TimeoutError):
        recorder.call("k", "set", fails, 1)
    with recorder.operation("k", "set", 2) as operation:
        operation.did_nothing()
    (only,) = recorder.history()
    assert only.unknown
    assert only.argument == 1
    assert str(only) == "set(1) -> unknown"


def test_an_outcome_is_recorded_once() -> None:
    with Recorder().operation("k", "get") as operation:
        operation.returned(1)
        with pytest.raises(RuntimeError):
            operation.returned(2)


_PROCESS = """
import os, sys
from logstore.testing.linearizability import MISSING, Recorder
recorder = Recorder(sys.argv[1], client=sys.argv[2])
with recorder.operation("k", "set", [sys.argv[2], 1]) as operation:
    operation.returned()
with recorder.operation("k", "get") as operation:
    operation.returned(MISSING)
with recorder.operation("k", "set", 3) as operation:
    operation.did_nothing()
recorder.operation("k", "delete")
os.kill(os.getpid(), 9)
"""


def test_files_of_killed_processes_merge_and_what_they_were_at_is_unknown(tmp_path: Path) -> None:
    for client in ("a", "b"):
        done = subprocess.run([sys.executable, "-c", _PROCESS, str(tmp_path), client], check=False)
        assert done.returncode == -9
    history = load_history(tmp_path)
    assert [(o.client, o.name, o.unknown) for o in history] == [
        (client, name, unknown)
        for client in ("a", "b")
        for name, unknown in (("set", False), ("get", False), ("delete", True))
    ]
    assert history[0].argument == ("a", 1)
    assert history[1].result is MISSING
    verdict = check_linearizable(history)
    assert not verdict.ok  # a's read did not see a's own write


def test_a_torn_last_line_is_left_out_and_a_damaged_one_raises(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    with recorder.operation("k", "get") as operation:
        operation.returned({"a": [1, 2]})
    recorder.close()
    (file,) = tmp_path.glob("*.history")
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    (only,) = load_history(tmp_path)
    assert only.unknown
    file.write_bytes(b"x" + whole)
    with pytest.raises(ValueError, match="line 1"):
        load_history([file])
