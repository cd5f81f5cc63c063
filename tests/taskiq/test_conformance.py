"""The conformance suite over every backend, with what is known to differ as data."""

from __future__ import annotations

import functools
import os
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import pytest
from taskiq.brokers.inmemory_broker import InmemoryResultBackend as TaskiqInmemoryResultBackend
from taskiq.serializers import PickleSerializer

from logstore.taskiq import (
    DummyResultBackend,
    FileResultBackend,
    InmemoryResultBackend,
    LogStoreResultBackend,
)
from logstore.testing.conformance import BackendConformance

_IN_MEMORY = {
    "isolation": "results are kept as the objects they are",
    "sharing": "the memory is that of one backend",
    "durability": "the memory is gone with the backend",
}


class TestInmemory(BackendConformance):
    known_differences = _IN_MEMORY

    async def make_backend(self, place: Path) -> InmemoryResultBackend[Any]:
        return InmemoryResultBackend()


class TestFile(BackendConformance):
    async def make_backend(self, place: Path) -> FileResultBackend[Any]:
        return FileResultBackend(place)


class TestLogStore(BackendConformance):
    async def make_backend(self, place: Path) -> LogStoreResultBackend[Any]:
        return LogStoreResultBackend(place / "app.db")


_PREFIXED = {
    "test_an_odd_id_is_an_id[long]": "480 bytes are for prefix and id together",
    "test_similar_ids_are_two[long]": "480 bytes are for prefix and id together",
}


class TestLogStoreWithPrefix(BackendConformance):
    known_differences = _PREFIXED

    async def make_backend(self, place: Path) -> LogStoreResultBackend[Any]:
        return LogStoreResultBackend(place / "app.db", prefix_str="app")


class TestLogStoreWithPickle(BackendConformance):
    async def make_backend(self, place: Path) -> LogStoreResultBackend[Any]:
        return LogStoreResultBackend(place / "app.db", serializer=PickleSerializer())


_DUMMY = {
    **dict.fromkeys(
        (
            "cancellation",
            "concurrency",
            "durability",
            "exceptions",
            "fields",
            "ids",
            "isolation",
            "large",
            "logs",
            "loops",
            "models",
            "overwrite",
            "progress",
            "results",
            "sharing",
            "types",
            "worker",
            "test_a_backend_can_be_started_again",
            "test_a_deleted_result_is_gone",
            "test_a_missing_result_does_not_disturb_the_others",
            "test_a_result_can_be_set_again_after_deletion",
            "test_a_task_sent_again_after_deletion_reaches_its_waiter",
            "test_deleting_twice_says_so",
            "test_deletion_spares_other_tasks",
            "test_one_of_many_who_delete_is_told_so",
            "test_starting_twice_is_harmless",
        ),
        "nothing is stored",
    ),
}


@pytest.mark.filterwarnings("ignore::logstore.taskiq.WaitingForNothingWarning")
class TestDummy(BackendConformance):
    wait_s = 0.05
    known_differences = _DUMMY

    async def make_backend(self, place: Path) -> DummyResultBackend[Any]:
        return DummyResultBackend()


_TASKIQ_INMEMORY = {
    **_IN_MEMORY,
    "deletion": "there is no delete_result",
    "test_a_cancelled_write_is_whole_or_absent[at-once]": "a missing result is a KeyError",
    "test_a_missing_result_does_not_disturb_the_others": "a missing result is a KeyError",
    "test_getting_an_unknown_result_raises": "a missing result is a KeyError",
    "test_progress_alone_is_no_result": "a missing result is a KeyError",
    "test_the_log_is_there_when_asked_for[not-asked]": "with_logs is ignored",
    "test_leaving_the_log_out_once_does_not_lose_it": "with_logs is ignored",
    "test_changing_a_results_field_changes_nothing": "the stored object itself is returned",
    "test_both_forms_replace_each_other": "the fields of one form only",
    "test_what_is_no_exception_does_not_end_the_client": "the stored object itself is returned",
    "test_what_is_no_exception_in_a_group_does_not_end_the_client": "as above",
    "test_taskiqs_progress_has_our_fields": "the fields of one form only",
    "test_what_is_got_is_equal_to_our_progress": "it is our progress itself, and not taskiq's",
}


class TestTaskiqInmemory(BackendConformance):
    """What taskiq's own in-memory backend does otherwise."""

    known_differences = _TASKIQ_INMEMORY

    async def make_backend(self, place: Path) -> TaskiqInmemoryResultBackend[Any]:
        return TaskiqInmemoryResultBackend()


REDIS_URL = os.environ.get("LOGSTORE_TEST_REDIS_URL", "redis://127.0.0.1:6379")

_JSON = "values go through JSON"
_ERRORS = "an error is rebuilt by calling its class with its args"


