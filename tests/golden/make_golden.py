"""Makes the golden files of the current format version; run it once per released version.

Usage: ``python -m tests.golden.make_golden [directory]``.  It writes ``v<version>/closed/app.db``,
a store that was closed, and ``v<version>/crashed/app.db`` with its log, a store whose process died
with writes in the log.  ``RESULTS`` and the rest say what is in both.  Never change the files of a
released version: a later version of the package must open them.
"""

from __future__ import annotations

import datetime as dt
import shutil
import sys
import tempfile
import time
from decimal import Decimal
from fractions import Fraction
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any
from uuid import UUID

import logstore
from tests.support.fileformat import VERSION
from tests.support.inside import no_idle_compaction

MOMENT = dt.datetime(2024, 2, 29, 12, 30, 15, 123456)

RESULTS: dict[str, Any] = {
    "none": None,
    "bool": [True, False],
    "int": [0, -1, 2**63, -(2**200)],
    "float": [0.5, -0.0, float("inf")],
    "complex": 1 + 2j,
    "str": ["", "h\u00e9llo \U0001f600", "\ud800"],
    "bytes": b"\x00\xff",
    "tuple": (1, (2, [3])),
    "dict": {"a": 1, 2: (3,), None: {}},
    "set": {1, 2, 3},
    "frozenset": frozenset(("x", "y")),
    "datetime": [MOMENT, MOMENT.replace(tzinfo=dt.timezone.utc), MOMENT.replace(fold=1)],
    "date": MOMENT.date(),
    "time": MOMENT.time(),
    "timedelta": dt.timedelta(days=-1, microseconds=5),
    "decimal": Decimal("1.2300"),
    "fraction": Fraction(22, 7),
    "uuid": UUID(int=0x1234),
    "ip": [ip_address("10.0.0.1"), ip_network("10.0.0.0/8"), ip_interface("10.0.0.1/8")],
    "ip6": [ip_address("fe80::1%eth0"), ip_network("2001:db8::/32"), ip_interface("::1/64")],
    "\u0442\u0430\u0441\u043a" * 60: "a task id of 480 bytes",
}
FAILED = {"failed": {"error": "ValueError"}}
PROGRESS = logstore.TaskProgress(0.25, "a quarter", 1, 4, {"stage": (1, 2)})
RUNNING = "running"
DELETED = "deleted"
EXPIRED = "expired"
BOTH = "both"  # a result, and progress from before it
AGAIN = "again"  # progress, and an expired result from before it
CLEARED = "cleared"  # its progress was deleted; it had no result
MANY = {f"many-{number}": number for number in range(150)}  # more than a page has room for
IN_LOG = "in-the-log"  # of the crashed store; overwritten there, and older in its table


def fill(store: logstore.Store) -> None:
    """Write everything that a store of this format can hold."""
    for task_id, value in RESULTS.items():
        store.set_result(task_id, value)
    for task_id, value in FAILED.items():
        store.set_result(task_id, value, failed=True, ttl_s=9e9)
    store.set_progress(RUNNING, PROGRESS, ttl_s=9e9)
    store.set_result(DELETED, 1)
    store.delete_result(DELETED)
    store.set_result(EXPIRED, 1, ttl_s=1e-6)
    store.set_progress(BOTH, PROGRESS, ttl_s=9e9)
    store.set_result(BOTH, "both")
    store.set_result(AGAIN, 1, ttl_s=1e-6)
    store.set_progress(AGAIN, PROGRESS, ttl_s=9e9)
    store.set_progress(CLEARED, PROGRESS)
    store.delete_result(CLEARED)
    for task_id, value in MANY.items():
        store.set_result(task_id, value)
    store.set_result(IN_LOG, "old")


def make(directory: Path) -> None:
    """Write both stores below ``directory``."""
    goal = directory / f"v{VERSION}"
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "app.db"
        with logstore.open(path, compact_at=1 << 17) as store:
            fill(store)
        (goal / "closed").mkdir(parents=True)
        shutil.copyfile(path, goal / "closed" / "app.db")
        with logstore.open(path, compact_at=1 << 17) as store:
            fill(store)
            store.compact()
            fill(store)
            store.set_result(IN_LOG, "new")
            (goal / "crashed").mkdir()
            for suffix in ("", "-log"):
                shutil.copyfile(f"{path}{suffix}", goal / "crashed" / f"app.db{suffix}")
    print(f"{goal}, {time.strftime('%Y-%m-%d')}, logstore {logstore.__version__}")


if __name__ == "__main__":
    no_idle_compaction().start()  # the log keeps what was written, however slow this is
    make(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent)
