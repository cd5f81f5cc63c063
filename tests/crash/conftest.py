"""Fixtures of the crash tests: the library of faults, and the processes that meet them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.victims import Victims, build_faults, victims_of


@pytest.fixture(scope="session")
def fault_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled library of faults."""
    return build_faults(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def victims(fault_library: Path) -> Iterator[Victims]:
    """Processes to kill."""
    with victims_of(fault_library) as victims:
        yield victims
