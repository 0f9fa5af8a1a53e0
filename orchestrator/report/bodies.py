"""Facts as the documents of `report.shapes`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from orchestrator.cluster.checkup import Level
from orchestrator.report import API_VERSION, shapes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orchestrator.cluster.checkup import Finding
    from orchestrator.cluster.model import Pod
    from orchestrator.cluster.overview import Cordon, NodeState, Overview, Status
    from orchestrator.cluster.unmanaged import Consequence, UnmanagedPods


def iso(at: float | None) -> str | None:
    """RFC 3339 in UTC, to the second; None stays None."""
    return None if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def body(document: shapes.Shape) -> dict[str, Any]:
    """The document without `apiVersion` and `kind`, which are added where it is shown."""
    values: dict[str, Any] = msgspec.to_builtins(document)
    return {k: v for k, v in values.items() if k not in ("apiVersion", "kind")}


def cluster_status(status: Status) -> shapes.ClusterStatus:
    """The result of `status`."""
    seen, credentials = status.seen, status.credentials
    return shapes.ClusterStatus(
        api_version=API_VERSION,
        kind="ClusterStatus",
        read_at=iso(status.at) or "",
        server=shapes.ServerShape(status.server, status.context, seen.server_version),
        summary=summary(seen),
        nodes=[_node(n) for n in seen.nodes],
        applications=[
            shapes.ApplicationShape(
                a.identity.namespace, a.identity.kind, a.identity.name, a.pods, a.ready, a.wanted, dict(a.nodes)
            )
            for a in seen.applications
        ],
        budgets=[
            shapes.BudgetShape(
                s.budget.namespace, s.budget.name, s.budget.rule, s.budget.needed, s.budget.healthy,
                s.budget.expected, s.never, s.why, list(s.unready),
            )
            for s in seen.shut
        ],
        overlapping_budgets=[shapes.OverlapShape(o.namespace, list(o.budgets), list(o.pods)) for o in seen.overlapping],
        unready_pods=[_unready(p) for p in seen.unready],
        etcd=shapes.EtcdShape(
            seen.etcd.health.value,
            seen.etcd.answers,
            [shapes.MemberShape(m.pod, m.node, m.ready) for m in seen.etcd.members],
            list(seen.etcd.without),
        ),
        certificates=shapes.CertificatesShape(
            iso(status.serving_end), shapes.CredentialsShape(credentials.kind, iso(credentials.end), credentials.renews)
        ),
        backup=shapes.BackupShape(iso(status.backup.at), status.backup.name),
    )  # fmt: skip


def summary(seen: Overview) -> shapes.Summary:
    """The numbers of an overview."""
    return shapes.Summary(
        nodes=len(seen.nodes),
        ready=sum(n.node.ready for n in seen.nodes),
        cordoned=sum(n.cordon is not None for n in seen.nodes),
        take_workloads=sum(n.takes_workloads for n in seen.nodes),
        applications=len(seen.applications),
        system_applications=sum(a.system for a in seen.applications),
        static_pods=seen.static_pods,
        finished_pods=seen.finished_pods,
        unready_pods=len(seen.unready),
    )


def _node(state: NodeState) -> shapes.NodeShape:
    node, cordon = state.node, state.cordon
    return shapes.NodeShape(
        name=node.name,
        roles=list(node.roles),
        ready=node.ready,
        ready_reason=node.ready_reason,
        ready_since=iso(node.ready_since),
        kubelet_version=node.kubelet_version,
        skew=state.skew.value,
        os_image=node.os_image,
        kernel_version=node.kernel_version,
        container_runtime=node.container_runtime,
        taints=[shapes.TaintShape(t.key, t.value, t.effect) for t in node.taints],
        cordon=_cordon(cordon) if cordon else None,
        takes_workloads=state.takes_workloads,
        obstacles=list(state.obstacles),
        pods=state.pods,
        applications=state.applications,
        empty=state.empty or None,
        placements=[shapes.PlacementShape(p.why.value, list(p.pods)) for p in state.placements],
    )


def _cordon(cordon: Cordon) -> shapes.CordonShape:
    since = iso(cordon.since)
    return shapes.CordonShape(cordon.owner or None, cordon.reason, cordon.run or None, cordon.manager or None, since)


def _unready(pod: Pod) -> shapes.UnreadyShape:
    return shapes.UnreadyShape(pod.key, pod.node or None, pod.phase, iso(unready_since(pod)), unready_why(pod))


def unready_since(pod: Pod) -> float | None:
    """Since when a pod is not ready: since its creation where it never was."""
    return pod.ready_since or pod.created or None


def unready_why(pod: Pod) -> str:
    """Why a pod is not ready, as far as it tells."""
    return "terminating" if pod.deleting_since is not None else pod.waiting_reason


def unmanaged_pods(found: UnmanagedPods) -> shapes.UnmanagedPods:
    """The result of `unmanaged`."""
    return shapes.UnmanagedPods(
        API_VERSION,
        "UnmanagedPods",
        list(found.nodes),
        found.looked_at,
        [
            shapes.UnmanagedShape(
                u.pod.namespace, u.pod.name, u.pod.node or None, u.kind.value, u.why,
                _consequence(u.drain), _consequence(u.forced), _consequence(u.lost),
            )
            for u in found.pods
        ],
    )  # fmt: skip


def _consequence(what: Consequence) -> shapes.ConsequenceShape:
    return shapes.ConsequenceShape(what.fate.value, what.text, what.data_lost, list(what.flags))


def doctor_report(findings: Sequence[Finding]) -> shapes.DoctorReport:
    """The result of `doctor`."""
    return shapes.DoctorReport(
        API_VERSION,
        "DoctorReport",
        worst(findings).value,
        [shapes.FindingShape(f.check, f.level.value, f.evidence, f.remedy) for f in findings],
    )


def worst(findings: Iterable[Finding]) -> Level:
    """The worst level among them."""
    order = list(Level)
    return max((f.level for f in findings), key=order.index, default=Level.OK)
