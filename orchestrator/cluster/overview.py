"""A cluster at a glance: what people ask first, answered from facts that were read. Pure."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from orchestrator.cluster import versions
from orchestrator.cluster.applications import Application, Owners, applications

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestrator.cluster.checkup import Credentials
    from orchestrator.cluster.model import Budget, Node, Pod, Taint, Workload
    from orchestrator.cluster.versions import Skew

UNSCHEDULABLE_TAINT = "node.kubernetes.io/unschedulable"
#: Set by the node controller on a node that is not ready; they say nothing that the node does not.
_NOT_READY_TAINTS = frozenset({"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"})
_REPELLING = frozenset({"NoSchedule", "NoExecute"})


@dataclass(frozen=True, slots=True)
class Cordon:
    """Who keeps new pods off a node.

    Attributes:
        owner: As recorded on the node; "" when nothing is recorded.
        reason: As recorded, or "".
        run: The run that made it, or "".
        manager: Who set the field by managedFields, or "": a hint where no owner is recorded.
        since: None when not known.
    """

    owner: str
    reason: str
    run: str
    manager: str
    since: float | None

    def __str__(self) -> str:
        if self.owner:
            return f"cordoned by {self.owner}" + (f" ({self.reason})" if self.reason else "")
        return "cordoned, no owner recorded" + (f" (probably by {self.manager})" if self.manager else "")


class Why(StrEnum):
    """Why a pod is on a control plane, in the words that people are shown."""

    STATIC = "static: run by the kubelet itself"
    DAEMON_SET = "of a DaemonSet, tolerates the taint"
    TOLERATES = "tolerates the taint"
    NO_TAINT = "no taint keeps pods away from this node"
    DESPITE = "does not tolerate the taint: was there before it, or was bound without the scheduler"


@dataclass(frozen=True, slots=True)
class Placement:
    """Pods that are on a control plane for the same reason."""

    why: Why
    pods: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NodeState:
    """A node, and what can be told of it.

    Attributes:
        skew: Its kubelet's version against the API server's.
        cordon: None when it is schedulable.
        obstacles: What keeps new pods off it; none when it can take workloads.
        pods: Pods that have not finished.
        applications: Applications that have a pod here, DaemonSets included.
        empty: Why nothing but pods of DaemonSets and static pods is here; "" when something is.
        placements: Why its pods are here; only for control planes.
    """

    node: Node
    skew: Skew
    cordon: Cordon | None
    obstacles: tuple[str, ...]
    pods: int
    applications: int
    empty: str
    placements: tuple[Placement, ...]

    @property
    def takes_workloads(self) -> bool:
        """Nothing keeps a pod without tolerations off it."""
        return not self.obstacles


@dataclass(frozen=True, slots=True)
class ShutBudget:
    """A budget that allows nothing now.

    Attributes:
        why: With its numbers.
        never: It cannot allow anything whatever its pods do.
        unready: Keys of its pods that are not ready.
    """

    budget: Budget
    why: str
    never: bool
    unready: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Overlap:
    """Budgets that cover the same pods: the API evicts no such pod.

    Attributes:
        budgets: Their names, sorted.
        pods: Their keys, sorted.
    """

    namespace: str
    budgets: tuple[str, ...]
    pods: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EtcdMember:
    """The static pod of an etcd member. `ready` is what its kubelet last reported."""

    pod: str
    node: str
    ready: bool


class EtcdHealth(StrEnum):
    """How etcd is, as far as the API tells."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    FAILING = "failing"
    ANSWERS = "answers"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Etcd:
    """Etcd as the API shows it; no member is asked.

    Attributes:
        answers: The API server's own check of its etcd; None when it cannot be read.
        without: Control planes that have no member's pod, where others have.
    """

    health: EtcdHealth
    answers: bool | None
    members: tuple[EtcdMember, ...]
    without: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Overview:
    """A cluster at a glance.

    Attributes:
        server_version: Of the API server that answered.
        nodes: By name.
        applications: By namespace, kind and name.
        static_pods: Pods that kubelets run from files.
        finished_pods: Pods that ran to their end.
        shut: Budgets that allow nothing now.
        overlapping: Pods that several budgets cover, by these budgets.
        unready: Pods that have not finished and are not ready.
    """

    server_version: str
    nodes: tuple[NodeState, ...]
    applications: tuple[Application, ...]
    static_pods: int
    finished_pods: int
    shut: tuple[ShutBudget, ...]
    overlapping: tuple[Overlap, ...]
    unready: tuple[Pod, ...]
    etcd: Etcd