_TASKIQ_REDIS = {
    "deletion": "there is no delete_result",
    "fields": "only taskiq's progress can be stored",
    **{
        f"test_value_round_trips[{name}]": _JSON
        for name in [
            "nan",
            "infinity",
            "complex",
            "bytes",
            "tuple",
            "empty-containers",
            "int-keys",
            "mixed-keys",
            "set",
            "frozenset",
            "naive-datetime",
            "aware-datetime",
            "utc-datetime",
            "date",
            "time",
            "timedelta",
            "decimal",
            "fraction",
            "uuid",
            "ipv4",
            "ipv6",
            "nested",
        ]
    },
    "test_labels_round_trip": _JSON,
    "test_a_meta_round_trips[int-keys]": _JSON,
    "test_a_meta_round_trips[tuple]": _JSON,
    "test_a_meta_round_trips[datetime]": _JSON,
    "test_a_large_value_round_trips[bytes-4-MiB]": _JSON,
    "test_a_large_result_is_there_after_a_restart": _JSON,
    "test_a_model_is_rebuilt[alias]": "models are stored by their field names",
    **{
        f"test_an_error_round_trips[{name}]": _ERRORS
        for name in [
            "tuple-arg",
            "os",
            "unicode",
            "json",
            "keywords",
            "swapped",
            "strict",
            "taskiq",
            "taskiq-plain",
        ]
    },
    **{
        f"test_a_subclass_comes_back_as_what_it_equals[{name}]": _JSON
        for name in [
            "uuid",
            "decimal",
            "fraction",
            "datetime",
            "date",
            "time",
            "timedelta",
            "ipv4",
            "ipv4-network",
            "ipv4-interface",
            "ipv6",
            "complex",
            "bytes",
            "named-tuple",
            "registered-integer",
        ]
    },
    "test_an_error_keeps_its_text": _ERRORS,
    "test_what_is_kept_of_an_attribute_is_no_text_in_its_place": _ERRORS,
    "test_what_is_no_exception_does_not_end_the_client": "it is raised there",
    "test_groups_in_groups_without_end_are_cut": _ERRORS,
    "test_errors_in_arguments_without_end_are_cut": _ERRORS,
    "test_a_value_that_breaks_is_an_error_with_its_place": "the worker logs it",
    "test_a_label_that_breaks_costs_no_result[field]": "the worker logs it",
    "test_a_label_that_breaks_costs_no_result[dump]": "the worker logs it",
    "test_a_label_that_breaks_costs_no_result[released-memory]": "the worker logs it",
    "test_a_task_raises_to_its_waiter": _ERRORS,
    "test_a_slot_round_trips": _ERRORS,
    "test_the_fields_of_an_os_error_round_trip": _ERRORS,
    "test_an_error_can_be_raised_twice": _ERRORS,
    "test_a_group_round_trips": _ERRORS,
    "test_notes_round_trip": "notes are not stored",
    "test_the_workers_traceback_is_told": "the traceback is not stored",
    "test_what_cannot_be_stored_reaches_the_waiter": "the worker logs it, the client waits on",
    "test_progress_is_no_other_tasks_result[__progress]": "both are keys of one space",
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of sockets, when a caller is cancelled
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestTaskiqRedis(BackendConformance):
    """What taskiq-redis does otherwise; needs a Redis server, and says so in CI."""

    wait_s = 10.0
    known_differences = _TASKIQ_REDIS
    not_run: ClassVar = {
        "loops": "a connection belongs to one event loop: it may hang",
        "test_a_long_chain_keeps_its_near_end": "takes minutes",
    }

    async def make_backend(self, place: Path) -> Any:
        _need_redis()
        from taskiq_redis import RedisAsyncResultBackend

        return RedisAsyncResultBackend(REDIS_URL, prefix_str=_redis_prefix(place))

    async def clean_up(self, place: Path) -> None:
        if _redis_trouble() is not None:
            return
        from redis.asyncio import Redis

        async with Redis.from_url(REDIS_URL) as redis:
            async for key in redis.scan_iter(f"{_redis_prefix(place)}:*"):
                await redis.delete(key)


def _redis_prefix(place: Path) -> str:
    return "conformance-" + sha256(bytes(place)).hexdigest()


@functools.lru_cache(maxsize=1)
def _redis_trouble() -> str | None:
    try:
        import redis
        import taskiq_redis  # noqa: F401 - imported to see whether it is there
    except ImportError as error:
        return str(error)
    try:
        with redis.Redis.from_url(REDIS_URL, socket_connect_timeout=30.0) as client:
            client.ping()
    except redis.RedisError as error:
        return f"no Redis answers at {REDIS_URL}: {error}"
    return None


def _need_redis() -> None:
    trouble = _redis_trouble()
    if trouble is not None:
        if os.environ.get("CI"):
            pytest.fail(trouble)
        pytest.skip(trouble)
