"""The use case of taking a control plane back to the version that it had before an upgrade."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from orchestrator.actions.members import members
from orchestrator.app import DryRun
from orchestrator.cluster import queries
from orchestrator.cluster.former import Former, former, latest
from orchestrator.cluster.hostfacts import EtcdFacts, HostFacts, parse_api, parse_at_work, parse_kept, parse_look
from orchestrator.cluster.kubeadm import BACKUPS
from orchestrator.cluster.versions import Version, parse
from orchestrator.engine import runs
from orchestrator.errors import ApiUnreachable, BadUsage, Refused
from orchestrator.planners.rollback import Request, rollback
from orchestrator.remembered import BY_HAND, Remembered, remembered

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.actions.site import Site
    from orchestrator.app import App
    from orchestrator.cluster.hostfacts import Kept
    from orchestrator.cluster.model import Node
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
        knew: What earlier runs knew, where no API server answers.
    """

    nodes: tuple[Node, ...]
    planes: tuple[str, ...]
    knew: Remembered | None = None


def prepare(
    app: App, node: str, *, flags: Mapping[str, Any], drain_timeout_s: float | None, say: Callable[[str], None]
) -> Back:
    """What was kept on the control plane, whether it may go back, and the plan.

    Where its API server is the only one and does not answer, an earlier run from here tells where the hosts are.

    Raises:
        BadUsage: It is no control plane of the cluster.
        Refused: Nothing was kept, or the way back is closed.
        ApiUnreachable: No API server answers, and it is not known to be the only one, or to be away.
    """
    view = app.reader
    say("reading the cluster")
    cluster = _cluster(app, node, say)
    names = [n.name for n in cluster.nodes]
    if node not in names:
        raise BadUsage(f"there is no node {node!r}", remedy=f"known nodes: {', '.join(names)}")
    host, kept, to = _target(view, node, cluster)
    etcd = members(view, cluster.planes)
    if cluster.knew:
        _refuse_several(node, etcd, cluster.knew)
        if cluster.knew.unseen:
            say(f"not reached: {', '.join(cluster.knew.unseen)}; no kubelet there may be newer than {to}")
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
        snapshot=bool(etcd.statuses),
        etcd=str(kept.etcd or "") if kept else "",
        settings=settled,
        away=bool(cluster.knew),
    )
    plan = rollback(node, to, kept, request)
    return Back(to, plan, losses)


def _target(view: Site, node: str, cluster: _Cluster) -> tuple[HostFacts, Former | None, Version]:
    """The control plane as it is, what it goes back to, and of which version that is.

    Raises:
        BadUsage: It is no control plane.
        Refused: Something is at work there, nothing was kept, or a kubelet would be newer than its API server.
    """
    answer = view.ask(node, queries.KEPT)
    _refuse_at_work(node, answer)
    host = parse_look(node, view.ask(node, queries.LOOK))
    # A way back that was cut short may have left it without an API server's manifest.
    if not host.control_plane and not cluster.knew:
        raise BadUsage(
            f"{node} is no control plane: only those are taken back",
            remedy="a worker's kubelet may stay up to three minors behind; to go on, resume the upgrade",
        )
    kept = _former(host, parse_kept(answer))
    to = kept.version if kept else host.server
    if to is None:
        raise Refused(f"{node}: no version to go back to is known", remedy="see /etc/kubernetes/tmp there")
    _refuse_newer(cluster.nodes, node, to)
    return host, kept, to


# ---- the cluster, with its API or without ---------------------------------------------------------------------------


def _cluster(app: App, node: str, say: Callable[[str], None]) -> _Cluster:
    try:
        if app.settings.dry_run is DryRun.NONE:
            app.refuse_if_held()
        nodes = app.reader.nodes()
    except ApiUnreachable as err:
        found = remembered(app, node, err, say)
        return _Cluster(found.nodes, (node,), found)
    app.machines.know(nodes)
    return _Cluster(nodes, tuple(n.name for n in nodes if n.control_plane))


def _refuse_several(node: str, etcd: EtcdFacts, knew: Remembered) -> None:
    """Raise where there may be other members: their API servers may serve, and their data are the cluster's."""
    if len(etcd.members) > 1:
        raise Refused(
            f"{node} is one of {len(etcd.members)} members of etcd, and no API server answers",
            remedy="reach another control plane's: --kubeconfig; orchestrator etcd status shows the members",
        )
    if not etcd.members and knew.over:
        raise Refused(
            f"{node}: neither its API server nor etcd answers, and since {knew.run} others may have joined the cluster",
            remedy=f"see etcd's log on {node}; when it is the only member, {BY_HAND}",
        )


def _refuse_at_work(node: str, kept: str) -> None:
    """Raise while kubeadm, or a command of some plan, works there: what it leaves is not known yet."""
    if busy := parse_at_work(kept):
        raise Refused(
            f"{node}: still at work there: {', '.join(busy)}",
            remedy="`orchestrator runs` has the run, and `orchestrator resume RUN` goes on with it; or wait",
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
    if older is None or (running and older.line == running.line):
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
