"""Signals that arrive at every place of a call at which CPython can run their handler.

The interpreter runs the handler of a signal on the main thread, and only where it looks at a flag
that the C-level handler has set (``eval_breaker``).  In CPython 3.11 to 3.13 (``Python/ceval.c``,
``Python/bytecodes.c``: ``CHECK_EVAL_BREAKER``, ``CHECK_PERIODIC``) that is

- RESUME: a function begins, a generator goes on after a ``yield``; not after an ``await``;
- the end of CALL, CALL_KW and CALL_FUNCTION_EX, if what was called is not a Python function whose
  frame the same loop runs;
- JUMP_BACKWARD and the conditional jumps backward.

CPython 3.10 looks at the top of a loop to which the call instructions, JUMP_ABSOLUTE and a
conditional jump that is taken go back, unless a ``with`` or a ``try`` is the next instruction.  No
version looks between the enter of a ``with`` and its block, nor before its exit when an exception
leaves the block.  The exception is raised by the instruction at whose end the handler runs: a
``try`` that begins behind it does not see it.  A C function looks too when a signal ends its
system call, and a few others do (``PyErr_CheckSignals``: ``repr``).

So that no table of instructions has to be right, this module uses real signals.  A trace function
sees each instruction before it runs, and each end of a call, and sends the signal to its own
thread from there, by a C function that is called as an operator: no instruction from there to the
end of the trace function looks at the flag.  If the traced instruction does, the handler runs at
this very place.  If not, the next call of the trace function takes the signal, and the handler,
which sees its frame, does nothing.  :func:`find_places` does so everywhere in one call, with a
handler that only takes notes.  :func:`interrupt` does so at one place, with a handler that raises.

Rules: main thread only.  The call must do the same each time, so no garbage is collected
meanwhile.  Frames count if they belong to the package, or are called from such a frame; those of
the import system and of the tests never.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, NamedTuple

import logstore

SIGNAL = signal.SIGUSR1
AGAIN_S = 0.01
ENDS_S = 0.2  # how long after the call a thread may end that belongs to it
PACKAGE = os.path.dirname(os.path.abspath(logstore.__file__)) + os.sep
TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
MONITORED = sys.version_info >= (3, 13)  # instructions, by sys.monitoring
NOT_COUNTED = (TESTS, "<frozen importlib")

Trace = Callable[[FrameType, str, Any], Any]
Event = tuple[CodeType, int, str]  # of a trace: code, offset, kind


class Interrupt(BaseException):
    """What a handler raises; as KeyboardInterrupt, not an Exception."""


class _Raise:
    """``_Raise()[number]`` sends a signal to the calling thread, without a call instruction."""

    __getitem__ = ctypes.PyDLL(None)["raise"]


_send = _Raise()


class Place(NamedTuple):
    """Where a handler can run in a call."""

    code: CodeType
    offset: int  # of the instruction at whose end it runs, in bytes
    line: int
    stack: tuple[str, ...]  # the innermost frame first
    trigger: Event  # at which the signal has to come
    occurrence: int  # of the trigger

    def __str__(self) -> str:
        return f"{self.stack[0]} +{self.offset} #{self.occurrence} < {' < '.join(self.stack[1:])}"


class Outcome(NamedTuple):
    """What became of a call that was to be interrupted."""

    fired: bool  # whether the handler has raised
    raised: BaseException | None  # by the call
    value: Any
    unraisable: list[BaseException | None]  # what was raised where nothing can catch it


class _Tracer:
    """Sends the signal at each event, or at one of a kind when it comes for the n-th time."""

    def __init__(self, wanted: Event | None = None, occurrence: int = 0) -> None:
        self._wanted = wanted
        self._occurrence = occurrence
        self.code = None if wanted is None else wanted[0]  # whose events matter; None: all
        self.seen: Counter[Event] = Counter()
        self.event: Event | None = None  # at which the last signal was sent
        self._frame: FrameType | None = None  # that is expected to meet it

    def begin(self, frame: FrameType, kind: str, _arg: object) -> Trace | None:
        """For ``sys.settrace``: a frame begins or goes on."""
        code = frame.f_code
        if _counts(frame):
            frame.f_trace_opcodes = not MONITORED and (self.code is None or code is self.code)
        elif not _is_next_to_one_that_counts(frame):
            return None
        frame.f_trace_lines = False
        frame.f_trace = self.step
        if self.code is None or code is self.code:
            event = code, frame.f_lasti, kind
            self.seen[event] += 1
            if self._wanted is None or (
                event == self._wanted and self.seen[event] == self._occurrence
            ):
                self.event, self._frame = event, frame
                _send[SIGNAL]
        return self.step

    def step(self, frame: FrameType, kind: str, _arg: object) -> Trace:
        """For a frame: something is about to happen.  Nothing is called behind the signal."""
        if self.code is None or frame.f_code is self.code:
            event = frame.f_code, frame.f_lasti, kind
            self.seen[event] += 1
            if self._wanted is None or (
                event == self._wanted and self.seen[event] == self._occurrence
            ):
                self.event = event
                self._frame = frame.f_back if kind == "return" else frame
                _send[SIGNAL]
        return self.step

    def forget(self) -> None:
        """Hold no frame any longer."""
        self._frame = None

    def is_place(self, frame: FrameType) -> bool:
        """Whether a handler runs because of the last signal, and in a frame that counts."""
        # Python 3.13 looks at the flag before it shows that a frame begins.
        return _counts(frame) and (
            frame is self._frame or (MONITORED and frame.f_back is self._frame)
        )


def find_places(call: Callable[[], object], *, repeats: int = 2) -> list[Place]:
    """Run ``call`` and return every place at which a handler can run, in their order.

    Of a place that comes again with the same stack, in a loop, the first ``repeats`` times.
    """
    tracer = _Tracer()
    places: list[Place] = []
    times: Counter[tuple[object, ...]] = Counter()

    def note(_number: int, frame: FrameType | None) -> None:
        if frame is None or not tracer.is_place(frame):
            return
        assert tracer.event is not None
        key = tuple((f.f_code, f.f_lasti) for f in _stack(frame))
        times[key] += 1
        if times[key] <= repeats:
            stack = tuple(_described(f) for f in _stack(frame))
            places.append(
                Place(
                    frame.f_code,
                    frame.f_lasti,
                    frame.f_lineno,
                    stack,
                    tracer.event,
                    tracer.seen[tracer.event],
                )
            )

    with _traced(tracer, note):
        call()
    return places


def interrupt(call: Callable[[], object], place: Place, error: BaseException) -> Outcome:
    """Run ``call``, with a handler that raises ``error`` at one place.

    The handler does not run if the call never comes to the place.
    """
    tracer = _Tracer(place.trigger, place.occurrence)
    fired = False
    raised: BaseException | None = None
    value: object = None

    def fire(_number: int, frame: FrameType | None) -> None:
        nonlocal fired
        if frame is not None and tracer.is_place(frame) and not fired:
            fired = True
            sys.settrace(None)
            raise error

    with _unraisable() as unraisable, _traced(tracer, fire):
        try:
            value = call()
        except BaseException as exc:
            raised = exc
    return Outcome(fired, raised, value, unraisable)


class _OtherTracer:
    """Stops other threads where functions of the package begin and end: everywhere, or at one."""

    def __init__(self, look: Callable[[FrameType, Event, int], None]) -> None:
        self._look = look
        self._seen: Counter[Event] = Counter()

    def begin(self, frame: FrameType, kind: str, _arg: object) -> Trace | None:
        """For ``threading.settrace``."""
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_lines = False
        self.step(frame, kind, None)
        return self.step

    def step(self, frame: FrameType, kind: str, _arg: object) -> Trace:
        """For a frame's other events."""
        if kind in ("call", "return"):
            event = frame.f_code, frame.f_lasti, kind
            self._seen[event] += 1
            self._look(frame, event, self._seen[event])
        return self.step


