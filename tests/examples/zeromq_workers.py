"""Two worker processes over ZeroMQ, and a client that comes later and still gets the results.

taskiq's ZeroMQ broker publishes: each worker gets each message, so both run each task, and the
second result replaces the first with the same value.  A message that is sent before a worker has
subscribed is lost; so the sender asks until a worker answers, and asks again for what is missing.
"""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from taskiq import TaskiqResultTimeoutError, ZeroMQBroker

from logstore.taskiq import LogStoreResultBackend

directory = os.environ.get("EXAMPLE_DIR", ".")
socket = f"ipc://{directory}/tasks.socket"
backend: LogStoreResultBackend[int] = LogStoreResultBackend(f"{directory}/app.db")
broker = ZeroMQBroker(socket, socket).with_result_backend(backend)
task_ids = {f"square-{n}": n for n in range(10)}


@broker.task(task_name="square")
async def square(n: int) -> int:
    return n * n


async def ask_until_answered(task_id: str, n: int) -> None:
    while True:
        task = await square.kicker().with_task_id(task_id).kiq(n)
        try:
            await task.wait_result(timeout=1)
        except TaskiqResultTimeoutError:
            continue  # there was no subscriber yet
        return


async def send() -> None:
    await broker.startup()
    await asyncio.gather(*(ask_until_answered(task_id, n) for task_id, n in task_ids.items()))
    print(f"sent {len(task_ids)} tasks")
    await broker.shutdown()


async def read() -> None:
    await backend.startup()
    for task_id in task_ids:
        result = await backend.get_result(task_id)
        print(f"{task_id} is {result.return_value}")
    await backend.shutdown()


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        environment = {**os.environ, "EXAMPLE_DIR": place}
        run = [sys.executable, __file__]
        options = ["--workers", "2", "--log-level", "WARNING"]
        name = f"{Path(__file__).stem}:broker"
        workers = subprocess.Popen(
            [sys.executable, "-m", "taskiq", "worker", name, *options],
            cwd=Path(__file__).parent,
            env=environment,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            subprocess.run([*run, "send"], env=environment, check=True, timeout=100)
        finally:
            # An idle taskiq worker over ZeroMQ does not notice that it is asked to end.  It can be
            # killed at any moment: what it has stored is on the disk.
            os.killpg(workers.pid, signal.SIGKILL)
            workers.communicate()  # until the last of them is gone
        print("the workers are gone; now comes the client", flush=True)
        subprocess.run([*run, "read"], env=environment, check=True, timeout=100)
        print(f"at rest there is one file: {[path.name for path in Path(place).glob('app.db*')]}")


if __name__ == "__main__":
    roles = {"send": lambda: asyncio.run(send()), "read": lambda: asyncio.run(read())}
    roles.get(sys.argv[1] if len(sys.argv) > 1 else "", main)()
