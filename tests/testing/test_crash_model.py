"""What a trace says about the disk: syncs, sectors, sizes, names, descriptors, refusals."""

from __future__ import annotations

import pytest

from logstore.testing.crash.operations import NEVER
from logstore.testing.crash.states import Builder, StateError
from logstore.testing.crash.strace import TraceError
from tests.testing.crash_traces import (
    CWD,
    LAST,
    fd,
    opened,
    pwrite,
    quoted,
    renamed,
    shown,
    states_at,
    synced,
    told,
    understood,
    unlinked,
    write,
)

A, B, C = b"A" * 512, b"B" * 512, b"C" * 512


# -- contents ----------------------------------------------------------------------------------


def test_a_write_that_no_sync_covers_is_there_or_not_or_torn_at_sectors() -> None:
    history, _ = understood(opened(3, "a", "O_RDWR"), pwrite(3, "a", B + B, 0), base={"a": A + A})
    found = {state["a"] for state in states_at(history, LAST)}
    assert found == {A + A, A + B, B + A, B + B}


@pytest.mark.parametrize("call", ["fsync", "fdatasync"])
def test_a_sync_makes_what_ended_before_it_certain(call: str) -> None:
    history, _ = understood(
        opened(3, "a", "O_RDWR"),
        pwrite(3, "a", B, 0),
        synced(3, "a", call),
        pwrite(3, "a", C, 0),
        base={"a": A},
    )
    assert {state["a"] for state in states_at(history, LAST)} == {B, C}


def test_a_sync_counts_from_its_return_and_not_for_writes_that_had_not_returned() -> None:
    lines = [
        opened(3, "a", "O_RDWR"),
        pwrite(3, "a", B, 0, pid=2).partition(") =")[0] + " <unfinished ...>",
        synced(3, "a").partition(") =")[0] + " <unfinished ...>",
        "2 <... pwrite64 resumed>) = 512",
        "1 <... fsync resumed>) = 0",
    ]
    clone = "1 clone(child_stack=NULL, flags=SIGCHLD) = 2"
    history, _ = understood(lines[0], clone, *lines[1:], base={"a": A})
    assert {state["a"] for state in states_at(history, LAST)} == {A, B}
    (op,) = history.file_ops
    assert op.durable == NEVER


def test_a_failed_sync_promises_nothing() -> None:
    history, _ = understood(
        opened(3, "a", "O_RDWR"),
        pwrite(3, "a", B, 0),
        f"1 fsync({fd(3, 'a')}) = -1 EIO (Input/output error)",
        f"1 sync_file_range({fd(3, 'a')}, 0, 512, SYNC_FILE_RANGE_WRITE) = 0",
        base={"a": A},
    )
    assert {state["a"] for state in states_at(history, LAST)} == {A, B}


def test_sync_covers_everything() -> None:
    history, _ = understood(opened(3, "a"), pwrite(3, "a", B, 0), "1 sync() = 0")
    assert states_at(history, LAST) == [{"a": B}]


def test_a_later_version_of_a_sector_includes_the_earlier_ones() -> None:
    history, _ = understood(
        opened(3, "a", "O_RDWR"),
        pwrite(3, "a", b"x", 0),
        pwrite(3, "a", b"y", 1),
        base={"a": A},
    )
    found = {state["a"][:2] for state in states_at(history, LAST)}
    assert found == {b"AA", b"xA", b"xy"}


def test_a_size_without_data_shows_zeros_and_data_without_size_does_not_show() -> None:
    history, _ = understood(opened(3, "a", "O_RDWR"), pwrite(3, "a", B, 512), base={"a": A})
    found = {state["a"] for state in states_at(history, LAST)}
    assert found == {A, A + bytes(512), A + B}


def test_a_cut_that_is_lost_takes_what_was_written_behind_it_along() -> None:
    history, _ = understood(
        opened(3, "a", "O_RDWR|O_TRUNC"), pwrite(3, "a", B, 0), base={"a": A + A}
    )
    found = {state["a"] for state in states_at(history, LAST)}
    assert found == {A + A, b"", bytes(512), B}


