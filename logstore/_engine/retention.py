"""Removing results that have expired or are over the limits, beside the writers.

Rules: a result is removed by a write in the log, an EXPIRED record, so that all readers, watchers
and conditions see the removal at one place in the order of all writes.  The next compaction of the
log then takes it from the table.  Only what is in the table is looked at, oldest first; a task of
which the logs have a newer record is left to that.  A compaction under all locks removes them
itself (compaction.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice

from logstore._engine import clock
from logstore._engine.compaction import is_over
from logstore._engine.engine import Engine
from logstore._engine.frames import RESULT
from logstore._engine.table import DB_RESULTS, Table
from logstore._engine.writes import Retire, Write

BATCH = 200  # writes; they hold the writer lock for about a millisecond


def due(engine: Engine) -> Iterator[list[Write]]:
    """Yield the writes that are due at this moment, in groups, each made when it is asked for."""
    writes = _due(engine)
    while group := list(islice(writes, BATCH)):
        yield group


def _due(engine: Engine) -> Iterator[Write]:
    yield from _expired(engine)
    if any(engine.options.retention):
        yield from _over_the_limits(engine)


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
                yield Retire(record.key, record.entry.time_us, evicts=False)
        more = after is not None


def _over_the_limits(engine: Engine) -> Iterator[Write]:
    counts = engine.from_table(Table.counts)
    results, data_bytes = counts.results, counts.data_bytes
    for record in engine.listing(DB_RESULTS, newest_first=False):
        if not is_over(engine.options.retention, results, data_bytes):
            return
        newer = engine.view().result(record.key)
        if newer is None:
            yield Retire(record.key, record.entry.time_us, evicts=True)
        elif newer.kind == RESULT:
            continue  # the table will still have a result of this task
        results -= 1
        data_bytes -= len(record.key) + record.size
