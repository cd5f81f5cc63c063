"""The sampler of mutants: what it finds in a source, what it draws, what it says of a package."""

from __future__ import annotations

import ast
import contextlib
import io
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import pytest

from fuzz import mutant_sample
from fuzz.mutant_equivalents import ANY, EQUIVALENTS, OR_EQUAL, Equivalent
from fuzz.mutant_finder import find
from fuzz.mutant_package import Package, instrumented
from fuzz.mutant_points import KINDS, Point, statements_of
from fuzz.mutant_runs import Copy
from fuzz.mutants import ROOT

PACKAGE = '''\
"""A package with weak tests."""

LIMIT = 3


def clamp(n):
    """At most the limit."""
    if n > LIMIT:
        return LIMIT
    return n


def count_down(n):
    while n > 0:
        n -= 1
    return n


def is_over(n):
    return n + 0 > LIMIT


CLAMPED = (clamp(LIMIT), clamp(4))[1]
'''
NOTICED = "__init__.py:8:9:comparison:1"  # n <= LIMIT
BOUNDARY = "__init__.py:8:9:comparison:0"  # n >= LIMIT
OF_THE_MODULE = "__init__.py:3:8:constant:0"  # LIMIT = 4
NO_IMPORT = "__init__.py:23:35:constant:0"  # [2]
HANGS = "__init__.py:15:8:statement:0"  # without n -= 1
NOT_RUN = "__init__.py:20:17:comparison:0"  # n + 0 >= LIMIT
LISTED = "__init__.py:14:12:comparison:0"  # n >= 0
NAMES = (NOTICED, OF_THE_MODULE, NO_IMPORT, HANGS, NOT_RUN, LISTED)
EQUIVALENT = Equivalent(
    *("__init__.py", "count_down", "comparison", "while n > 0:", "while n >= 0:"),
    "this is not true, so a run of the tests would tell",
)

TESTS = """\
import logstore


def test_a_large_number_is_clamped():
    assert logstore.clamp(5) == 3


def test_counting_down_ends_at_zero():
    assert logstore.count_down(2) == 0


def test_red():
    assert logstore.clamp(1) == 2
"""
# Slower than the others, whatever else the machine does: it comes behind them.
FLAKY = """\
import time

import logstore


def test_flaky():
    time.sleep(0.3)
    with open({runs!r}, "a+") as file:
        file.write("x")
        assert logstore.clamp(1) == 1
        assert file.tell() != 4
"""


def mutants(source: str) -> set[tuple[str, str, str]]:
    """Kind, changed lines before, and after, of all points of a source."""
    source = dedent(source)
    return {(point.kind, *point.lines(source)) for point in find("a.py", source)}


@pytest.mark.parametrize(
    ("kind", "source", "expected"),
    [
        ("comparison", "a < b", {"a <= b", "a >= b"}),
        ("comparison", "a == b", {"a != b"}),
        ("comparison", "a is not b", {"a is b"}),
        ("comparison", "a  not  in b", {"a  in b"}),
        ("comparison", "(a) <= (b)", {"(a) < (b)", "(a) > (b)"}),
        ("comparison", "a in b is c", {"a not in b is c", "a in b is not c"}),
        ("constant", "a = 2", {"a = 3", "a = 1"}),
        ("constant", "a = 0", {"a = 1"}),
        ("constant", "a = True", {"a = False"}),
        ("constant", "a = 0.5", {"a = 1.5"}),
        ("constant", "a = 'é'", {"a = 'éX'"}),
        ("constant", "a = b''", {"a = b'X'"}),
        ("constant", "a = None", set()),
        ("constant", "a(lambda b=0: b)", {"a(lambda b=1: b)"}),
        ("and-or", "a and b or c", {"a or b or c", "a and b and c"}),
        ("not", "not (a)", {"(a)"}),
        ("except", "except (KeyError, b.OSError): c", {"except Exception: c"}),
        ("except", "except Exception: c", {"except BaseException: c"}),
        ("except", "except BaseException: c", set()),
        ("except", "with suppress(OSError): a", {"with suppress(Exception): a"}),
        ("lock", "with self.lock: a", {"if True: a"}),
        ("lock", "with (a as b, lock): c", {"with a as b: c"}),
        ("lock", "with open(a) as b: c", set()),
    ],
)
def test_each_kind_of_mutant_is_found(kind: str, source: str, expected: set[str]) -> None:
    found = mutants(f"try: a\n{source}" if source.startswith("except") else source)
    assert {one for one in found if one[0] != "statement"} == {
        (kind, source, after) for after in expected
    }