def test_truncate_and_fallocate_change_sizes() -> None:
    history, tree = understood(
        opened(3, "a"),
        f"1 fallocate({fd(3, 'a')}, 0, 0, 1024) = 0",
        f"1 fallocate({fd(3, 'a')}, FALLOC_FL_KEEP_SIZE, 0, 4096) = 0",
        pwrite(3, "a", B, 0),
        f"1 fallocate({fd(3, 'a')}, FALLOC_FL_KEEP_SIZE|FALLOC_FL_PUNCH_HOLE, 0, 100) = 0",
        f'1 truncate("{quoted("a")}", 700) = 0',
        f"1 ftruncate({fd(3, 'a')}, 600) = 0",
    )
    assert tree.content[1] == bytes(100) + B[100:] + bytes(88)
    sizes = {len(state["a"]) for state in states_at(history, LAST) if "a" in state}
    assert sizes == {0, 1024, 700, 600}


def test_short_writes_count_what_they_returned_and_failed_ones_nothing() -> None:
    _, tree = understood(
        opened(3, "a"),
        f'1 write({fd(3, "a")}, "{quoted("abcdef")}", 6) = 2',
        f'1 write({fd(3, "a")}, "{quoted("cdef")}", 4) = -1 ENOSPC (No space left on device)',
        write(3, "a", b"C"),
    )
    assert tree.content[1] == b"abC"


@pytest.mark.parametrize("flag", ["O_DSYNC", "O_SYNC"])
def test_a_write_through_a_dsync_descriptor_is_certain_when_it_returns(flag: str) -> None:
    """LMDB's pattern: pages by one descriptor, the meta page by another one."""
    history, _ = understood(
        opened(4, "a", "O_RDWR"),
        opened(5, "a", f"O_WRONLY|{flag}"),
        pwrite(4, "a", C, 4096),
        pwrite(5, "a", B, 0),
        base={"a": A + bytes(8192 - 512)},
    )
    found = {(state["a"][:512], state["a"][4096:4608]) for state in states_at(history, LAST)}
    assert found == {(B, bytes(512)), (B, C)}
    inside = states_at(history, history.file_ops[-1].start)
    assert {state["a"][:512] for state in inside} == {A, B}


def test_rwf_dsync_counts_like_a_dsync_descriptor() -> None:
    iov = f'[{{iov_base="{quoted(B)}", iov_len=512}}]'
    history, _ = understood(
        opened(3, "a", "O_RDWR"),
        f"1 pwritev2({fd(3, 'a')}, {iov}, 1, 0, RWF_DSYNC) = 512",
        base={"a": A},
    )
    assert states_at(history, LAST) == [{"a": B}]


def test_offsets_follow_seeks_reads_duplicates_and_forks() -> None:
    _, tree = understood(
        opened(3, "a"),
        write(3, "a", b"0123456789"),
        f"1 lseek({fd(3, 'a')}, 2, SEEK_SET) = 2",
        "1 read(0x3, 0x7f00, 0x2) = 0x2",
        f"1 dup({fd(3, 'a')}) = {fd(7, 'a')}",
        write(7, "a", b"x"),
        "1 clone(child_stack=NULL, flags=SIGCHLD) = 2",
        write(3, "a", b"y", pid=2),
        f"1 fcntl({fd(3, 'a')}, F_DUPFD_CLOEXEC, 10) = {fd(10, 'a')}",
        f"1 close({fd(3, 'a')}) = 0",
        write(10, "a", b"z"),
        f'1 writev({fd(7, "a")}, [{{iov_base="{quoted("v")}", iov_len=1}}], 1) = 1',
    )
    assert tree.content[1] == b"0123xyzv89"


def test_appending_ignores_the_offset() -> None:
    _, tree = understood(
        opened(3, "a", "O_WRONLY|O_APPEND"), write(3, "a", b"c"), base={"a": b"ab"}
    )
    assert tree.content[1] == b"abc"


def test_copies_inside_the_kernel_are_followed() -> None:
    _, tree = understood(
        opened(3, "a", "O_RDONLY"),
        opened(4, "b"),
        f"1 copy_file_range({fd(3, 'a')}, [1], {fd(4, 'b')}, NULL, 3, 0) = 3",
        f"1 sendfile({fd(4, 'b')}, {fd(3, 'a')}, [0] => [2], 2) = 2",
        base={"a": b"01234"},
    )
    assert tree.content[2] == b"12301"


def test_threads_share_descriptors_and_exec_closes_some() -> None:
    _, tree = understood(
        "1 clone3({flags=CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_THREAD}, 88) = 2",
        opened(3, "a", "O_RDWR|O_CREAT|O_CLOEXEC", pid=2),
        write(3, "a", b"a", pid=1),
        "1 vfork() = 5",
        '5 execve("\\x2f", ["\\x61"], 0x7f /* 3 vars */) = 0',
        opened(3, "b", pid=5),
        write(3, "b", b"b", pid=5),
        write(3, "a", b"A", pid=2),
    )
    assert tree.content[1] == b"aA"
    assert tree.content[2] == b"b"


