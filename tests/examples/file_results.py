"""The task that waits for tasks again; their results are JSON files this time."""

import asyncio
import sys

from taskiq import InMemoryBroker

from logstore.taskiq import FileResultBackend

directory = sys.argv[1] if len(sys.argv) > 1 else "./task_results"
broker = InMemoryBroker().with_result_backend(FileResultBackend(directory))


@broker.task(task_name="fibonacci")
async def fibonacci(n: int) -> int:
    if n < 2:
        return n
    tasks = [await fibonacci.kiq(n - 1), await fibonacci.kiq(n - 2)]
    results = [await task.wait_result(check_interval=0.01) for task in tasks]
    return sum(result.raise_for_error().return_value for result in results)


async def main() -> None:
    await broker.startup()
    task = await fibonacci.kicker().with_task_id("fibonacci-7").kiq(7)
    result = await task.wait_result(check_interval=0.01, timeout=30)
    print(f"fibonacci(7) is {result.return_value}")
    print(f"it is in {directory}/fibonacci-7.result.json")
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
