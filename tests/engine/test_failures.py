"""What the system and LMDB say of a failed write, as the package's own errors."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import lmdb
import pytest

import logstore
from logstore.engine.failures import raisable, write_error


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("whose", ["the system's", "LMDB's"])
def test_a_full_disk_or_quota_is_told_apart(path: Path, code: int, whose: str) -> None:
    text = os.strerror(code)
    met = OSError(code, text) if whose == "the system's" else lmdb.Error(f"mdb_put: {text}")
    error = write_error(str(path), met)
    assert isinstance(error, logstore.DiskFullError)
    assert error.errno == code
    assert "free some space" in str(error)


def test_an_error_of_lmdb_without_a_code_is_an_input_output_error(path: Path) -> None:
    error = write_error(str(path), lmdb.BadTxnError("mdb_put: MDB_BAD_TXN"))
    assert isinstance(error, logstore.WriteError)
    assert error.errno == errno.EIO
    assert "MDB_BAD_TXN" in str(error)


def test_an_input_output_error_on_a_disk_that_is_full_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMDB reports a short write as one."""
    met = lmdb.DiskError(f"mdb_txn_commit: {os.strerror(errno.EIO)}")
    full = SimpleNamespace(f_bavail=1, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    assert isinstance(write_error(str(path), met), logstore.DiskFullError)
    monkeypatch.undo()
    nowhere = str(path.parent / "nowhere" / "app.db")
    assert not isinstance(write_error(nowhere, met), logstore.DiskFullError)


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