def find_moments(call: Callable[[], object]) -> list[Place]:
    """Run ``call`` and return the places of threads that it starts and waits for.

    Where a function of the package begins or ends: once for each stack.
    """
    found: list[tuple[threading.Thread, Place]] = []
    stacks: set[tuple[object, ...]] = set()

    def look(frame: FrameType, event: Event, occurrence: int) -> None:
        key = event, *((f.f_code, f.f_lasti) for f in _stack(frame))
        if key not in stacks:
            stacks.add(key)
            stack = tuple(_described(f) for f in _stack(frame))
            place = Place(*event[:2], frame.f_lineno, stack, event, occurrence)
            found.append((threading.current_thread(), place))

    before = threading.gettrace()
    threading.settrace(_OtherTracer(look).begin)
    try:
        call()
    finally:
        threading.settrace(before)
    for thread in {thread for thread, _ in found}:
        thread.join(ENDS_S)
    return [place for thread, place in found if not thread.is_alive()]


def interrupt_meanwhile(
    call: Callable[[], object], place: Place, error: BaseException, deadline_s: float = 1.0
) -> Outcome:
    """Run ``call``; the signal comes while another thread is at ``place`` and waits there.

    The handler raises ``error`` wherever the main thread is, most often in a wait.
    """
    fired = threading.Event()
    sending = threading.Lock()
    over = False
    main = threading.main_thread().ident
    assert main is not None
    raised: BaseException | None = None
    value: object = None

    def look(_frame: FrameType, event: Event, occurrence: int) -> None:
        if event == place.trigger and occurrence == place.occurrence:
            # A signal that comes just before a wait does not end it: so it comes again.
            end = time.monotonic() + deadline_s
            while time.monotonic() < end:
                with sending:
                    if over or fired.is_set():
                        break
                    signal.pthread_kill(main, SIGNAL)
                fired.wait(AGAIN_S)

    def fire(_number: int, _frame: FrameType | None) -> None:
        if not fired.is_set():
            fired.set()
            raise error

    before_tracer = threading.gettrace()
    before = signal.signal(SIGNAL, fire)
    threading.settrace(_OtherTracer(look).begin)
    try:
        with _unraisable() as unraisable:
            try:
                value = call()
            except BaseException as exc:
                raised = exc
    finally:
        threading.settrace(before_tracer)
        with sending:
            over = True
        signal.signal(SIGNAL, before)
    return Outcome(fired.is_set(), raised, value, unraisable)


