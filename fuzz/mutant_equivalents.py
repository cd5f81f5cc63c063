"""Mutants that change nothing that a user or a peer can see, each with the reason.

Rules: an entry names the function and the changed lines before and after, without indentation, so
that it outlives what is around it.  A change of such a line takes the entry away or writes it
for the new line; ``make test`` tells of an entry that fits nothing.  What only costs time, and what
tests could see if somebody wrote them, has no place here.
"""

from __future__ import annotations

from typing import NamedTuple


class Equivalent(NamedTuple):
    """One mutant, or several alike in one function."""

    file: str  # below logstore/
    function: str
    kind: str
    old: str
    new: str
    why: str


EQUIVALENTS: list[Equivalent] = [
    Equivalent(
        "_engine/files.py",
        "adopt_owner",
        "except",
        "except OSError:",
        "except Exception:",
        "the path has been opened, or is a descriptor: os.stat raises nothing else",
    ),
    Equivalent(
        "_engine/vacuum.py",
        "backup",
        "except",
        "except (OSError, lmdb.Error, OpenError) as exc:",
        "except Exception as exc:",
        "raise_write_error raises everything else as it is",
    ),
    Equivalent(
        "taskiq/outcome/walk.py",
        "_is_in",
        "except",
        "except TypeError as error:",
        "except Exception as error:",
        "the key is of plain types by then, whose hashes raise nothing else",
    ),
]
