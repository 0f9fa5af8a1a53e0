"""The use case of taking a control plane back to the version that it had before an upgrade."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from orchestrator.actions.members import members
from orchestrator.app import DryRun
from orchestrator.cluster import queries
from orchestrator.cluster.former import Former, former, latest
from orchestrator.cluster.hostfacts import EtcdFacts, HostFacts, parse_api, parse_kept, parse_look
from orchestrator.cluster.kubeadm import BACKUPS
from orchestrator.cluster.model import Node
from orchestrator.cluster.versions import Version, parse
from orchestrator.engine import runs
from orchestrator.engine.together import each
from orchestrator.errors import ApiError, BadUsage, Locked, Refused
from orchestrator.planners.rollback import Request, rollback

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.app import App
    from orchestrator.cluster.hostfacts import Kept
    from orchestrator.engine.journal import Contents
    from orchestrator.engine.plan import Plan


@dataclass(frozen=True, slots=True)
class Back:
    """A way back.

    Attributes:
        losses: What will be lost by it, in words for people.
    """

    to: Version
    plan: Plan
    losses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Cluster:
    """The nodes, and which of them are control planes.

    Attributes:
        away: No API server answers: this is what an earlier run knew.
        unseen: Nodes of which it is not known which kubelet runs there.
    """

    nodes: tuple[Node, ...]
    planes: tuple[str, ...]
    away: bool = False
    unseen: tuple[str, ...] = ()


def prepare(
    app: App, node: str, *, flags: Mapping[str, Any], drain_timeout_s: float | None, say: Callable[[str], None]
) -> Back:
    """What was kept on the control plane, whether it may go back, and the plan.

    Where its API server is the only one and does not answer, an earlier run from here tells where the hosts are.

    Raises:
        BadUsage: It is no control plane of the cluster.
        Refused: Nothing was kept, or the way back is closed.
        ApiError: No API server answers, and it is not known to be the only one.
    """
    view = app.reader
    say("reading the cluster")
    cluster = _cluster(app, node, say)
    names = [n.name for n in cluster.nodes]
    if node not in names:
        raise BadUsage(f"there is no node {node!r}", remedy=f"known nodes: {', '.join(names)}")
    host = parse_look(node, view.ask(node, queries.LOOK))
    if not host.control_plane:
        raise BadUsage(
            f"{node} is no control plane: only those are taken back",
            remedy="a worker's kubelet may stay up to three minors behind; to go on, resume the upgrade",
        )
    kept = _former(host, parse_kept(view.ask(node, queries.KEPT)))
    to = kept.version if kept else host.server
    if to is None:
        raise Refused(f"{node}: no version to go back to is known", remedy="see /etc/kubernetes/tmp there")
    _refuse_newer(cluster.nodes, node, to)
    if cluster.unseen:
        say(f"not reached: {', '.join(cluster.unseen)}; no kubelet there may be newer than {to}")
    etcd = members(view, cluster.planes)
    if cluster.away:
        _refuse_several(node, etcd)
    if kept and kept.alone and _turns_back(host, kept, etcd):
        say(f"etcd of {node} stays as it is: with its data, what was written since would go back as well")
        kept = kept.without_etcd()
    data, losses = _data(node, host, kept, etcd)
    others = [n for n in cluster.planes if n != node]
    settled = all(parse_api(view.ask(n, queries.API, "0"))[1] == to for n in others)
    request = Request(
        name=runs.plan_name("rollback", app.clock.wall()),
        owner=app.owner,
        planes=cluster.planes,
        flags=flags,
        drain_timeout_s=drain_timeout_s,
        data=data,
        snapshot=bool(etcd.statuses) and not cluster.away,
        etcd=str(kept.etcd or "") if kept else "",
        settings=settled,
        away=app.machines.places()[node] if cluster.away else None,
    )
    plan = rollback(node, to, kept, request)
    return Back(to, plan, losses)


# ---- the cluster, with its API or without ---------------------------------------------------------------------------


def _cluster(app: App, node: str, say: Callable[[str], None]) -> _Cluster:
    try:
        if app.settings.dry_run is DryRun.NONE:
            app.refuse_if_held()
        nodes = app.reader.nodes()
    except ApiError as err:
        if not err.retryable:
            raise
        return _remembered(app, node, err, say)
    app.machines.know(nodes)
    return _Cluster(nodes, tuple(n.name for n in nodes if n.control_plane))


def _remembered(app: App, node: str, why: ApiError, say: Callable[[str], None]) -> _Cluster:
    """The cluster as the latest run from here knew it; kubelets by their hosts.

    Raises:
        ApiError: `why`, where no run knew it, or knew other control planes.
        Locked: That run is at work.
    """
    server = app.session.server
    found = (run for run in runs.known() if run.meta.get("server") == server and node in run.meta.get("hosts", {}))
    run = next((run for run in found if _planes(run)), None)
    if run is None or _planes(run) != {node}:
        why.add_note(_not_the_only(node, _planes(run) if run else set()))
        raise why
    if not runs.unattended(run.run):
        raise Locked(f"{run.run} is at work on that cluster", remedy="stop it with Ctrl-C, and try again")
    say(f"no API server answers ({why}): hosts are those that {run.run} knew")
    places = {name: Node.at(name, *place) for name, place in run.meta["hosts"].items()}
    app.machines.know(list(places.values()))

    def kubelet(name: str) -> str:
        return str(parse_look(name, app.reader.ask(name, queries.LOOK)).running or "")

    seen = each([name for name in places if name != node], kubelet)
    nodes = [replace(places[one.item], kubelet_version=one.value) for one in seen if one.value is not None]
    return _Cluster((places[node], *nodes), (node,), away=True, unseen=tuple(one.item for one in seen if one.error))


def _planes(run: Contents) -> set[str]:
    return {name for step in run.plan.steps() for name in step.params.get("control_planes", ())}


def _not_the_only(node: str, planes: set[str]) -> str:
    if not planes:
        return "no upgrade from here knew this cluster; by hand: docs/upgrade.md, “By hand”"
    if node not in planes:
        return f"{node} was no control plane of it: {', '.join(sorted(planes))}"
    others = ", ".join(sorted(planes - {node}))
    return f"there are other control planes: {others}; see what keeps their API servers, or the load balancer"


def _refuse_several(node: str, etcd: EtcdFacts) -> None:
    """Raise where etcd knows more members: their API servers may serve, and their data are the cluster's."""
    if len(etcd.members) > 1:
        raise Refused(
            f"{node} is one of {len(etcd.members)} members of etcd, and no API server answers",
            remedy="reach another control plane's: --kubeconfig; orchestrator etcd status shows the members",
        )


