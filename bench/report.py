"""Tables: every figure with its spread and its ratio to ours, and the targets.

The same tables as plain text for the terminal and as Markdown for docs/benchmarks.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .driver import rounds_of
from .profiles import ALL, Profile
from .record import Record
from .stats import Spread, paired_ratios, spread
from .targets import OWN, Figures, Finding, Unit, judge_all
from .workloads import WORKLOADS, Metric, Workload

ABSENT = "-"
NOT_DURABLE = " *"


@dataclass(frozen=True, slots=True)
class Table:
    """A heading, column names and rows; the first column is text."""

    title: str
    columns: list[str]
    rows: list[list[str]]

    def text(self) -> str:
        """Aligned with spaces."""
        cells = [self.columns, *self.rows]
        widths = [max(len(row[place]) for row in cells) for place in range(len(self.columns))]
        lines = []
        for row in cells:
            first = row[0].ljust(widths[0])
            rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join([first, *rest]).rstrip())
        return "\n".join([self.title, *lines])

    def markdown(self) -> str:
        """A GitHub table below a heading."""
        rule = ["---"] + ["---:"] * (len(self.columns) - 1)
        body = ["| " + " | ".join(row) + " |" for row in [self.columns, rule, *self.rows]]
        return "\n".join([f"#### {self.title}", "", *body])


def number(figure: float, digits: int = 0) -> str:
    """A figure with thousands separators and `digits` decimals."""
    return f"{figure:,.{digits}f}"


def with_spread(found: Spread, digits: int = 0) -> str:
    """The median and, for several rounds, how far the extremes lie from it at most."""
    shown = number(found.median, digits)
    if found.rounds < 2 or not found.median:
        return shown
    off = max(found.high - found.median, found.median - found.low) / abs(found.median)
    return f"{shown} ±{off:.0%}"


def _ratio(workload: Workload, variant: str, peer: str, metric: Metric, figures: Figures) -> str:
    """How good the peer is beside us: 0.25x is a quarter as fast, or four times the cost."""
    theirs = figures.rounds(workload.name, variant, peer, metric.key)
    ours = figures.rounds(workload.name, variant, OWN, metric.key)
    shared = sorted(theirs.keys() & ours.keys())
    one = [theirs[turn] for turn in shared]
    other = [ours[turn] for turn in shared]
    if metric.better == "lower":
        one, other = other, one
    ratios = paired_ratios(one, other)
    return f" ({spread(ratios).median:.2f}x)" if ratios else ""


def _cell(workload: Workload, variant: str, peer: str, metric: Metric, figures: Figures) -> str:
    found = figures.rounds(workload.name, variant, peer, metric.key)
    if not found:
        return ABSENT
    shown = with_spread(spread(list(found.values())), metric.digits)
    if peer == OWN or not metric.compared:
        return shown
    return shown + _ratio(workload, variant, peer, metric, figures)


def workload_tables(record: Record, figures: Figures) -> Iterator[Table]:
    """A table per workload and metric: a row per peer, a column per variant."""
    for name in record.workloads:
        workload = WORKLOADS[name]
        mine = [cell for cell in record.outcome.cells if cell.workload == name]
        variants = list(dict.fromkeys(cell.variant for cell in mine))
        peers = [
            label for label in record.outcome.peers if any(cell.peer == label for cell in mine)
        ]
        for metric in workload.metrics:
            rows = []
            shown = [
                variant
                for variant in variants
                if any(figures.rounds(name, variant, peer, metric.key) for peer in peers)
            ]
            for peer in peers:
                cells = [_cell(workload, variant, peer, metric, figures) for variant in shown]
                if any(cell != ABSENT for cell in cells):
                    about = record.outcome.peers[peer]
                    promised = about["durable"] and peer not in workload.not_durable
                    rows.append([about["title"] + ("" if promised else NOT_DURABLE), *cells])
            if rows:
                title = f"{name} {workload.title}: {metric.label}"
                yield Table(title, ["", *shown], rows)


UNITS: dict[Unit, str] = {"x": "x", "ms": " ms", "%": " %", "errors": ""}


def _figure(value: float, unit: Unit) -> str:
    digits = 0 if unit == "errors" else 2
    return number(value, digits) + UNITS[unit]


def targets_table(findings: Sequence[Finding]) -> Table:
    """Target beside measured."""
    rows = []
    for finding in findings:
        target, measured = finding.target, finding.measured
        if measured is None:
            shown, verdict = ABSENT, "not measured"
        else:
            shown = _figure(measured.median, target.unit)
            low, high = (_figure(end, target.unit) for end in (measured.low, measured.high))
            shown += f" ({low} to {high})" if measured.rounds > 1 else ""
            verdict = "met" if finding.met else "missed"
        bound = f"{target.sense} {_figure(target.bound, target.unit)}"
        against = finding.against if finding.against != OWN else ""
        place = f"{target.workload} {target.variant}"
        rows.append([place, target.text, against, bound, shown, verdict])
    return Table("Targets", ["workload", "what", "against", "target", "measured", "verdict"], rows)


LEGEND = (
    "Medians over the rounds; ± is the round farthest from it. In parentheses how good a peer is "
    "beside logstore, paired by round: 0.25x is a quarter as fast. * is not durable: what was "
    "acknowledged (in W4: progress) may be lost with the power."
)


def _span(names: Sequence[str]) -> str:
    """Names of workloads in a few words: `W5 to W9`."""
    first = ALL.index(names[0])
    if len(names) > 2 and tuple(names) == ALL[first : first + len(names)]:
        return f"{names[0]} to {names[-1]}"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def rounds_line(profile: Profile) -> str:
    """How many rounds there were: those of the first workload, and who had how many others."""
    counts: dict[int, list[str]] = {}
    for name in profile.workloads:
        counts.setdefault(rounds_of(WORKLOADS[name], profile), []).append(name)
    (first, _), *others = counts.items()
    rounds = f"{first} round" + ("s" if first != 1 else "")
    return ", ".join([rounds, *(f"{_span(names)} {count}" for count, names in others)])


def machine_lines(record: Record) -> list[str]:
    """What it was measured on, in a few lines."""
    machine = record.machine
    disk = machine["file_system"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    gib = machine["memory_bytes"] / (1 << 30)
    return [
        f"{machine['date']}, `{record.command}`, {rounds_line(Profile(**record.profile))}",
        f"{machine['processor']}, {machine['cpus']} cores, {gib:.0f} GiB, "
        f"Linux {machine['kernel']}, {disk['type']} on {disk.get('block_device', disk['device'])} "
        f"({disk.get('write_cache', 'write cache unknown')})",
        versions,
    ]


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of each peer, as docs/benchmarks.md shows it."""

    title: str
    workload: str
    variant: str
    metric: str
    digits: int = 0


