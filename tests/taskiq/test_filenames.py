from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstore.taskiq.results.filenames import NAME_CHARS_MAX, file_name
from tests.taskiq.strategies import texts

ids = texts | st.text(st.sampled_from("aA%2f~./\0ż"), max_size=6) | st.text(min_size=150)
DEVICES = ("aux", "nul", "prn", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10)))


@given(ids)
def test_a_name_is_safe_everywhere(task_id: str) -> None:
    name = file_name(task_id)
    assert re.fullmatch(r"(%|[a-z0-9_%-]+(~[0-9a-f]{32})?)", name)
    assert len(name) <= NAME_CHARS_MAX
    assert name == name.casefold() == unicodedata.normalize("NFD", name)


@given(ids, ids)
def test_two_ids_have_two_names(one: str, other: str) -> None:
    assert (file_name(one) == file_name(other)) == (one == other)


@pytest.mark.parametrize("excess", [0, 1])
def test_only_a_name_that_is_too_long_is_cut(excess: int) -> None:
    task_id = "x" * (200 + excess)
    digest = hashlib.sha256(task_id.encode()).hexdigest()[:32]
    assert file_name(task_id) == (f"{'x' * 167}~{digest}" if excess else task_id)


@given(st.text(st.sampled_from("xX/"), min_size=100, max_size=100), st.integers(0, 99))
def test_long_ids_that_differ_in_one_place_have_two_names(task_id: str, place: int) -> None:
    task_id *= 5
    other = task_id[:place] + "y" + task_id[place + 1 :]
    assert file_name(task_id) != file_name(other)


@pytest.mark.parametrize(
    ("task_id", "name"),
    [
        ("3b241101-e2bb-4255", "3b241101-e2bb-4255"),
        ("../x", "%2e%2e%2fx"),
        ("", "%"),
        ("con", "%63on"),
        *((device, f"%{ord(device[0]):02x}{device[1:]}") for device in DEVICES),
        ("com", "com"),
        ("com10", "com10"),
        ("CON", "%43%4f%4e"),
        ("é", "%c3%a9"),
    ],
)
def test_names_that_people_may_know(task_id: str, name: str) -> None:
    assert file_name(task_id) == name


@pytest.mark.parametrize("wrong", [None, 5, b"x"])
def test_an_id_is_a_text(wrong: Any) -> None:
    with pytest.raises(ValueError, match="a task id must be a str"):
        file_name(wrong)
