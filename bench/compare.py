"""Two revisions of the library side by side, measured by this revision of the bench.

The other revision's sources are exported below the bench's directory and come first on the import
path of its own processes; rounds are interleaved as ever.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean

from .children import ROOT
from .driver import Cell, Contender
from .report import Table, with_spread
from .stats import Spread, spread
from .targets import Figures
from .workloads import WORKLOADS

NOW = "now"
# A single process must not become slower in these.
NO_WORSE = ("W1", "W2", "W3", "W4")
# What is below it by less is what two runs of one revision differ by.
NO_WORSE_BOUND = 0.97
LIBRARY = "logstore"
VERDICT_ROUNDS_MIN = 3


class RevisionUnavailableError(Exception):
    """git does not know the revision, or it has no library; the message says which."""


@dataclass(frozen=True, slots=True)
class Exported:
    """The library of another revision in a directory of its own."""

    revision: str
    directory: Path

    def remove(self) -> None:
        """Delete the directory."""
        shutil.rmtree(self.directory, ignore_errors=True)


def export(reference: str, parent: Path) -> Exported:
    """Export the library at `reference` below `parent`.

    Raises RevisionUnavailableError when git cannot.
    """
    git = ["git", "-C", str(ROOT)]
    named = subprocess.run(
        [*git, "rev-parse", "--short", f"{reference}^{{commit}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if named.returncode != 0:
        raise RevisionUnavailableError(f"git knows no revision {reference!r}")
    revision = named.stdout.strip()
    packed = subprocess.run([*git, "archive", revision, LIBRARY], capture_output=True, check=False)
    if packed.returncode != 0:
        raise RevisionUnavailableError(f"{reference}: {packed.stderr.decode().strip()}")
    directory = parent / f"revision-{revision}"
    directory.mkdir()
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        for member in archive.getmembers():
            target = (directory / member.name).resolve()
            if not target.is_relative_to(directory.resolve()):
                raise RevisionUnavailableError(f"{reference}: {member.name} leads elsewhere")
            archive.extract(member, directory)
    return Exported(revision, directory)


def contenders(exported: Exported, peers: list[str]) -> list[Contender]:
    """Each of our own `peers` twice: as it is now and as it was."""
    both = []
    for peer in peers:
        both.append(Contender(f"{peer}-{NOW}", peer))
        path = (str(exported.directory), str(ROOT))
        both.append(Contender(f"{peer}-{exported.revision}", peer, path))
    return both


def table(cells: list[Cell], exported: Exported, peers: list[str]) -> Table:
    """Every metric then and now, and the ratio now to then with its spread over the rounds."""
    figures = Figures(cells, {})
    rows = []
    for workload, variant in dict.fromkeys((cell.workload, cell.variant) for cell in cells):
        for metric in WORKLOADS[workload].metrics:
            for peer in peers:
                row = _row(figures, workload, variant, peer, exported.revision, metric.key)
                if row is None:
                    continue
                then, now, ratio = row
                rows.append(
                    [
                        f"{workload} {variant}",
                        peer,
                        metric.label,
                        with_spread(then, metric.digits),
                        with_spread(now, metric.digits),
                        f"{ratio.median:.2f}x ({ratio.low:.2f} to {ratio.high:.2f})",
                        _verdict(ratio, metric.better == "higher"),
                    ]
                )
    columns = ["workload", "", "metric", exported.revision, NOW, f"{NOW} / then", ""]
    return Table(f"{exported.revision} and {NOW}", columns, rows)


def no_worse(cells: list[Cell], exported: Exported, peers: list[str]) -> Table:
    """Judge each of NO_WORSE as a whole: how good it is now beside then, and whether that is met.

    Of each round the geometric mean over variants and peers, of the first metric; the median of the
    rounds is judged.
    """
    figures = Figures(cells, {})
    rows = []
    for workload in NO_WORSE:
        metric = WORKLOADS[workload].metrics[0]
        rounds: dict[int, list[float]] = {}
        for variant in figures.variants(workload):
            for peer in peers:
                then = figures.rounds(workload, variant, f"{peer}-{exported.revision}", metric.key)
                now = figures.rounds(workload, variant, f"{peer}-{NOW}", metric.key)
                for turn in then.keys() & now.keys():
                    ratio = now[turn] / then[turn]
                    better = ratio if metric.better == "higher" else 1 / ratio
                    rounds.setdefault(turn, []).append(better)
        shown, verdict = "-", "not measured"
        if rounds:
            found = spread([geometric_mean(ratios) for ratios in rounds.values()])
            shown = f"{found.median:.2f}x ({found.low:.2f} to {found.high:.2f})"
            verdict = "met" if found.median >= NO_WORSE_BOUND else "missed"
        rows.append([workload, metric.label, f"at least {NO_WORSE_BOUND:.2f}x", shown, verdict])
    columns = ["workload", "metric", "target", "as good as then", "verdict"]
    return Table("A single process is no worse than then", columns, rows)


def _row(
    figures: Figures, workload: str, variant: str, peer: str, revision: str, metric: str
) -> tuple[Spread, Spread, Spread] | None:
    then = figures.rounds(workload, variant, f"{peer}-{revision}", metric)
    now = figures.rounds(workload, variant, f"{peer}-{NOW}", metric)
    shared = sorted(turn for turn in then.keys() & now.keys() if then[turn])
    if not shared:
        return None
    ratios = [now[turn] / then[turn] for turn in shared]
    return spread(list(then.values())), spread(list(now.values())), spread(ratios)


def _verdict(ratio: Spread, higher_is_better: bool) -> str:
    """A word only when every round agrees, and there are enough of them to mean something."""
    if ratio.rounds < VERDICT_ROUNDS_MIN:
        return ""
    if ratio.low > 1.02:
        return "better" if higher_is_better else "worse"
    if ratio.high < 0.98:
        return "worse" if higher_is_better else "better"
    return ""
