"""A handler catches what it is for: an unforeseen error passes it, as an interrupt does.

Each row has one function raise such an error, and calls what has a handler around it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

import logstore
from logstore._engine import files, records
from logstore._engine.engine import Engine
from logstore._engine.frozen import is_in_use
from logstore._engine.log import Log
from logstore._engine.table import Table

if TYPE_CHECKING:
    from tests.support.stores import Stores

UUID = bytes(16)


class UnforeseenError(Exception):
    """What no handler is for."""


def raising(error: BaseException) -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (os, "open", lambda path: is_in_use(path)),
        (os, "stat", lambda path: logstore.open(path, mode="r")),
        (os, "open", lambda path: Log.open(path + "-log", UUID)),
        (os, "link", lambda path: files.keep_aside(path + "-log", "damaged")),
    ],
)
def test_an_error_that_a_handler_is_not_for_passes_it(
    owner: object,
    name: str,
    call: Callable[[str], object],
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, raising(UnforeseenError()))
        with pytest.raises(UnforeseenError):
            call(str(path))


def test_a_log_that_cannot_be_opened_for_lack_of_descriptors_is_not_called_missing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", raising(full))
        with pytest.raises((OSError, logstore.OpenError), match="Too many open files"):
            Log.open(f"{path}-log", UUID)


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (Table, "mark_in", logstore.Store.compact),
        (records, "decode_record", logstore.Store.compact),
        (records, "decode_mark", logstore.Store.check),
        (Table, "record_in", logstore.Store.check),
        (Table, "read_meta_in", logstore.Store.check),
        (Engine, "log_state", logstore.Store.check),
    ],
)
def test_an_unforeseen_error_of_an_open_store_passes(
    owner: object,
    name: str,
    call: Callable[[logstore.Store], object],
    open_store: Stores,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = open_store(max_results=2)
    for task_id in ("a", "b"):
        store.set_result(task_id, 1)
    store.compact()
    for task_id in ("a", "c"):
        store.set_result(task_id, 2)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, raising(UnforeseenError()))
        with pytest.raises(UnforeseenError):
            call(store)
    store.compact()
    assert [info.task_id for info in store.tasks()] == ["c", "a"]


def test_a_store_at_rest_that_cannot_be_looked_at_is_not_called_changed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logstore.open(path).close()
    with logstore.open(path, mode="r") as reader, monkeypatch.context() as patch:
        patch.setattr(os, "stat", raising(UnforeseenError()))
        with pytest.raises(UnforeseenError):
            reader.status("a")


def test_an_interrupted_read_of_a_store_at_rest_is_interrupted(path: Path) -> None:
    logstore.open(path).close()
    with logstore.open(path, mode="r") as reader:
        path.touch()  # as if another process had written it
        read: Callable[[Any], NoReturn] = raising(KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            reader._handle.engine.from_table(read)
