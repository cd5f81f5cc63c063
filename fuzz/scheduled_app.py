"""What the campaign of schedules runs: a broker, its schedules, and a task that writes down slots.

The store is at SCHEDULES_DB, and each run appends a line to SCHEDULES_RUNS.
"""

from __future__ import annotations

import os

from taskiq import Context, TaskiqDepends, TaskiqScheduler

from logstore.taskiq import LogStoreBroker, LogStoreScheduleSource

broker = LogStoreBroker(os.environ["SCHEDULES_DB"])
source = LogStoreScheduleSource(broker, missed="send_all")
scheduler = TaskiqScheduler(broker, [source])


@broker.task(schedule=[{"interval": 1}, {"interval": 3, "args": [3]}, {"cron": "* * * * *"}])
async def note(number: int = 0, context: Context = TaskiqDepends()) -> None:
    """Append the schedule, the slot and the task's id to the file, in one write."""
    labels, task_id = context.message.labels, context.message.task_id
    line = "\t".join((labels["schedule_id"], labels["schedule_slot"], task_id)) + "\n"
    fd = os.open(os.environ["SCHEDULES_RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, line.encode())
    os.close(fd)
