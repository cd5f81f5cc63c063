"""Effects of calls on descriptors, offsets, working directories and maps of processes. Pure."""

from __future__ import annotations

import posixpath

from logstore.testing.crash.effects import Moment, Tracking, effect
from logstore.testing.crash.processes import OpenFile
from logstore.testing.crash.strace import TraceError, bytes_of, fd_of, flags_of, integer_of


@effect("open", "openat", "openat2", "creat")
def _open(tracker: Tracking, moment: Moment) -> None:
    call = moment.call
    if call.name == "creat":
        flags = frozenset(("O_CREAT", "O_WRONLY", "O_TRUNC"))
    elif call.name == "openat2":
        flags = flags_of(moment.arg(2).partition("flags=")[2].split(",")[0].rstrip("}"))
    else:
        flags = flags_of(moment.arg(2 if call.name == "openat" else 1))
    if call.result is None:
        return
    where = tracker.path(moment)
    if where is None:
        where = tracker.below(call.result_path)
    if where is None:
        moment.process.put(call.result, None, close_on_exec=False)
        return
    tree = tracker.tree
    node: int | None
    if "O_TMPFILE" in flags:
        node = tree.new_node("file", _mode(moment)).number
    else:
        directory, name, node = tree.locate(where, follow="O_NOFOLLOW" not in flags)
        if node is None:
            if "O_CREAT" not in flags:
                raise TraceError(f"opened {where!r}, whose creation is not in the trace")
            node = tree.new_node("file", _mode(moment)).number
            tree.change_names(call.start, call.end, f"create {where}", (directory, name, node))
        elif "O_TRUNC" in flags and node in tree.content:
            tree.resize(node, call.start, call.end, 0)
    opened = OpenFile(
        node,
        append="O_APPEND" in flags,
        dsync="O_DSYNC" in flags or "O_SYNC" in flags,
        writable="O_RDWR" in flags or "O_WRONLY" in flags,
    )
    moment.process.put(call.result, opened, close_on_exec="O_CLOEXEC" in flags)


def _mode(moment: Moment) -> int:
    last = moment.arg(-1)
    if moment.call.name == "openat2":
        last = moment.arg(2).partition("mode=")[2].split(",")[0].rstrip("}") or "0600"
    return integer_of(last) & 0o7755 if last.startswith("0") else 0o600


@effect("close")
def _close(tracker: Tracking, moment: Moment) -> None:
    raise AssertionError("close takes effect when it begins")


@effect("close_range")
def _close_range(tracker: Tracking, moment: Moment) -> None:
    first, last = integer_of(moment.arg(0)), integer_of(moment.arg(1))
    if moment.arg(2) == "0":
        moment.process.drop_range(first, last)


@effect("dup", "dup2", "dup3", "fcntl")
def _duplicate(tracker: Tracking, moment: Moment) -> None:
    call, process = moment.call, moment.process
    file = moment.files.get(0)
    if call.name == "fcntl":
        command = moment.arg(1)
        if command == "F_SETFD":
            process.mark(fd_of(moment.arg(0)).number, "FD_CLOEXEC" in moment.arg(2))
        if command == "F_SETFL" and file is not None:
            file.append = "O_APPEND" in flags_of(moment.arg(2))
        if not command.startswith("F_DUPFD"):
            return
        close_on_exec = command == "F_DUPFD_CLOEXEC"
    else:
        close_on_exec = call.name == "dup3" and "O_CLOEXEC" in moment.arg(2)
    if call.result is not None and call.result != fd_of(moment.arg(0)).number:
        process.put(call.result, file, close_on_exec=close_on_exec)


@effect("execve", "execveat")
def _execute(tracker: Tracking, moment: Moment) -> None:
    moment.process.executed()


@effect("chdir", "fchdir")
def _chdir(tracker: Tracking, moment: Moment) -> None:
    directory = moment.process.directory
    if moment.call.name == "fchdir":
        path = fd_of(moment.arg(0)).path
        if path is not None:
            directory.path = path
    else:
        path = posixpath.join(directory.path, bytes_of(moment.arg(0)))
        directory.path = posixpath.normpath(path)


@effect("lseek")
def _seek(tracker: Tracking, moment: Moment) -> None:
    file = moment.files.get(0)
    if file is not None and moment.call.result is not None:
        file.offset = moment.call.result


@effect("read", "readv")
def _read(tracker: Tracking, moment: Moment) -> None:
    file = moment.files.get(0)
    if file is not None and moment.call.result is not None:
        file.offset += moment.call.result


@effect("mmap")
def _mmap(tracker: Tracking, moment: Moment) -> None:
    file = moment.files.get(4)
    shared = flags_of(moment.arg(3)) & {"MAP_SHARED", "MAP_SHARED_VALIDATE"}
    if file is None or not shared or moment.call.result is None:
        return
    start = moment.call.result
    moment.process.maps.append((start, start + integer_of(moment.arg(1)), file.node))
    if "PROT_WRITE" in moment.arg(2):
        tracker.map(file.node)


@effect("mprotect")
def _mprotect(tracker: Tracking, moment: Moment) -> None:
    if "PROT_WRITE" in moment.arg(2):
        for node in _maps(moment):
            tracker.map(node)


@effect("munmap")
def _munmap(tracker: Tracking, moment: Moment) -> None:
    start = integer_of(moment.arg(0))
    end = start + integer_of(moment.arg(1))
    maps = moment.process.maps
    maps[:] = [m for m in maps if not (start <= m[0] and m[1] <= end)]


@effect("msync")
def _msync(tracker: Tracking, moment: Moment) -> None:
    if "MS_SYNC" in moment.arg(2):
        for node in _maps(moment):
            tracker.tree.sync(node, moment.call.start, moment.call.end)


def _maps(moment: Moment) -> list[int]:
    start = integer_of(moment.arg(0))
    end = start + integer_of(moment.arg(1))
    return [node for first, last, node in moment.process.maps if first < end and start < last]
