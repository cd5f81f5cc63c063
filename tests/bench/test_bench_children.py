from __future__ import annotations

from pathlib import Path

import pytest

from bench.children import ROOT, Child, ChildFailedError

TIMEOUT_S = 100.0


def start(role: str, errors: Path) -> Child:
    return Child(f"tests.bench.roles:{role}", errors=errors, own_session=True)


def test_what_a_child_prints_does_not_disturb_the_protocol(tmp_path: Path) -> None:
    child = start("echo", tmp_path / "errors")
    for number in range(3):
        child.send({"number": number})
        assert child.receive(TIMEOUT_S) == {"echo": {"number": number}}
    child.close()
    assert "a library's own words" in (tmp_path / "errors").read_text()


def test_an_exception_in_a_child_reaches_the_parent(tmp_path: Path) -> None:
    child = start("fail", tmp_path / "errors")
    with pytest.raises(ChildFailedError, match="RuntimeError: the disk is on fire"):
        child.receive(TIMEOUT_S)
    child.close()


def test_a_child_that_dies_is_reported_with_its_last_words(tmp_path: Path) -> None:
    child = start("end", tmp_path / "errors")
    with pytest.raises(ChildFailedError, match="has ended: last words"):
        child.receive(TIMEOUT_S)
    child.close()


def test_a_child_that_says_nothing_is_given_up_and_can_be_killed(tmp_path: Path) -> None:
    child = start("silent", tmp_path / "errors")
    with pytest.raises(ChildFailedError, match="no answer within"):
        child.receive(0.05)
    child.kill()
    child.close()


def test_the_first_directory_of_the_search_path_has_the_library_that_is_measured(
    tmp_path: Path,
) -> None:
    other = tmp_path / "logstore"
    other.mkdir()
    (other / "__init__.py").write_text("")
    child = Child("tests.bench.roles:whose", search_path=[str(tmp_path), str(ROOT)])
    assert child.receive(TIMEOUT_S) == {"file": str(other / "__init__.py")}
    child.close()