@pytest.mark.parametrize(
    "statement",
    [
        *("a()", "a = b", "a += b", "a: b = c", "del a", "raise a", "return a", "break"),
        *("continue", "await a"),
    ],
)
def test_a_statement_is_removed(statement: str) -> None:
    source = f"async def f():\n    while True:\n        {statement}\n        a = b()\n"
    assert ("statement", statement, "pass") in mutants(source)


@pytest.mark.parametrize(
    "source",
    [
        '"""A text."""',
        "def f(a: 'b' = None) -> Literal[1]:\n    '''A text.'''",
        "def f():\n    a: Literal[1]",
        "def f():\n    assert a == 1, 'b'",
        "class A:\n    def __repr__(self):\n        return 'a' if b else c",
        "@overload\ndef f():\n    return 1",
        "if TYPE_CHECKING:\n    a = 1",
        "if __name__ == '__main__':\n    f(1)",
        "__all__ = ['a']",
        "class A:\n    __slots__ = ('a',)",
        "T = TypeVar('T')",
        "import a",
        "def f():\n    raise AssertionError('a')",
        "def f():\n    raise NotImplementedError",
    ],
)
def test_what_has_no_behaviour_is_no_mutant(source: str) -> None:
    assert mutants(source) == set()


def test_texts_for_people_are_not_changed() -> None:
    found = mutants(
        """
        raise ValueError(5, "a" f"b{1}")
        logger.warning("c", d)
        Thread(target=f, name="e")
        cast("g", h)
        """
    )
    assert {one for one in found if one[0] != "statement"} == {
        ("constant", 'raise ValueError(5, "a" f"b{1}")', f'raise ValueError({n}, "a" f"b{{1}}")')
        for n in (4, 6)
    }


def test_a_mutant_of_the_same_bytecode_is_left_out() -> None:
    assert mutants("def f():\n    if a:\n        pass\n    return None\n") == set()


def test_a_point_says_where_it_is() -> None:
    source = "class A:\n    def f(self):\n        g()\n        if self.a < 1: h()\n"
    point = next(p for p in find("a.py", source) if p.kind == "comparison")
    assert (point.function, point.name) == ("A.f", "a.py:4:18:comparison:0")
    assert ast.unparse(statements_of(ast.parse(source))[point.statement]).startswith("if self.a")
    assert point.diff(source) == dedent(
        """\
        @@ -3,2 +3,2 @@
                 g()
        -        if self.a < 1: h()
        +        if self.a <= 1: h()"""
    )


def points(**sizes: int) -> list[Point]:
    """As many points of each kind as asked for, over three modules."""
    return [
        Point(f"{n % 3}.py", "", kind, n, 0, 0, 0, 0, "", -1)
        for kind, size in sizes.items()
        for n in range(size)
    ]


def test_the_seed_decides_the_sample() -> None:
    all_points = points(comparison=50, lock=20)
    sample = mutant_sample.draw(all_points, 10, 1)
    assert sample == mutant_sample.draw(all_points[::-1], 10, 1)
    assert sample != mutant_sample.draw(all_points, 10, 2)
    assert len(set(sample)) == 10
    assert set(sample) <= set(all_points)


def test_a_sample_has_its_part_of_each_kind_and_module() -> None:
    sample = mutant_sample.draw(points(statement=300, lock=3, constant=12), 30, 1)
    kinds = [point.kind for point in sample]
    assert (kinds.count("statement"), kinds.count("constant"), kinds.count("lock")) == (23, 5, 2)
    files = [point.file for point in sample if point.kind == "statement"]
    assert {files.count(f"{n}.py") for n in range(3)} == {7, 8}


