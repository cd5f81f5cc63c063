"""The explorer on real programs: planted bugs are found, correct stores pass, findings replay."""

from __future__ import annotations

import io
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from logstore.testing.crash import (
    Exploration,
    Recording,
    TraceError,
    WorkloadError,
    explore,
    explore_again,
    explore_recording,
    record,
    replay,
    sample_states,
    tell,
)
from logstore.testing.crash.__main__ import main
from logstore.testing.crash.explorer import Workload
from logstore.testing.crash.progressline import Progress
from logstore.testing.crash.states import Builder
from tests.testing import crash_stores as stores
from tests.testing import crash_traces as traces

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@pytest.fixture(autouse=True)
def _recordings_go_with_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


STORES = "python:tests.testing.crash_stores:"


# -- demonstrations ----------------------------------------------------------------------------


@pytest.mark.parametrize("fs", ["posix", "ext4"])
def test_a_store_that_syncs_file_and_directory_passes_all_its_states(fs: str) -> None:
    result = explore(stores.correct, stores.check_json, fs=fs)
    assert result.ok, str(result)
    assert result.exhausted
    assert result.states > 20


@pytest.mark.parametrize("fs", ["posix", "ext4"])
def test_a_store_that_forgets_to_sync_its_directory_is_found(fs: str) -> None:
    result = explore(stores.forgets_directory, stores.check_json, fs=fs)
    assert not result.ok
    first = result.violations[0]
    assert "lost k" in first.message
    assert any(line.startswith("lost: rename") for line in first.described)


@pytest.mark.parametrize("fs", ["posix", "ext4"])
def test_a_store_that_renames_before_it_syncs_is_found(fs: str) -> None:
    result = explore(stores.renames_before_sync, stores.check_json, fs=fs)
    assert not result.ok
    assert "JSONDecodeError" in str(result)
    described = [line for violation in result.violations for line in violation.described]
    assert any("0 of 1 sectors kept: store.json: " in line for line in described)


def test_torn_records_are_found_in_a_log_without_checksums_and_not_in_one_with_them() -> None:
    torn = explore(stores.appends_without_checksum, stores.check_log)
    assert not torn.ok
    assert "is torn" in torn.violations[0].message
    whole = explore(stores.appends_with_checksum, stores.check_log)
    assert whole.ok, str(whole)
    assert whole.exhausted


def test_lmdb_keeps_what_it_committed_and_not_what_it_was_told_not_to_flush() -> None:
    volatile = ("*-lock",)
    good = explore(stores.lmdb_synced, stores.check_lmdb, volatile=volatile, max_states=400)
    assert good.ok, str(good)
    bad = explore(stores.lmdb_unsynced, stores.check_lmdb, volatile=volatile, max_states=400)
    assert not bad.ok


def test_two_processes_are_followed_and_one_may_be_killed() -> None:
    result = explore(stores.two_processes, stores.check_two, max_states=400)
    assert result.ok, str(result)
    assert result.states > 10


def test_a_program_that_uses_everything_is_followed_to_the_byte(tmp_path: Path) -> None:
    watched = tmp_path / "d"
    watched.mkdir()
    stores.prepare_tree(watched)
    recording = record(_command("uses_everything", watched), watched, tmp_path / "r")
    builder = Builder(recording.history, journaled=False, seed=0)
    last = builder.cursor.points()[-1]
    every = f"{last}.f1"  # of the family, the state in which everything is on the disk
    assert replay(recording.path, every, into=tmp_path / "again") is None
    assert _tree(tmp_path / "again") == _tree(watched)
    assert explore_recording(
        Recording.load(recording.path), stores.check_nothing, max_states=300
    ).ok


