"""Tables in Markdown out of measured upgrades."""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from lab.bench.report import PAGE, put, table
from lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from lab.bench.upgrades import Upgraded

#: To be reached, as a part of the textbook's: shape, workers at a time -> what -> at most.
WHOLE, OUT = "whole time", "worker out of service"
TARGETS: Mapping[tuple[str, int], Mapping[str, float]] = {
    ("1+2", 1): {WHOLE: 1.0, OUT: 0.6},
    ("1+6", 2): {WHOLE: 0.6},
}


def text(runs: Sequence[Upgraded]) -> str:
    """All tables."""
    return "\n\n".join(f"## {name}\n\n{content}" for name, content in _tables(runs).items())


def write(runs: Sequence[Upgraded], page: Path = PAGE) -> None:
    """Put the tables into a page, each between the comments `<!-- NAME -->` and `<!-- end -->`.

    Raises:
        LabError: The page has no place for one.
    """
    content = page.read_text()
    for name, new in _tables(runs).items():
        content = put(content, name, new, page=page)
    page.write_text(content)


def _tables(runs: Sequence[Upgraded]) -> dict[str, str]:
    tables = {"upgrades": compared(runs), "upgrade-steps": steps(runs)}
    return {name: content for name, content in tables.items() if content}


def compared(runs: Sequence[Upgraded]) -> str:
    """Both tools' figures of each shape, and the ratios; one tool's alone where there is no run of the other."""
    body: list[list[str]] = []
    for ours in (run for run in runs if run.tool == "orchestrator"):
        body += _rows(_of(runs, "textbook", ours.shape), ours)
    there = {run.shape for run in runs if run.tool == "orchestrator"}
    for theirs in (run for run in runs if run.tool == "textbook" and run.shape not in there):
        body += _rows(theirs, None)
    return table(("nodes", "what", "textbook", "orchestrator", "ratio", "to reach"), body)


def _of(runs: Sequence[Upgraded], tool: str, shape: str) -> Upgraded | None:
    return next((run for run in runs if run.tool == tool and run.shape == shape), None)


def _rows(theirs: Upgraded | None, ours: Upgraded | None) -> list[list[str]]:
    one = ours or theirs
    if one is None:
        raise LabError("there is no run", remedy="python -m lab bench upgrade")
    at_once = one.at_once
    nodes = one.shape if at_once == 1 else f"{one.shape}, {at_once} workers at a time"
    rows = [_seconds(nodes, f"{WHOLE}, s", theirs, ours, lambda run: run.took_s, _target(one, WHOLE))]
    count = len(one.nodes("control-plane"))
    for place in range(count):
        what = f"control plane {place + 1}, s" if count > 1 else "control plane, s"
        rows.append(_seconds(nodes, what, theirs, ours, partial(_control_plane_s, place), None))
    if one.out_s:
        limit = _target(one, OUT)
        rows.append(_seconds(nodes, f"{OUT}, s, median", theirs, ours, lambda run: median(run.out_s.values()), limit))
    for what, cell in _CELLS.items():
        rows.append([nodes, what, cell(theirs) if theirs else "", cell(ours) if ours else "", "", ""])
    return rows


_CELLS: Mapping[str, Callable[[Upgraded], str]] = {
    "each worker out of service, s": lambda run: ", ".join(f"{s:.1f}" for s in run.out_s.values()),
    "failed requests to the application": lambda run: f"{run.failed} of {run.asked}",
    "longest time without a right answer, s": lambda run: f"{run.gap_s:.1f}",
    "times with fewer pods than a budget wants": lambda run: str(run.short),
    "API away, longest, s": lambda run: f"{run.api_s:.1f}",
    "fewest members of etcd": lambda run: str(run.members),
}


def _control_plane_s(place: int, run: Upgraded) -> float:
    return run.node_s(run.nodes("control-plane")[place])


def _target(run: Upgraded, what: str) -> float | None:
    return TARGETS.get((run.shape, run.at_once), {}).get(what)


def _seconds(
    nodes: str,
    what: str,
    theirs: Upgraded | None,
    ours: Upgraded | None,
    of: Callable[[Upgraded], float],
    limit: float | None,
) -> list[str]:
    cells = [f"{of(run):.1f}" if run else "" for run in (theirs, ours)]
    if not (theirs and ours):
        return [nodes, what, *cells, "", f"<= {limit:g}" if limit else ""]
    ratio = of(ours) / of(theirs)
    verdict = "" if limit is None else f"<= {limit:g}: {'reached' if ratio <= limit else '**missed**'}"
    return [nodes, what, *cells, f"**{ratio:.2f}**", verdict]


def steps(runs: Sequence[Upgraded]) -> str:
    """Where the seconds go: each step on control planes and on workers, the median of the nodes."""
    body = []
    for run in runs:
        for what in dict.fromkeys(step.what for step in run.steps):
            cells = [_step_s(run, what, role) for role in ("control-plane", "worker")]
            other = [step.took_s for step in run.steps if step.what == what and not step.node]
            body.append([run.shape, run.tool, what, *cells, f"{sum(other):.1f}" if other else ""])
    return table(("nodes", "", "step", "control plane s", "worker s", "once s"), body)


def _step_s(run: Upgraded, what: str, role: str) -> str:
    """Summed on each node, where a step comes twice."""
    took = [
        sum(step.took_s for step in run.steps if step.what == what and step.node == node)
        for node in run.nodes(role)
        if any(step.what == what and step.node == node for step in run.steps)
    ]
    return f"{median(took):.1f}" if took else ""
