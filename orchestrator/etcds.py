"""The use cases of etcd: its members and their hosts looked at."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from orchestrator.actions.members import elsewhere, members
from orchestrator.cluster import queries
from orchestrator.cluster.etcd import NOSPACE
from orchestrator.cluster.etcdhosts import Etcd, parse_hash, parse_host
from orchestrator.cluster.kubeadm import cluster_name
from orchestrator.engine.plan import Plan
from orchestrator.engine.together import each, together
from orchestrator.errors import ApiError, HostError, Refused
from orchestrator.planners import etcdcare as planner

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from orchestrator.actions.site import Site
    from orchestrator.app import App
    from orchestrator.cluster.etcdhosts import EtcdHost
    from orchestrator.cluster.model import Node


def survey(app: App) -> Etcd:
    """Every member, and every host that has one.

    Raises:
        Refused: The cluster has no control plane whose host could be asked: it is a managed one.
        ApiError: Its nodes could not be listed.
        HostError: A host could not be asked.
    """
    view = app.reader
    nodes = view.nodes()
    app.machines.know(nodes)
    return read(view, nodes, view.configuration(), app.clock.wall())


def read(view: Site, nodes: tuple[Node, ...], configuration: str, at: float) -> Etcd:
    """As `survey`, of these nodes; those that are no control planes are asked only where no control plane has etcd.

    Raises:
        Refused: As `survey`.
        HostError: As `survey`.
    """
    planes = [n.name for n in nodes if n.control_plane]
    if not planes:
        raise Refused(
            "no node has the role control-plane: etcd is not on machines that can be reached here",
            remedy="of a managed cluster the provider keeps etcd; back up its objects instead",
        )
    found, unreached = _asked(view, planes)
    if not any(host.how for host in found.values()):
        others, more = _asked(view, [n.name for n in nodes if n.name not in planes])
        found |= {name: host for name, host in others.items() if host.how}
        unreached |= more
    return _of(view, cluster_name(configuration), at, found, unreached)


def look(
    view: Site, names: Sequence[str], cluster: str, at: float, ours: Collection[str] = (), sure: Collection[str] = ()
) -> Etcd:
    """As `read`, of hosts that are known without the API; that none of them could be asked is an answer, too.

    Args:
        view: Asks them.
        names: Of them.
        cluster: Its name.
        at: The time.
        ours: Authorities of the cluster. A host with another one is left out, unless none has one of these: the
            cluster's may have been renewed since.
        sure: Of hosts that are not left out.
    """
    found, unreached = _asked(view, names, all_may_be_off=True)
    if any(host.authority in ours for host in found.values()):
        for name in [n for n, host in found.items() if n not in sure and host.foreign(ours)]:
            del found[name]
            unreached[name] = f"{name}: it is of another cluster now: its authority is another"
    return _of(view, cluster, at, found, unreached)


def _of(view: Site, cluster: str, at: float, found: dict[str, EtcdHost], unreached: dict[str, str]) -> Etcd:
    ours = any(host.how for host in found.values())
    external = "" if ours else next((host.servers for host in found.values() if host.external), "")
    members_at = [name for name, host in found.items() if host.runs]
    if not external:
        return Etcd(cluster, at, found, members(view, members_at), unreached=unreached)
    for through in (name for name, host in found.items() if host.external):
        if (facts := elsewhere(view, through)).members:
            return Etcd(cluster, at, found, facts, external, through, unreached)
    return Etcd(cluster, at, found, members(view, ()), external, unreached=unreached)


def hashes_at(view: Site, names: Sequence[str], revision: int) -> dict[str, int | None]:
    """Node -> the hash of its member's keys at a revision, None where it does not tell."""
    told = together(names, lambda one: parse_hash(view.ask(one, queries.ETCD_HASH, str(revision))))
    return {name: one.hash if one else None for name, one in told.items()}


def care(found: Etcd) -> tuple[str, ...]:
    """Nodes of the members in the order in which they are cared for: the leader's last.

    Raises:
        Refused: A member is on none of them, or does not answer.
    """
    order = []
    for member in found.facts.members:
        status, node = found.status_of(member), found.node_of(member)
        if not status or not node or not found.hosts[node].tools.get("etcdctl"):
            why = "does not answer" if not status else f"is on {node or 'no known node'}, where there is no etcdctl"
            raise Refused(f"member {member.name or f'{member.id:x}'} {why}", remedy="orchestrator etcd status")
        order.append((status.leader == status.id, node))
    if not order:
        raise Refused("no member of etcd answers", remedy="orchestrator etcd status")
    return tuple(node for _, node in sorted(order))


def defragment(app: App, *, share: float, least_bytes: int) -> Plan:
    """The plan that gives unused space back, one member after another.

    Raises:
        Refused: A member cannot be cared for.
    """
    return planner.defragment(care(survey(app)), share=share, least_bytes=least_bytes)


def disarm(app: App, say: Callable[[str], None]) -> Plan:
    """The plan that brings etcd out of the alarm NOSPACE.

    Raises:
        Refused: Another alarm is raised, which this does not mend; or a member cannot be cared for.
    """
    found = survey(app)
    others = [alarm for alarm in found.facts.alarms if not alarm.startswith(NOSPACE)]
    if others:
        raise Refused(
            f"etcd raised the alarm {', '.join(others)}: that member's data are not the others'",
            remedy="replace that member: orchestrator etcd replace-member NODE",
        )
    if not found.facts.alarms:
        say("etcd has raised no alarm: nothing to do")
        return Plan(planner.DISARM, "bring etcd out of its alarm", ())
    with contextlib.suppress(ApiError):  # an API server without room may not answer: no run of its can go on either
        app.refuse_if_held()
    for alarm in found.facts.alarms:
        say(f"etcd raised the alarm {alarm}: it takes no writes but deletions")
    revision = min(s.revision for s in found.facts.statuses)
    return planner.disarm(care(found), revision=revision)


def _asked(
    view: Site, names: Sequence[str], *, all_may_be_off: bool = False
) -> tuple[dict[str, EtcdHost], dict[str, str]]:
    """What each host tells, and why others could not be asked: one that is off is no reason to know nothing.

    Raises:
        HostError: None of them could be asked, unless `all_may_be_off`.
    """
    outcomes = each(names, lambda name: parse_host(name, view.ask(name, queries.ETCD_HOST)))
    found = {o.item: o.value for o in outcomes if o.value is not None}
    failed = [o for o in outcomes if o.error is not None]
    for outcome in failed:
        if outcome.error and (not (found or all_may_be_off) or not isinstance(outcome.error, HostError)):
            raise outcome.error
    return found, {o.item: str(o.error) for o in failed}
