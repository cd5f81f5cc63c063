"""A task over a data set that reports how far it has got, and a client that shows it."""

import asyncio

from taskiq import Context, InMemoryBroker, TaskiqDepends

from logstore import TaskProgress
from logstore.taskiq import InmemoryResultBackend

backend: InmemoryResultBackend[int] = InmemoryResultBackend(max_stored_results=500)
broker = InMemoryBroker().with_result_backend(backend)


@broker.task(task_name="total")
async def total(numbers: list[int], context: Context = TaskiqDepends()) -> int:
    result = 0
    for done, number in enumerate(numbers, start=1):
        result += number
        await asyncio.sleep(0.002)  # the work
        if done % 10 == 0:
            progress = TaskProgress(
                progress=done / len(numbers),
                status=f"adding item {done}",
                current=done,
                total=len(numbers),
                meta={"so_far": result},
            )
            await backend.set_progress(context.message.task_id, progress)
    return result


async def main() -> None:
    await broker.startup()
    task = await total.kiq(list(range(200)))
    while not await task.is_ready():
        progress = await backend.get_progress(task.task_id)
        if progress is not None:
            items = f"{progress.current}/{progress.total} items"
            print(f"{progress.status}: {progress.progress:.0%}, {items}, {progress.meta}")
        await asyncio.sleep(0.05)
    result = await task.get_result()
    print(f"the total is {result.return_value}")
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
