from __future__ import annotations

import json
from pathlib import Path

from logstore.demo.analysis import (
    Report,
    analyse_file,
    deal,
    find_sources,
    standard_library,
)

SOURCE = '''\
"""A module."""
import os, os.path
import json as j

# a comment

from collections.abc import Iterable
from . import sibling


class Outer:
    class Inner:
        pass

    async def method(self):
        text = """two
lines"""
        return lambda: text


def function(): return 1
'''


def write(root: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def test_a_file_is_counted_by_what_it_defines(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": SOURCE})
    report = analyse_file(tmp_path, "a.py")
    assert (report.files, report.lines, report.code_lines) == (1, 21, 13)
    assert (report.functions, report.classes) == (2, 2)
    assert report.imports == {"os": 2, "json": 1, "collections": 1}
    assert report.unparsable == []


def test_files_that_cannot_be_parsed_are_named_and_counted(tmp_path: Path) -> None:
    bad: dict[str, str | bytes] = {
        "syntax.py": "def f(:\n",
        "encoding.py": b"# coding: no-such-encoding\n",
        "bytes.py": b"x = '\xff'\n",
        "null.py": b"x = 1\0\n",
        "deep.py": "(" * 10_000 + ")" * 10_000,
    }
    write(tmp_path, bad)
    for name in [*bad, "missing.py"]:
        report = analyse_file(tmp_path, name)
        assert report.files == 1
        assert len(report.unparsable) == 1, name
        assert report.unparsable[0].startswith(f"{name}: ")


def test_doubtful_escapes_of_an_analysed_file_do_not_warn(tmp_path: Path) -> None:
    write(tmp_path, {"escape.py": "x = '\\d'\n"})
    assert analyse_file(tmp_path, "escape.py").unparsable == []


def test_third_party_packages_are_left_out(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "b.py": "",
        "pkg/a.py": "",
        "pkg/data.txt": "",
        "site-packages/foreign.py": "",
        "dist-packages/pkg/foreign.py": "",
    }
    write(tmp_path, files)
    assert find_sources(tmp_path) == ["b.py", "pkg/a.py"]


def test_dealing_gives_every_file_to_exactly_one_slice(tmp_path: Path) -> None:
    names = [f"f{number}.py" for number in range(23)]
    write(tmp_path, {name: "x\n" * number for number, name in enumerate(names)})
    slices = deal(tmp_path, names, 5)
    assert len(slices) == 5
    assert sorted(name for dealt in slices for name in dealt) == sorted(names)
    assert len(deal(tmp_path, names[:3], 5)) == 3
    assert deal(tmp_path, [], 5) == []


def test_a_report_survives_being_stored_and_reports_add_up(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": SOURCE, "bad.py": "("})
    total = Report()
    for name in ("a.py", "bad.py", "a.py"):
        report = analyse_file(tmp_path, name)
        assert Report.from_dict(json.loads(json.dumps(report.to_dict()))) == report
        total.add(report)
    assert (total.files, total.functions, total.imports["os"]) == (3, 4, 4)
    assert total.unparsable == ["bad.py: SyntaxError"]


def test_the_standard_library_is_found() -> None:
    sources = find_sources(standard_library())
    assert {"ast.py", "json/decoder.py"} <= set(sources)
