"""Derive the history of the disk from system calls: writes and syncs of each process. Pure.

Rules:
- A descriptor is looked up when its call begins, and the call takes effect when it ends. `close`
  takes effect when it begins, because its number can be reused before its end is recorded.
- Failed calls have no effect; short writes write the bytes that they returned.
- For a call whose thread was killed inside it, `happened` says by position whether it took effect.
- TraceError, with the name of the file, is raised for any change of a watched file that the trace
  does not show: a shared writable map of a file not declared volatile, bytes copied by the kernel
  from outside, io_uring.
"""

from __future__ import annotations

from collections.abc import Sequence

from logstore.testing.crash import effects_contents, effects_descriptors, effects_names
from logstore.testing.crash.effects import EFFECTS, Moment, Tracking
from logstore.testing.crash.filesystem import FileSystem
from logstore.testing.crash.operations import History
from logstore.testing.crash.processes import Processes
from logstore.testing.crash.strace import Syscall, TraceError, fd_of, integer_of

__all__ = ["CALLS", "Tracker", "unknown_calls"]

# These imports fill the table of effects.
_FILLED = (effects_contents, effects_descriptors, effects_names)

# Positions of the descriptor arguments that changes and syncs go through.
_FD_ARGS = {
    "write": (0,), "pwrite64": (0,), "writev": (0,), "pwritev": (0,), "pwritev2": (0,),
    "ftruncate": (0,), "fallocate": (0,), "fsync": (0,), "fdatasync": (0,), "fchmod": (0,),
    "copy_file_range": (0, 2), "sendfile": (0, 1), "splice": (0, 2), "ioctl": (0,), "lseek": (0,),
    "dup": (0,), "dup2": (0,), "dup3": (0,), "fcntl": (0,), "mmap": (4,), "read": (0,),
    "readv": (0,),
}  # fmt: skip


def unknown_calls(calls: Sequence[Syscall]) -> list[int]:
    """Return the positions of calls with an effect but an unknown outcome."""
    return [i for i, call in enumerate(calls) if call.unknown and call.name in EFFECTS]


class Tracker(Tracking):
    """One pass over a trace. `run` returns the history; `tree` is then the final tree in memory."""

    def __init__(
        self,
        calls: Sequence[Syscall],
        tree: FileSystem,
        *,
        watched: bytes,
        acks: bytes,
        cwd: bytes,
        happened: frozenset[int] = frozenset(),
    ) -> None:
        super().__init__(tree, watched, acks)
        self.calls = calls
        self.happened = happened
        self.processes = Processes(calls, cwd)

    def run(self) -> History:
        """Replay all calls. Raise TraceError, see the module's rules."""
        moments: list[tuple[int, int, bool]] = []
        for index, call in enumerate(self.calls):
            if call.name in EFFECTS:
                moments += [(call.start, index, True), (call.end, index, False)]
        moments.sort()
        begun: dict[int, Moment] = {}
        for _, index, begins in moments:
            call = self.calls[index]
            if begins:
                begun[index] = self._begin(call)
            else:
                moment = begun.pop(index)
                happened = call.unknown and index in self.happened
                if call.name != "close" and (call.result is not None or happened):
                    EFFECTS[call.name](self, moment)
        self._refuse_mapped()
        return self.tree.finish()

    def _begin(self, call: Syscall) -> Moment:
        process = self.processes[call.pid]
        moment = Moment(call, process, {})
        if call.name == "close" and call.args:
            process.drop(fd_of(call.args[0]).number)
        for index in _FD_ARGS.get(call.name, ()):
            if index >= len(call.args):
                continue
            if call.name in ("read", "readv"):  # printed in raw form, without its path
                number, annotated = integer_of(call.args[0]), True
            else:
                fd = fd_of(call.args[index])
                number, annotated = fd.number, self.below(fd.path) is not None
            file = process.get(number)
            if annotated and file is not None:
                moment.files[index] = file
            elif (
                annotated
                and call.name not in ("read", "readv", "fcntl")
                and call.result is not None
            ):
                raise TraceError(
                    f"{call.name} on descriptor {number}, a file below the watched directory that "
                    f"was not opened in the trace: {call.args[index]}"
                )
        return moment

    def _refuse_mapped(self) -> None:
        nodes = self.tree.history.nodes
        bad = sorted(path for node, path in self.mapped.items() if not nodes[node].volatile)
        if bad:
            raise TraceError(
                f"mapped shared and writable, so that the trace cannot show its changes: "
                f"{', '.join(bad)}. If the program never trusts such a file after a crash, declare "
                f"it with --volatile (a name or glob)"
            )


CALLS = tuple(sorted({*EFFECTS, "clone", "clone3", "fork", "vfork", "sync_file_range"}))
"""The system calls that strace must record."""
