"""Effects of calls on names: rename, link, unlink, directories, modes. Pure."""

from __future__ import annotations

from logstore.testing.crash.effects import Moment, Tracking, effect
from logstore.testing.crash.processes import OpenFile
from logstore.testing.crash.strace import TraceError, bytes_of, fd_of, flags_of, integer_of


@effect("rename", "renameat", "renameat2")
def _rename(tracker: Tracking, moment: Moment) -> None:
    call, tree = moment.call, tracker.tree
    old, new = tracker.path(moment), tracker.path(moment, 1)
    flags = flags_of(moment.arg(4)) if call.name == "renameat2" else frozenset()
    if old is None and new is None:
        return
    if old is None:
        raise TraceError(f"{new!r} was moved in from outside the watched directory")
    from_dir, from_name, node = tree.locate(old, follow=False)
    if node is None:
        raise TraceError(f"renamed {old!r}, whose creation is not in the trace")
    if new is None:
        tree.change_names(call.start, call.end, f"move out {old}", (from_dir, from_name, None))
        return
    to_dir, to_name, replaced = tree.locate(new, follow=False)
    back: int | None = None
    if "RENAME_EXCHANGE" in flags:
        if from_dir != to_dir:
            raise TraceError("an exchanging rename between directories is not modelled")
        back = replaced
    elif replaced == node:
        return  # two links to the same file: rename does nothing
    label = f"rename {old} to {new}"
    changes = ((from_dir, from_name, back), (to_dir, to_name, node))
    tree.change_names(call.start, call.end, label, *changes)


@effect("link", "linkat")
def _link(tracker: Tracking, moment: Moment) -> None:
    call, tree = moment.call, tracker.tree
    at = call.name == "linkat"
    source = bytes_of(moment.arg(1 if at else 0))
    node: int | None = None
    file: OpenFile | None = None
    parts = source.split(b"/")
    if at and not source:
        file = moment.process.get(fd_of(moment.arg(0)).number)
    elif parts[:2] == [b"", b"proc"] and parts[3:4] == [b"fd"]:
        file = moment.process.get(int(parts[4]))
    if file is not None:
        node = file.node
    elif (old := tracker.path(moment)) is not None:
        node = tree.lookup(old, follow=at and "AT_SYMLINK_FOLLOW" in moment.arg(4))
    new = tracker.path(moment, 1)
    if new is None:
        return
    if node is None:
        raise TraceError(f"{new!r} was linked to a file outside the watched directory")
    directory, name, _ = tree.locate(new, follow=False)
    tree.change_names(call.start, call.end, f"link {new}", (directory, name, node))


@effect("symlink", "symlinkat", "mkdir", "mkdirat")
def _make(tracker: Tracking, moment: Moment) -> None:
    call, tree = moment.call, tracker.tree
    links = call.name.startswith("symlink")
    where = tracker.path(moment, skip=1 if links else 0)
    if where is None:
        return
    directory, name, _ = tree.locate(where, follow=False)
    if links:
        target = bytes_of(moment.arg(0)).decode("utf-8", "surrogateescape")
        node = tree.new_node("link", 0o777, target)
    else:
        node = tree.new_node("dir", integer_of(moment.arg(-1)) & 0o7755)
    label = f"{call.name} {where}"
    tree.change_names(call.start, call.end, label, (directory, name, node.number))


@effect("unlink", "unlinkat", "rmdir")
def _remove(tracker: Tracking, moment: Moment) -> None:
    call, tree = moment.call, tracker.tree
    where = tracker.path(moment)
    if where is None:
        return
    directory, name, _ = tree.locate(where, follow=False)
    tree.change_names(call.start, call.end, f"{call.name} {where}", (directory, name, None))


@effect("chmod", "fchmod", "fchmodat")
def _chmod(tracker: Tracking, moment: Moment) -> None:
    node = tracker.node(moment)
    if node is not None:
        mode = moment.arg(2 if moment.call.name == "fchmodat" else 1)
        tracker.tree.history.nodes[node].mode = integer_of(mode)
