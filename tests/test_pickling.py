"""Stores, and what they hand out, under pickle and copy."""

from __future__ import annotations

import asyncio
import copy
import pickle
from pathlib import Path
from typing import Any

import pytest

import logstore


def refused(value: Any, told: str) -> None:
    """Neither pickle nor copy takes it, and the message says what to do instead."""
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError) as caught:
            attempt(value)
        assert told in str(caught.value)
        assert "lambda" not in str(caught.value)


def test_a_store_says_where_to_open_it_again(store: logstore.Store) -> None:
    refused(store, f"logstore.open({store.path!r})")
    store.set_result("t", 1)
    assert store.get_result("t") == 1


def test_a_watch_says_so_too(store: logstore.Store) -> None:
    with store.watch() as watch:
        refused(watch, "a Watch can be neither pickled nor copied")


def test_an_async_store_says_where_to_open_it_again(path: Path) -> None:
    async def main() -> None:
        async with logstore.open_async(path) as store:
            refused(store, f"logstore.open_async({store.path!r})")

    asyncio.run(main())


def test_what_a_store_tells_is_data(store: logstore.Store) -> None:
    store.set_progress("t", logstore.TaskProgress(0.5))
    for told in (store.stats(), store.check(), list(store.tasks()), store.get_progress("t")):
        assert pickle.loads(pickle.dumps(told)) == told
        assert copy.deepcopy(told) == told
