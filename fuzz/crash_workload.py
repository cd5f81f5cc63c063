"""A workload of the crash campaigns: `python -m fuzz.crash_workload set-up|run|recover PLAN SEED`.

Rules: works in the directory that LOGSTORE_CRASH_DIR names. After each operation it tells
`CLIENT COUNT`, how many operations of that client have been acked; `final CLIENT DIGEST` says what
a living process has been shown, and made durable, of a client that does nothing any more.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import logstore
from fuzz.clients import (
    Op,
    Script,
    answer_of,
    digest_of,
    is_durable,
    match,
    observe,
    perform,
    progress_of,
    task_id,
    value_of,
)
from fuzz.crash_plans import Run
from logstore.testing.crash import tell

FILE = "app.db"
KILLED_AFTER = 0.6  # of the second process's operations


def main(argv: list[str]) -> int:
    """Does one part of a workload."""
    part, name, seed = argv
    run = Run(name, int(seed))
    directory = os.environ["LOGSTORE_CRASH_DIR"]
    path = os.path.join(directory, FILE)
    if part == "recover":
        _recover(run, path)
    elif part == "second":
        _second(run, path)
    elif part == "set-up":
        _set_up(run, path)
    else:
        _WAYS[run.plan.way](run, path)
    return 0


def _one(run: Run, path: str) -> None:
    client = run.client(run.plan.clients[0])
    store = logstore.open(path, **run.plan.options)
    for index in range(run.plan.set_up, run.plan.ops):
        if client.op(index).name == "reopen":
            store.close()
            tell(f"{client.client} {index + 1}")
            store = logstore.open(path, **run.plan.options)
        else:
            _do(store, client, index)
    store.close()
    tell("closed")


def _do(store: logstore.Store, client: Script, index: int) -> None:
    perform(store, client, index, directory=os.path.dirname(store.path))
    tell(f"{client.client} {index + 1}")


def _set_up(run: Run, path: str) -> None:
    store = logstore.open(path, **run.plan.options)
    for name in run.plan.clients:
        client = run.client(name)
        for index in range(run.plan.set_up):
            _do(store, client, index)
    if run.plan.set_up_ends == "exit":
        os._exit(0)
    store.close()


def _threads(run: Run, path: str) -> None:
    wrong: list[BaseException] = []
    barrier = threading.Barrier(len(run.plan.clients))

    def work(name: str) -> None:
        try:
            barrier.wait()
            client = run.client(name)
            for index in range(run.plan.set_up, run.plan.ops):
                _do(store, client, index)
        except BaseException as error:
            wrong.append(error)

    with logstore.open(path, **run.plan.options) as store:
        threads = [threading.Thread(target=work, args=(name,)) for name in run.plan.clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if wrong:
        raise wrong[0]
    tell("closed")


def _tasks(run: Run, path: str) -> None:
    async def work(store: logstore.AsyncStore, name: str) -> None:
        client = run.client(name)
        for index in range(run.plan.set_up, run.plan.ops):
            await perform_async(store, client, index)
            tell(f"{client.client} {index + 1}")

    async def all_of_them() -> None:
        async with logstore.open_async(path, **run.plan.options) as store:
            await asyncio.gather(*(work(store, name) for name in run.plan.clients))
        tell("closed")

    asyncio.run(all_of_them())


async def perform_async(store: logstore.AsyncStore, client: Script, index: int) -> None:
    """Does one operation and asserts what it returns."""
    op: Op = client.op(index)
    name = task_id(client.client, op.key)
    found: Any = None
    if op.name in ("set", "large"):
        await store.set_result(name, value_of(client.client, index, op.size))
    elif op.name == "expire":
        await store.set_result(name, value_of(client.client, index, op.size), ttl_s=1e-6)
    elif op.name in ("progress", "big progress"):
        await store.set_progress(name, progress_of(index, op))
    elif op.name == "delete":
        found = await store.delete_result(name)
    elif op.name == "pop":
        found = await store.pop_result(name)
    else:
        await {"sync": store.sync, "compact": store.compact, "vacuum": store.vacuum}[op.name]()
    assert found == answer_of(client, index), (client.client, index, op)


def _two(run: Run, path: str) -> None:
    """This process is the first client; the second is killed during its work."""
    first, second = (run.client(name) for name in run.plan.clients)
    killed_at = int(run.plan.ops * KILLED_AFTER)
    command = [sys.executable, "-m", "fuzz.crash_workload", "second", run.name, str(run.seed)]
    with logstore.open(path, **run.plan.options) as store:
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            index = acked = 0
            while acked < killed_at:
                line = process.stdout.readline()
                assert line, "the second process has ended early"
                acked = int(line)
                if index < run.plan.ops // 2:
                    _do(store, first, index)
                    index += 1
            process.send_signal(signal.SIGKILL)
            # It may have acked more than it was asked for; nothing of that may be missing.
            acked = max([acked, *(int(line) for line in process.stdout)])
        index = _do_until_durable(run, store, first, index)
        found = observe(store, second, run.plan.ops)
        match(second, found, acked, acked)
        index = _do_until_durable(run, store, first, index)
        tell(f"final {second.client} {digest_of(found)}")
        for later in range(index, run.plan.ops):
            _do(store, first, later)
    tell("closed")


def _do_until_durable(run: Run, store: logstore.Store, client: Script, index: int) -> int:
    done = False
    while not done:
        _do(store, client, index)
        done = is_durable(client.op(index), sync=run.plan.sync)
        index += 1
    return index


def _second(run: Run, path: str) -> None:
    client = run.client(run.plan.clients[1])
    with logstore.open(path, **run.plan.options) as store:
        for index in range(run.plan.ops):
            _do(store, client, index)
            os.write(1, b"%d\n" % (index + 1))
        signal.pause()


def _recover(run: Run, path: str) -> None:
    """What comes up after a crash: opens, looks, writes, closes."""
    with logstore.open(path, **run.plan.options) as store:
        number = 0
        while store.is_result_ready(task_id(f"r{number}", run.client(f"r{number}").op(0).key)):
            number += 1
        seen = {
            name: digest_of(observe(store, run.client(name), run.plan.ops))
            for name in run.plan.clients
        }
        client = run.client(f"r{number}")
        perform(store, client, 0)
        tell(f"{client.client} 1", *(f"final {name} {digest}" for name, digest in seen.items()))
    tell("closed")


_WAYS = {"one": _one, "threads": _threads, "tasks": _tasks, "two": _two}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
