"""Schedules in a logstore file: :class:`~logstore.taskiq.LogStoreScheduleSource`."""
