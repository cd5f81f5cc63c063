"""``python -m logstore.demo``: options, signals, exit status.

Exit status: 0 if nothing was lost, 1 if a result was lost or a worker could not start, 2 for wrong
options or a missing package, 128 plus the signal number when interrupted.

Rules: in all cases, worker processes are stopped first and the temporary directory is removed last.
The first signal shuts the demo down; a second signal kills the workers immediately.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from logstore.demo.client import Outcome, Slice
    from logstore.demo.display import Display
    from logstore.demo.verify import Verdict
    from logstore.demo.workers import WorkerCommand

TIME_LIMIT_S = 600.0
# The path of a Unix socket has at most 107 bytes, including the demo's own names.  If the system's
# temporary directory has a longer path, /tmp is used.
TEMPORARY_PATH_BYTES_MAX = 107 - len("/logstore-demo-12345678/tasks.sock")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m logstore.demo",
        description="Analyse the standard library on taskiq workers, kill one, and lose nothing.",
    )
    parser.add_argument("--workers", type=int, default=2, help="worker commands, 2 or more (2)")
    parser.add_argument("--tasks", type=int, default=32, help="number of tasks, 4 or more (32)")
    parser.add_argument("--root", type=Path, help="analyse this directory instead")
    options = parser.parse_args(arguments)
    if options.workers < 2:
        parser.error("--workers must be 2 or more: one is killed")
    if options.tasks < 4:
        parser.error("--tasks must be 4 or more: a worker is killed half-way")
    return options


class Demo:
    """One run in one temporary directory."""

    def __init__(self, options: argparse.Namespace, display: Display, directory: Path) -> None:
        self._options = options
        self._display = display
        self._directory = directory
        self._workers: list[WorkerCommand] = []

    async def run(self) -> bool:
        """Run the demo; return whether nothing was lost."""
        from logstore.demo import analysis
        from logstore.demo.client import DemoFailedError, Slice
        from logstore.demo.verify import verify

        started_at_s = time.monotonic()
        root = (self._options.root or analysis.standard_library()).resolve()
        sources = analysis.find_sources(root)
        dealt = analysis.deal(root, sources, self._options.tasks)
        if len(dealt) < 4:
            raise DemoFailedError(f"{root} has only {len(sources)} .py files, too few to analyse")
        slices = [Slice(f"slice-{number:02}", names) for number, names in enumerate(dealt, 1)]
        self._display.note(f"{len(sources)} files of {root} in {len(slices)} tasks")
        store_path = self._directory / "store" / "app.db"
        store_path.parent.mkdir()
        outcome = await self._client(slices, root, store_path)
        self._display.note("all processes have stopped; opening the store again")
        verdict = await verify(store_path, slices, outcome)
        self._display.close()
        print(summary(outcome, verdict, len(slices), time.monotonic() - started_at_s))
        return not verdict.problems

    async def _client(self, slices: list[Slice], root: Path, store_path: Path) -> Outcome:
        from logstore.demo import tasks
        from logstore.demo.client import Client
        from logstore.demo.workers import WorkerCommand

        address = f"ipc://{self._directory}/tasks.sock"
        broker = tasks.make_broker(str(store_path), address)
        try:
            await broker.startup()
            for number in range(1, self._options.workers + 1):
                command = WorkerCommand(
                    str(number), directory=self._directory, store_path=store_path, address=address
                )
                self._workers.append(command)
            client = Client(broker, self._workers, slices, root=root, display=self._display)
            try:
                return await asyncio.wait_for(client.run(), TIME_LIMIT_S)
            except asyncio.TimeoutError:
                raise client.failure(f"not done within {TIME_LIMIT_S:.0f} s") from None
        finally:
            await self._stop_workers()
            await broker.shutdown()

    async def _stop_workers(self) -> None:
        in_time = await asyncio.gather(*(worker.stop() for worker in self._workers))
        for worker, stopped in zip(self._workers, in_time, strict=True):
            if not stopped:
                self._display.note(f"worker {worker.name} did not stop in time and was killed")

    def close_display(self) -> None:
        """Restore the terminal."""
        self._display.close()

    def kill_workers(self) -> None:
        """Kill all worker processes immediately."""
        for worker in self._workers:
            worker.kill_group()


def summary(outcome: Outcome, verdict: Verdict, tasks: int, elapsed_s: float) -> str:
    """Return the closing table as text."""
    totals = verdict.totals
    acked = len(outcome.acked_before_kill)
    imports = ", ".join(f"{name} {count}" for name, count in totals.imports.most_common(5))
    rows = [
        ("unchanged by the kill", f"{verdict.kept} of {acked} acknowledged"),
        ("results in the store", f"{verdict.results} of {tasks}, {outcome.sent_again} sent again"),
        ("files", f"{totals.files:,}, {len(totals.unparsable)} of them not valid Python"),
        ("lines", f"{totals.lines:,}, {totals.code_lines:,} of them code"),
        ("functions, classes", f"{totals.functions:,}, {totals.classes:,}"),
        ("most imported", imports),
        ("after closing", f"only app.db, {verdict.file_bytes:,} bytes"),
        ("time", f"{elapsed_s:.1f} s"),
    ]
    lines = [f"{name:<22} {text}" for name, text in rows]
    lines += [f"LOST OR CHANGED: {problem}" for problem in verdict.problems]
    lines.append("FAILED" if verdict.problems else "Nothing was lost.")
    return "\n".join(lines)


async def run_until_signal(demo: Demo) -> int:
    """Run the demo; return its exit status, also after an error or a signal."""
    from logstore.demo.client import DemoFailedError

    loop = asyncio.get_running_loop()
    running = asyncio.create_task(demo.run())
    received: list[int] = []

    def on_signal(number: int) -> None:
        received.append(number)
        if len(received) == 1:
            running.cancel()
        else:
            demo.kill_workers()

    for number in SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    try:
        return 0 if await running else 1
    except asyncio.CancelledError:
        demo.close_display()
        print(f"interrupted by {signal.Signals(received[0]).name}", file=sys.stderr)
        return 128 + received[0]
    except DemoFailedError as error:
        demo.close_display()
        print(f"FAILED: {error}", file=sys.stderr)
        return 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo with these command line arguments and return the exit status."""
    options = parse_options(arguments)
    try:
        import taskiq  # noqa: F401
        import zmq  # noqa: F401

        from logstore.demo.display import Display
    except ImportError as error:
        print(f'{error}; the demo needs: pip install "taskiq-logstore[demo]"', file=sys.stderr)
        return 2
    deep = len(os.fsencode(tempfile.gettempdir())) > TEMPORARY_PATH_BYTES_MAX
    with tempfile.TemporaryDirectory(prefix="logstore-demo-", dir="/tmp" if deep else None) as path:
        display = Display(sys.stdout)
        demo = Demo(options, display, Path(path))
        try:
            status = asyncio.run(run_until_signal(demo))
            display.close()
        except BrokenPipeError:
            # The reader is gone; buffered output must not raise again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = 1
        finally:
            demo.kill_workers()
        return status


if __name__ == "__main__":
    sys.exit(main())