def _counts(frame: FrameType) -> bool:
    """Whether a frame is the package's, or called by one that counts."""
    name, back = frame.f_code.co_filename, frame.f_back
    return name.startswith(PACKAGE) or (
        not name.startswith(NOT_COUNTED)
        and back is not None
        and back.f_trace is not None
        and not back.f_code.co_filename.startswith(NOT_COUNTED)
    )


def _is_next_to_one_that_counts(frame: FrameType) -> bool:
    """Whether a frame may call one that counts, or is called by one: then its ends are places."""
    name, back = frame.f_code.co_filename, frame.f_back
    return name != __file__ and (name.startswith(TESTS) or (back is not None and _counts(back)))


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    """The frames of a call, the innermost first, without those of the tests."""
    while frame is not None and not frame.f_code.co_filename.startswith(TESTS):
        yield frame
        frame = frame.f_back


def _described(frame: FrameType) -> str:
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno} {frame.f_code.co_name}"


@contextmanager
def _traced(tracer: _Tracer, handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    assert threading.current_thread() is threading.main_thread()
    collects, before_tracer = gc.isenabled(), sys.gettrace()
    gc.disable()
    before = signal.signal(SIGNAL, handler)
    # Python 3.12 shows instructions only if a frame has asked for them when the tracer is set.
    sys._getframe().f_trace_opcodes = not MONITORED
    try:
        with _monitored(tracer):
            sys.settrace(tracer.begin)
            try:
                yield
            finally:
                sys.settrace(before_tracer)
    finally:
        signal.signal(SIGNAL, before)
        tracer.forget()
        if collects:
            gc.enable()


if sys.version_info >= (3, 13):
    # Frames that ask for their instructions get them from the second call on, or never.

    @contextmanager
    def _monitored(tracer: _Tracer) -> Iterator[None]:
        monitoring, tool = sys.monitoring, sys.monitoring.DEBUGGER_ID
        instruction = monitoring.events.INSTRUCTION
        main = threading.get_ident()

        def show(_code: CodeType, _offset: int) -> None:
            frame = sys._getframe(1)
            if frame.f_trace is not None and threading.get_ident() == main:
                tracer.step(frame, "opcode", None)

        def watch(events: int) -> None:
            if tracer.code is None:
                monitoring.set_events(tool, events)
            else:
                monitoring.set_local_events(tool, tracer.code, events)

        monitoring.use_tool_id(tool, __name__)
        monitoring.register_callback(tool, instruction, show)
        watch(instruction)
        try:
            yield
        finally:
            watch(0)
            monitoring.free_tool_id(tool)

else:

    @contextmanager
    def _monitored(tracer: _Tracer) -> Iterator[None]:
        yield


@contextmanager
def _unraisable() -> Iterator[list[BaseException | None]]:
    found: list[BaseException | None] = []
    before = sys.unraisablehook
    sys.unraisablehook = lambda args: found.append(args.exc_value)
    try:
        yield found
    finally:
        sys.unraisablehook = before
