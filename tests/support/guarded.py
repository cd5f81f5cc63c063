"""Shows that what a lock guards is touched under that lock only.

A race that a missing lock allows is rarely met; that a thread touches something without the lock is
seen each time.
"""

from __future__ import annotations

import sys
import threading
from typing import Any


def touched_without(lock: threading.Lock, owner: Any, *names: str) -> list[str]:
    """Watch attributes of an object; the list of what touches them while the lock is free.

    Only for objects of which no other thread holds the lock meanwhile.
    """
    found: list[str] = []
    values = {name: getattr(owner, name) for name in names}

    def look(name: str) -> None:
        if not lock.locked():
            found.append(f"{sys._getframe(2).f_code.co_name} touches {name}")

    def watched(name: str) -> property:
        def get(_: object) -> Any:
            look(name)
            return values[name]

        def put(_: object, value: Any) -> None:
            look(name)
            values[name] = value

        return property(get, put)

    kind = type(owner)
    owner.__class__ = type(kind.__name__, (kind,), {name: watched(name) for name in names})
    return found