def test_a_sample_of_more_than_there_are_is_all() -> None:
    all_points = points(statement=3, lock=2)
    assert set(mutant_sample.draw(all_points, 10, 1)) == set(all_points)


def test_an_instrumented_source_notes_what_it_runs() -> None:
    source = dedent(
        '''\
        """A text."""
        from __future__ import annotations
        def f(a):
            """Another."""
            if a:
                return 1
            elif a is None:
                return 2
            return 3
        '''
    )
    code = instrumented(source, 10).replace("from mutant_hits import HIT as _HIT", "_HIT = {}")
    names: dict[str, object] = {}
    exec(compile(code, "a.py", "exec"), names)
    assert eval("f(None)", names) == 2
    lines = [statement.lineno for statement in statements_of(ast.parse(source))]
    hits = names["_HIT"]
    assert isinstance(hits, dict)
    assert {lines[number - 10] for number in hits} == {5, 7, 8}


def test_what_runs_at_import_is_near_to_what_uses_it(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "A = 1\nB = A + 1\n\n\nclass C:\n    D = 4\n\n    def f(self, e=A):\n        g()\n"
        "\n\ndef h():\n    return B\n\n\ndef i():\n    return C\n\n\ndef j():\n    return 5\n"
    )
    package = Package(tmp_path)
    lines = [s.lineno for s in statements_of(ast.parse(package.sources["a.py"]))]
    near = {
        point.line: {lines[number] for number in package.near(point)}
        for point in find("a.py", package.sources["a.py"])
    }
    assert near == {1: {9, 13}, 2: {13}, 6: {17}, 9: {9}, 13: {13}, 17: {17}, 21: {21}}