@dataclass(frozen=True, slots=True)
class Backup:
    """The newest snapshot of the cluster that is whole in this user's own directory.

    Attributes:
        name: "" when none is known.
        at: When it was taken, in seconds since the epoch; None when none is known.
        unread: Why the directory could not be read; "" when it could.
    """

    name: str = ""
    at: float | None = None
    unread: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """A cluster at a glance, and how it is reached.

    Attributes:
        server: The URL of its API server.
        context: Of the kubeconfig; "" inside a pod.
        at: When it was read, in seconds since the epoch.
        serving_end: When the API server's certificate ends; None when not known.
        credentials: With what this user proves who they are.
    """

    server: str
    context: str
    at: float
    seen: Overview
    serving_end: float | None
    credentials: Credentials
    backup: Backup = Backup()


def overview(
    nodes: Iterable[Node],
    pods: Iterable[Pod],
    budgets: Iterable[Budget],
    workloads: Iterable[Workload],
    *,
    server_version: str,
    etcd_answers: bool | None,
) -> Overview:
    """The answers, out of one reading of the cluster.

    Args:
        nodes: All nodes.
        pods: All pods.
        budgets: All disruption budgets.
        workloads: All controllers, read after the pods.
        server_version: As the API server says it.
        etcd_answers: The API server's check of etcd; None when it could not be read.
    """
    everything = tuple(pods)
    owned = tuple(workloads)
    owners = Owners(owned)
    live = [p for p in everything if not p.finished]
    by_node: dict[str, list[Pod]] = defaultdict(list)
    for pod in live:
        by_node[pod.node].append(pod)
    ordered = sorted(nodes, key=lambda n: n.name)
    shut, overlapping = _budgets(tuple(budgets), live)
    return Overview(
        server_version=server_version,
        nodes=tuple(_node(n, by_node.get(n.name, []), owners, server_version) for n in ordered),
        applications=applications(live, owned, owners),
        static_pods=sum(p.mirror for p in live),
        finished_pods=len(everything) - len(live),
        shut=shut,
        overlapping=overlapping,
        unready=tuple(sorted((p for p in live if not p.ready), key=lambda p: p.key)),
        etcd=_etcd(live, [n.name for n in ordered if n.control_plane], answers=etcd_answers),
    )


def _node(node: Node, pods: Sequence[Pod], owners: Owners, server_version: str) -> NodeState:
    cordon = _cordon(node) if node.unschedulable else None
    obstacles = tuple(_obstacles(node, cordon))
    return NodeState(
        node=node,
        skew=versions.kubelet_skew(node.kubelet_version, server_version),
        cordon=cordon,
        obstacles=obstacles,
        pods=len(pods),
        applications=len({owners.identity(p) for p in pods if not p.mirror}),
        empty=_empty(pods, obstacles),
        placements=_placements(node, pods) if node.control_plane else (),
    )


def _cordon(node: Node) -> Cordon:
    """Whose cordon it is.

    Source: the node controller answers a cordon with a taint, within seconds, and records when; the time of a field
    manager is that of its last change of anything, so it comes last.
    """
    tainted = next((t.since for t in node.taints if t.key == UNSCHEDULABLE_TAINT), None)
    manager = node.cordoned_by
    if record := node.cordon:
        since = record.at or tainted
        return Cordon(record.owner, record.reason, record.run, manager.name if manager else "", since)
    return Cordon("", "", "", manager.name if manager else "", tainted or (manager.at if manager else None))


def _obstacles(node: Node, cordon: Cordon | None) -> Iterable[str]:
    if cordon:
        yield str(cordon)
    if not node.ready:
        yield f"not ready ({node.ready_reason})" if node.ready_reason else "not ready"
    for taint in node.taints:
        implied = (cordon and taint.key == UNSCHEDULABLE_TAINT) or (not node.ready and taint.key in _NOT_READY_TAINTS)
        if taint.effect in _REPELLING and not implied:
            yield f"taint {taint}"


def _of_daemon_set(pod: Pod) -> bool:
    return pod.controller is not None and pod.controller.kind == "DaemonSet"


def _empty(pods: Sequence[Pod], obstacles: Sequence[str]) -> str:
    if not all(p.mirror or _of_daemon_set(p) for p in pods):
        return ""
    why = "; ".join(obstacles) or "nothing else has been scheduled on it"
    return f"only static pods and pods of DaemonSets: {why}" if pods else f"no pods at all: {why}"


def _placements(node: Node, pods: Iterable[Pod]) -> tuple[Placement, ...]:
    """Why each pod is on this control plane.

    A cordon and what is said of a node that is not ready came after the pods; taints that admins or kubeadm set are
    what keeps pods away.
    """
    taints = [t for t in node.taints if t.effect in _REPELLING and not t.key.startswith("node.kubernetes.io/")]
    groups: dict[Why, list[str]] = {why: [] for why in Why}
    for pod in pods:
        groups[_why_here(pod, taints)].append(pod.key)
    return tuple(Placement(why, tuple(sorted(keys))) for why, keys in groups.items() if keys)


