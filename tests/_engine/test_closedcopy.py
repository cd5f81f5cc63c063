"""A copy of the table: whole and on the disk, owner and mode included, before it has its name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import logstore
from logstore._engine import closedcopy, durability
from logstore._engine.overlay import Overlay
from tests.support.inside import live

if TYPE_CHECKING:
    from logstore._engine.engine import Engine


def copy_closed(engine: Engine, destination: str) -> None:
    table = engine.table
    closedcopy.write_closed(destination, table.fd, table.copy_to, Overlay(table.meta.epoch))


def test_a_copy_is_on_the_disk_before_it_gets_its_name_and_its_name_after(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMDB flushes the data, but not whose the file is."""
    done: list[str] = []

    def noting(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> None:
            done.append(name)
            real(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    with logstore.open(path, sync_interval_s=1e6) as store:
        noting(closedcopy, "fold_into")
        noting(durability, "sync_file")
        noting(os, "link")
        noting(durability, "sync_directory")
        copy_closed(live(store), f"{path}.copy")
        monkeypatch.undo()
    assert done == ["fold_into", "sync_file", "link", "sync_directory"]


def test_a_copy_never_overwrites_a_file(path: Path) -> None:
    there = path.with_name("there")
    there.write_bytes(b"precious")
    with logstore.open(path) as store, pytest.raises(FileExistsError):
        copy_closed(live(store), str(there))
    assert there.read_bytes() == b"precious"
    assert sorted(os.listdir(path.parent)) == ["app.db", "there"]
