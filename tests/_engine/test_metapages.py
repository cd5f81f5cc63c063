"""Damage of LMDB's meta pages: found before LMDB goes by the older page or by no root at all."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import lmdb
import pytest

import logstore
from logstore._engine import metapages
from logstore._engine.metapages import MetaPage
from tests.support.peers import run_child

# Opens a store with one byte of a meta page changed, in a process of its own each time: LMDB that
# is let near it may crash.  Prints page, offset and outcome.
SWEEP = """
import os, shutil, sys
import logstore
from logstore._engine import maintenance

maintenance.IDLE_S = 1e6
directory, kind, masks = sys.argv[1], sys.argv[2], [int(mask) for mask in sys.argv[3:]]
path = f"{directory}/app.db"
values = {f"task-{i}": i for i in range(310)}

def attempt():
    try:
        with logstore.open(path, mode="r") as store:
            right = all(store.get_result(key) == value for key, value in values.items())
        return "right" if right else "wrong"
    except Exception as exc:
        return type(exc).__name__

os.makedirs(f"{directory}/first")
store = logstore.open(f"{directory}/first/app.db")
for key, value in list(values.items())[:300]:
    store.set_result(key, value)
store.compact()
for key, value in list(values.items())[300:]:
    store.set_result(key, value)
if kind == "closed":
    store.close()
for name in ["app.db", "app.db-log", "app.db-log2"][: 1 + 2 * (kind == "crashed")]:
    shutil.copyfile(f"{directory}/first/{name}", f"{directory}/{name}")
with open(path, "rb") as file:
    whole = file.read()
for page in range(2):
    for at in range(152):
        for mask in masks:
            damaged = bytearray(whole)
            damaged[page * 4096 + at] ^= mask
            with open(path, "wb") as file:
                file.write(damaged)
            read_end, write_end = os.pipe()
            if os.fork() == 0:
                os.write(write_end, attempt().encode())
                os._exit(0)
            os.close(write_end)
            outcome = os.read(read_end, 100).decode()
            os.close(read_end)
            os.wait()
            print(page, at, outcome or "crash", flush=True)
if kind != "closed":
    store.close()
"""
LAST_PAGE_AT = 136


@pytest.mark.parametrize("kind", ["closed", "crashed"])
@pytest.mark.parametrize("masks", [(1,), (0x80, 0xFF)])
def test_a_damaged_byte_of_a_meta_page_is_damage_of_the_table_or_nothing(
    tmp_path: Path, kind: str, masks: tuple[int, ...]
) -> None:
    """LMDB would take the older page, as if the last compaction had not been: acked results go."""
    lines = [line.split() for line in run_child(SWEEP, tmp_path, kind, *masks)]
    assert len(lines) == 2 * 152 * len(masks)
    for page, at, outcome in lines:
        allowed = {"right", "CorruptTableError"}
        if LAST_PAGE_AT <= int(at) < LAST_PAGE_AT + 8:
            allowed.add("TruncatedFileError")  # the two cannot be told apart
        assert outcome in allowed, (page, at)
    assert Counter(outcome for _, _, outcome in lines)["CorruptTableError"] > len(lines) // 3


def meta_pages(path: Path) -> tuple[MetaPage, MetaPage]:
    raw = path.read_bytes()
    return metapages.decode(raw), metapages.decode(raw[4096:])


def test_the_pages_of_any_store_have_no_problem_and_follow_each_other(path: Path) -> None:
    seen = set()
    for n in range(6):
        with logstore.open(path) as store:
            store.set_result("a", n)
            if n == 2:
                store.compact()  # one commit more
            if n == 4:
                store.vacuum()
        pages = meta_pages(path)
        assert metapages.problem(pages) is None
        newest = metapages.newest(pages)
        assert newest.txn_id == max(page.txn_id for page in pages)
        for tree in (newest.free, newest.main):
            root = path.read_bytes()[tree.root * 4096 :][: metapages.ROOT_BYTES]
            assert tree.is_empty or tree.root_problem(root) is None
        seen.add(newest.txn_id % 2)
    assert seen == {0, 1}


def test_a_new_lmdb_file_and_an_empty_copy_have_no_problem(tmp_path: Path) -> None:
    path, copy = tmp_path / "new", tmp_path / "copy"
    env = lmdb.open(str(path), subdir=False, lock=False, lib_version=0)
    assert metapages.problem(meta_pages(path)) is None
    with copy.open("wb") as file:
        env.copyfd(file.fileno(), compact=True)
    assert metapages.problem(meta_pages(copy)) is None
    env.close()


def test_what_the_pages_cannot_say_together_is_named(path: Path) -> None:
    with logstore.open(path) as store:
        store.set_result("a", 1)
    first, second = meta_pages(path)

    def problem(one: MetaPage, two: MetaPage) -> str:
        return metapages.problem((one, two)) or ""

    newer = metapages.newest((first, second))
    assert "begins with" in problem(first._replace(head=(1, 0, 8, 0)), second)
    assert "begins with" in problem(first, second._replace(address=1))
    assert "magic" in problem(first._replace(magic=1), second)
    assert "kinds" in problem(first._replace(main=first.main._replace(flags=4)), second)
    for change in (1, 3, -3):
        changed = first._replace(txn_id=first.txn_id + change)
        assert "do not follow" in problem(changed, second)
    older = second if newer is first else first
    larger = older._replace(last_page=newer.last_page + 1)
    assert "smaller" in problem(*((newer, larger) if newer is first else (larger, newer)))
    for tree in (
        newer.main._replace(root=1),
        newer.main._replace(root=newer.last_page + 1),
        newer.main._replace(depth=0),
        newer.main._replace(depth=33),
        newer.main._replace(leaves=0),
        newer.main._replace(branches=1),
        newer.main._replace(leaves=newer.last_page + 1),
        newer.main._replace(root=(1 << 64) - 1),
    ):
        changed = newer._replace(main=tree)
        pages = (changed, second) if newer is first else (first, changed)
        assert "has a tree" in problem(*pages), tree


def test_a_root_that_is_not_on_its_page_is_named(path: Path) -> None:
    with logstore.open(path) as store:
        store.set_result("a", 1)
    tree = metapages.newest(meta_pages(path)).main
    raw = path.read_bytes()[tree.root * 4096 :][: metapages.ROOT_BYTES]
    assert tree.root_problem(raw) is None
    for at in (0, 10, 12):  # its number, what it is, where its keys end
        damaged = bytearray(raw)
        damaged[at] ^= 2
        assert "there is none" in (tree.root_problem(bytes(damaged)) or "")
    assert "not in the file" in (tree.root_problem(raw[:-1]) or "")


def test_a_page_size_that_is_none_is_damage(path: Path) -> None:
    with logstore.open(path) as store:
        store.set_result("a", 1)
    data = bytearray(path.read_bytes())
    for size in (0, 4097, 256, 1 << 20, 8192, 65536):
        data[40:44] = size.to_bytes(4, "little")
        path.write_bytes(data)
        with pytest.raises(logstore.CorruptTableError, match=f"page size of {size}"):
            logstore.open(path)
