"""An upgrade before it starts: findings and plan, for people and programs."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from orchestrator.report import API_VERSION, shapes
from orchestrator.report.console import verb
from orchestrator.report.text import count

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from orchestrator.cluster.situation import Finding
    from orchestrator.cluster.versions import Hop, Version
    from orchestrator.engine.plan import Plan, Step

#: (action, node) -> seconds; (action, "") where that node was never done.
Durations = dict[tuple[str, str], float]


def document(
    current: Version,
    hops: Sequence[Hop],
    findings: Sequence[Finding],
    accepted: Collection[str],
    strategy: tuple[str, str],
    plan: Plan,
    took: Durations,
) -> shapes.UpgradePlan:
    """The result of `upgrade plan`."""
    return shapes.UpgradePlan(
        api_version=API_VERSION,
        kind="UpgradePlan",
        current=str(current),
        hops=[shapes.HopShape(str(h.to), h.workers) for h in hops],
        strategy=strategy[0],
        strategy_why=strategy[1],
        findings=[_finding(f, accepted) for f in findings],
        steps=[
            shapes.PlannedStep(number, step.node, step.action, step.id, _last(step, took))
            for number, wave in enumerate(plan.waves, start=1)
            for lane in wave.lanes
            for step in lane.steps
        ],
    )


def _finding(found: Finding, accepted: Collection[str]) -> shapes.UpgradeFinding:
    return shapes.UpgradeFinding(
        found.check,
        found.severity.value,
        found.where,
        found.text,
        found.remedy,
        found.detail,
        found.check in accepted,
    )


def _last(step: Step, took: Durations) -> float | None:
    known = took.get((step.action, step.node), took.get((step.action, "")))
    return None if known is None else round(known, 1)


def findings_text(findings: Sequence[Finding], accepted: Collection[str]) -> str:
    """Findings, worst first, each with its remedy; equal ones of several nodes together."""
    lines = []
    for _, group in groupby(findings, key=lambda f: (f.severity, f.check, f.text, f.remedy)):
        same = list(group)
        found = same[0]
        taken = ", accepted" if found.check in accepted else ""
        where = ", ".join(f.where for f in same)
        lines.append(f"{found.severity.value.upper()}  {found.check}{taken} ({where}): {found.text}")
        if found.remedy and not taken:
            lines += [f"    remedy: {line}" for line in found.remedy.splitlines()]
        lines += [f"    | {line}" for line in found.detail.splitlines()[:40]]
    return "\n".join(lines)


def table(
    current: Version,
    hops: Sequence[Hop],
    findings: Sequence[Finding],
    accepted: Collection[str],
    strategy: tuple[str, str],
    plan: Plan,
    took: Durations,
) -> str:
    """What will be done, a line a lane, and what speaks against it."""
    if not hops:
        return f"the cluster is at {current} already: nothing to do"
    way = " → ".join([str(current), *(f"{h.to}{'' if h.workers else ' (control planes only)'}" for h in hops)])
    why = f" ({strategy[1]})" if strategy[1] else ""
    lines = [f"Kubernetes {way}; strategy {strategy[0]}{why}", ""]
    for number, wave in enumerate(plan.waves, start=1):
        lines += [f"{number:>3}  {lane.node}: {_steps(lane.steps, took)}" for lane in wave.lanes]
    lines.append("")
    known = sum(filter(None, (_slowest(wave.lanes, took) for wave in plan.waves)))
    if known:
        lines.append(f"about {known / 60:.0f} min by the times that these steps took last")
    lines.append(_verdict(findings, accepted))
    text = findings_text(findings, accepted)
    return "\n".join([*lines, *([text] if text else [])])


def _steps(steps: Sequence[Step], took: Durations) -> str:
    return " → ".join(_named(step, took) for step in steps)


def _named(step: Step, took: Durations) -> str:
    last = _last(step, took)
    name = f"gate {step.id.rpartition(':')[2]}" if step.action == "cluster.gate" else verb(step.action)
    return name if last is None or last < 1 else f"{name} ({last:.0f} s)"


def _slowest(lanes: Sequence[Any], took: Durations) -> float:
    return max((sum(_last(s, took) or 0.0 for s in lane.steps) for lane in lanes), default=0.0)


def _verdict(findings: Sequence[Finding], accepted: Collection[str]) -> str:
    counts: dict[str, int] = {}
    for found in findings:
        key = "accepted" if found.check in accepted else found.severity.value
        counts[key] = counts.get(key, 0) + 1
    if not counts:
        return "nothing speaks against it"
    return ", ".join(
        count(n, word) if word in ("error", "warning", "note") else f"{n} {word}" for word, n in counts.items()
    )


def refusal(unaccepted: Sequence[Finding]) -> tuple[str, str]:
    """Why an upgrade does not start, and what to do about it."""
    said = findings_text(unaccepted, ())
    names: Mapping[str, None] = dict.fromkeys(f.check for f in unaccepted if f.severity.value == "error")
    flags = " ".join(f"--accept {name}" for name in names)
    remedy = "put these right" + (f"; what you know to be well is accepted by its name: {flags}" if flags else "")
    return f"the upgrade does not start; nothing was changed\n{said}", remedy
