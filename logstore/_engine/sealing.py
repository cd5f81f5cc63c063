"""Compaction beside the writers: a full log is sealed, and folded while the other one is written.

Rules: the thread that has just committed seals the log when that is full, under the writer lock
and the flush lock, which takes as long as a small write.  The maintenance thread of some process
folds it, under the fold lock only.  A writer waits for that only when both logs are full, and not
for long: if the holder of the fold lock is stopped, the open log grows.  What readers see does not
change by such a fold.
"""

from __future__ import annotations

import time
from functools import partial

import lmdb

from logstore._engine import clock, durability, identity
from logstore._engine.compaction import fold_into
from logstore._engine.engine import Engine
from logstore._engine.frames import OFFSET_MAX
from logstore._engine.header import split
from logstore._engine.overlay import Overlay
from logstore._engine.readers import OldReadersError
from logstore._engine.shelter import sheltered
from logstore._engine.table import Table
from logstore.errors import LogstoreError

FOLD_WAIT_S = 1.0
BOTH_FULL = 2  # a writer waits for a fold when the open log has this many times its limit
GIVE_WAY_S = 0.00005  # with 64 writers at a time it takes 45 % off the p99 of a set
LATE_LOG_FACTOR = 4  # a log of so many times its limit says that readers put compactions off


def compact_if_due(engine: Engine, timeout_s: float | None = None) -> None:
    """After a commit that has been acked: errors stay here, the next writer recovers.

    The caller has ``commit_lock``.  By default the time-out is the store's ``write_timeout_s``.
    """
    if not _is_full(engine):
        return
    timeout_s = engine.options.write_timeout_s if timeout_s is None else timeout_s
    deadline = time.monotonic() + timeout_s
    try:
        if not engine.header.sealed or _fold_both_full(engine):
            engine.appending(partial(_seal_if_full, engine, deadline), deadline)
    except (OSError, lmdb.Error, LogstoreError) as exc:
        engine.counters.compaction_errors += 1
        engine.note_error(exc)


def _note_if_late(engine: Engine, exc: OldReadersError) -> None:
    if engine.header.appended & OFFSET_MAX >= engine.options.compact_at * LATE_LOG_FACTOR:
        engine.note_error(exc)  # else it may be a busy machine


def _is_full(engine: Engine) -> bool:
    """Return whether the log has reached its limit, and no copy puts a compaction off."""
    end = engine.header.appended & OFFSET_MAX
    return end >= engine.options.compact_at and not engine.deferral.applies()


def _fold_both_full(engine: Engine) -> bool:
    """Wait for the sealed log if both are full.  Return whether the open one can be sealed.

    The wait is short: if the holder of the fold lock is stopped, the open log grows.
    """
    engine.on_sealed()  # the process that was to do it may be dead
    state = engine.header.state
    end = split(state)[1]
    if end < engine.options.compact_at * BOTH_FULL or state - engine.waited_at < end // BOTH_FULL:
        return False
    done = fold_sealed(engine, time.monotonic() + FOLD_WAIT_S)
    engine.waited_at = 0 if done else state
    return done


def _seal_if_full(engine: Engine, deadline: float) -> None:
    """Seal the open log and begin the next one; writer lock held."""

    def seal() -> bool:
        header = engine.header
        end = split(header.appended)[1]
        # Another process may have been faster.
        if _is_full(engine) and not header.sealed and engine.is_settled(end):
            engine.sheltered_write(partial(_seal, engine))
        return True

    if not engine.publisher.with_lock(seal, deadline):
        raise engine.timeout_error()


def _seal(engine: Engine) -> None:
    engine.logview.seal()
    engine.on_sealed()


def fold_sealed(engine: Engine, deadline: float) -> bool:
    """Fold the sealed log into the table, beside the writers.

    Return whether there is none any more.  What readers see does not change: no result is
    removed.  The caller has no lock.  Errors are counted, and it is tried again.
    """
    try:
        while state := engine.header.sealed:
            view = engine.view()  # without the fold lock: it may wait for the writer lock
            found = engine.fold_lock.hold(
                partial(sheltered, partial(_fold_sealed, engine, view)), deadline
            )
            if found is None or found[0] or engine.header.sealed == state:
                return found is not None and found[0]
            # Another thread has folded that one, and the next is sealed.
    except (OSError, lmdb.Error, LogstoreError) as exc:
        engine.counters.compaction_errors += 1
        engine.note_error(exc)
        return False
    return True


def _fold_sealed(engine: Engine, view: Overlay) -> bool:
    header = engine.header
    state = header.sealed
    sealed = view.sealed
    if not state:
        return True
    if (
        sealed is None
        or sealed.state != state
        or header.incarnation != engine.incarnation
        or engine.deferral.applies()
        or identity.is_suspect(engine)
    ):
        return False  # first a writer takes over the files, or recovers
    epoch = engine.from_table(Table.read_meta).epoch
    if epoch not in (sealed.epoch, sealed.epoch + 1):
        return False  # a compaction of both died before it published that: recover first
    header.folding = 1
    try:
        if epoch > sealed.epoch:
            durability.sync_data(engine.table.fd)  # its process may have died before it did so
        else:
            fold_into(
                engine.table,
                [(sealed.results, sealed.progress)],
                queued=[sealed.queued] if sealed.queued else [],
                now_us=clock.now_us(),
                epoch=sealed.epoch + 1,
                incarnation=engine.incarnation,
                has_new=False,
                give_way=lambda: _give_way(engine),
            )
    except OldReadersError as exc:
        header.folding = 0
        engine.deferral.put_off()
        _note_if_late(engine, exc)
        return False
    except lmdb.Error:
        engine.table.reopen()  # LMDB refuses further use after some failed commits
        raise
    header.table_txn = engine.table.last_transaction()
    header.sealed = 0
    header.folding = 0
    engine.counters.count_compaction()
    return True


def _give_way(engine: Engine) -> None:
    """Let threads that write go on, unless they would soon wait for this fold.

    Each of them would have to ask for the interpreter otherwise, and get it after 5 ms
    (``sys.getswitchinterval()``).
    """
    if split(engine.header.appended)[1] < engine.options.compact_at:
        time.sleep(GIVE_WAY_S)