def make_tree(root: Path) -> Path:
    """The tree of a small project."""
    for name in ("logstore", "tests", "fuzz", "docs"):
        (root / name).mkdir(parents=True)
    (root / "logstore" / "__init__.py").write_text(PACKAGE)
    (root / "tests" / "test_it.py").write_text(TESTS)
    for name in ("README.md", "Makefile"):
        (root / name).touch()
    (root / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = ['-q']\n")
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree for one test."""
    return make_tree(tmp_path / "tree")


class Sampled(NamedTuple):
    """What the sampler has said of the small project."""

    tree: Path
    status: int
    output: str

    def fate(self, name: str) -> str:
        """The line about one mutant."""
        return next(line for line in self.output.splitlines() if f"s  {name}  " in line)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Sampled:
    """The sampler's judgement of mutants of each fate."""
    tree = make_tree(tmp_path_factory.mktemp("sampled") / "tree")
    # It is red in its fourth run: it is recorded twice, and run for the control.
    (tree / "tests" / "test_flaky.py").write_text(FLAKY.format(runs=str(tree / "runs")))
    words = [word for name in (BOUNDARY, *NAMES) for word in ("--replay", name)]
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        patch.setattr(mutant_sample, "TEST_S", 5.0)
        patch.setattr(mutant_sample, "EQUIVALENTS", [EQUIVALENT])
        status = mutant_sample.main(["--jobs", "1", *words], tree)
    return Sampled(tree, status, output.getvalue())


def test_a_mutant_that_a_test_notices_is_killed(sampled: Sampled) -> None:
    fate = sampled.fate(NOTICED)
    assert " killed " in fate
    assert "tests/test_it.py::test_a_large_number_is_clamped" in fate


def test_a_constant_is_tested_by_what_uses_it(sampled: Sampled) -> None:
    assert " killed " in sampled.fate(OF_THE_MODULE)


def test_a_mutant_that_does_not_import_is_killed(sampled: Sampled) -> None:
    assert sampled.fate(NO_IMPORT).endswith("no test can be run")


def test_a_mutant_that_hangs_times_out(sampled: Sampled) -> None:
    assert " timed out " in sampled.fate(HANGS)


def test_a_planted_survivor_is_reported(sampled: Sampled) -> None:
    assert "SURVIVED: logstore/__init__.py:8, comparison: 2 tests run it" in sampled.output
    assert "-    if n > LIMIT:\n+    if n >= LIMIT:\n" in sampled.output
    assert f"  again: python -m fuzz.mutant_sample --replay {BOUNDARY}\n" in sampled.output
    assert sampled.fate(NOT_RUN).endswith("no test runs it")


def test_a_test_that_is_red_once_kills_nothing(sampled: Sampled) -> None:
    assert "; red only once: tests/test_flaky.py::test_flaky" in sampled.fate(BOUNDARY)


def test_a_test_that_is_red_on_the_code_as_it_is_kills_nothing(sampled: Sampled) -> None:
    left_out = "red on the code as it is, and left out: tests/test_it.py::test_red"
    assert left_out in sampled.output


def test_a_listed_equivalent_is_not_run_and_does_not_count(sampled: Sampled) -> None:
    assert sampled.fate(LISTED).endswith(EQUIVALENT.why)
    assert "4 of 6 mutants that change behaviour died: 66.7%" in sampled.output


def test_too_many_survivors_are_a_failure(sampled: Sampled) -> None:
    assert sampled.status == 1
    verdicts = [
        mutant_sample.Verdict(point, fate, "", 0.0)
        for point, fate in zip(
            points(lock=20), [mutant_sample.SURVIVED] + 19 * [mutant_sample.KILLED], strict=True
        )
    ]
    sources = dict.fromkeys(("0.py", "1.py", "2.py"), "\n")
    assert mutant_sample.report(verdicts, sources, 1) == 0
    assert mutant_sample.report(verdicts[:19], sources, 1) == 1


def test_the_tree_is_never_written(sampled: Sampled) -> None:
    assert (sampled.tree / "logstore" / "__init__.py").read_text() == PACKAGE


def test_a_copy_is_as_before_when_a_mutant_has_been_run(tree: Path, tmp_path: Path) -> None:
    copy = Copy(tree, tmp_path / "copy")
    with copy.with_source("__init__.py", PACKAGE.replace("> LIMIT", "< LIMIT")):
        with_it = copy.run(["tests"], 60).ended
    without = copy.run(["tests"], 60).ended
    red = [[test.node_id for test in ended if test.failed] for ended in (with_it, without)]
    assert red == [
        ["tests/test_it.py::test_a_large_number_is_clamped", "tests/test_it.py::test_red"],
        ["tests/test_it.py::test_red"],
    ]


def test_tests_that_cannot_be_run_are_no_success(tree: Path) -> None:
    (tree / "tests" / "test_it.py").write_text("import no_such_module\n")
    with pytest.raises(RuntimeError, match=r"tests/test_it\.py cannot be run"):
        mutant_sample.main(["--jobs", "1", "--count", "1"], tree)


def test_the_mutants_that_change_nothing_fit_the_code() -> None:
    package = Package(ROOT / "logstore")
    points = {
        file: find(file, package.sources[file]) for file in {entry.file for entry in EQUIVALENTS}
    }
    assert [
        entry[:5]
        for entry in EQUIVALENTS
        if not any(entry.fits(point, package.sources[entry.file]) for point in points[entry.file])
    ] == []
    assert len({entry[:5] for entry in EQUIVALENTS}) == len(EQUIVALENTS)
    assert {entry.kind for entry in EQUIVALENTS} <= set(KINDS)


@pytest.mark.parametrize(
    ("entry", "source", "fits"),
    [
        (("A", ANY), "A = 5  # of these", {"A = 6  # of these", "A = 4  # of these"}),
        (("A", ANY), "A = 1 << 5", {"A = 2 << 5", "A = 1 << 6", "A = 1 << 4"}),
        (("A", ANY), "AB = 5", set()),
        (("A", ANY), "def f():\n    A = 5\n    return A", set()),
        (("A = b < 5", OR_EQUAL), "A = b < 5", {"A = b <= 5"}),
        (("A = b is c", OR_EQUAL), "A = b is c", set()),
    ],
)
def test_an_entry_for_several_mutants_is_for_no_others(
    entry: tuple[str, str], source: str, fits: set[str]
) -> None:
    kind = "constant" if ANY in entry else "comparison"
    listed = Equivalent("a.py", "", kind, *entry, "it only costs time")
    found = {point.lines(source)[1] for point in find("a.py", source) if listed.fits(point, source)}
    assert found == fits
