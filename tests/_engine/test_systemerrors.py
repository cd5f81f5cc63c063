"""What the system and LMDB say of a failed write, as the package's own errors."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import lmdb
import pytest

import logstore
from logstore._engine.lmdbfile import translate
from logstore._engine.systemerrors import open_error, raisable, write_error
from logstore._engine.table import Table
from tests.support.peers import run_child


def lmdbs_error(code: int, what: str = "mdb_txn_commit") -> lmdb.Error:
    """An error of LMDB's with a code of the system."""
    error = lmdb.Error(f"{what}: {os.strerror(code)}")
    vars(error)["code"] = code
    return error


def met(whose: str, code: int) -> OSError | lmdb.Error:
    return OSError(code, os.strerror(code)) if whose == "the system's" else lmdbs_error(code)


WHOSE = ["the system's", "LMDB's"]


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space, or raise the quota"),
    ],
)
@pytest.mark.parametrize("whose", WHOSE)
def test_a_full_disk_or_quota_is_told_apart(path: Path, code: int, advice: str, whose: str) -> None:
    error = write_error(str(path), met(whose, code))
    assert isinstance(error, logstore.DiskFullError)
    assert error.errno == code
    assert f"; {advice} and write again" in str(error)
    assert isinstance(open_error(str(path), met(whose, code)), logstore.DiskFullError)


# What the system says; the class of the error if that happens while opening; what it advises.
UNSUPPORTED = "the file system, or a sandbox, lacks something that the store needs"
SAID = [
    *(
        (code, logstore.ResourceLimitError, advice)
        for code, advice in {
            errno.EMFILE: "this process has no file descriptors left; raise its limit (ulimit -n)",
            errno.ENFILE: "the machine has no file descriptors left; raise their number "
            "(fs.file-max)",
            errno.ENOMEM: "no memory or address space is left; look at ulimit -v and the "
            "container's limit",
            errno.EAGAIN: "no more threads may be started, or no more memory locked; look at "
            "ulimit -u, ulimit -l and the container's limit",
        }.items()
    ),
    *(
        (code, logstore.StorePermissionError, advice)
        for code, advice in {
            errno.EACCES: "no permission; the store needs to read and write this file and to "
            "create files beside it; use mode='r' to read only",
            errno.EPERM: "not permitted, whatever the file's mode: look for an immutable file "
            "(lsattr) or a sandbox",
            errno.EROFS: "no permission to write here; use mode='r' to read only",
        }.items()
    ),
    *(
        (code, logstore.OpenError, advice)
        for code, advice in {
            errno.EFBIG: "the file may not grow: look at ulimit -f, and at what the file system "
            "allows",
            errno.ENAMETOOLONG: "choose a shorter path",
            errno.ELOOP: "look at the symbolic links in the path",
            errno.ENOTDIR: "something in the path is not a directory",
            errno.EISDIR: "a directory is where a file of the store should be",
            errno.ENOENT: "create the directory first, or look at the links in the path",
            errno.EIO: "the disk failed; look at the system's log",
            errno.ENOLCK: "the file system has no locks",
            errno.ESTALE: "the file system was unmounted; mount it again",
            errno.ENODEV: UNSUPPORTED,
            errno.EINVAL: UNSUPPORTED,
            errno.ENOSYS: UNSUPPORTED,
            errno.EOPNOTSUPP: UNSUPPORTED,
            errno.EBADMSG: "look at the system's log",  # one that is not in the table
        }.items()
    ),
]


@pytest.mark.parametrize("whose", WHOSE)
@pytest.mark.parametrize(("code", "kind", "advice"), SAID)
def test_what_the_system_says_while_opening_is_told_with_what_to_do(
    path: Path, code: int, kind: type[Exception], advice: str, whose: str
) -> None:
    error = open_error(str(path), met(whose, code))
    assert type(error) is kind
    assert str(error).startswith(f"{path}: cannot be opened (")
    assert os.strerror(code) in str(error)
    assert str(error).endswith(f"): {advice}")
    if isinstance(error, OSError):
        assert error.errno == code


@pytest.mark.parametrize("whose", WHOSE)
@pytest.mark.parametrize(("code", "kind", "advice"), SAID)
def test_what_the_system_says_while_writing_is_told_with_what_to_do(
    path: Path, code: int, kind: type[Exception], advice: str, whose: str
) -> None:
    error = write_error(str(path), met(whose, code))
    assert type(error) is logstore.WriteError
    assert error.errno == code
    assert f"): {advice}; this write was not acknowledged" in str(error)


def test_a_limit_met_while_a_file_is_opened_again_keeps_its_code_in_a_write(path: Path) -> None:
    error = write_error(str(path), open_error(str(path), OSError(errno.EMFILE, "Too many")))
    assert isinstance(error, logstore.WriteError)
    assert error.errno == errno.EMFILE
    assert "ulimit -n" in str(error)