def test_a_child_can_be_seen_before_its_parent_returns_from_the_fork() -> None:
    _, tree = understood(
        opened(3, "a"),
        "1 clone(child_stack=NULL, flags=SIGCHLD <unfinished ...>",
        write(3, "a", b"x", pid=2),
        "1 <... clone resumed>, child_tidptr=0x7f) = 2",
    )
    assert tree.content[1] == b"x"


def test_a_file_renamed_or_unlinked_while_open_is_still_that_file() -> None:
    history, tree = understood(
        opened(3, "a"),
        renamed("a", "b"),
        write(3, "b", b"x"),
        unlinked("b"),
        f'1 write(3<{quoted("/w/b")}>(deleted), "{quoted("y")}", 1) = 1',
        opened(4, "b"),
    )
    assert tree.content[1] == b"xy"
    assert dict(tree.walk()) == {"b": 2}
    assert {"a": b""} in states_at(history, LAST)


@pytest.mark.parametrize("happened", [False, True])
def test_a_write_during_which_the_process_was_killed_has_happened_or_not(happened: bool) -> None:
    history, tree = understood(
        opened(3, "a", "O_RDWR"),
        pwrite(3, "a", B, 0).partition(") =")[0] + " <unfinished ...>",
        "1 +++ killed by SIGKILL +++",
        base={"a": A},
        happened=happened,
    )
    assert tree.content[1] == (B if happened else A)
    assert len(history.file_ops) == happened


# -- names -------------------------------------------------------------------------------------


def test_a_name_is_there_or_not_until_its_directory_is_synced() -> None:
    lines = [opened(3, "a"), write(3, "a", b"x"), synced(3, "a")]
    history, _ = understood(*lines)
    assert sorted(map(len, states_at(history, LAST))) == [0, 1]
    history, _ = understood(*lines, opened(4, "", "O_RDONLY|O_DIRECTORY"), synced(4, ""))
    assert states_at(history, LAST) == [{"a": b"x"}]


def test_with_one_journal_the_sync_of_a_file_makes_its_name_certain() -> None:
    history, _ = understood(opened(3, "a"), write(3, "a", b"x"), synced(3, "a"), fs="ext4")
    assert states_at(history, LAST, fs="ext4") == [{"a": b"x"}]


def test_with_one_journal_names_reach_the_disk_in_order() -> None:
    lines = [opened(3, "a"), opened(4, "b")]
    history, _ = understood(*lines, fs="ext4")
    found = {tuple(state) for state in states_at(history, LAST, fs="ext4")}
    assert found == {(), ("a",), ("a", "b")}
    history, _ = understood(*lines)
    found = {tuple(state) for state in states_at(history, LAST)}
    assert found == {(), ("a",), ("b",), ("a", "b")}


def test_a_rename_is_all_or_nothing_and_needs_what_it_renames() -> None:
    history, _ = understood(opened(3, "b"), renamed("b", "a"), base={"a": b"old"})
    found = [tuple(sorted(state.items())) for state in states_at(history, LAST)]
    assert sorted(found) == [
        (("a", b""),),
        (("a", b"old"),),
        (("a", b"old"), ("b", b"")),
    ]


def test_of_one_entry_no_later_change_is_kept_without_the_earlier() -> None:
    history, _ = understood(unlinked("a"), opened(3, "a"), base={"a": b"old"})
    found = sorted(tuple(state.values()) for state in states_at(history, LAST))
    assert found == [(), (b"",), (b"old",)]


@pytest.mark.parametrize("bound", [1 << 16, 0])
def test_what_a_lost_rename_left_in_place_is_not_replaced(bound: int) -> None:
    history, _ = understood(renamed("a", "b"), opened(3, "a"), base={"a": b"X"})
    found = {tuple(state.items()) for state in states_at(history, LAST, bound=bound, limit=300)}
    moved = ("b", b"X")
    assert found == {(("a", b"X"),), (moved,), (("a", b""), moved)}


