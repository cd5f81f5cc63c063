from __future__ import annotations

import pytest

from logstore.testing.crash.strace import (
    AT_FDCWD,
    TraceError,
    bytes_of,
    fd_of,
    flags_of,
    integer_of,
    iov_bytes_of,
    parse,
)


def test_a_call_on_one_line_has_a_start_an_end_and_an_inside() -> None:
    (call,) = parse([r'12 write(3<\x2f\x61>, "\x68\x69\x0a", 3) = 3'])
    assert (call.pid, call.name, call.result, call.error) == (12, "write", 3, None)
    assert (call.start, call.end) == (0, 1)
    assert fd_of(call.args[0]).path == b"/a"
    assert bytes_of(call.args[1]) == b"hi\n"


def test_times_in_front_of_a_line_are_skipped() -> None:
    (call,) = parse([r"12  1795371929.691392 fsync(3<\x2f>) = 0"])
    assert call.name == "fsync"


def test_a_resumed_call_lasts_from_its_first_line_to_its_last() -> None:
    lines = [
        r"1 fsync(3<\x2f> <unfinished ...>",
        r'2 write(4<\x2f>, "\x61", 1) = 1',
        r"1 <... fsync resumed>) = 0",
    ]
    write, fsync = parse(lines)
    assert (write.name, write.start, write.end) == ("write", 2, 3)
    assert (fsync.name, fsync.start, fsync.end, fsync.result) == ("fsync", 0, 5, 0)


def test_a_resumed_clone_has_arguments_on_both_lines() -> None:
    lines = [
        "1 clone3({flags=CLONE_VM|CLONE_FILES, stack=0x1, stack_size=0x2} <unfinished ...>",
        "1 <... clone3 resumed> => {parent_tid=[7]}, 88) = 7",
    ]
    (call,) = parse(lines)
    assert call.result == 7
    assert len(call.args) == 2


def test_a_failed_call_has_an_error_and_no_result() -> None:
    (call,) = parse([r'1 unlink("\x61") = -1 ENOENT (No such file or directory)'])
    assert (call.result, call.error, call.unknown) == (None, "ENOENT", False)


def test_an_interrupted_call_that_will_be_restarted_did_nothing() -> None:
    (call,) = parse(["1 fsync(3) = ? ERESTARTSYS (To be restarted if SA_RESTART is set)"])
    assert not call.unknown


@pytest.mark.parametrize(
    "lines",
    [
        [r'1 write(3<\x2f>, "\x61", 1 <unfinished ...>', "1 +++ killed by SIGKILL +++"],
        [r'1 write(3<\x2f>, "\x61", 1 <unfinished ...>'],
        [r'1 write(3<\x2f>, "\x61", 1 <detached ...>', "1 +++ killed by SIGKILL +++"],
        [r'1 write(3<\x2f>, "\x61", 1) = ?', "1 +++ killed by SIGKILL +++"],
        [r'1 write(3<\x2f>, "\x61", 1 <unfinished ...>', "1 <... write resumed>) = ?"],
        [r'1 write(3<\x2f>, "\x61", 1 <unfinished ...>', "1 <... ??? resumed>)                = ?"],
    ],
)
def test_a_call_inside_which_the_thread_was_killed_is_unknown(lines: list[str]) -> None:
    (call,) = parse(lines)
    assert call.unknown
    assert bytes_of(call.args[1]) == b"a"


def test_exits_and_signals_are_no_calls() -> None:
    assert parse(["1 ???() = ?", "1 +++ killed by SIGKILL +++"]) == []
    assert parse(["1 <... ??? resumed>) = ?", "1 +++ killed by SIGKILL +++"]) == []
    assert parse(["1 --- SIGCHLD {si_signo=SIGCHLD} ---", "1 +++ exited with 0 +++"]) == []


def test_the_result_of_an_open_carries_its_path_even_when_deleted() -> None:
    (call,) = parse([r'1 openat(AT_FDCWD<\x2f\x77>, "\x61", O_RDONLY) = 3<\x2f\x61>(deleted)'])
    assert (call.result, call.result_path) == (3, b"/a")
    assert fd_of(call.args[0]) == fd_of(r"AT_FDCWD<\x2f\x77>")
    assert fd_of(call.args[0]).number == AT_FDCWD


def test_structures_and_arrays_are_one_argument() -> None:
    (call,) = parse(
        [r'1 pwritev(3<\x2f>, [{iov_base="\x61\x62", iov_len=2}, {iov_base="", iov_len=0}, '
         r'{iov_base="\x63", iov_len=1}], 3, 10) = 3']
    )  # fmt: skip
    assert len(call.args) == 4
    assert iov_bytes_of(call.args[1]) == b"abc"
    assert integer_of(call.args[3]) == 10


def test_numbers_and_flags() -> None:
    assert [integer_of(text) for text in ("12", "0x10", "0644", "[5] => [9]", "0", "-1")] == [
        12, 16, 0o644, 5, 0, -1,
    ]  # fmt: skip
    assert flags_of("O_RDWR|O_CREAT|0x40") == {"O_RDWR", "O_CREAT", "0x40"}
    assert fd_of("7<pipe:[123]>").path == b"pipe:[123]"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["hello"], "no process id"),
        (["1 <... write resumed>) = 1"], "never began"),
        (["1 write(3"], "closing parenthesis"),
        (["1 write(3)"], "no result"),
        (["1 what is this"], "not a system call"),
    ],
)
def test_a_line_that_cannot_be_read_raises_with_its_number(lines: list[str], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        parse(lines)


def test_a_string_that_was_cut_short_raises() -> None:
    with pytest.raises(TraceError, match="increase -s"):
        bytes_of(r'"\x61"...')
    with pytest.raises(TraceError, match="increase -s"):
        iov_bytes_of(r'[{iov_base="\x61", iov_len=1}, ...]')
    with pytest.raises(TraceError, match="not a string"):
        bytes_of("NULL")
    with pytest.raises(TraceError, match="not an array"):
        iov_bytes_of("NULL")
    with pytest.raises(TraceError, match="not a number"):
        integer_of("NULL")
    with pytest.raises(TraceError, match="not a file descriptor"):
        fd_of("NULL")
