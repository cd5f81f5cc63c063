"""What the machines have in common: places, handles, restarts, crashes, an event loop.

Rules: a machine removes all that it made, whatever happened; a step that hangs fails.  What cannot
be known (whether a cancelled write took place) is looked up once everything has come to rest, and
is decided from then on.
"""

from __future__ import annotations

import asyncio
import inspect
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

HANDLES = st.integers(0, 7)
"""Which handle a step uses, modulo how many there are."""

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
) | st.integers(0, 6).map(lambda power: "x" * 8**power)
"""Values that survive JSON, some of them large."""


class Machine(RuleBasedStateMachine):
    """One storage, its handles and its lives."""

    timeout_s: ClassVar[float] = 30.0
    """For a single call before it counts as a hang."""
    handles_max: ClassVar[int] = 2
    """How many handles are open on one place; 1 where they do not share what they store."""
    survives_restart: ClassVar[bool] = True
    """What was stored is there after all handles were closed and opened again."""
    survives_crash: ClassVar[bool] = False
    """What was acked is there in a copy of the files made while the handles were open."""
    left_by_crash: ClassVar[tuple[str, ...]] = ("*-lock",)
    """Patterns of files that a crash does not copy."""
    keeps_nothing: ClassVar[bool] = False
    """Nothing is ever stored: every task is always missing."""
    task_ids: ClassVar[tuple[str, ...]] = ("a", "b", "c", "d/e", "\u00e9", "F" * 100)
    """The ids in use; few, so that steps meet on them."""
    values: ClassVar[st.SearchStrategy[Any]] = VALUES
    """The values that are stored."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.executor = ThreadPoolExecutor()
        self.loop.set_default_executor(self.executor)
        self.directory = Path(tempfile.mkdtemp(prefix="logstore-stateful-"))
        self.lives = 0
        self.handles: list[Any] = []

    # -- for subclasses ------------------------------------------------------------------------

    def open_handle(self, place: Path) -> Any:
        """Return an open handle on the storage at ``place``."""
        raise NotImplementedError

    def close_handle(self, handle: Any) -> None:
        """Close one that :meth:`open_handle` returned."""
        raise NotImplementedError

    def check_everything(self) -> None:
        """Read every task through every handle, and compare."""
        raise NotImplementedError

    def crash(self, place: Path, new_place: Path) -> None:
        """Make in ``new_place``, an empty directory, what a sudden death would leave."""
        shutil.copytree(
            place, new_place, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*self.left_by_crash)
        )

    # -- for the machines ----------------------------------------------------------------------

    @property
    def place(self) -> Path:
        """Where the storage is in this life."""
        return self.directory / f"life-{self.lives}"

    def handle(self, index: int) -> Any:
        """One of the open handles."""
        return self.handles[index % len(self.handles)]

    def run(self, answer: Any) -> Any:
        """The outcome of a call: what it returned, or of the coroutine that it returned."""
        if not inspect.isawaitable(answer):
            return answer
        return self.loop.run_until_complete(asyncio.wait_for(answer, self.timeout_s))

    def gather(self, *calls: Callable[[], Any]) -> list[Any]:
        """The outcomes of calls that run at the same time: tasks of the loop, or threads."""

        async def one(call: Callable[[], Any]) -> Any:
            if inspect.iscoroutinefunction(call):
                return await call()
            answer = await asyncio.to_thread(call)
            return await answer if inspect.isawaitable(answer) else answer

        async def all_of_them() -> list[Any]:
            return list(await asyncio.gather(*map(one, calls)))

        outcomes: list[Any] = self.run(all_of_them())
        return outcomes

    def cancel_early(self, start: Callable[[], Any], turns: int) -> None:
        """Start a coroutine, cancel it after some turns of the loop, and come to rest."""

        async def cancel() -> None:
            task = asyncio.ensure_future(start())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])

        self.run(cancel())
        self.come_to_rest()

    def come_to_rest(self) -> None:
        """Wait for what goes on in threads after its caller has been cancelled."""
        if self.survives_restart:
            self._close_all()
        self.executor.shutdown(wait=True)
        self.executor = ThreadPoolExecutor()
        self.loop.set_default_executor(self.executor)
        self.run(asyncio.sleep(0))  # what the threads have told the loop
        if self.survives_restart:
            self._open_all()

    # -- rules ---------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        """Open the first handles."""
        self.place.mkdir()
        self._open_all()

    @precondition(lambda self: self.survives_restart)
    @rule()
    def restart(self) -> None:
        """Close everything, open it again: what was stored is there."""
        self._close_all()
        self._open_all()
        self.check_everything()

    @precondition(lambda self: self.survives_crash)
    @rule()
    def die_and_recover(self) -> None:
        """Go on with what a sudden death would have left: what was acked is there."""
        before = self.place
        self.lives += 1
        self.place.mkdir()
        self.crash(before, self.place)
        self._close_all()
        self._open_all()
        self.check_everything()

    def teardown(self) -> None:
        """Compare once more, close, and remove what was made."""
        try:
            if self.handles:
                self.check_everything()
        finally:
            try:
                self._close_all()
            finally:
                self.loop.run_until_complete(self.loop.shutdown_asyncgens())
                self.loop.run_until_complete(self.loop.shutdown_default_executor())
                self.loop.close()
                shutil.rmtree(self.directory)

    def _open_all(self) -> None:
        while len(self.handles) < self.handles_max:
            self.handles.append(self.open_handle(self.place))

    def _close_all(self) -> None:
        while self.handles:
            self.close_handle(self.handles.pop())