def _why_here(pod: Pod, taints: Sequence[Taint]) -> Why:
    if pod.mirror:
        return Why.STATIC
    if not taints:
        return Why.NO_TAINT
    if not all(any(t.covers(taint) for t in pod.tolerations) for taint in taints):
        return Why.DESPITE
    return Why.DAEMON_SET if _of_daemon_set(pod) else Why.TOLERATES


def _budgets(budgets: Sequence[Budget], pods: Iterable[Pod]) -> tuple[tuple[ShutBudget, ...], tuple[Overlap, ...]]:
    """Budgets that allow nothing, and pods that several cover."""
    index = _by_label(budgets)
    unready: dict[str, list[str]] = defaultdict(list)
    together: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for pod in pods:
        covering = _covering(pod, index)
        if len(covering) > 1:
            together[pod.namespace, tuple(sorted(b.name for b in covering))].append(pod.key)
        if not pod.ready:
            for budget in covering:
                unready[budget.key].append(pod.key)
    shut = (_shut(b, tuple(sorted(unready[b.key]))) for b in sorted(budgets, key=lambda b: b.key))
    overlapping = (Overlap(ns, names, tuple(sorted(keys))) for (ns, names), keys in sorted(together.items()))
    return tuple(s for s in shut if s), tuple(overlapping)


_Label = tuple[str, str, str]


def _by_label(budgets: Iterable[Budget]) -> Mapping[_Label, list[Budget]]:
    """Budgets by namespace and one of the labels that they demand, so that few are tried on each pod."""
    index: dict[_Label, list[Budget]] = defaultdict(list)
    for budget in budgets:
        if budget.selector is not None:
            key, value = next(iter(budget.selector.labels.items()), ("", ""))
            index[budget.namespace, key, value].append(budget)
    return dict(index)


def _covering(pod: Pod, index: Mapping[_Label, list[Budget]]) -> list[Budget]:
    labels = [("", ""), *pod.labels.items()]
    return [b for key, value in labels for b in index.get((pod.namespace, key, value), ()) if b.covers(pod)]


def _shut(budget: Budget, unready: tuple[str, ...]) -> ShutBudget | None:
    """Why the budget allows nothing; None when it allows something, or has no pods to protect.

    Source: the disruption controller counts only ready pods that are not on their way out as healthy, and sets
    `disruptionsAllowed` to 0 when it cannot work the numbers out.
    """
    if budget.allowed > 0 or (budget.observed and budget.expected == 0):
        return None
    numbers = f"needs {budget.needed} healthy, has {budget.healthy} of {budget.expected}"
    if budget.always_allow_unhealthy and unready:
        numbers += ", but lets go of pods that are not ready"
    if not budget.observed:
        return ShutBudget(budget, "its controller has not seen its present form yet", never=False, unready=unready)
    if budget.needed >= budget.expected:
        return ShutBudget(budget, f"{numbers}: it can never allow an eviction", never=True, unready=unready)
    if budget.healthy <= budget.needed:
        return ShutBudget(budget, numbers, never=False, unready=unready)
    why = f"{numbers}, and allows 0 all the same: its controller could not work it out"
    return ShutBudget(budget, why, never=False, unready=unready)


def _etcd(pods: Iterable[Pod], control_planes: Sequence[str], *, answers: bool | None) -> Etcd:
    """Etcd's health from its static pods and the API server's check.

    Source: kubeadm labels the static pods of its members `component: etcd`; their readiness probe asks the member.
    """
    members = tuple(
        EtcdMember(p.key, p.node, p.ready)
        for p in sorted(pods, key=lambda p: p.key)
        if p.mirror and p.namespace == "kube-system" and p.labels.get("component") == "etcd"
    )
    hosts = {m.node for m in members}
    without = tuple(n for n in control_planes if members and n not in hosts)
    return Etcd(_etcd_health(members, without, answers=answers), answers, members, without)


def _etcd_health(members: Sequence[EtcdMember], without: Sequence[str], *, answers: bool | None) -> EtcdHealth:
    """Never better than what was seen: without the API server's check, ready pods alone do not make it healthy."""
    if answers is False:
        return EtcdHealth.FAILING
    if without or not all(m.ready for m in members):
        return EtcdHealth.DEGRADED
    if answers is None:
        return EtcdHealth.UNKNOWN
    return EtcdHealth.HEALTHY if members else EtcdHealth.ANSWERS
