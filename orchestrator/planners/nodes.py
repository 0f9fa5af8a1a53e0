"""Plans for cordon, uncordon, drain, and for putting back what a run changed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orchestrator.engine.plan import Lane, Plan, Step, Wave
from orchestrator.planners import rebuild, replacement, restore
from orchestrator.planners.backup import KIND as BACKUP

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator.engine.plan import Past

#: For a change of one object: the server needs milliseconds, the rest is for retries.
PATCH_TIMEOUT_S = 60.0


def cordon(nodes: Iterable[str], *, owner: str, reason: str) -> Plan:
    """All nodes cordoned, together."""
    names = tuple(nodes)
    return Plan("cordon", _title("cordon", names), (_cordons(names, owner=owner, reason=reason),))


def uncordon(nodes: Iterable[str], *, owner: str, force_owner: bool) -> Plan:
    """All nodes uncordoned, together."""
    names = tuple(nodes)
    params = {"owner": owner, "force_owner": force_owner}
    lanes = tuple(Lane(n, (_step(0, n, "node.uncordon", params, PATCH_TIMEOUT_S),)) for n in names)
    return Plan("uncordon", _title("uncordon", names), (Wave(lanes),))


def drain(nodes: Iterable[str], *, owner: str, reason: str, flags: Mapping[str, Any], timeout_s: float | None) -> Plan:
    """All nodes cordoned first, so that no pod moves to one that is drained next; then drained one after another.

    Args:
        nodes: In the order in which they are drained.
        owner: Whose cordon it will be.
        reason: Why, for the record on the node.
        flags: The params of `node.drain`, but for `cordon`.
        timeout_s: For each node's evictions; None waits for ever.
    """
    names = tuple(nodes)
    first = _cordons(names, owner=owner, reason=reason)
    cordons = {lane.node: lane.steps[0].id for lane in first.lanes}
    drains = tuple(
        Wave((Lane(n, (_step(i, n, "node.drain", {**flags, "cordon": cordons[n]}, timeout_s),)),))
        for i, n in enumerate(names, start=1)
    )
    return Plan("drain", _title("drain", names), (first, *drains))


#: Steps that clear away what a run made on its way, which nobody needs once it is given up.
_CLEARING = ("etcd.unstage", "host.tidy")


def release(run: str, plan: Plan, past: Past) -> Plan:
    """What `run` cordoned, as it was found: only steps that were started, each with what it found.

    A backup cordons nothing: what it made on its way, here and on the host, is cleared away.
    """
    if plan.kind == restore.KIND:
        return restore.back(run, plan, past)
    if plan.kind == replacement.KIND:
        return replacement.back(run, plan, past)
    if plan.kind == rebuild.KIND:
        return rebuild.back(run, plan, past)
    if plan.kind == BACKUP and past:
        steps = (s for s in plan.steps() if s.action in _CLEARING)
        lock = next(({k: s.params[k] for k in ("without_api", "lock")} for s in plan.steps() if "lock" in s.params), {})
        cleared = tuple(replace(s, params={**s.params, **lock, "of_run": run}) for s in steps)
        return Plan("release", f"release {run}", (Wave((Lane(cleared[0].node, cleared),)),) if cleared else ())
    started = [s for s in plan.steps() if s.action == "node.cordon" and s.id in past]
    lanes = tuple(
        Lane(
            step.node,
            (
                _step(
                    0,
                    step.node,
                    "node.restore_scheduling",
                    {"of_run": run, "found_unschedulable": past[step.id]["unschedulable"]},
                    PATCH_TIMEOUT_S,
                ),
            ),
        )
        for step in started
    )
    return Plan("release", f"release {run}", (Wave(lanes),) if lanes else ())


def released_run(plan: Plan) -> str:
    """The run that a plan of `release` puts back, or "" for any other plan."""
    return next((str(step.params["of_run"]) for step in plan.steps() if "of_run" in step.params), "")


def _cordons(nodes: tuple[str, ...], *, owner: str, reason: str) -> Wave:
    params = {"owner": owner, "reason": reason}
    return Wave(tuple(Lane(n, (_step(0, n, "node.cordon", params, PATCH_TIMEOUT_S),)) for n in nodes))


def _step(wave: int, node: str, action: str, params: Mapping[str, Any], timeout_s: float | None) -> Step:
    return Step(f"{wave}/{node}/{action}", action, node, params, timeout_s)


def _title(verb: str, nodes: tuple[str, ...]) -> str:
    return f"{verb} {nodes[0]}" if len(nodes) == 1 else f"{verb} {len(nodes)} nodes"
