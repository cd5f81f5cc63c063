"""Committing a group: the only place that appends to the log.

Rules: called by the committer's leader, under the writer lock.  Frames are written and flushed
before they are published, and published before a caller is told.  The WRITING word is set while
the log's tail is not to be trusted; an error leaves it set, and nothing more is appended before
a recovery.  Each write meets the store as the writes before it in the group leave it.
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from logstore.engine import clock, frames
from logstore.engine.commit import REFUSED, Lookup, Write
from logstore.engine.failures import write_error
from logstore.engine.frames import DELETED, OFFSET_MAX, PROGRESS, TIME_MAX, Entry
from logstore.engine.header import LAST_TIME, LOG_FAILED, STATE, SYNCED, WRITING
from logstore.engine.log import FIRST_OFFSET
from logstore.engine.options import LARGE_BYTES
from logstore.engine.shelter import is_interrupt, sheltered
from logstore.errors import WriteError

if TYPE_CHECKING:
    from logstore.engine.engine import Engine

Keyed = tuple[bytes, Entry]


class GroupCommit:
    """Turns groups of writes into frames on the disk."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def commit(self, group: list[Write], ack: Callable[[], None]) -> None:
        """Commit what the committer has gathered; every write gets its outcome or error.

        ``ack`` is called as soon as these stand; a compaction that is due comes after it.
        """
        engine = self._engine

        def commit() -> None:
            for segment in _segments(group):
                self._commit_segment(segment)
            ack()
            if engine.header.words[STATE] & OFFSET_MAX >= engine.options.compact_at:
                engine.compact_if_due()

        try:
            engine.exclusively(commit)
        except Exception as exc:
            if is_interrupt(exc):
                raise
            _fail(group, write_error(engine.path, exc))

    def _commit_segment(self, writes: list[Write]) -> None:
        engine = self._engine
        try:
            if engine.must_recover():
                sheltered(engine.recover)  # the segment before this one failed
            resolved = self._resolve(writes)
            if resolved and self._goes_to_table(writes, resolved[0][1]):
                engine.fold_large(*resolved[0])
            else:
                self.append(resolved, must_sync=any(write.sync for write in writes))
        except Exception as exc:
            if is_interrupt(exc):
                raise
            _fail(writes, write_error(engine.path, exc))
        else:
            for write in writes:
                if write.outcome is not REFUSED:
                    write.error = None

    def _resolve(self, writes: list[Write]) -> list[Keyed]:
        """The entries to log, with their times; a write whose condition fails has its error."""
        words = self._engine.header.words
        now_us = clock.now_us()
        time_us = max(now_us, words[LAST_TIME])
        resolved: list[Keyed] = []
        pending: _Pending | None = None  # made for the first write that asks
        for write in writes:
            entry: Entry | None = write.entry
            if type(write) is not Write:
                if pending is None:
                    pending = _Pending(self._engine, resolved)
                try:
                    entry = write.resolve(pending, now_us)
                except Exception as exc:
                    if is_interrupt(exc):
                        raise
                    write.error, write.outcome = exc, REFUSED
                    continue
            if entry is not None:
                time_us += 1
                entry = Entry(entry[0], entry[1], time_us, entry[3], entry[4])
                resolved.append((write.key, entry))
                if pending is not None:
                    pending.add(write.key, entry)
        if time_us > TIME_MAX:
            raise WriteError(errno.EOVERFLOW, f"{self._engine.path}: no times are left")
        words[LAST_TIME] = time_us
        return resolved

    def _goes_to_table(self, writes: list[Write], entry: Entry) -> bool:
        size = len(entry.payload)
        return len(writes) == 1 and size > LARGE_BYTES and not self._engine.copy_defers(size)

    def append(self, resolved: list[Keyed], *, must_sync: bool) -> None:
        """Write, flush and publish one group.  Raises OSError; nothing is published then."""
        engine = self._engine
        words, log = engine.header.words, engine.log
        state, synced = words[STATE], words[SYNCED]
        epoch, start = state >> 32, state & OFFSET_MAX
        if not FIRST_OFFSET <= synced <= start:
            raise WriteError(
                errno.EIO,
                f"{engine.path}-shm: damaged: it says that the log is synced up to {synced}, and "
                f"published up to {start}; close the store everywhere, and it is made anew",
            )
        if not resolved and (not must_sync or synced >= start):
            return
        encode, seed = frames.encode_frame, engine.seed
        data = b"".join([encode(seed, epoch, synced, key, entry) for key, entry in resolved])
        end = start + len(data)
        if end > OFFSET_MAX:
            raise WriteError(errno.EFBIG, f"{log.path}: the log has reached its largest size")
        log.reserve(end)
        words[WRITING] = 1
        try:
            if data:
                log.write(data, start)
            if must_sync:
                log.sync()
                engine.counters.flushes += 1
        except OSError as exc:
            if not is_interrupt(exc):
                words[LOG_FAILED] = 1
                engine.recover_quietly()
            raise
        with engine.view_lock:
            if must_sync:
                words[SYNCED] = end
            engine.header.publish(epoch, end)
            overlay = engine.overlay
            if overlay.epoch == epoch and overlay.applied == start:
                overlay.apply(resolved, end)
        words[WRITING] = 0
        engine.counters.count_group(len(resolved))


class _Pending(Lookup):
    """The store as the next write of a group finds it."""

    def __init__(self, engine: Engine, resolved: list[Keyed]) -> None:
        self._engine = engine
        self._results: dict[bytes, Entry] = {}
        self._progress: dict[bytes, bool] = {}
        for key, entry in resolved:
            self.add(key, entry)

    def add(self, key: bytes, entry: Entry) -> None:
        if entry.kind == PROGRESS:
            self._progress[key] = True
        else:
            self._results[key] = entry
            if entry.kind == DELETED:
                self._progress[key] = False

    def result(self, key: bytes) -> Entry | None:
        entry = self._results.get(key)
        return self._engine.find_trace(key) if entry is None else entry

    def has_progress(self, key: bytes) -> bool:
        if key in self._progress:
            return self._progress[key]
        return self._engine.find_progress(key) is not None


def _segments(group: list[Write]) -> Iterable[list[Write]]:
    """Split a group so that each large write stands alone, in the group's order."""
    return (group,) if len(group) == 1 else _split(group)


def _split(group: list[Write]) -> Iterator[list[Write]]:
    segment: list[Write] = []
    for write in group:
        if len(write.entry.payload) > LARGE_BYTES:
            if segment:
                yield segment
            yield [write]
            segment = []
        else:
            segment.append(write)
    if segment:
        yield segment


def _fail(writes: list[Write], error: BaseException) -> None:
    # The frames that it has come through hold the writes, which hold it: without this, the closed
    # store's files would stay open until the garbage collector comes.
    chain: list[BaseException] = []
    met: BaseException | None = error
    while met is not None and met not in chain:
        traceback.clear_frames(met.__traceback__)
        chain.append(met)
        met = met.__cause__ or met.__context__
    for write in writes:
        if write.error is not None and write.outcome is not REFUSED:
            write.error = error
