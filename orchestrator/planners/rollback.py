"""The plan that takes one control plane back to the version that it had before an upgrade."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.versions import minor
from orchestrator.engine.plan import Lane, Plan, Step, Wave
from orchestrator.errors import ApiUnreachable, LeaseLost
from orchestrator.planners.upgrade import (
    FILE_S,
    GATE_S,
    KUBEADM_S,
    KUBELET_PACKAGES,
    LASTS_S,
    PACKAGE_S,
    PATCH_S,
    SNAPSHOT_S,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator.cluster.former import Former
    from orchestrator.cluster.versions import Version
    from orchestrator.engine.plan import Past

KIND = "rollback"


@dataclass(frozen=True, slots=True)
class Request:
    """How a control plane goes back.

    Attributes:
        name: Of the plan.
        owner: Whose cordon it is.
        planes: All control planes.
        flags: The params of `node.drain`, but for `cordon`.
        data: A copy of the etcd member's data that takes the place of the present ones; "" keeps those.
        snapshot: Take one first: etcd answers.
        etcd: The version of its manifest that goes back; "" where it stays.
        settings: kubeadm's settings go back, too.
        away: Its API server, the only one, is away: nobody is there to take pods off the node, and the run's lock is on
            the node's own disk.
    """

    name: str
    owner: str
    planes: tuple[str, ...]
    flags: Mapping[str, Any]
    drain_timeout_s: float | None
    data: str
    snapshot: bool
    etcd: str
    settings: bool
    away: bool = False


def way_back(plan: Plan, past: Past, err: Exception) -> str:
    """The way out of an upgrade that ended because the only API server is away, and does not come back; "" else.

    Args:
        plan: What was carried out.
        past: Its steps that were begun.
        err: What ended it.
    """
    begun = [s for s in plan.steps() if s.action == "kubeadm.upgrade" and s.id in past]
    only = [s.node for s in begun if s.params.get("control_planes") == [s.node]]
    away = isinstance(err, ApiUnreachable) or (isinstance(err, LeaseLost) and err.unanswered)
    if not only or not away:
        return ""
    return f"orchestrator upgrade rollback {only[0]}    # when its API server does not come back: it needs none"


def rollback(node: str, to: Version, kept: Former | None, request: Request) -> Plan:
    """The kubelet first, for it may not be newer than its API server; then the static pods; then kubeadm.

    With the API away its pods stay where they are: a kubelet that starts anew leaves them running.

    Args:
        node: The control plane.
        to: The version that it goes back to.
        kept: Manifests to put back; None where they are those of `to` already.
        request: How.
    """
    where = {"without_api": True} if request.away else {}

    def step(action: str, params: Mapping[str, Any], timeout_s: float | None, more: str = "") -> Step:
        own = {} if action.startswith("node.") else {"plan": request.name}
        return Step(f"0/{node}/{action}{more}", action, node, {**own, **where, **params}, timeout_s)

    def steps() -> Iterator[Step]:
        version = str(to)
        if request.snapshot:
            yield step("etcd.snapshot", {"file": f"{request.name}.db", "reason": "pre-upgrade"}, SNAPSHOT_S)
        cordon = step("node.cordon", {"owner": request.owner, "reason": f"back to {version}"}, PATCH_S)
        if not request.away:
            yield cordon
            yield step("node.drain", {**request.flags, "cordon": cordon.id}, request.drain_timeout_s)
        yield step("packages.repository", {"minor": minor(to)}, FILE_S)
        planes = list(request.planes)
        params = {"version": version, "packages": list(KUBELET_PACKAGES), "control_planes": planes}
        yield step("packages.downgrade", params, PACKAGE_S, ":kubelet")
        if kept:
            back: dict[str, Any] = {"version": version, "manifests": sorted(kept.files.values()), "data": request.data}
            back |= {"control_planes": planes, "etcd": request.etcd}
            yield step("kubeadm.rollback", {**back, "turns_back": bool(request.data)}, KUBEADM_S)
        yield step("packages.downgrade", {"version": version, "packages": ["kubeadm"]}, PACKAGE_S, ":kubeadm")
        gate = {
            "checks": ["node", "components", "daemons", "api", "etcd"],
            "lasts_s": LASTS_S,
            "noted": "",
            "rollback": True,
        }
        yield step("cluster.gate", {**gate, "version": version, "control_planes": planes}, GATE_S, ":back")
        if request.settings:
            yield step("kubeadm.settings", {"version": version}, FILE_S)
        if not request.away:
            yield step("node.return", {"cordon": cordon.id, "owner": request.owner}, PATCH_S)
        yield step("host.tidy", {}, FILE_S)

    return Plan(KIND, f"take {node} back to {to}", (Wave((Lane(node, tuple(steps())),)),))
