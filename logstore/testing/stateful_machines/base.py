"""Common parts of the machines: places, handles, restarts, crashes, an event loop.

Rules: a machine always removes all its files; a step that hangs fails. An unknown outcome (whether
a cancelled write took place) is read from the store after all threads have finished. The model has
this outcome from then on.
"""

from __future__ import annotations

import asyncio
import inspect
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

HANDLES = st.integers(0, 7)
"""The index of the handle of a step, modulo the number of handles."""
INDEXES = st.integers(0, 63)
"""The index of the task id of a step, modulo the number of ids."""

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
"""Values that JSON can store, some of them large."""


class Machine(RuleBasedStateMachine):
    """A storage with its handles, restarts and crashes."""

    timeout_s: ClassVar[float] = 30.0
    """Time limit of a single call; a longer call counts as a hang."""
    handles_max: ClassVar[int] = 2
    """The number of open handles on one place; 1 if handles do not share data."""
    survives_restart: ClassVar[bool] = True
    """Stored data is there after all handles were closed and opened again."""
    survives_crash: ClassVar[bool] = False
    """Acknowledged data is in a copy of the files made while the handles were open."""
    left_by_crash: ClassVar[tuple[str, ...]] = ("*-lock",)
    """Patterns of files that :meth:`crash` does not copy."""
    keeps_nothing: ClassVar[bool] = False
    """Nothing is ever stored: every task is always missing."""
    keeps_progress: ClassVar[bool] = True
    """``set_progress`` and ``get_progress`` are implemented."""
    task_ids: ClassVar[tuple[str, ...]] = ("a", "b", "c", "d/e", "\u00e9", "F" * 100)
    """The ids in use; few, so that steps use the same ids."""
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
        self.results: dict[str, Any] = {}
        self.progress: dict[str, Any] = {}

    # -- for subclasses ------------------------------------------------------------------------

    def open_handle(self, place: Path) -> Any:
        """Return an open handle on the storage at ``place``."""
        raise NotImplementedError

    def close_handle(self, handle: Any) -> None:
        """Close a handle from :meth:`open_handle`."""
        raise NotImplementedError

    def draw_result(self, data: st.DataObject) -> Any:
        """Draw what is stored as a result."""
        raise NotImplementedError

    def draw_progress(self, data: st.DataObject) -> Any:
        """Draw what is stored as progress."""
        raise NotImplementedError

    def keep(self, results: dict[str, Any]) -> None:
        """Put acknowledged results into the model; those of several tasks are simultaneous."""
        if not self.keeps_nothing:
            self.results.update(results)

    def forget(self, task_id: str) -> None:
        """Remove from the model the data of a deletion."""
        raise NotImplementedError

    def check_through(self, handle: Any, task_id: str) -> None:
        """Check through a handle that all about a task equals the model."""
        raise NotImplementedError

    def crash(self, place: Path, new_place: Path) -> None:
        """Put the files that a crash would leave into ``new_place``, an empty directory."""
        shutil.copytree(
            place, new_place, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*self.left_by_crash)
        )

    # -- for the machines ----------------------------------------------------------------------

    @property
    def place(self) -> Path:
        """The directory of the storage since the last crash."""
        return self.directory / f"life-{self.lives}"

    def handle(self, index: int) -> Any:
        """Return one of the open handles."""
        return self.handles[index % len(self.handles)]

    def task_id(self, index: int) -> str:
        """Return one of the ids in use."""
        return self.task_ids[index % len(self.task_ids)]

    def has(self, verb: str) -> bool:
        """Whether the handles have a method."""
        return bool(self.handles) and hasattr(self.handles[0], verb)

    def setter(self, handle: int, task_id: str, result: Any) -> Callable[[], Any]:
        """Return a call that stores a result."""
        return partial(self.handle(handle).set_result, task_id, result)

    def check_everything(self) -> None:
        """Check every task through every handle."""
        for task_id in self.task_ids:
            self.check(task_id)

    def check(self, task_id: str) -> None:
        """Check one task through every handle."""
        for handle in self.handles:
            self.check_through(handle, task_id)

    def run(self, answer: Any) -> Any:
        """Return the result of a call; await it first if it is awaitable."""
        if not inspect.isawaitable(answer):
            return answer
        return self.loop.run_until_complete(asyncio.wait_for(answer, self.timeout_s))

    def gather(self, *calls: Callable[[], Any]) -> list[Any]:
        """Return the results of simultaneous calls: tasks of the loop, or threads."""

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
        """Start a coroutine, cancel it after some turns of the loop, and wait for its threads."""

        async def cancel() -> None:
            task = asyncio.ensure_future(start())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])

        self.run(cancel())
        self.come_to_rest()

    def come_to_rest(self) -> None:
        """Wait for threads that still run after the cancellation of their caller."""
        if self.survives_restart:
            self._close_all()
        self.executor.shutdown(wait=True)
        self.executor = ThreadPoolExecutor()
        self.loop.set_default_executor(self.executor)
        self.run(asyncio.sleep(0))  # run the callbacks of the threads
        if self.survives_restart:
            self._open_all()

    # -- rules ---------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        """Open the first handles."""
        self.place.mkdir()
        self._open_all()

    @rule(data=st.data(), handle=HANDLES, index=INDEXES)
    def set_result(self, data: st.DataObject, handle: int, index: int) -> None:
        """Store a result."""
        task_id, result = self.task_id(index), self.draw_result(data)
        self.run(self.handle(handle).set_result(task_id, result))
        self.keep({task_id: result})
        self.check(task_id)

    @rule(data=st.data(), index=INDEXES, count=st.integers(2, 6))
    def set_many(self, data: st.DataObject, index: int, count: int) -> None:
        """Store the results of several tasks at the same time, through all handles."""
        ids = [self.task_id(index + number) for number in range(min(count, len(self.task_ids)))]
        results = {task_id: self.draw_result(data) for task_id in ids}
        self.gather(*(self.setter(number, *pair) for number, pair in enumerate(results.items())))
        self.keep(results)
        for task_id in ids:
            self.check(task_id)

    @precondition(lambda self: self.has("delete_result"))
    @rule(handle=HANDLES, index=INDEXES)
    def delete_result(self, handle: int, index: int) -> None:
        """Delete a result, and check the returned bool."""
        task_id = self.task_id(index)
        told = self.run(self.handle(handle).delete_result(task_id))
        assert told is (task_id in self.results), f"delete_result({task_id!r}) returned {told}"
        self.forget(task_id)
        self.check(task_id)

    @precondition(lambda self: self.keeps_progress and self.has("set_progress"))
    @rule(data=st.data(), handle=HANDLES, index=INDEXES)
    def set_progress(self, data: st.DataObject, handle: int, index: int) -> None:
        """Store the progress of a task."""
        task_id, progress = self.task_id(index), self.draw_progress(data)
        self.run(self.handle(handle).set_progress(task_id, progress))
        if not self.keeps_nothing:
            self.progress[task_id] = progress
        self.check(task_id)

    @precondition(lambda self: self.survives_restart)
    @rule()
    def restart(self) -> None:
        """Close all handles and open them again: the stored data is there."""
        self._close_all()
        self._open_all()
        self.check_everything()

    @precondition(lambda self: self.survives_crash)
    @rule()
    def die_and_recover(self) -> None:
        """Continue with the files of a crash: acknowledged data is there."""
        before = self.place
        self.lives += 1
        self.place.mkdir()
        self.crash(before, self.place)
        self._close_all()
        self._open_all()
        self.check_everything()

    def teardown(self) -> None:
        """Compare once more, close all handles, and remove all files."""
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
