"""Checking a store by its path, even if its log is too damaged to open it.

Rules: nothing is changed without ``salvage``.
"""

from __future__ import annotations

from logstore import store
from logstore._arguments import FilePath, store_path
from logstore._engine.frozen import is_in_use
from logstore._engine.lmdbfile import verify_pages
from logstore._engine.opening import check_place
from logstore._engine.salvage import Salvaged, salvage_at_rest
from logstore._engine.shelter import sheltered
from logstore.errors import CorruptionError, StaleTableError
from logstore.types import CheckReport


def check(path: FilePath, *, salvage: bool = False) -> CheckReport:
    """Verify the store at ``path``; if it is in use, verify a private copy.

    If no process has the store open, nothing is written.  Every page of the table is verified
    before LMDB opens it, so damage cannot crash the process.  Damage is reported, not raised.

    ``salvage`` is for a store that is not in use and whose log is damaged.  It compacts every
    intact frame of the log into the table, keeps the log as ``...-log.damaged-...``, and reports
    how much was lost.  The store can then be opened again.  If the table is damaged too or older
    than the log, or if the log belongs to another store, nothing is changed and the report says
    why.

    Raises an :class:`~logstore.errors.OpenError` if there is no store, or if it cannot be used or
    has another format version.  A salvage also raises it if the store is in use, and
    :class:`~logstore.errors.WriteError` if writing failed; it can then be tried again.
    """
    real_path = store_path(path)
    return sheltered(lambda: _check(real_path, salvage))


def _check(real_path: str, salvage: bool) -> CheckReport:
    saved = Salvaged()
    try:
        check_place(real_path, force=True, create=False)
        if salvage:
            saved = salvage_at_rest(real_path)
        if not is_in_use(real_path):
            verify_pages(real_path)
        with store.open(real_path, mode="r") as opened:
            report = opened.check()
    except (CorruptionError, StaleTableError) as exc:
        report = CheckReport(real_path, problems=(str(exc),))
    return report._replace(**saved._asdict())