SUMMARY: tuple[Column, ...] = (
    Column("set, sync: us", "W1", "300B", "p50_us"),
    Column("set, 1 at a time: /s", "W2", "c=1", "ops_per_s"),
    Column("set, 64: /s", "W2", "c=64", "ops_per_s"),
    Column("get just written, 64: /s", "W3", "new c=64", "ops_per_s"),
    Column("get from a table, 64: /s", "W3", "table c=64", "ops_per_s"),
    Column("not there, 64: /s", "W3", "missing c=64", "ops_per_s"),
    Column("progress, 64: /s", "W4", "thousand c=64", "ops_per_s"),
    Column("get, sync, 10^5: us", "W6", "100000", "get_p50_us", 1),
    Column("newest 50: ms", "W6", "100000", "newest_ms", 3),
    Column("set, 64, 2 ms flush: /s", "W7", "2ms c=64", "ops_per_s"),
    Column("sets, 2w+2r, 2 ms flush: /s", "W7", "2ms 2w+2r", "set_ops_per_s"),
)


def summary(record: Record) -> str:
    """The machine, one table of what matters most, and the targets, as Markdown."""
    figures = Figures(record.outcome.cells, record.outcome.peers)
    rows = []
    for peer, about in record.outcome.peers.items():
        cells = []
        for column in SUMMARY:
            found = figures.rounds(column.workload, column.variant, peer, column.metric)
            if not found:
                cells.append(ABSENT)
                continue
            shown = number(spread(list(found.values())).median, column.digits)
            # Of a peer that is not durable at all, the title says so.
            here = about["durable"] and peer in WORKLOADS[column.workload].not_durable
            cells.append(shown + (NOT_DURABLE if here else ""))
        rows.append([about["title"] + ("" if about["durable"] else NOT_DURABLE), *cells])
    compared = Table("Medians; * is not durable", ["", *(one.title for one in SUMMARY)], rows)
    targets = targets_table(judge_all(figures, record.workloads))
    head = "\n".join(f"{line}  " for line in machine_lines(record)[:2])
    return "\n\n".join([head, compared.markdown(), targets.markdown()])


def render(record: Record, *, markdown: bool) -> str:
    """The whole report."""
    figures = Figures(record.outcome.cells, record.outcome.peers)
    findings = judge_all(figures, record.workloads)
    tables = [*workload_tables(record, figures), targets_table(findings)]
    parts = ["\n".join(f"{line}  " if markdown else line for line in machine_lines(record))]
    parts.append(LEGEND)
    parts += [table.markdown() if markdown else table.text() for table in tables]
    for name, lines in (("Skipped", record.outcome.skipped), ("Failed", record.outcome.failed)):
        if lines:
            parts.append("\n".join([f"{name}:", *(f"- {line}" for line in lines)]))
    taken = record.outcome.seconds
    shares = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in taken.items())
    parts.append(f"The run took {sum(taken.values()) / 60:.0f} min: {shares}.")
    return "\n\n".join(parts) + "\n"
