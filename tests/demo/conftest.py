from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A temporary directory whose path leaves room for a socket's: 107 bytes in all."""
    with tempfile.TemporaryDirectory(prefix="logstore-test-", dir="/tmp") as path:
        yield Path(path)
