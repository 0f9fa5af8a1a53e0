"""Tables in Markdown out of measured runs; each figure is the median of its runs, each ratio that of two medians."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from lab.bench.drains import KUBECTL, NOBODY, OURS, SCENARIOS, Row
from lab.bench.measure import percentile
from lab.bench.startup import PLAIN_TYPER, TYPER
from lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from lab.bench.measure import Run

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
#: Wall time as a part of kubectl's, to be reached: scenario -> pods -> at most.
WALL: Mapping[str, Mapping[int, float]] = {
    "free": {50: 0.12, 250: 0.12, 500: 0.12},
    "tenth": {50: 0.4, 250: 0.25, 500: 0.25},
}
REQUESTS = 0.55
MEMORY = 1.3
STARTUP = 1.2


@dataclass(frozen=True, slots=True)
class Figures:
    """All that was measured.

    Attributes:
        rows: Runs.
        startup: What was run -> seconds.
    """

    rows: tuple[Row, ...] = ()
    startup: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Figures:
        """As kept in a file; empty when there is none."""
        if not path.exists():
            return cls()
        kept = json.loads(path.read_text())
        return cls(tuple(Row.from_json(each) for each in kept["rows"]), kept["startup"])

    def as_json(self) -> dict[str, Any]:
        """To be kept in a file."""
        return {"rows": [row.as_json() for row in self.rows], "startup": dict(self.startup)}

    def with_rows(self, rows: Iterable[Row]) -> Figures:
        """With these in place of earlier ones of the same measurement."""
        new = tuple(rows)
        measured = {_measurement(row) for row in new}
        return replace(self, rows=(*(row for row in self.rows if _measurement(row) not in measured), *new))

    def with_startup(self, startup: Mapping[str, float]) -> Figures:
        """With these in place of earlier ones."""
        return replace(self, startup=startup)

    def runs(self, scenario: str, pods: int, tool: str, parallel: int = 0) -> tuple[Run, ...]:
        """Those of one kind."""
        wanted = (scenario, pods, tool, parallel)
        return tuple(r.run for r in self.rows if (r.scenario, r.pods, r.tool, r.parallel) == wanted)

    def compared(self) -> tuple[tuple[str, int], ...]:
        """Scenario and pods of which there are runs of both tools, in the order of the tables."""
        there = {(r.scenario, r.pods) for r in self.rows if r.tool == KUBECTL}
        there &= {(r.scenario, r.pods) for r in self.rows if r.tool == OURS and not r.parallel}
        return tuple(sorted(there, key=lambda each: (list(SCENARIOS).index(each[0]), each[1])))

    def ratio(self, scenario: str, pods: int, of: Callable[[Run], float]) -> float:
        """The median of orchestrator's runs as a part of kubectl's."""
        ours, theirs = (median(map(of, self.runs(scenario, pods, tool))) for tool in (OURS, KUBECTL))
        return ours / theirs


def _measurement(row: Row) -> tuple[str, int, bool]:
    return row.scenario, row.pods, row.parallel > 0


def text(figures: Figures) -> str:
    """All tables."""
    return "\n\n".join(f"## {name}\n\n{content}" for name, content in _tables(figures).items())


def write(figures: Figures, page: Path = PAGE) -> None:
    """Put the tables into a page, each between the comments `<!-- NAME -->` and `<!-- end -->`.

    Raises:
        LabError: The page has no place for one.
    """
    content = page.read_text()
    for name, new in _tables(figures).items():
        content = put(content, name, new, page=page)
    page.write_text(content)


def put(content: str, name: str, new: str, *, page: Path) -> str:
    """The content of a page with a new table of that name.

    Raises:
        LabError: The page has no place for it.
    """
    block = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    content, found = block.subn(partial(_filled, new), content)
    if not found:
        raise LabError(f"{page.name} has no place for `{name}`", remedy=f"add <!-- {name} --> and <!-- end -->")
    return content


def _filled(new: str, block: re.Match[str]) -> str:
    return f"{block[1]}\n{new}\n\n{block[2]}"


def _tables(figures: Figures) -> dict[str, str]:
    tables = {
        "targets": targets(figures),
        "drains": drains(figures),
        "requests": requests(figures),
        "others": others(figures),
        "sweep": sweep(figures),
        "startup": startup(figures),
    }
    return {name: content for name, content in tables.items() if content}


def drains(figures: Figures) -> str:
    """Both tools' cost, and the ratios."""
    head = (
        "on the node",
        "pods",
        "runs",
        "wall s",
        "ratio",
        "requests",
        "ratio",
        "CPU s",
        "ratio",
        "peak MiB",
        "ratio",
        "others' CPU %",
    )
    body = []
    for scenario, pods in figures.compared():
        cells = [SCENARIOS[scenario].title, str(pods), str(len(figures.runs(scenario, pods, OURS)))]
        for of, digits in ((_wall, 2), (_total, 0), (_cpu, 2), (_peak, 0)):
            theirs, ours = (median(map(of, figures.runs(scenario, pods, tool))) for tool in (KUBECTL, OURS))
            cells += [f"{theirs:.{digits}f} / {ours:.{digits}f}", f"**{ours / theirs:.2f}**"]
        theirs, ours = (median(map(_foreign, figures.runs(scenario, pods, tool))) for tool in (KUBECTL, OURS))
        body.append([*cells, f"{theirs:.0f} / {ours:.0f}"])
    return table(head, body)


