"""A task that waits for tasks; their results are kept in memory."""

import asyncio

from taskiq import InMemoryBroker

from logstore.taskiq import InmemoryResultBackend

broker = InMemoryBroker().with_result_backend(InmemoryResultBackend(max_stored_results=500))


@broker.task(task_name="fibonacci")
async def fibonacci(n: int) -> int:
    if n < 2:
        return n
    tasks = [await fibonacci.kiq(n - 1), await fibonacci.kiq(n - 2)]
    results = [await task.wait_result(check_interval=0.01) for task in tasks]
    return sum(result.raise_for_error().return_value for result in results)


async def main() -> None:
    await broker.startup()
    task = await fibonacci.kiq(10)
    result = await task.wait_result(check_interval=0.01, timeout=30)
    print(f"fibonacci(10) is {result.return_value}")
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
