"""The mutation campaign: each listed fault, put into a copy of the package, must turn a test red.

Rules: the tree itself is never touched: package and tests are copied, one fault is put into the
copy, and the test named with it is run against the copy.  First all these tests are run against the
copy as it is, and must be green.  A fault that no longer fits the code is an error, not a pass; a
test that cannot be run says nothing either.

    python -m fuzz.mutants                 all faults
    python -m fuzz.mutants -k vacuum       those whose description contains a word
    python -m fuzz.mutants --list
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fuzz.mutant_list import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parent.parent
MUTANT_S = 60.0  # a mutant that hangs is as red as one that fails
BASELINE_S = 600.0
# A mutant may eat memory or a disk; no test needs 4 GiB of either.  The limits are soft: tests set
# their own.
LIMITED = ("/bin/sh", "-c", 'ulimit -S -d 4194304; ulimit -S -f 8388608; exec "$@"', "limited")
PASSED, FAILED = 0, 1  # pytest's exit statuses; all above mean that it could not run the test

KILLED, SURVIVED, BROKEN = "killed", "SURVIVED", "BROKEN"


def copy_tree(place: Path, root: Path = ROOT) -> None:
    """What the tests need, without anything that was compiled."""
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("logstore", "tests", "fuzz", "docs"):
        shutil.copytree(root / name, place / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "Makefile"):
        shutil.copy(root / name, place)


def edited(mutant: Mutant, package: Path) -> str:
    """The file's text with the fault.  Raises ValueError or SyntaxError if it does not fit."""
    file = package / mutant.file
    source = file.read_text()
    count = source.count(mutant.old)
    if count != 1:
        raise ValueError(f"the old text is {count} times in {mutant.file}, expected once")
    source = source.replace(mutant.old, mutant.new)
    compile(source, str(file), "exec")
    return source


def ensure_private(place: Path) -> None:
    """Raise RuntimeError if a copy's tests would run against another one."""
    where = "import logstore; print(logstore.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where],
        env={**os.environ, "PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
        cwd=place,
    ).stdout
    if found and not found.startswith(str(place)):
        raise RuntimeError(f"the tests would run against {found}")


def run_pytest(
    place: Path, arguments: Sequence[str], timeout_s: float, **variables: str
) -> tuple[int | None, str]:
    """Run pytest in a copy; its exit status, None if it hung, and what it wrote.

    Whatever the tests have started goes with it: a mutant may have left a process that hangs.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(place),  # goes before an editable install of the tree itself
        "TMPDIR": str(place),
        **variables,
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    # A file and no pipe, whose end would come with the last process that has inherited it.
    with tempfile.TemporaryFile() as output:
        running = subprocess.Popen(
            [*LIMITED, *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=place,
            start_new_session=True,
        )
        try:
            status = running.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None, "it hung"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
            end_all_of(place)
            running.wait()
        output.seek(0)
        return status, output.read().decode(errors="replace")


def end_all_of(place: Path) -> None:
    """Kill what was started in copies at or below a place: its environment names that."""
    mark = re.compile(rb"(^|\0)PYTHONPATH=" + re.escape(os.fsencode(place)) + rb"[/\0]")
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark.search((entry / "environ").read_bytes()):
                    os.kill(int(entry.name), signal.SIGKILL)


def run_tests(place: Path, tests: Sequence[str], timeout_s: float) -> tuple[int, str]:
    """Run tests against a copy; pytest's exit status and what it wrote."""
    ensure_private(place)
    arguments = ["-x", "-o", "timeout=40", *(f"tests/{test}" for test in tests)]
    status, output = run_pytest(place, arguments, timeout_s, PYTHONDONTWRITEBYTECODE="1")
    return FAILED if status is None else status, output


def attempt(mutant: Mutant) -> tuple[str, str, float]:
    """What became of one mutant, the output if that is not as it should be, and the seconds."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
        place = Path(directory)
        copy_tree(place)
        try:
            source = edited(mutant, place / "logstore")
        except (ValueError, SyntaxError) as exc:
            return BROKEN, str(exc), 0.0
        (place / "logstore" / mutant.file).write_text(source)
        status, output = run_tests(place, [mutant.test], MUTANT_S)
    seconds = time.perf_counter() - started
    if status == PASSED:
        return SURVIVED, f"green: {mutant.test}", seconds
    if status == FAILED or status < 0:  # below zero: a signal has killed it, a crash in C
        return KILLED, "", seconds
    return BROKEN, output[-2000:], seconds


def baseline(mutants: Sequence[Mutant]) -> str:
    """Run all tests of the campaign on the code as it is; "" if they are green."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
        place = Path(directory)
        copy_tree(place)
        tests = list(dict.fromkeys(mutant.test for mutant in mutants))
        status, output = run_tests(place, tests, BASELINE_S)
    return "" if status == PASSED else output[-4000:]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign; 0 if every mutant was killed."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.mutants", description=__doc__)
    parser.add_argument("-k", metavar="WORD", default="", help="only faults described with it")
    parser.add_argument("-j", metavar="JOBS", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--list", action="store_true", help="show them, run nothing")
    options = parser.parse_args(arguments)
    mutants = [mutant for mutant in MUTANTS if options.k in mutant.what]
    if options.list:
        for mutant in mutants:
            print(f"{mutant.file:24} {mutant.what}\n{'':24} -> {mutant.test}")
        return 0
    started = time.perf_counter()
    if output := baseline(mutants):
        print(f"the tests are not green on the code as it is:\n{output}")
        return 2
    counts = {KILLED: 0, SURVIVED: 0, BROKEN: 0}
    with ThreadPoolExecutor(options.j) as pool:
        for mutant, (fate, detail, seconds) in zip(
            mutants, pool.map(attempt, mutants), strict=True
        ):
            counts[fate] += 1
            print(f"{fate:8} {seconds:5.1f} s  {mutant.file}: {mutant.what}", flush=True)
            if detail:
                print("         " + detail.replace("\n", "\n         "))
    summary = ", ".join(f"{count} {fate.lower()}" for fate, count in counts.items())
    print(f"{len(mutants)} mutants: {summary}; {time.perf_counter() - started:.0f} s")
    return 0 if counts[KILLED] == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