def targets(figures: Figures) -> str:
    """What was to be reached, and what was."""
    body = []
    for scenario, limits in WALL.items():
        for pods, most in limits.items():
            if (scenario, pods) in figures.compared():
                what = f"wall time, {SCENARIOS[scenario].title}, {pods} pods"
                body.append(_target(what, most, figures.ratio(scenario, pods, _wall)))
    for what, most, of in (("requests", REQUESTS, _total), ("peak memory", MEMORY, _peak)):
        ratios = [figures.ratio(scenario, pods, of) for scenario, pods in figures.compared()]
        if ratios:
            body.append(_target(f"{what}, the highest of all rows", most, max(ratios)))
    ours = {what: s for what, s in figures.startup.items() if what not in (TYPER, PLAIN_TYPER)}
    body += [_target(f"start, {what}", STARTUP, s / figures.startup[TYPER]) for what, s in ours.items()]
    return table(("ratio of", "to reach", "measured", ""), body)


def _target(what: str, most: float, measured: float) -> list[str]:
    return [what, f"<= {most:g}", f"{measured:.3f}", "reached" if measured <= most else "**missed**"]


def requests(figures: Figures) -> str:
    """Each tool's requests by verb: those of the median run."""
    head = ("on the node", "pods", KUBECTL, OURS, "refused (429)")
    body = []
    for scenario, pods in figures.compared():
        chosen = [sorted(figures.runs(scenario, pods, tool), key=_total) for tool in (KUBECTL, OURS)]
        theirs, ours = (runs[len(runs) // 2] for runs in chosen)
        refused = f"{theirs.refused} / {ours.refused}"
        body.append([SCENARIOS[scenario].title, str(pods), _counted(theirs), _counted(ours), refused])
    return table(head, body)


def _counted(run: Run) -> str:
    return ", ".join(f"{many} {what}" for what, many in Counter(run.requests).most_common())


def others(figures: Figures) -> str:
    """The latency that another client saw, in milliseconds."""
    head = ("on the node", "pods", "at rest: p50 / p99", f"{KUBECTL}: p50 / p99", f"{OURS}: p50 / p99")
    body = []
    for scenario, pods in figures.compared():
        cells = [_latency(figures.runs(scenario, pods, tool)) for tool in (NOBODY, KUBECTL, OURS)]
        body.append([SCENARIOS[scenario].title, str(pods), *cells])
    return table(head, body)


def _latency(runs: Sequence[Run]) -> str:
    together = sorted(ms for run in runs for ms in run.other_ms)
    return f"{percentile(together, 50):.1f} / {percentile(together, 99):.1f}"


def sweep(figures: Figures) -> str:
    """What `--parallel` changes."""
    kinds = {(r.scenario, r.pods, r.parallel) for r in figures.rows if r.parallel}
    body = []
    for scenario, pods, many in sorted(kinds, key=lambda kind: (list(SCENARIOS).index(kind[0]), *kind[1:])):
        runs = figures.runs(scenario, pods, OURS, many)
        wall, refused, total = median(map(_wall, runs)), median(r.refused for r in runs), median(map(_total, runs))
        row = [SCENARIOS[scenario].title, str(pods), str(many), f"{wall:.2f}", f"{total:.0f}", f"{refused:.0f}"]
        body.append([*row, _latency(runs)])
    return table(
        ("on the node", "pods", "`--parallel`", "wall s", "requests", "refused (429)", "other client: p50 / p99 ms"),
        body,
    )


def startup(figures: Figures) -> str:
    """Start times, and as a part of a Typer application's."""
    body = [[what, f"{s * 1000:.0f}", f"**{s / figures.startup[TYPER]:.2f}**"] for what, s in figures.startup.items()]
    return table(("what", "ms", "ratio"), body)


def _wall(run: Run) -> float:
    return run.wall_s


def _total(run: Run) -> float:
    return float(run.total)


def _cpu(run: Run) -> float:
    return run.cpu_s


def _peak(run: Run) -> float:
    return run.peak_mib


def _foreign(run: Run) -> float:
    return run.foreign_percent


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table; nothing where it has no rows."""
    if not body:
        return ""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
