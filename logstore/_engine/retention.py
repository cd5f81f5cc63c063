"""Removing results that have expired or are over the limits, beside the writers.

Rules: a result is removed by a write in the log, an EXPIRED record, so that all readers, watchers
and conditions see the removal at one place in the order of all writes.  The next compaction of the
log then takes it from the table.  Only what is in the table is looked at, oldest first; a task of
which the logs have a newer record is left to that.  What is over a limit is counted in one table:
what the logs remove from it does not count, and a fold makes a count and its evictions void.  A
compaction under all locks removes such results itself (compaction.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice

from logstore._engine import clock
from logstore._engine.compaction import is_over
from logstore._engine.engine import Engine
from logstore._engine.frames import RESULT
from logstore._engine.table import DB_RESULTS, LISTING_KEYS, Table
from logstore._engine.writes import Retire, Write

BATCH = 200  # writes; they hold the writer lock for a few milliseconds


def removals(engine: Engine) -> Iterator[list[Write]]:
    """Return what is left of a look at what is due, which begins again after each fold.

    For the thread that has ``commit_lock``, so that the threads of a process share one look.
    """
    epoch = engine.from_table(Table.read_meta).epoch
    if engine.removing_from != epoch:
        engine.removing, engine.removing_from = due(engine), epoch
    return engine.removing


def due(engine: Engine) -> Iterator[list[Write]]:
    """Yield the writes that are due at this moment, in groups, each made when it is asked for."""
    yield from _groups(_expired(engine))
    while any(engine.options.retention):
        epoch = engine.from_table(Table.read_meta).epoch
        for group in _groups(_over_the_limits(engine, epoch)):
            yield group
            if engine.from_table(Table.read_meta).epoch != epoch:
                break  # count again
        else:
            return


def _groups(writes: Iterator[Write]) -> Iterator[list[Write]]:
    while group := list(islice(writes, BATCH)):
        yield group


def _expired(engine: Engine) -> Iterator[Write]:
    now_us, after = clock.now_us(), None
    more = True
    while more:
        records, after = engine.from_table(
            partial(
                Table.expired_results, now_us=now_us, newest_first=False, after=after, limit=BATCH
            )
        )
        for record in records:
            if engine.view().result(record.key) is None:
                yield Retire(record.key, record.entry)
        more = after is not None


def _over_the_limits(engine: Engine, epoch: int) -> Iterator[Write]:
    """Yield evictions from the table of an epoch."""
    retention = engine.options.retention
    counts = engine.from_table(Table.counts)
    results, data_bytes = counts.results, counts.data_bytes
    if not is_over(retention, results, data_bytes):
        return
    removed = _removed_by_the_logs(engine)
    for at in range(0, len(removed), LISTING_KEYS):
        for count, size in engine.from_table(
            partial(Table.held, keys=removed[at : at + LISTING_KEYS])
        ):
            results -= count
            data_bytes -= size
    counted = frozenset(removed)
    for record in engine.listing(DB_RESULTS, newest_first=False):
        if not is_over(retention, results, data_bytes):
            return
        newer = engine.view().result(record.key)
        if record.key in counted or (newer is not None and newer.kind == RESULT):
            continue  # counted above, or the table will still have a result of this task
        if newer is None:
            yield Retire(record.key, record.entry, counted_in=epoch)
        ((count, size),) = engine.from_table(partial(Table.held, keys=[record.key]))
        results -= count
        data_bytes -= size


def _removed_by_the_logs(engine: Engine) -> list[bytes]:
    view = engine.view()
    keys = {key for part in view.parts() for key in list(part.results)}
    newest = ((key, view.result(key)) for key in keys)
    return sorted(key for key, entry in newest if entry is not None and entry.kind != RESULT)
