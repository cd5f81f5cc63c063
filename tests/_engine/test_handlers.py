"""A handler catches what it is for: an unforeseen error passes it, as an interrupt does.

Each row has one function raise such an error, and calls what has a handler around it.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import mmap
import os
import resource
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn
from unittest import mock

import lmdb
import pytest
from lmdb import verify as verifier

import logstore
from logstore import _check
from logstore._engine import (
    checking,
    copying,
    durability,
    files,
    identity,
    joining,
    libc,
    listing,
    lmdbfile,
    locks,
    opening,
    pages,
    places,
    records,
    registry,
    system,
    systemerrors,
    vacuum,
)
from logstore._engine import table as table_module
from logstore._engine.deferral import Deferral
from logstore._engine.engine import Engine
from logstore._engine.frozen import is_in_use
from logstore._engine.log import Log
from logstore._engine.logview import LogView
from logstore._engine.publishing import Publisher
from logstore._engine.readers import Readers
from logstore._engine.table import Table
from tests.support.inside import live

if TYPE_CHECKING:
    from tests.support.stores import Stores

UUID = bytes(16)


class UnforeseenError(Exception):
    """What no handler is for."""


def raising(error: BaseException) -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


class Broken:
    """An environment of LMDB, one of whose methods raises what nobody has foreseen."""

    def __init__(self, env: lmdb.Environment, method: str) -> None:
        self._env = env
        setattr(self, method, raising(UnforeseenError()))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)


def in_a_file(call: Callable[[int], object]) -> None:
    with tempfile.TemporaryFile() as file:
        call(file.fileno())


def with_a_limit(call: Callable[[], object]) -> None:
    """Call as if there were a limit for the memory and the files of the process."""
    with mock.patch.object(resource, "getrlimit", return_value=(1 << 40, 1 << 40)):
        call()


def a_file(path: str) -> str:
    Path(path).touch()
    return path


def a_store_checked(path: str) -> None:
    logstore.open(path).close()
    logstore.check(path)


def given_away(path: str) -> None:
    Path(path).touch()
    other = SimpleNamespace(st_uid=12345, st_gid=54321, st_mode=0o100600)
    with mock.patch.object(os, "stat", return_value=other):
        in_a_file(lambda fd: files.adopt_owner(fd, path))


def a_table_opened(path: str) -> None:
    Table.create(path, UUID)
    Table(path)


def a_table_verified(path: str) -> None:
    Table.create(path, UUID)
    lmdbfile.verify_pages(path)


def a_thread_started(path: str) -> None:
    systemerrors.start_thread(path, threading.Thread(target=list))


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (os, "open", lambda path: is_in_use(path)),
        (os, "stat", lambda path: logstore.open(path, mode="r")),
        (os, "open", lambda path: Log.open(path + "-log", UUID)),
        (os, "link", lambda path: files.keep_aside(path + "-log", "damaged")),
        (os, "readlink", lambda path: files.current_path(0)),
        (os, "unlink", files.remove),
        (os, "fchown", given_away),
        (os, "stat", files.identity),
        (os, "stat", lmdbfile.least_map_bytes),
        (os, "stat", logstore.open),
        (os, "lstat", lambda path: places.check_directory(path, create=True)),
        (os, "pathconf", logstore.open),
        (os, "fsencode", logstore.open),
        (os.path, "abspath", logstore.open),
        (os, "posix_fallocate", lambda _: in_a_file(lambda fd: durability.allocate(fd, 1 << 20))),
        (fcntl, "ioctl", lambda _: in_a_file(lambda fd: durability.allocate(fd, 1 << 20))),
        (fcntl, "flock", lambda _: in_a_file(locks.try_lock)),
        (locks, "fcntl_call", lambda _: in_a_file(lambda fd: locks.try_lock_byte(fd, locks.FLUSH))),
        (lmdb, "open", lambda path: Table.create(path, UUID)),
        (opening, "recover_alone", logstore.open),
        (_check, "is_in_use", a_store_checked),
        (Table, "read_meta_in", a_table_opened),
        (verifier, "verify", a_table_verified),
        (threading.Thread, "start", a_thread_started),
        (builtins, "open", lambda _: system._read_text("/proc/self/mountinfo", "")),
        (system, "_read_text", lambda _: system.boot_id.__wrapped__()),
        (os, "stat", system.filesystem_type),
        (mmap, "mmap", lambda _: system.can_reserve(4096)),
        (durability, "allocate", lambda path: system.space_error(os.path.dirname(path), 1)),
        (builtins, "open", lambda _: with_a_limit(system.address_space_left)),
        (os, "stat", lambda path: with_a_limit(lambda: system.file_bytes_left(path))),
        (Log, "open", lambda _: joining._if_there(lambda: Log.open("", UUID))),
        (identity, "read_whole", lambda path: identity.is_worth_keeping(a_file(path), UUID)),
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


def taken(store: logstore.Store) -> None:
    with mock.patch.object(Deferral, "is_held", return_value=True):
        copying.is_taken(live(store), "backup", store.path)


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (Table, "mark_in", logstore.Store.compact),
        (records, "decode_record", logstore.Store.compact),
        (records, "decode_mark", logstore.Store.check),
        (Table, "record_in", logstore.Store.check),
        (Table, "read_meta_in", logstore.Store.check),
        (Engine, "log_state", logstore.Store.check),
        (checking, "_check_copy", logstore.Store.check),
        (checking, "make_copy", logstore.Store.check),
        (Publisher, "publish_all", logstore.Store.compact),
        (records, "decode_record", lambda store: store.get_result("b")),
        (records, "decode_record", lambda store: list(store.tasks())),
        (Table, "mark_in", lambda store: list(store.tasks())),
        (Table, "mark_in", lambda store: live(store).find_traces([b"b"])),
        (listing, "is_running", lambda store: list(store.tasks())),
        (Table, "read_meta_in", logstore.Store.stats),
        (Table, "mark_in", lambda store: store.delete_result("b")),
        (files, "open_file", lambda store: identity.is_vacuumed(live(store))),
        (identity, "Table", lambda store: identity.is_vacuumed(live(store))),
        (table_module, "grow_map", lambda store: live(store).table.grow_map()),
        (files, "open_file", lambda store: taken(store)),
        (pages._Copy, "_renumber_leaf", lambda store: store.backup(f"{store.path}.copy")),
        (pages.Snapshot, "_mark_listed", lambda store: store.backup(f"{store.path}.copy")),
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
    store.set_progress("d", logstore.TaskProgress())
    store.compact()
    for task_id in ("a", "c"):
        store.set_result(task_id, 2)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, raising(UnforeseenError()))
        with pytest.raises(UnforeseenError):
            call(store)
    store.compact()
    assert [info.task_id for info in store.tasks()] == ["c", "a", "d"]


@pytest.mark.parametrize("is_new", [True, False])
def test_a_side_file_that_cannot_be_opened_is_not_opened_in_another_way(
    is_new: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def fail(name: str, flags: int, *mode: int) -> int:
        if bool(flags & os.O_EXCL) is is_new:
            raise UnforeseenError
        return real(name, flags, *mode)

    if not is_new:
        path.touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        with pytest.raises(UnforeseenError):
            files.open_file(str(path), os.O_RDWR | os.O_CREAT)


def test_a_check_that_others_hold_up_is_not_called_a_failed_write(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checking, "make_copy", raising(logstore.StoreBusyError("overtaken")))
        with pytest.raises(logstore.StoreBusyError, match="overtaken"):
            store.check()


def test_a_copy_that_cannot_be_opened_is_not_called_removed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "Table", raising(UnforeseenError()))
    with pytest.raises(UnforeseenError):
        in_a_file(lambda fd: copying.open_copy(fd, str(path)))


def test_databases_that_cannot_be_opened_are_not_called_missing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Table.create(str(path), UUID)
    real = lmdbfile.open_environment

    def opened(_: str, **options: Any) -> Any:
        return Broken(real(str(path), **options), "open_db")

    monkeypatch.setattr(table_module, "open_environment", opened)
    with pytest.raises(UnforeseenError):
        Table(str(path))


def test_an_unforeseen_error_of_the_list_of_readers_passes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Table.create(str(path), UUID)
    table = Table(str(path))
    with monkeypatch.context() as patch:
        patch.setattr(Readers, "snapshots", raising(UnforeseenError()))
        with pytest.raises(UnforeseenError):
            table.counts()
    assert table.counts().results == 0
    table.close()


@pytest.mark.parametrize(("owner", "name"), [(Engine, "fold"), (files, "remove")])
def test_a_store_whose_closing_meets_an_unforeseen_error_is_closed(
    owner: object, name: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = logstore.open(path)
    store.set_result("a", 1)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, raising(UnforeseenError()))
        with pytest.raises(UnforeseenError):
            store.close()
    assert store.closed
    with logstore.open(path) as again:
        assert again.get_result("a") == 1


def test_a_compaction_that_is_due_lets_an_unforeseen_error_pass(
    open_store: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(compact_at=1 << 14)
    with monkeypatch.context() as patch:
        patch.setattr(LogView, "seal", raising(UnforeseenError()))
        with pytest.raises(UnforeseenError):
            store.set_result("a", bytes(1 << 14))
    assert live(store).counters.last_compaction_error is None
    assert store.get_result("a") == bytes(1 << 14)


@pytest.mark.parametrize(
    ("fails", "settles"), [("sync_data", "settled"), ("pwrite_all", "settled_within")]
)
def test_an_unforeseen_error_of_settling_is_not_told_as_the_error_before_it(
    fails: str, settles: str, store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.EIO, os.strerror(errno.EIO))
    with monkeypatch.context() as patch, ThreadPoolExecutor(1) as beside:
        patch.setattr(durability, fails, raising(full))
        patch.setattr(Engine, settles, raising(UnforeseenError()))
        # Not in the main thread, where it could come from a signal handler.
        with pytest.raises(UnforeseenError):
            beside.submit(store.set_result, "a", 1).result()
    assert live(store).counters.last_compaction_error is None
    store.set_result("a", 2)
    assert store.get_result("a") == 2


def test_an_unforeseen_error_beside_a_vacuum_of_another_process_passes(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = live(store)
    incarnation = engine.header.incarnation

    def fail(*_: object) -> NoReturn:
        engine.header.incarnation += 1  # as another vacuum in between
        raise UnforeseenError

    with monkeypatch.context() as patch:
        patch.setattr(identity, "open_published", fail)
        with pytest.raises(UnforeseenError):
            engine._follow_table()
    engine.header.incarnation = incarnation


def test_an_unforeseen_error_of_a_rescue_is_not_called_a_lack_of_space(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = logstore.open(path)
    store.set_result("a", 1)
    path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(identity, "write_closed", raising(UnforeseenError()))
        with pytest.raises(UnforeseenError):
            store.compact()
    with pytest.raises(logstore.StoreReplacedError):
        store.compact()
    with pytest.raises(logstore.StoreReplacedError):
        store.close()


def test_a_tables_unforeseen_error_passes_its_reads_and_writes(path: Path) -> None:
    Table.create(str(path), UUID)
    table = Table(str(path))
    for call in (table.read, table.write):
        with pytest.raises(UnforeseenError):
            call(raising(UnforeseenError()))
    table.close()


def test_an_interrupt_passes_the_verification_of_a_short_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier, "verify", raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        lmdbfile._is_whole(str(path))


def test_what_a_task_id_raises_of_its_own_passes(store: logstore.Store) -> None:
    class Name(str):
        __slots__ = ()
        encode = raising(UnforeseenError())

    with pytest.raises(UnforeseenError):
        store.status(Name("a"))


def test_an_unforeseen_error_of_a_vacuum_is_not_told_as_its_closing(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = live(store)

    def fail(_: Engine) -> NoReturn:
        engine.closed = True
        raise UnforeseenError

    with monkeypatch.context() as patch:
        patch.setattr(vacuum, "_attempt", fail)
        with pytest.raises(UnforeseenError):
            store.vacuum()
    engine.closed = False


def test_an_interrupt_passes_the_copying_of_an_error() -> None:
    class RudeError(Exception):
        __reduce_ex__ = raising(KeyboardInterrupt())

    with pytest.raises(KeyboardInterrupt):
        systemerrors.raisable(RudeError())


def test_an_interrupt_passes_the_closing_of_what_is_still_open(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with logstore.open(path), monkeypatch.context() as patch:
        patch.setattr(registry, "_slots", {1: SimpleNamespace(shared=SimpleNamespace(handles=2))})
        patch.setattr(registry, "Lease", raising(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            registry._close_all()


def test_what_a_c_function_raises_of_its_own_passes() -> None:
    for error in (UnforeseenError("MemoryError"), KeyboardInterrupt("MemoryError")):
        with pytest.raises(type(error)):
            libc.call(raising(error))


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