def test_a_sync_of_a_directory_does_not_cover_a_change_under_way() -> None:
    history, _ = understood(
        opened(3, "", "O_RDONLY|O_DIRECTORY"),
        "1 clone(child_stack=NULL, flags=SIGCHLD) = 2",
        renamed("a", "b", pid=2).partition(") =")[0] + " <unfinished ...>",
        synced(3, "").partition(") =")[0] + " <unfinished ...>",
        "2 <... rename resumed>) = 0",
        "1 <... fsync resumed>) = 0",
        base={"a": b""},
    )
    assert {tuple(state) for state in states_at(history, LAST)} == {("a",), ("b",)}


def test_a_write_under_way_shows_nothing_of_one_that_has_not_begun() -> None:
    slow = pwrite(3, "a", b"s", 0).partition(") =")[0] + " <unfinished ...>"
    history, _ = understood(
        opened(3, "a", "O_RDWR"),
        "1 clone(child_stack=NULL, flags=SIGCHLD) = 2",
        slow,
        pwrite(3, "a", b"q", 1, pid=2),
        "1 <... pwrite64 resumed>) = 1",
        base={"a": b"--"},
    )
    begins = history.file_ops[1].start
    assert history.file_ops[0].start > begins  # the quick one ended first, so it is applied first
    assert {state["a"] for state in states_at(history, begins)} == {b"--"}
    assert {state["a"] for state in states_at(history, LAST)} == {b"--", b"-q", b"sq"}


def test_a_rename_between_directories_is_certain_with_its_new_name() -> None:
    lines = [
        f'1 mkdir("{quoted("d")}", 0700) = 0',
        opened(3, "d", "O_RDONLY|O_DIRECTORY"),
        opened(4, "", "O_RDONLY|O_DIRECTORY"),
        synced(4, ""),
        renamed("a", "d/a"),
    ]
    both = {("a",), ("d/a",)}
    history, _ = understood(*lines, base={"a": b"x"})
    assert {tuple(state) for state in states_at(history, LAST)} == both
    history, _ = understood(*lines, synced(4, ""), base={"a": b"x"})
    assert {tuple(state) for state in states_at(history, LAST)} == both
    history, _ = understood(*lines, synced(3, "d"), base={"a": b"x"})
    assert {tuple(state) for state in states_at(history, LAST)} == {("d/a",)}


def test_links_unnamed_files_and_directories() -> None:
    history, tree = understood(
        f'1 linkat({CWD}, "{quoted("a")}", {CWD}, "{quoted("b")}", 0) = 0',
        opened(3, "", "O_RDWR|O_TMPFILE"),
        f'1 write(3<{quoted("/w/#12")}>(deleted), "{quoted("t")}", 1) = 1',
        f'1 linkat({CWD}, "{quoted("/proc/self/fd/3")}", {CWD}, "{quoted("t")}", '
        "AT_SYMLINK_FOLLOW) = 0",
        f'1 symlink("{quoted("a")}", "{quoted("s")}") = 0',
        opened(5, "s", "O_RDWR").replace(quoted("/w/s"), quoted("/w/a")),
        write(5, "a", b"X"),
        f'1 mkdirat({CWD}, "{quoted("d")}", 0755) = 0',
        f'1 unlinkat({CWD}, "{quoted("d")}", AT_REMOVEDIR) = 0',
        f'1 renameat2({CWD}, "{quoted("a")}", {CWD}, "{quoted("t")}", RENAME_EXCHANGE) = 0',
        "1 sync() = 0",
        base={"a": b"abc"},
    )
    assert dict(tree.walk()).keys() == {"a", "b", "s", "t"}
    assert states_at(history, LAST) == [{"a": b"t", "b": b"Xbc", "t": b"Xbc"}]


def test_relative_paths_follow_the_working_directory() -> None:
    _, tree = understood(
        f'1 mkdir("{quoted("d")}", 0700) = 0',
        f'1 chdir("{quoted("d")}") = 0',
        renamed("../a", "b"),
        f'1 chdir("{quoted("/elsewhere")}") = 0',
        unlinked("b"),
        base={"a": b""},
    )
    assert dict(tree.walk()) == {"d": 2, "d/b": 1}


# -- acks --------------------------------------------------------------------------------------


def test_what_was_told_grows_with_the_points() -> None:
    history, _ = understood(told("one"), opened(3, "a"), told("two"))
    builder = Builder(history, journaled=False, seed=0)
    seen = []
    for point in builder.cursor.points():
        builder.cursor.move(point)
        seen.append(builder.acks())
    assert seen == [b"", b"one\n", b"one\n", b"one\ntwo\n"]
    builder.cursor.move(-1)
    assert builder.acks() == b""


