"""The overlay: the newest entry per task of one epoch."""

from __future__ import annotations

from collections.abc import Iterator

from logstore._engine.frames import DELETED, PROGRESS, RESULT, Entry
from logstore._engine.log import FIRST_OFFSET
from logstore._engine.overlay import Overlay, Unpublished


def entry(kind: int, time_us: int = 1) -> Entry:
    return Entry(kind, 0, time_us, 0, b"")


def test_a_new_overlay_is_empty_and_complete_for_the_start_of_its_epoch() -> None:
    overlay = Overlay(7)
    assert not overlay
    assert overlay.state == 7 << 32 | FIRST_OFFSET


def test_a_later_result_replaces_an_earlier_one() -> None:
    overlay = Overlay(1)
    overlay.apply([(b"a", entry(RESULT, 1)), (b"a", entry(RESULT, 2))], 5000)
    assert overlay.results[b"a"].time_us == 2
    assert overlay.state == 1 << 32 | 5000


def test_progress_is_kept_beside_a_result() -> None:
    overlay = Overlay(1)
    overlay.apply([(b"a", entry(RESULT)), (b"a", entry(PROGRESS))], 5000)
    assert overlay.results[b"a"].kind == RESULT
    progress = overlay.progress[b"a"]
    assert progress is not None
    assert progress.kind == PROGRESS


def test_a_deletion_clears_progress_and_hides_what_the_table_has() -> None:
    overlay = Overlay(1)
    overlay.apply([(b"a", entry(PROGRESS)), (b"a", entry(DELETED))], 5000)
    assert overlay.progress == {b"a": None}
    assert overlay.results[b"a"].kind == DELETED


def test_progress_behind_a_deletion_stays() -> None:
    overlay = Overlay(1)
    overlay.apply([(b"a", entry(DELETED)), (b"a", entry(PROGRESS))], 5000)
    assert overlay.progress[b"a"] is not None


def test_changes_are_kept_in_the_order_of_the_log() -> None:
    overlay = Overlay(1)
    overlay.apply([(b"b", entry(RESULT)), (b"a", entry(PROGRESS))], 5000)
    overlay.apply([(b"b", entry(DELETED))], 6000)
    assert [(key, changed.kind) for key, changed in overlay.changed] == [
        (b"b", RESULT),
        (b"a", PROGRESS),
        (b"b", DELETED),
    ]
    assert overlay


def test_what_is_unpublished_is_indexed_while_a_reader_publishes_some_of_it() -> None:
    overlay, unpublished = Overlay(1), Unpublished()

    class Moving(list[tuple[bytes, Entry]]):
        moved = False

        def __iter__(self) -> Iterator[tuple[bytes, Entry]]:
            if not self.moved:
                self.moved = True
                unpublished.move_to(overlay, 5000)
            return super().__iter__()

    unpublished.add(Moving([(b"a", entry(RESULT))]), FIRST_OFFSET, 5000)
    unpublished.add([(b"b", entry(RESULT))], 5000, 6000)
    assert b"b" in unpublished.index().results
    assert b"a" in overlay.results


class Failing(int):
    """An offset for which there is no memory, the first time."""

    failed = False

    def __ror__(self, other: int) -> int:
        if not self.failed:
            self.failed = True
            raise MemoryError
        return other | int(self)


def test_what_found_no_memory_is_applied_once_when_it_is_tried_again() -> None:
    overlay = Overlay(1)
    end = Failing(5000)
    for _ in range(2):
        try:
            overlay.apply([(b"a", entry(RESULT))], end)
        except MemoryError:
            assert (overlay.applied, overlay.state) == (FIRST_OFFSET, 1 << 32 | FIRST_OFFSET)
    assert (overlay.applied, overlay.state) == (5000, 1 << 32 | 5000)
    assert overlay.changed == [(b"a", entry(RESULT))]
