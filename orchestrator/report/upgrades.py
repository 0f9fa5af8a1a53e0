"""An upgrade before it starts: findings and plan, for people and programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.cluster.preflight import HIDING
from orchestrator.report import API_VERSION, shapes
from orchestrator.report.console import verb
from orchestrator.report.text import count, names, wrapped

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from orchestrator.cluster.situation import Finding
    from orchestrator.cluster.versions import Hop, Version
    from orchestrator.engine.plan import Plan, Step, Wave

#: (step, node) -> seconds, and (step, kind of node) -> seconds, for nodes that were never done.
Durations = dict[tuple[str, str], float]


def what(step: Step) -> str:
    """A step's name within its lane, such as `cluster.gate:before`."""
    return step.id.split("/", 2)[2]


def kind(step: Step, plan: Plan) -> str:
    """`control-plane` or `worker`, by what the plan says of its nodes."""
    planes = next((s.params["control_planes"] for s in plan.steps() if "control_planes" in s.params), ())
    return "control-plane" if step.node in planes else "worker"


def durations(runs: Iterable[tuple[Plan, Mapping[str, float]]]) -> Durations:
    """How long steps took when they last changed something, out of runs, the oldest first."""
    found: Durations = {}
    for plan, took in runs:
        for step in plan.steps():
            if step.id in took:
                found[what(step), step.node] = found[what(step), kind(step, plan)] = took[step.id]
    return found


def document(
    current: Version,
    hops: Sequence[Hop],
    findings: Sequence[Finding],
    accepted: Collection[str],
    strategy: tuple[str, str],
    plan: Plan,
    took: Durations,
    behind: Sequence[str] = (),
) -> shapes.UpgradePlan:
    """The result of `upgrade plan`."""
    return shapes.UpgradePlan(
        api_version=API_VERSION,
        kind="UpgradePlan",
        current=str(current),
        hops=[shapes.HopShape(str(h.to), h.workers) for h in hops],
        strategy=strategy[0],
        strategy_why=strategy[1],
        behind=list(behind),
        findings=[_finding(f, accepted) for f in findings],
        steps=[
            shapes.PlannedStep(number, step.node, step.action, step.id, _last(step, plan, took))
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


def _last(step: Step, plan: Plan, took: Durations) -> float | None:
    """What it took on that node the last time; else on another node of its kind."""
    known = took.get((what(step), step.node), took.get((what(step), kind(step, plan))))
    return None if known is None else round(known, 1)


def findings_text(findings: Sequence[Finding], accepted: Collection[str]) -> str:
    """Findings, worst first, each with its remedy; equal ones of several nodes together."""
    lines = []
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for each in findings:
        groups.setdefault((each.severity, each.check, each.text, each.remedy, each.detail), []).append(each)
    for same in groups.values():
        found = same[0]
        taken = ", accepted" if found.check in accepted else ""
        where = names([f.where for f in same])
        head = f"{found.severity.value.upper()}  {found.check}{taken} ({where}): {found.text}"
        lines += wrapped(head, 4)
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
    behind: Sequence[str] = (),
) -> str:
    """What will be done, a line a lane, and what speaks against it."""
    if not hops:
        hiding = [f for f in findings if f.check in HIDING]
        return "\n".join([idle(current, behind, hiding), *([findings_text(hiding, accepted)] if hiding else [])])
    way = " → ".join([str(current), *(f"{h.to}{'' if h.workers else ' (control planes only)'}" for h in hops)])
    why = f" ({strategy[1]})" if strategy[1] else ""
    lines = [f"Kubernetes {way}; strategy {strategy[0]}{why}", "", *waves(plan, took), ""]
    known = sum(filter(None, (_slowest(wave, plan, took) for wave in plan.waves)))
    if known:
        lines.append(f"about {known / 60:.0f} min by the times that these steps took last")
    lines.append(_verdict(findings, accepted))
    text = findings_text(findings, accepted)
    return "\n".join([*lines, *([text] if text else [])])


def idle(current: Version, behind: Sequence[str], hiding: Sequence[Finding]) -> str:
    """That there is nothing to do, as far as is known.

    Args:
        current: The version of the oldest API server.
        behind: Nodes that were not asked for and are older.
        hiding: Findings that keep it from being known.
    """
    if any(f.severity.value in ("forbidden", "error") for f in hiding):
        return f"the cluster is at {current}; whether there is something to do is not known:"
    if behind:
        return f"the nodes asked for are at {current} already: nothing to do there; behind are {names(behind)}"
    return f"the cluster is at {current} already: nothing to do"


def waves(plan: Plan, took: Durations) -> list[str]:
    """The plan in short: a line for all nodes of a wave that go through the same steps."""
    return [line for number, wave in enumerate(plan.waves, start=1) for line in _wave(number, wave, plan, took)]


def _wave(number: int, wave: Wave, plan: Plan, took: Durations) -> list[str]:
    """A line for all nodes of a wave that go through the same steps."""
    groups: dict[str, list[str]] = {}
    for lane in wave.lanes:
        groups.setdefault(" → ".join(_named(step, plan, took) for step in lane.steps), []).append(lane.node)
    return [line for steps, nodes in groups.items() for line in wrapped(f"{number:>3}  {names(nodes)}: {steps}", 5)]


def _named(step: Step, plan: Plan, took: Durations) -> str:
    last = _last(step, plan, took)
    name = verb(step.action)
    if step.action == "cluster.gate":
        name = f"gate {step.id.rpartition(':')[2]}"
    elif step.action == "packages.prefetch" and not step.params["images"]:
        name = "fetch packages"
    elif step.action == "kubeadm.upgrade":
        name += f" {step.params['mode']}"
    elif step.action == "hook.run":
        name = f"hook {step.id.rpartition(':')[2]}"
    return name if last is None or last < 1 else f"{name} ({last:.0f} s)"


def _slowest(wave: Wave, plan: Plan, took: Durations) -> float:
    return max((sum(_last(s, plan, took) or 0.0 for s in lane.steps) for lane in wave.lanes), default=0.0)


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