# -- volatile and mapped files -----------------------------------------------------------------

MAPPED = f"1 mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, {fd(3, 'a')}, 0) = 0x7f0000"


def test_a_file_mapped_for_writing_is_refused_by_name() -> None:
    with pytest.raises(TraceError, match=r"cannot show its changes: a\."):
        understood(opened(3, "a"), MAPPED)


def test_a_map_made_writable_later_is_refused_too() -> None:
    with pytest.raises(TraceError, match="cannot show"):
        understood(
            opened(3, "a"),
            MAPPED.replace("|PROT_WRITE", ""),
            "1 mprotect(0x7f0000, 4096, PROT_READ|PROT_WRITE) = 0",
        )


def test_a_map_for_reading_is_fine_and_msync_is_a_sync() -> None:
    history, _ = understood(
        opened(3, "a", "O_RDWR"),
        MAPPED.replace("|PROT_WRITE", ""),
        pwrite(3, "a", B, 0),
        "1 msync(0x7f0000, 4096, MS_SYNC) = 0",
        base={"a": A},
    )
    assert states_at(history, LAST) == [{"a": B}]


def test_a_volatile_file_is_gone_or_holds_anything() -> None:
    history, _ = understood(
        opened(3, "a-shm"),
        f"1 ftruncate({fd(3, 'a-shm')}, 700) = 0",
        MAPPED.replace(quoted("/w/a"), quoted("/w/a-shm")),
        volatile=("*-shm",),
    )
    found = states_at(history, LAST, bound=0, limit=200)
    assert {} in found
    assert {"a-shm": b""} in found
    assert {"a-shm": bytes(700)} in found
    noise = [s["a-shm"] for s in found if s.get("a-shm", b"").strip(b"\0")]
    assert noise
    assert all(len(content) == 700 for content in noise)


# -- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([pwrite(3, "a", b"x", 0)], "was not opened in the trace"),
        ([f'1 rename("{quoted("/x/y")}", "{quoted("b")}") = 0'], "moved in from outside"),
        ([f'1 link("{quoted("/x/y")}", "{quoted("b")}") = 0'], "outside the watched"),
        (
            [opened(3, "b"), f"1 sendfile({fd(3, 'b')}, 5<\\x2f\\x78>, NULL, 9) = 9"],
            "copied bytes from outside",
        ),
        (
            [opened(3, "b"), f"1 ioctl({fd(3, 'b')}, FICLONE, 5) = 0"],
            "cloned",
        ),
        (
            [opened(3, "b"), f"1 fallocate({fd(3, 'b')}, FALLOC_FL_COLLAPSE_RANGE, 0, 1) = 0"],
            "not modelled",
        ),
        ([opened(3, "b", "O_RDWR")], "creation is not in the trace"),
    ],
)
def test_what_the_trace_does_not_show_is_refused(lines: list[str], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        understood(*lines)


def test_io_uring_is_warned_about() -> None:
    history, _ = understood("1 io_uring_setup(8, {flags=0}) = 5")
    assert "io_uring" in history.warnings[0]


# -- names of states ---------------------------------------------------------------------------


def test_a_name_gives_the_same_state_again_whatever_was_built_before() -> None:
    history, _ = understood(
        *[line for n in range(4) for line in (opened(3 + n, f"f{n}"),
                                              pwrite(3 + n, f"f{n}", bytes([65 + n]) * 5000, 0))]
    )  # fmt: skip
    point = history.file_ops[-1].end
    names = [f"{point}.{kind}{number}" for kind in "fr" for number in (0, 3, 17)]
    names.append(f"{history.file_ops[0].start}.e3")
    first = Builder(history, journaled=False, seed=5)
    expected = {name: shown(first.state(name)) for name in names}
    for name in reversed(names):
        assert shown(Builder(history, journaled=False, seed=5).state(name)) == expected[name]
    other = Builder(history, journaled=False, seed=6)
    drawn = [f"{point}.r{number}" for number in range(20)]
    assert [shown(other.state(n)) for n in drawn] != [shown(first.state(n)) for n in drawn]


@pytest.mark.parametrize("name", ["", "12", "12.x3", "1.e99999", "1.f99999"])
def test_a_meaningless_name_raises(name: str) -> None:
    history, _ = understood(opened(3, "a"))
    with pytest.raises(StateError):
        Builder(history, journaled=False, seed=0).state(name)