# ---- what goes back -------------------------------------------------------------------------------------------------


def _former(host: HostFacts, kept: tuple[Kept, ...]) -> Former | None:
    """The manifests of before the last upgrade; None where only packages are ahead.

    Raises:
        Refused: Static pods are newer than kubeadm's package ever was, and nothing was kept.
    """
    now = {name: m.version and replace(m.version, vendor="") for name, m in host.manifests.items()}
    found = former(kept, now, host.kubeadm)
    newest = latest(now)
    if found or (newest and host.kubeadm and host.kubeadm > newest):
        return found
    raise Refused(
        f"{host.node}: no whole set of manifests older than {newest} is kept in {BACKUPS}",
        remedy="restore a snapshot of etcd, or go on: `orchestrator upgrade plan`",
    )


def _refuse_newer(nodes: tuple[Node, ...], node: str, to: Version) -> None:
    newer = [
        f"{n.name} ({n.kubelet_version})"
        for n in nodes
        if n.name != node and not n.control_plane and (v := parse(n.kubelet_version)) and v.line > to.line
    ]
    if newer:
        raise Refused(
            f"{node} cannot go back to {to}: kubelets would be newer than its API server: {', '.join(newer[:10])}",
            remedy="go on instead: `orchestrator upgrade apply`",
        )


def _turns_back(host: HostFacts, kept: Former, etcd: EtcdFacts) -> bool:
    """Whether the older etcd needs older data.

    Source: etcd refuses data whose storage version is newer than itself; members of mixed versions keep the older one.
    """
    older = kept.etcd
    running = host.components.get("etcd") or (host.manifests["etcd"].version if "etcd" in host.manifests else None)
    if older is None or running is None or older.line == running.line:
        return False
    storage = {s.storage_version for s in etcd.statuses if s.storage_version}
    return not (storage and all(v.startswith(f"{older.major}.{older.minor}.") for v in storage))


def _data(node: str, host: HostFacts, kept: Former | None, etcd: EtcdFacts) -> tuple[str, tuple[str, ...]]:
    """The copy of data that has to come back with an older etcd, and what is lost by that."""
    if kept is None or not _turns_back(host, kept, etcd):
        return "", ()
    if len(etcd.members) > 1:
        raise Refused(
            f"{node}: every member of etcd runs a version whose data {kept.etcd} does not read",
            remedy="go on instead; or restore the snapshot from before the upgrade on all members",
        )
    if not kept.data:
        raise Refused(f"{node}: kubeadm kept no data of etcd {kept.etcd}", remedy="restore a snapshot from before")
    when = kept.data.rpartition("kubeadm-backup-etcd-")[2].partition("/")[0]
    return kept.data, (f"everything written to the cluster since {when} (etcd's data go back to the copy of then)",)