@pytest.mark.parametrize("name", ["Permission denied", "is closed", "Input/output error"])
def test_words_in_a_path_are_not_taken_for_what_the_system_says(tmp_path: Path, name: str) -> None:
    path = str(tmp_path / name)
    error = translate(lmdbs_error(errno.EMFILE, path), path)
    assert type(error) is logstore.ResourceLimitError


def test_an_error_of_lmdb_without_a_code_is_an_input_output_error(path: Path) -> None:
    error = write_error(str(path), lmdb.BadTxnError("mdb_put: MDB_BAD_TXN"))
    assert isinstance(error, logstore.WriteError)
    assert error.errno == errno.EIO
    assert "MDB_BAD_TXN" in str(error)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_an_input_output_error_of_lmdb_where_there_is_no_space_says_so(
    path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMDB reports a short write as one."""

    def refuse(fd: int, offset: int, size: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    for error in (write_error, open_error):
        told = error(str(path), lmdbs_error(errno.EIO))
        assert isinstance(told, logstore.DiskFullError)
        assert told.errno == code
    own = write_error(str(path), OSError(errno.EIO, os.strerror(errno.EIO)))
    assert not isinstance(own, logstore.DiskFullError)  # our own writes are carried on
    assert os.listdir(path.parent) == []


def test_an_input_output_error_where_there_is_space_is_one(path: Path) -> None:
    error = write_error(str(path), lmdbs_error(errno.EIO))
    assert type(error) is logstore.WriteError
    assert error.errno == errno.EIO
    nowhere = str(path.parent / "nowhere" / "app.db")
    assert type(write_error(nowhere, lmdbs_error(errno.EIO))) is logstore.WriteError


def test_a_short_write_is_blamed_on_the_space_for_all_that_was_to_be_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system may refuse a large write and still have some space."""

    real = os.posix_fallocate

    def refuse(fd: int, offset: int, size: int) -> None:
        if size > 4 << 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(fd, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with logstore.open(path) as store:

        def fail(*_: object) -> None:
            raise lmdbs_error(errno.EIO)

        with monkeypatch.context() as patch:
            patch.setattr(Table, "write_meta", fail)
            with pytest.raises(logstore.DiskFullError):
                store.set_result("large", bytes(5 << 20))
        store.set_result("a", 1)


FILE_LIMIT = """
import os, resource, sys
import logstore
path = sys.argv[1]
store = logstore.open(path)
store.set_result("a", 1)
store.compact()
resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, resource.RLIM_INFINITY))
for _ in range(2):
    try:
        store.set_result("large", os.urandom(5 << 20))
    except logstore.WriteError as exc:
        print(type(exc).__name__, exc)
print(store.get_result("a"))
store.set_result("b", 2)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
store.set_result("large", 3)
store.close()
"""


def test_a_limit_of_the_file_s_size_is_told_from_the_first_write_on(path: Path) -> None:
    lines = run_child(FILE_LIMIT, path)
    assert len(lines) == 3
    for line in lines[:2]:
        assert line.startswith(f"WriteError [Errno {errno.EFBIG}]")
        assert "ulimit -f" in line
    assert lines[2] == "1"


def test_a_thread_that_cannot_be_started_is_a_limit_and_closes_the_store(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(logstore.ResourceLimitError, match=r"ulimit -u"):
            logstore.open(path)
    assert os.listdir(path.parent) == ["app.db"]
    with logstore.open(path) as store:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(logstore.ResourceLimitError, match=r"ulimit -u"):
                store.wait_ready("a", timeout_s=0.1)
        assert not store.wait_ready("a", timeout_s=0.01)


def test_what_is_not_about_writing_and_what_is_ours_already_pass_unchanged(path: Path) -> None:
    for error in (KeyError("a"), logstore.ResultDeletedError("gone")):
        assert write_error(str(path), error) is error
    reopened = write_error(str(path), logstore.NotAStoreError("not one"))
    assert isinstance(reopened, logstore.WriteError)
    assert "not one" in str(reopened)


def test_each_caller_of_a_group_gets_a_copy_of_its_error_with_the_cause() -> None:
    error = logstore.WriteError(errno.EIO, "failed")
    error.__cause__ = cause = OSError(errno.EIO, "why")
    mine = raisable(error)
    assert mine is not error
    assert type(mine) is type(error)
    assert mine.__cause__ is cause


def test_an_error_that_cannot_be_copied_is_shared() -> None:
    class SingularError(Exception):
        def __reduce__(self) -> str:
            raise TypeError("there is one only")

    error = SingularError()
    assert raisable(error) is error
