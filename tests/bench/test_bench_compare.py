from __future__ import annotations

from pathlib import Path

import pytest

from bench import compare
from bench.driver import Cell
from bench.stats import Spread


def test_an_unknown_revision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(compare.RevisionUnavailableError, match="no revision 'nowhere'"):
        compare.export("nowhere", tmp_path)


def test_then_and_now_are_two_contenders_of_which_then_imports_the_other_library(
    tmp_path: Path,
) -> None:
    now, then = compare.contenders(compare.Exported("abc1234", tmp_path), ["logstore"])
    assert (now.label, then.label) == ("logstore-now", "logstore-abc1234")
    assert now.peer == then.peer == "logstore"
    assert then.search_path == (str(tmp_path), *now.search_path)


def test_ratios_are_now_over_then_of_the_same_round(tmp_path: Path) -> None:
    cells = [
        Cell("W2", "c=1", f"logstore-{when}", number, {"ops_per_s": figure * (number + 1)})
        for number in range(3)
        for when, figure in (("now", 30.0), ("abc1234", 10.0))
    ]
    found = compare.table(cells, compare.Exported("abc1234", tmp_path), ["logstore"])
    (row,) = found.rows
    assert row[-2:] == ["3.00x (3.00 to 3.00)", "better"]


def test_a_workload_is_as_good_as_then_as_a_whole(tmp_path: Path) -> None:
    exported = compare.Exported("abc1234", tmp_path)
    cells = []
    for number in range(3):
        # A rate that grew by a quarter and one that fell by as much; a latency that doubled.
        for variant, now in (("c=1", 12.5), ("c=8", 8.0)):
            cells.append(Cell("W2", variant, "logstore-now", number, {"ops_per_s": now}))
            cells.append(Cell("W2", variant, "logstore-abc1234", number, {"ops_per_s": 10.0}))
        cells.append(Cell("W1", "300B", "logstore-now", number, {"p50_us": 20.0}))
        cells.append(Cell("W1", "300B", "logstore-abc1234", number, {"p50_us": 10.0}))
    found = {row[0]: row[-2:] for row in compare.no_worse(cells, exported, ["logstore"]).rows}
    assert found == {
        "W1": ["0.50x (0.50 to 0.50)", "missed"],
        "W2": ["1.00x (1.00 to 1.00)", "met"],
        "W3": ["-", "not measured"],
        "W4": ["-", "not measured"],
    }


@pytest.mark.parametrize(
    ("ratio", "higher_is_better", "word"),
    [
        (Spread(1.2, 1.1, 1.3, 3), True, "better"),
        (Spread(1.2, 1.1, 1.3, 3), False, "worse"),
        (Spread(0.8, 0.7, 0.9, 3), True, "worse"),
        (Spread(1.2, 0.9, 1.3, 3), True, ""),
        (Spread(1.2, 1.1, 1.3, 2), True, ""),
    ],
)
def test_a_verdict_needs_rounds_that_agree(
    ratio: Spread, higher_is_better: bool, word: str
) -> None:
    assert compare._verdict(ratio, higher_is_better) == word
