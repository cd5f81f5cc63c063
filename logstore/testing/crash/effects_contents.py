"""Effects of calls on file contents, and the guarantees of syncs. Pure."""

from __future__ import annotations

from logstore.testing.crash.effects import Moment, Tracking, effect
from logstore.testing.crash.operations import Ack
from logstore.testing.crash.strace import (
    TraceError,
    bytes_of,
    fd_of,
    flags_of,
    integer_of,
    iov_bytes_of,
)


@effect("write", "writev", "pwrite64", "pwritev", "pwritev2")
def _write(tracker: Tracking, moment: Moment) -> None:
    call = moment.call
    data = bytes_of(moment.arg(1)) if "v" not in call.name else iov_bytes_of(moment.arg(1))
    if call.result is not None:
        data = data[: call.result]
    if fd_of(moment.arg(0)).path == tracker.acks:
        tracker.tree.history.acks.append(Ack(call.start, data))
        return
    file = moment.files.get(0)
    if file is None:
        return
    flags = flags_of(moment.arg(4)) if call.name == "pwritev2" else frozenset()
    offset = None
    if call.name.startswith("p"):
        offset = integer_of(moment.arg(3))
        if call.name == "pwritev2" and offset in (-1, 2**64 - 1):
            offset = None
    at = file.offset if offset is None else offset
    if file.append or "RWF_APPEND" in flags:
        at = tracker.tree.size(file.node)
    dsync = file.dsync or "RWF_DSYNC" in flags or "RWF_SYNC" in flags
    tracker.tree.write(file.node, call.start, call.end, at, data, dsync=dsync)
    if offset is None:
        file.offset = at + len(data)


@effect("truncate", "ftruncate")
def _truncate(tracker: Tracking, moment: Moment) -> None:
    call = moment.call
    node = tracker.node(moment)
    if node is not None:
        tracker.tree.resize(node, call.start, call.end, integer_of(moment.arg(1)))


@effect("fallocate")
def _fallocate(tracker: Tracking, moment: Moment) -> None:
    file = moment.files.get(0)
    if file is None:
        return
    call, tree = moment.call, tracker.tree
    mode = flags_of(moment.arg(1))
    offset, length = integer_of(moment.arg(2)), integer_of(moment.arg(3))
    keep_size = "FALLOC_FL_KEEP_SIZE" in mode
    if mode & {"FALLOC_FL_COLLAPSE_RANGE", "FALLOC_FL_INSERT_RANGE"}:
        raise TraceError(f"fallocate {moment.arg(1)} of {tree.path_of(file.node)} is not modelled")
    size = tree.size(file.node)
    if mode & {"FALLOC_FL_PUNCH_HOLE", "FALLOC_FL_ZERO_RANGE"}:
        zeros = min(length, max(0, size - offset))
        tree.write(file.node, call.start, call.end, offset, bytes(zeros))
    if not keep_size and offset + length > size:
        tree.resize(file.node, call.start, call.end, offset + length)


@effect("copy_file_range", "sendfile", "splice")
def _copy(tracker: Tracking, moment: Moment) -> None:
    call, tree = moment.call, tracker.tree
    out, into = (0, 1) if call.name == "sendfile" else (2, 0)
    target, source = moment.files.get(out), moment.files.get(into)
    count = call.result
    if count is None:
        raise TraceError(f"a process was killed inside {call.name}")
    offset_in = moment.arg(2 if call.name == "sendfile" else 1)
    data = b""
    if source is not None:
        start = source.offset if offset_in == "NULL" else integer_of(offset_in)
        data = bytes(tree.content[source.node][start : start + count])
        if offset_in == "NULL":
            source.offset += count
    if target is None or count == 0:
        return
    if source is None:
        raise TraceError(
            f"{call.name} copied bytes from outside into {tree.path_of(target.node)}: "
            f"the trace does not show them"
        )
    offset_out = "NULL" if call.name == "sendfile" else moment.arg(3)
    at = target.offset if offset_out == "NULL" else integer_of(offset_out)
    if target.append:
        at = tree.size(target.node)
    tree.write(target.node, call.start, call.end, at, data, dsync=target.dsync)
    if offset_out == "NULL":
        target.offset = at + count


@effect("ioctl")
def _ioctl(tracker: Tracking, moment: Moment) -> None:
    file = moment.files.get(0)
    if file is not None and moment.arg(1).startswith(("FICLONE", "BTRFS_IOC_CLONE")):
        raise TraceError(f"{tracker.tree.path_of(file.node)} was cloned from another file")


@effect("io_uring_setup", "io_submit")
def _invisible(tracker: Tracking, moment: Moment) -> None:
    text = f"{moment.call.name}: writes that go through it are not seen"
    if text not in tracker.tree.history.warnings:
        tracker.tree.history.warnings.append(text)


@effect("fsync", "fdatasync")
def _sync(tracker: Tracking, moment: Moment) -> None:
    file = moment.files.get(0)
    if file is not None and moment.call.result == 0:
        tracker.tree.sync(file.node, moment.call.start, moment.call.end)


@effect("sync", "syncfs")
def _sync_all(tracker: Tracking, moment: Moment) -> None:
    if moment.call.result is not None:
        tracker.tree.sync_all(moment.call.start, moment.call.end)
