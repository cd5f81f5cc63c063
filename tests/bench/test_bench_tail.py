"""W13 to W16 in small: they measure what they say, and a wrong result is a failure."""

from __future__ import annotations

import asyncio
import io
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bench.children import Message
from bench.driver import Driver, Outcome, contenders
from bench.measure import Metrics
from bench.peers import load
from bench.peers.base import Place
from bench.peers.logstore_peer import _stats
from bench.profiles import PROFILES
from bench.progress import Progress
from bench.shim import Control
from bench.workloads import Slice, w13_taskiq, w14_tail, w15_recovery

SMOKE = replace(
    PROFILES["smoke"], slow_rounds=1, tail_rounds=1, contention_s=0.4, large_results=2_000
)
shimmed = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


def run(workload: str, peers: list[str], tmp_path: Path) -> Outcome:
    outcome = Driver(SMOKE, contenders(peers), tmp_path, Progress(1, io.StringIO())).run([workload])
    assert (outcome.failed, outcome.skipped) == ([], [])
    return outcome


def number(metrics: Metrics, key: str) -> float:
    found = metrics[key]
    assert not isinstance(found, list)
    return found


@shimmed
@pytest.mark.slow
def test_taskiq_workers_keep_the_results_of_all_their_tasks(tmp_path: Path) -> None:
    one, four = (cell.metrics for cell in run("W13", ["logstore"], tmp_path).cells)
    for metrics in (one, four):
        # Eight results share a flush in one process.
        assert 0 < number(metrics, "flushes_per_set") < 0.8
        assert number(metrics, "set_p50_us") > 2000
        assert number(metrics, "limit_per_s") > number(metrics, "set_ops_per_s")
    assert number(four, "over_one") == pytest.approx(
        number(four, "set_ops_per_s") / number(one, "set_ops_per_s")
    )
    assert number(one, "limit_over_one") == 1.0
    assert number(four, "limit_over_one") == pytest.approx(
        number(four, "limit_per_s") / number(one, "limit_per_s")
    )


def test_a_result_that_cannot_be_set_fails_the_slice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = Slice(load("logstore"), SMOKE, 0, tmp_path, [])
    part.control = Control(tmp_path / "control")
    part.kept["notes"] = ["the disk is full"]
    figures = {"set_ops_per_s": 1.0, "set_p999_us": 1.0, "errors": 1.0}
    monkeypatch.setattr(w13_taskiq, "contention_slice", lambda *_, **__: dict(figures))
    with pytest.raises(RuntimeError, match="the disk is full"):
        w13_taskiq.run(part, "2ms 4w")


@shimmed
def test_a_tail_is_measured_with_compactions_and_without(tmp_path: Path) -> None:
    cells = run("W14", ["logstore", "bare"], tmp_path).cells
    found = {(cell.variant, cell.peer): cell.metrics for cell in cells}
    compacting = found["0ms compacting", "logstore"]
    without = found["0ms no compaction", "logstore"]
    floor = found["0ms no compaction", "bare"]
    assert len(found) == 3
    assert number(without, "compactions") == 0
    assert "compactions" not in floor
    for metrics in (compacting, without):
        assert number(metrics, "results") >= SMOKE.large_results
        assert number(metrics, "p999_beyond_ms") == pytest.approx(
            (number(metrics, "p999_us") - number(metrics, "flush_us")) / 1000
        )
        assert number(metrics, "stall_max_ms") >= number(metrics, "stall_p99_ms")


def test_a_long_log_is_asked_for_by_its_place(tmp_path: Path) -> None:
    long = Place(tmp_path, log_bytes=8 << 20)

    async def scenario() -> None:
        for name in ("logstore", "logstore-async"):
            peer = load(name).async_class(long)
            await peer.open()
            assert _stats(long).log_file_bytes > 8 << 20
            await peer.close()

    asyncio.run(scenario())
    sync_class = load("logstore").sync_class
    assert sync_class is not None
    store = sync_class(long)
    store.open()
    assert _stats(long).log_file_bytes > 8 << 20
    store.close()
    store = sync_class(replace(long, log_bytes=None))
    store.open()
    assert _stats(long).log_file_bytes < 8 << 20
    store.close()


def test_a_store_that_has_grown_too_much_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = Slice(load("logstore"), replace(SMOKE, large_results=100), 0, tmp_path, [])
    first = w14_tail._store(part)
    part.kept["results"] = 150
    assert w14_tail._store(part) is first
    part.kept["results"] = 151
    second = w14_tail._store(part)
    assert second.directory != first.directory
    assert not first.directory.exists()
    assert part.kept["results"] == 100
    sync_class = part.peer.sync_class
    assert sync_class is not None
    store = sync_class(second)
    store.open()
    assert store.newest(200) == 100
    store.close()


@pytest.mark.slow
def test_a_kill_with_a_full_log_is_recovered_from(tmp_path: Path) -> None:
    (cell,) = run("W15", ["logstore"], tmp_path).cells
    assert cell.variant == "2000"
    assert cell.metrics["errors"] == 0
    # The log is a MiB before it is compacted.
    assert 0.8 < number(cell.metrics, "log_mib") <= 1.2
    assert number(cell.metrics, "recovered_frames") > 1000
    assert number(cell.metrics, "recovery_ms") > 0


def test_a_larger_log_costs_memory_and_saves_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = replace(SMOKE, log_sizes_kib=(64, 512), log_results=6_000)
    monkeypatch.setitem(globals(), "SMOKE", profile)
    small, large = (cell.metrics for cell in run("W16", ["logstore"], tmp_path).cells)
    assert number(small, "bytes_per_result") > number(large, "bytes_per_result") > 300
    assert number(large, "recovered_frames") > 5 * number(small, "recovered_frames")
    # Two logs, both nearly full, with frames of about 400 bytes.
    assert 2 * 0.8 * 512 * 1024 / 450 < number(large, "recovered_frames") < 2.2 * 512 * 1024 / 300
    assert number(small, "recovery_ms") > 0


@pytest.mark.slow
def test_an_acknowledged_result_that_is_missing_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = Slice(load("logstore"), replace(SMOKE, large_results=10), 0, tmp_path, [])
    ask = w15_recovery._ask

    def lying(part: Slice, role: str, place: Place, setup: Message) -> Message:
        reply = ask(part, role, place, setup)
        if role == "fill_the_log":
            reply["acknowledged"] += 3
        return reply

    monkeypatch.setattr(w15_recovery, "_ask", lying)
    assert w15_recovery.run(part, "10")["errors"] == 6
