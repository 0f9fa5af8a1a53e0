"""The results of `status`, `unmanaged` and `doctor` for people."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypeVar

from orchestrator.cluster.overview import EtcdHealth
from orchestrator.cluster.unmanaged import Fate, Kind
from orchestrator.cluster.versions import Skew
from orchestrator.report.bodies import summary, unready_since, unready_why
from orchestrator.report.text import ago, bullets, columns, count, day, limited, names, wrapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from orchestrator.cluster.applications import Application
    from orchestrator.cluster.checkup import Credentials, Finding
    from orchestrator.cluster.model import Pod
    from orchestrator.cluster.overview import Backup, Etcd, NodeState, Overview, Status
    from orchestrator.cluster.unmanaged import Consequence, Unmanaged, UnmanagedPods

T = TypeVar("T")

#: Rows of a section before it says how many more there are.
ROWS = 40
_LABEL = 14


# ---- status ---------------------------------------------------------------------------------------------------


def status(found: Status, *, everything: bool) -> str:
    """A cluster at a glance; `everything` shows all rows, however many."""
    seen, at = found.seen, found.at
    rows = None if everything else ROWS
    head = (
        ("cluster", f"{found.server} (context {found.context or 'in-cluster'})"),
        ("API server", seen.server_version or "version unknown"),
        ("nodes", _nodes_line(seen)),
        ("kubelets", _versions_line(seen)),
        ("applications", _applications_line(seen)),
        ("etcd", _etcd_line(seen.etcd)),
        ("certificates", f"API server's {_end(found.serving_end, at)}; {_credentials(found.credentials, at)}"),
        ("last backup", _backup_line(found.backup, at)),
    )
    lines = [line for label, text in head for line in wrapped(f"{label:<{_LABEL}}{text}", _LABEL)]
    sections = (
        ("ATTENTION", bullets(_attention(seen, at, rows))),
        ("NODES", _nodes_table(seen.nodes, at, rows)),
        ("EMPTY NODES", bullets(limited([f"{n.node.name}: {n.empty}" for n in seen.nodes if n.empty], rows))),
        ("WHY PODS ARE ON CONTROL PLANES", bullets(limited(list(_placements(seen.nodes)), rows))),
        ("APPLICATIONS", _applications_table(seen.applications, rows)),
    )
    return "\n".join(lines + [line for title, section in sections if section for line in ("", title, *section)])


def _backup_line(last: Backup, at: float) -> str:
    if last.unread:
        return f"not known: {last.unread}"
    return f"{ago(at - last.at)} ago, {last.name}" if last.at is not None else "none known here"


def _nodes_line(seen: Overview) -> str:
    s = summary(seen)
    parts = [f"{s.ready} ready"]
    if s.nodes > s.ready:
        parts.append(f"{s.nodes - s.ready} not ready")
    if s.cordoned:
        parts.append(f"{s.cordoned} cordoned")
    parts.append(f"{s.take_workloads} can take workloads")
    return f"{s.nodes}: {', '.join(parts)}"


_SKEW = {
    Skew.WITHIN: "",
    Skew.NEWER: " (newer than the API server)",
    Skew.TOO_OLD: " (too old for the API server)",
    Skew.UNKNOWN: " (whether it fits the API server is not known)",
}


def _versions_line(seen: Overview) -> str:
    counted = sorted(Counter((n.node.kubelet_version or "unknown", n.skew) for n in seen.nodes).items())
    return ", ".join(f"{version} on {count(n, 'node')}{_SKEW[skew]}" for (version, skew), n in counted) or "none"


def _applications_line(seen: Overview) -> str:
    s = summary(seen)
    hosts = {node for a in seen.applications for node, _ in a.nodes}
    kinds = Counter(a.identity.kind for a in seen.applications)
    alone = kinds.pop("Pod", 0)
    counted = [count(n, kind) for kind, n in sorted(kinds.items())]
    counted += [f"{count(alone, 'pod')} without a controller"] if alone else []
    text = f"{s.applications} on {count(len(hosts), 'node')}"
    if counted:
        text += f" ({', '.join(counted)}), {s.system_applications} of them in kube-system"
    return text + (f"; also {count(s.static_pods, 'static pod')}" if s.static_pods else "")


_ETCD = {
    EtcdHealth.HEALTHY: "healthy",
    EtcdHealth.DEGRADED: "degraded",
    EtcdHealth.FAILING: "failing",
    EtcdHealth.ANSWERS: "answers the API server; the health of its members is not known from here",
    EtcdHealth.UNKNOWN: "health not known from here",
}
_CHECK = {
    True: "the API server's own check passes",
    False: "the API server's own check fails",
    None: "the API server's own check cannot be read",
}


def _etcd_line(etcd: Etcd) -> str:
    ready = sum(m.ready for m in etcd.members)
    pods = f"{ready} of {count(len(etcd.members), 'member pod')} ready" if etcd.members else "no static etcd pods"
    without = [f"no member on {names(etcd.without)}"] if etcd.without else []
    return f"{_ETCD[etcd.health]} ({', '.join([pods, *without, _CHECK[etcd.answers]])})"


def _end(end: float | None, at: float) -> str:
    if end is None:
        return "end is not known from here"
    return f"ends {day(end)} (in {ago(end - at)})" if end > at else f"ended {day(end)} ({ago(at - end)} ago)"


def _credentials(found: Credentials, at: float) -> str:
    if found.kind == "none":
        return "no credentials of yours"
    if found.renews:
        return f"your {found.kind} is renewed by its plugin"
    return (
        f"your {found.kind}'s {_end(found.end, at)}"
        if found.end is None
        else f"your {found.kind} {_end(found.end, at)}"
    )


def _attention(seen: Overview, at: float, rows: int | None) -> list[str]:
    """What somebody should look at, kind by kind, each with its numbers."""
    shut = [
        f"budget {s.budget.key} ({s.budget.rule}) allows no eviction: {s.why}"
        + (f"; not ready: {names(s.unready)}" if s.unready else "")
        for s in sorted(seen.shut, key=lambda s: not s.never)
    ]
    overlapping = [
        f"budgets {' and '.join(o.budgets)} of {o.namespace} cover the same {count(len(o.pods), 'pod')}: the API can"
        f" evict no such pod ({names(o.pods)})"
        for o in seen.overlapping
    ]
    kinds = (
        list(_node_troubles(seen.nodes, at)),
        [f"etcd is {seen.etcd.health.value}"] if seen.etcd.health in (EtcdHealth.DEGRADED, EtcdHealth.FAILING) else [],
        shut,
        overlapping,
        [_unready_line(p, at) for p in seen.unready],
    )
    return [line for kind in kinds for line in limited(kind, rows)]


def _node_troubles(nodes: Iterable[NodeState], at: float) -> Iterator[str]:
    for state in nodes:
        name = state.node.name
        if not state.node.ready:
            yield f"node {name} is not ready{_since(state.node.ready_since, at)} ({state.node.ready_reason})"
        if state.cordon:
            yield f"node {name} is {state.cordon}{_since(state.cordon.since, at)}"
        if state.skew is Skew.NEWER:
            yield f"node {name}: kubelet {state.node.kubelet_version} is newer than the API server: not supported"
        if state.skew is Skew.TOO_OLD:
            yield f"node {name}: kubelet {state.node.kubelet_version} is too old for the API server: not supported"


def _since(since: float | None, at: float) -> str:
    return "" if since is None else f" for {ago(at - since)}"


def _unready_line(pod: Pod, at: float) -> str:
    where = f" on {pod.node}" if pod.node else " (no node)"
    why = unready_why(pod)
    return f"pod {pod.key}{where} is not ready{_since(unready_since(pod), at)}" + (f" ({why})" if why else "")


def _nodes_table(nodes: Sequence[NodeState], at: float, rows: int | None) -> list[str]:
    shown, rest = _notable_first(nodes, lambda n: not n.node.ready or n.cordon or n.skew is not Skew.WITHIN, rows)
    header = ("NAME", "ROLES", "STATE", "FOR", "KUBELET", "PODS", "APPS", "TAKES WORKLOADS")
    return columns(header, (_node_row(n, at) for n in shown)) + rest


def _node_row(state: NodeState, at: float) -> tuple[str, ...]:
    node = state.node
    return (
        node.name,
        ",".join(node.roles) or "-",
        "ready" if node.ready else "NOT READY",
        "?" if node.ready_since is None else ago(at - node.ready_since),
        node.kubelet_version or "?",
        str(state.pods),
        str(state.applications),
        "yes" if state.takes_workloads else f"no: {'; '.join(state.obstacles)}",
    )


def _placements(nodes: Iterable[NodeState]) -> Iterator[str]:
    for state in nodes:
        for placed in state.placements:
            yield f"{state.node.name}: {placed.why.value}: {count(len(placed.pods), 'pod')} ({names(placed.pods)})"


def _applications_table(applications: Sequence[Application], rows: int | None) -> list[str]:
    shown, rest = _notable_first(applications, lambda a: a.ready < max(a.pods, a.wanted or 0), rows)
    table = (
        (a.identity.namespace, a.identity.kind, a.identity.name, _ready(a), names([n for n, _ in a.nodes]) or "-")
        for a in shown
    )
    return columns(("NAMESPACE", "KIND", "NAME", "READY", "ON NODES"), table) + rest if shown else []


def _ready(application: Application) -> str:
    wanted = application.pods if application.wanted is None else application.wanted
    return f"{application.ready}/{wanted}"


def _notable_first(
    items: Sequence[T], notable: Callable[[T], object], rows: int | None
) -> tuple[Sequence[T], list[str]]:
    """What fits into `rows`, with what is notable among the first, and a line for the rest."""
    if rows is None or len(items) <= rows:
        return items, []
    order = sorted(items, key=lambda item: not notable(item))
    return order[:rows], [f"... and {len(items) - rows} more (--all shows them)"]


# ---- unmanaged ------------------------------------------------------------------------------------------------

_WHY = {Kind.NAKED: "no controller", Kind.ORPHAN: "controller gone", Kind.STATIC: "static pod"}
_FATE = {
    Fate.REFUSED: "refused",
    Fate.DELETED: "deleted",
    Fate.STAYS: "stays",
    Fate.OWNER_DECIDES: "owner decides",
    Fate.LOST: "lost",
    Fate.WITH_NODE: "back with node",
}


def unmanaged(found: UnmanagedPods) -> str:
    """Pods that no controller would bring back, and what becomes of each."""
    where = f" on {names(found.nodes)}" if found.nodes else ""
    if not found.looked_at:
        return f"there are no pods{where}"
    if not found.pods:
        subject = "the only pod" if found.looked_at == 1 else f"each of the {found.looked_at} pods"
        return f"{subject}{where} has a controller that brings it back, or has ended"
    title = f"{len(found.pods)} of {count(found.looked_at, 'pod')}{where}: no controller brings them back"
    header = ("NODE", "POD", "WHY", "DRAIN", "--FORCE", "NODE LOST", "A DRAIN NEEDS")
    rows = (
        (u.pod.node or "-", u.pod.key, _why(u), _fate(u.drain), _fate(u.forced), _fate(u.lost), " ".join(u.drain.flags))
        for u in found.pods
    )
    return "\n".join([title, "", *columns(header, rows)])


def _why(what: Unmanaged) -> str:
    owner = what.pod.controller
    return f"{owner.kind} {owner.name}" if what.kind is Kind.CUSTOM and owner else _WHY[what.kind]


def _fate(what: Consequence) -> str:
    return _FATE[what.fate] + (", data too" if what.data_lost else "")


# ---- doctor ---------------------------------------------------------------------------------------------------


def doctor(findings: Sequence[Finding]) -> str:
    """Each finding with its evidence, and below it what to do."""
    width = max((len(f.check) for f in findings), default=0)
    indent = 9 + width + 2
    lines = []
    for f in findings:
        lines += wrapped(f"{f.level.value:<9}{f.check:<{width}}  {f.evidence}", indent)
        lines += wrapped(f"{' ' * indent}remedy: {f.remedy}", indent) if f.remedy else []
    counted = Counter(f.level.value for f in findings)
    return "\n".join([*lines, "", ", ".join(f"{n} {level}" for level, n in counted.items())])
