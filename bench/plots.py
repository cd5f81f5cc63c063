"""The plots of docs/benchmarks.md: throughput over concurrency, latencies, cost over size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .record import Record
from .stats import CURVE_POINTS, median
from .targets import Figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE_INCHES = (8.0, 5.0)
DPI = 110
OURS_WIDTH = 3.0
PEER_WIDTH = 1.4
# More colours than there are peers.
COLOURS = "tab20"

Draw = Callable[["Axes", Record], bool]


def _style(record: Record, peer: str) -> dict[str, Any]:
    """A colour per peer; ours is thick, the limit is black, what is not durable is dashed."""
    import matplotlib

    about = record.outcome.peers[peer]
    place = list(record.outcome.peers).index(peer)
    style: dict[str, Any] = {
        "label": about["title"],
        "linewidth": PEER_WIDTH,
        "color": matplotlib.colormaps[COLOURS](place),
    }
    if about["role"] == "own":
        style["linewidth"] = OURS_WIDTH
    elif about["role"] == "limit":
        style |= {"color": "black", "linestyle": ":"}
    if not about["durable"]:
        style["linestyle"] = "--"
        style["label"] += " *"
    return style


def throughput(axes: Axes, record: Record) -> bool:
    """W2: results per second over concurrency."""
    figures = Figures(record.outcome.cells, record.outcome.peers)
    drawn = False
    variants = dict.fromkeys(cell.variant for cell in record.outcome.cells if cell.workload == "W2")
    for peer in record.outcome.peers:
        points = []
        for variant in variants:
            found = figures.rounds("W2", variant, peer, "ops_per_s")
            if found:
                points.append((int(variant.removeprefix("c=")), median(list(found.values()))))
        if points:
            drawn = True
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, **_style(record, peer))
    axes.set(
        xscale="log", yscale="log", xlabel="concurrent set_result", ylabel="results per second"
    )
    axes.set_xticks([int(variant.removeprefix("c=")) for variant in variants])
    axes.set_xticklabels([variant.removeprefix("c=") for variant in variants])
    axes.minorticks_off()
    axes.set_title("W2: set_result of a TaskiqResult")
    return drawn


def latency(axes: Axes, record: Record) -> bool:
    """W1 at 300 B: the whole distribution, medians of the rounds' quantiles."""
    drawn = False
    shares = [100 * point / (CURVE_POINTS - 1) for point in range(CURVE_POINTS)]
    for peer in record.outcome.peers:
        curves = [
            cell.metrics["curve_us"]
            for cell in record.outcome.cells
            if (cell.workload, cell.variant, cell.peer) == ("W1", "300B", peer)
        ]
        rows = [curve for curve in curves if isinstance(curve, list)]
        if rows:
            drawn = True
            middle = [median(column) for column in zip(*rows, strict=True)]
            axes.plot(shares, middle, **_style(record, peer))
    axes.set(yscale="log", xlabel="percentile", ylabel="latency, us")
    axes.set_title("W1: synchronous set of 300 B")
    return drawn


def size_plot(metric: str, label: str) -> Draw:
    """W6: `metric` over the number of results in the store."""

    def draw(axes: Axes, record: Record) -> bool:
        figures = Figures(record.outcome.cells, record.outcome.peers)
        sizes = sorted(
            {int(cell.variant) for cell in record.outcome.cells if cell.workload == "W6"}
        )
        drawn = False
        for peer in record.outcome.peers:
            points = []
            for size in sizes:
                found = figures.rounds("W6", str(size), peer, metric)
                if found:
                    points.append((size, median(list(found.values()))))
            if points:
                drawn = True
                axes.plot(
                    *zip(*points, strict=True), marker="o", markersize=4, **_style(record, peer)
                )
        axes.set(xscale="log", yscale="log", xlabel="results in the store", ylabel=label)
        axes.set_title(f"W6: {label}")
        return drawn

    return draw


def writers(axes: Axes, record: Record) -> bool:
    """W12: sets per second over the number of writer processes, a line per delay and peer."""
    figures = Figures(record.outcome.cells, record.outcome.peers)
    lines: dict[tuple[str, str], dict[int, float]] = {}
    for cell in record.outcome.cells:
        if cell.workload == "W12":
            delay, _, processes = cell.variant.partition(" ")
            found = figures.rounds("W12", cell.variant, cell.peer, "set_ops_per_s")
            points = lines.setdefault((delay, cell.peer), {})
            points[int(processes.removesuffix("w"))] = median(list(found.values()))
    delays = list(dict.fromkeys(delay for delay, _ in lines))
    for (delay, peer), points in lines.items():
        style = _style(record, peer)
        style |= {"label": f"{style['label']}, {delay}", "marker": "osD^v"[delays.index(delay) % 5]}
        axes.plot(*zip(*sorted(points.items()), strict=True), markersize=5, **style)
    ticks = sorted({processes for points in lines.values() for processes in points})
    axes.set(xscale="log", yscale="log", xlabel="writer processes", ylabel="sets per second")
    axes.set_xticks(ticks)
    axes.set_xticklabels([str(processes) for processes in ticks])
    axes.minorticks_off()
    axes.set_title("W12: durable sets of several processes, by the time of a flush")
    return bool(lines)


PLOTS: dict[str, Draw] = {
    "throughput": throughput,
    "latency": latency,
    "writers": writers,
    "size-set": size_plot("set_p50_us", "median set, us"),
    "size-get": size_plot("get_p50_us", "median get, us"),
}


def draw_all(record: Record, directory: Path) -> list[Path]:
    """Draw every plot there are figures for, as PNG files in `directory`; returns their paths.

    Raises ImportError when matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in PLOTS.items():
        figure, axes = pyplot.subplots(figsize=SIZE_INCHES, dpi=DPI)
        if draw(axes, record):
            axes.grid(True, which="major", alpha=0.3)
            axes.legend(
                fontsize=7,
                loc="center left",
                bbox_to_anchor=(1.0, 0.5),
                title="* is not durable",
                title_fontsize=7,
            )
            path = directory / f"{name}.png"
            figure.savefig(path, bbox_inches="tight", metadata={"Software": None})
            written.append(path)
        pyplot.close(figure)
    return written