def _tree(root: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        info = path.lstat()
        content: object = info.st_nlink
        if path.is_symlink():
            content = path.readlink()
        elif path.is_file():
            content = (path.read_bytes(), info.st_nlink, oct(info.st_mode))
        found[str(path.relative_to(root))] = content
    return found


@pytest.mark.parametrize("happened", [False, True])
def test_whether_a_call_happened_inside_which_its_process_was_killed_is_seen_from_the_disk(
    happened: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = tmp_path / "d"
    watched.mkdir()
    (watched / "a").write_bytes(b"before")
    root = traces.quoted(str(watched))
    lines = [
        traces.opened(3, "a", "O_RDWR"),
        traces.pwrite(3, "a", b"after!", 0).partition(") =")[0] + " <unfinished ...>",
        "1 +++ killed by SIGKILL +++",
    ]

    def run(*arguments: object) -> None:
        text = "\n".join(lines).replace(traces.quoted(traces.ROOT), root)
        (tmp_path / "r" / "trace").write_text(text + "\n")
        if happened:
            (watched / "a").write_bytes(b"after!")

    monkeypatch.setattr("logstore.testing.crash.recording._run", run)
    record(["pretended"], watched, tmp_path / "r")
    history = Recording.load(tmp_path / "r").history
    assert [op.data for op in history.file_ops] == ([b"after!"] if happened else [])


def test_contents_that_the_trace_does_not_explain_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = tmp_path / "d"
    watched.mkdir()
    (watched / "a").write_bytes(b"before")

    def run(*arguments: object) -> None:
        (tmp_path / "r" / "trace").write_text("1 +++ exited with 0 +++\n")
        (watched / "a").write_bytes(b"beFore")

    monkeypatch.setattr("logstore.testing.crash.recording._run", run)
    with pytest.raises(
        TraceError, match="a has 6 bytes, the model 6; the first difference is at 2"
    ):
        record(["pretended"], watched, tmp_path / "r")


# -- recovery ----------------------------------------------------------------------------------


def test_a_recovery_that_is_not_crash_safe_is_found(tmp_path: Path) -> None:
    base = record(_command("appends_with_checksum", tmp_path / "d"), tmp_path / "d", tmp_path / "r")

    def again(recovery: Workload, name: str) -> Exploration:
        return explore_again(
            base, recovery, stores.check_folded, into=tmp_path / name, states=3, depth=2
        )

    good = again(stores.folds_in_order, "good")
    assert good.ok, str(good)
    assert not any((tmp_path / "good").iterdir())
    bad = again(stores.folds_carelessly, "bad")
    assert not bad.ok
    assert any((tmp_path / "bad").iterdir())


# -- replaying ---------------------------------------------------------------------------------


def _command(name: str, directory: Path) -> list[str]:
    call = "logstore.testing.crash.call"
    return [sys.executable, "-m", call, f"tests.testing.crash_stores:{name}", str(directory)]


@pytest.fixture
def broken(tmp_path: Path) -> Exploration:
    return explore(stores.forgets_directory, stores.check_json, recording=tmp_path / "r", keep=True)


def test_a_violation_prints_a_command_that_replays_it(
    broken: Exploration, capsys: pytest.CaptureFixture[str]
) -> None:
    violation = broken.violations[0]
    assert violation.command in str(broken)
    words = shlex.split(violation.command)
    assert words[:3] == ["python", "-m", "logstore.testing.crash"]
    assert main(words[3:]) == 1
    printed = capsys.readouterr().out
    assert "VIOLATION: AssertionError: lost k" in printed
    assert "lost: rename" in printed


def test_a_replayed_state_is_the_kept_one_and_a_better_check_passes_it(
    broken: Exploration, tmp_path: Path
) -> None:
    violation = broken.violations[0]
    assert violation.kept is not None
    assert broken.recording is not None
    assert replay(broken.recording, violation.state, into=tmp_path / "again") is None
    kept = {file.name: file.read_bytes() for file in violation.kept.iterdir()}
    assert kept == {file.name: file.read_bytes() for file in (tmp_path / "again").iterdir()}
    assert replay(broken.recording, violation.state, stores.check_nothing) is None
    message = replay(broken.recording, violation.state, stores.check_json)
    assert message is not None
    assert "lost k" in message


def test_a_function_without_a_name_is_replayed_from_python(tmp_path: Path) -> None:
    result = explore(
        stores.correct,
        lambda directory, told: stores.check_json(directory, [*told, "k0"]),
        recording=tmp_path / "r",
    )
    assert "logstore.testing.crash.replay(" in result.violations[0].command


def test_the_same_seed_gives_the_same_states_and_another_seed_others(tmp_path: Path) -> None:
    recording = record(
        _command("lmdb_synced", tmp_path / "d"), tmp_path / "d", tmp_path / "r", volatile=["*-lock"]
    )
    loaded = Recording.load(tmp_path / "r")
    first = sample_states(recording, 50, seed=1)
    assert sample_states(loaded, 50, seed=1) == first
    assert sample_states(loaded, 50, seed=2) != first
    result = explore_recording(loaded, stores.check_lmdb, max_states=50, seed=1, max_seconds=60)
    assert result.states == 50


# -- checks that misbehave ---------------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["fork", "inline"])
def test_a_check_that_dies_is_a_violation_and_the_run_goes_on(isolation: str) -> None:
    result = explore(stores.correct, stores.check_dies, isolation=isolation, max_violations=1000)
    assert not result.ok
    assert all("signal 10" in v.message or "code -10" in v.message for v in result.violations)
    assert result.states > len(result.violations) + 10


@pytest.mark.parametrize("isolation", ["fork", "inline"])
def test_a_check_that_hangs_is_stopped(isolation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logstore.testing.crash.pool._GRACE_S", 0.1)
    result = explore(
        stores.correct, stores.check_hangs, isolation=isolation, state_timeout_s=0.3,
        max_violations=1,
    )  # fmt: skip
    assert "longer than 0.3 s" in result.violations[0].message


def test_an_unknown_isolation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="isolation"):
        explore(stores.correct, stores.check_json, isolation="magic")


# -- workloads that misbehave ------------------------------------------------------------------


def test_a_workload_that_fails_is_an_error_with_its_message(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no luck')"]
    with pytest.raises(WorkloadError, match=r"exited with 1: no luck"):
        explore(command, stores.check_nothing)
    assert explore(command, stores.check_nothing, exit_codes=(1,)).ok


def test_a_workload_that_runs_too_long_is_killed() -> None:
    command = [sys.executable, "-c", "import threading; threading.Event().wait()"]
    with pytest.raises(WorkloadError, match="longer than"):
        explore(command, stores.check_nothing, workload_timeout_s=0.5)


def test_a_file_mapped_for_writing_must_be_declared_volatile() -> None:
    with pytest.raises(TraceError, match=r"mapped shared and writable.*: mapped\."):
        explore(stores.maps_for_writing, stores.check_nothing)
    assert explore(stores.maps_for_writing, stores.check_nothing, volatile=["mapped"]).ok


def test_a_change_that_the_trace_does_not_explain_is_an_error(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    code = (
        "import os, shutil, socket\n"
        f"os.mkdir('{tmp_path}/watched/d')\n"
        f"s = socket.socket(socket.AF_UNIX); s.bind('{tmp_path}/watched/socket')\n"
        f"os.mknod('{tmp_path}/watched/file')\n"
    )
    with pytest.raises(TraceError, match="file is there and the trace does not show how"):
        explore([sys.executable, "-c", code], stores.check_nothing, tmp_path / "watched")


def test_the_recording_must_lie_outside_of_what_is_watched(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"):
        record(["true"], tmp_path, tmp_path / "r")


def test_a_workload_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be imported"):
        explore(lambda directory: None, stores.check_nothing)


# -- telling -----------------------------------------------------------------------------------


def test_telling_outside_of_a_recording_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOGSTORE_CRASH_ACKS", raising=False)
    tell("anything")


def test_a_told_line_has_no_line_break(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGSTORE_CRASH_ACKS", str(tmp_path / "acks"))
    with pytest.raises(ValueError, match="line break"):
        tell("a\nb")
    tell("a", "b")
    assert (tmp_path / "acks").read_text() == "a\nb\n"


def test_the_standard_output_can_tell() -> None:
    code = (
        "import os, sys\n"
        "fd = os.open(os.environ['LOGSTORE_CRASH_DIR'] + '/a', os.O_CREAT | os.O_RDWR)\n"
        "print('done', flush=True)\n"
    )

    def check(directory: Path, told: list[str]) -> None:
        assert (directory / "a").exists() or told != ["done"]

    result = explore([sys.executable, "-c", code], check, acks_from_stdout=True)
    assert not result.ok


# -- the command line --------------------------------------------------------------------------

_SHELL_WORKLOAD = "sh -c 'echo one > {dir}/a; sync {dir}/a; echo a >> $LOGSTORE_CRASH_ACKS'"
_SHELL_CHECK = "sh -c 'while read name; do test -s {dir}/$name || exit 1; done < {acks}'"


def test_the_command_line_finds_a_bug_with_commands_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--workload", _SHELL_WORKLOAD, "--dir", str(tmp_path / "d")]
    arguments += ["--check", _SHELL_CHECK, "--recording", str(tmp_path / "r")]
    assert main(arguments) == 1
    printed = capsys.readouterr().out
    assert "exit code 1" in printed
    command = next(line for line in printed.splitlines() if "replay: " in line)
    assert main(shlex.split(command.partition("replay: ")[2])[3:]) == 1
    # With one journal the sync of the file is enough for its name.
    arguments = ["--workload", _SHELL_WORKLOAD, "--dir", str(tmp_path / "e"), "--fs", "ext4"]
    assert main([*arguments, "--check", _SHELL_CHECK]) == 0


def test_the_command_line_takes_functions_and_a_set_up(tmp_path: Path) -> None:
    arguments = ["--setup", STORES + "correct", "--workload", STORES + "correct"]
    arguments += ["--check", STORES + "check_json", "--dir", str(tmp_path / "d"), "--inline"]
    assert main([*arguments, "--max-states", "30"]) == 0


def test_the_command_line_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--workload", "false", "--check", "true"]
    assert main([*arguments, "--dir", str(tmp_path / "d")]) == 2
    assert "exited with 1" in capsys.readouterr().err
    assert main([*arguments, "--dir", str(tmp_path)]) == 2
    assert "must not be inside" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--workload", "true"])
    with pytest.raises(SystemExit):
        main(["--replay", str(tmp_path)])


def test_the_progress_line_shows_on_a_terminal_only() -> None:
    stream = io.StringIO()
    with Progress(10, stream) as silent:
        silent.update(5, "")
    assert stream.getvalue() == ""
    with Progress(10, stream, shown=True) as loud:
        loud.update(5, "2 violations")
    assert "5/10 states" in stream.getvalue()
    assert "2 violations" in stream.getvalue()
