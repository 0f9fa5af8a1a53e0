"""The use case of a Kubernetes upgrade: the cluster and its hosts looked at, judged, and the plan made."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.actions.drain import survey
from orchestrator.cluster import managed, packages, preflight, queries
from orchestrator.cluster.eviction import Outcome
from orchestrator.cluster.hostfacts import (
    EtcdFacts,
    HostFacts,
    parse_api,
    parse_edited,
    parse_etcd,
    parse_look,
    parse_offers,
    parse_preflight,
)
from orchestrator.cluster.versions import Version, hops, parse, target
from orchestrator.errors import BadUsage, OrchestratorError, Refused
from orchestrator.hosts.pool import each
from orchestrator.planners import upgrade as planner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from orchestrator.actions.site import Site
    from orchestrator.app import App
    from orchestrator.cluster.hostfacts import Offers
    from orchestrator.cluster.kubeadm import Complaint
    from orchestrator.cluster.model import Node
    from orchestrator.cluster.preflight import Finding, Situation
    from orchestrator.cluster.versions import Hop, Workers
    from orchestrator.engine.plan import Plan


@dataclass(frozen=True, slots=True)
class Wish:
    """What an operator asks for.

    Attributes:
        to: A minor or a patch; "" for the newest patch of the cluster's next minor.
        nodes: Only these; all when empty.
        accept: Findings that may be, by name.
        strategy: `rolling`, `all-at-once` or `auto`.
    """

    to: str
    nodes: tuple[str, ...]
    accept: tuple[str, ...]
    strategy: str
    workers: Workers
    max_unavailable: int
    flags: Mapping[str, Any]
    drain_timeout_s: float | None
    pause_after: str
    options: tuple[str, ...] = ()
    before: planner.Hook | None = None
    after: planner.Hook | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """An upgrade that was looked at.

    Attributes:
        current: The version of the oldest API server.
        findings: All of them, worst first; `unaccepted` are those that forbid the start.
        strategy: Which one, and why where it was chosen here.
    """

    current: Version
    hops: tuple[Hop, ...]
    findings: tuple[Finding, ...]
    unaccepted: tuple[Finding, ...]
    accepted: tuple[str, ...]
    strategy: str
    why: str
    plan: Plan


def prepare(app: App, wish: Wish, say: Callable[[str], None]) -> Prepared:
    """Everything that is known before the first node is touched, and the plan.

    Args:
        app: The cluster.
        wish: What is wanted.
        say: Told what is being looked at: on many hosts it takes a while.

    Raises:
        Refused: kubeadm does not run this cluster, or the version cannot be reached.
        BadUsage: A node that is named is none.
        OrchestratorError: The cluster or a host could not be read: nothing is taken for good unseen.
    """
    view: Site = app.view if app.settings.dry_run.value != "none" else app.hands
    say("reading the cluster")
    nodes = view.nodes()
    _refuse_managed(nodes)
    chosen = _chosen(nodes, wish.nodes)
    app.machines.know(nodes)
    say(f"asking {len(nodes)} hosts")
    hosts = _together([n.name for n in nodes], lambda name: parse_look(name, view.ask(name, queries.EXAMINE)))
    _refuse_others(hosts)
    planes = tuple(name for name, host in hosts.items() if host.control_plane)
    current = _current(hosts, planes)
    named = _named(wish.to, current)
    say("asking the package repositories")
    offers = _offers(view, hosts, chosen, current, named)
    etcd = _etcd(view, planes)
    way = _way(hosts, current, wish, named, offers, chosen)
    say("running kubeadm's own checks")
    configuration = view.configuration()
    situation = _situation(app, view, nodes, hosts, etcd, offers, way, wish, chosen, configuration)
    found = preflight.findings(situation)
    workers = sum(1 for name in chosen if name not in planes)
    takes = sum(1 for n in nodes if not n.unschedulable and not n.taints)
    strategy, why = planner.strategy(wish.strategy, workers, takes)
    plan = _plan(app, wish, strategy, nodes, planes, etcd, chosen, way, configuration)
    accepted = tuple(sorted({f.check for f in found} & set(wish.accept)))
    return Prepared(
        current, way, found, preflight.unaccepted(found, wish.accept), accepted, strategy, why, plan
    )  # fmt: skip


# ---- whose cluster, which nodes -------------------------------------------------------------------------------------


def _refuse_managed(nodes: Sequence[Node]) -> None:
    if found := managed.provider(nodes):
        raise Refused(f"kubeadm does not run this cluster: {found.name} does ({found.evidence})", remedy=found.remedy)


def _refuse_others(hosts: Mapping[str, HostFacts]) -> None:
    if found := managed.plain(hosts):
        raise Refused(f"kubeadm does not run this cluster: {found.evidence}", remedy=found.remedy)


def _chosen(nodes: Sequence[Node], wanted: Sequence[str]) -> tuple[str, ...]:
    known = tuple(n.name for n in nodes)
    for name in wanted:
        if name not in known:
            raise BadUsage(
                f"there is no node {name!r}; nothing was changed", remedy=f"known nodes: {', '.join(known[:20])}"
            )
    return tuple(name for name in known if name in wanted) if wanted else known


# ---- versions -------------------------------------------------------------------------------------------------------


def _current(hosts: Mapping[str, HostFacts], planes: Sequence[str]) -> Version:
    servers = [hosts[name].server for name in planes]
    known = [v for v in servers if v]
    if not planes or len(known) < len(planes):
        unknown = [name for name, v in zip(planes, servers, strict=True) if v is None]
        raise Refused(
            f"the version of the API server cannot be told on {', '.join(unknown) or 'any host'}",
            remedy="see that kube-apiserver runs there, from /etc/kubernetes/manifests",
        )
    return min(known)


def _named(wanted: str, current: Version) -> Version:
    named = parse(wanted) if wanted else Version(current.major, current.minor + 1, 0)
    if named is None:
        raise BadUsage(f"--to={wanted} is no version", remedy="a minor or a patch, such as --to 1.37 or --to 1.37.2")
    return named


def _offers(
    view: Site, hosts: Mapping[str, HostFacts], chosen: Sequence[str], current: Version, named: Version
) -> Mapping[str, Mapping[str, Offers]]:
    """Node -> minor -> what the node's repository of that minor offers."""
    minors = [f"{current.major}.{minor}" for minor in range(current.minor, max(current.minor, named.minor) + 1)]

    def ask(pair: tuple[str, str]) -> Offers:
        name, minor = pair
        text = "\n".join(packages.moved(source, minor) for source in hosts[name].sources)
        return parse_offers(view.ask(name, queries.OFFERS, text))

    pairs = [(name, minor) for name in chosen for minor in minors if hosts[name].sources]
    answers = _together(pairs, ask)
    return {name: {m: answers[name, m] for m in minors if (name, m) in answers} for name in chosen}


def _way(
    hosts: Mapping[str, HostFacts],
    current: Version,
    wish: Wish,
    named: Version,
    offers: Mapping[str, Mapping[str, Offers]],
    chosen: Sequence[str],
) -> tuple[Hop, ...]:
    """The hops; over versions that every node is offered."""
    everywhere: set[Version] | None = None
    for mine in offers.values():
        here = {v for each_minor in mine.values() for v in each_minor.versions}
        everywhere = here if everywhere is None else everywhere & here
    wanted = wish.to or f"{named.major}.{named.minor}"
    somewhere = {v for mine in offers.values() for each_minor in mine.values() for v in each_minor.versions}
    # A version that only some nodes are offered is no way; that, and which nodes, is a finding with a remedy.
    to = target(wanted, (everywhere or set()) if named.line in {v.line for v in everywhere or ()} else somewhere)
    kubelets = [hosts[name].kubelet for name in chosen if not hosts[name].control_plane] or [current]
    behind = min((k for k in kubelets if k), default=current)
    found = hops(current, to, somewhere, workers=wish.workers, kubelet=min(behind, current))
    return tuple(found)


# ---- looking --------------------------------------------------------------------------------------------------------


def _etcd(view: Site, planes: Sequence[str]) -> EtcdFacts:
    for name in planes:
        found = parse_etcd(view.ask(name, queries.ETCD))
        if found.members:
            return found
    return EtcdFacts()


def _situation(
    app: App,
    view: Site,
    nodes: Sequence[Node],
    hosts: Mapping[str, HostFacts],
    etcd: EtcdFacts,
    offers: Mapping[str, Mapping[str, Offers]],
    way: tuple[Hop, ...],
    wish: Wish,
    chosen: tuple[str, ...],
    configuration: str,
) -> Situation:
    planes = [name for name, host in hosts.items() if host.control_plane]
    first = way[0].to if way else None
    checks = _together([n for n in chosen if first], partial(_checked, view, hosts, offers, first)) if first else {}
    edited = _together(
        [n for n in planes if n in chosen and hosts[n].kubeadm],
        lambda n: parse_edited(view.ask(n, queries.EDITED, str(hosts[n].server))),
    )
    apis = _together(planes, lambda name: parse_api(view.ask(name, queries.API, "0"))[0])
    wall = app.clock.wall()
    judged = {n: survey(view, n, {**wish.flags, "cordon": ""}, wall) for n in chosen}
    refused = {
        n: {v.pod.key: tuple(r.text for r in v.reasons) for v in found.having(Outcome.REFUSE)}
        for n, found in judged.items()
    }
    return preflight.Situation(
        nodes=tuple(nodes),
        hosts=hosts,
        etcd=etcd,
        apis=apis,
        offers=offers,
        checks=checks,
        edited=edited,
        pods=view.pods(),
        budgets=view.budgets(),
        workloads=view.workloads(),
        refused=refused,
        deprecated=view.deprecated() or (),
        configuration=configuration,
        hops=way,
        upgrading=chosen,
        now=wall,
    )


def _checked(
    view: Site,
    hosts: Mapping[str, HostFacts],
    offers: Mapping[str, Mapping[str, Offers]],
    to: Version | None,
    name: str,
) -> tuple[tuple[Complaint, ...], str]:
    """What kubeadm of the next version says of one node, without being installed."""
    assert to is not None  # noqa: S101  there is a hop
    minor = f"{to.major}.{to.minor}"
    mine = offers[name].get(minor)
    if mine is None or to not in mine.versions:
        return (), ""  # that is a finding of its own
    text = "\n".join(packages.moved(source, minor) for source in hosts[name].sources)
    return parse_preflight(view.ask(name, queries.PREFLIGHT, text, mine.versions[to], str(to)))


def _together(items: Iterable[Any], work: Callable[[Any], Any]) -> dict[Any, Any]:
    """Item -> what the work gave, on many hosts at once.

    Raises:
        OrchestratorError: The first failure; notes name the others. A host that cannot be asked is not passed over.
    """
    outcomes = each(items, work)
    errors: list[OrchestratorError] = [o.error for o in outcomes if o.error]
    for other in errors[1:]:
        errors[0].add_note(str(other))
    if errors:
        raise errors[0]
    return {o.item: o.value for o in outcomes}


# ---- the plan -------------------------------------------------------------------------------------------------------


def _plan(
    app: App,
    wish: Wish,
    strategy: str,
    nodes: Sequence[Node],
    planes: Sequence[str],
    etcd: EtcdFacts,
    chosen: Sequence[str],
    way: tuple[Hop, ...],
    configuration: str,
) -> Plan:
    leaders = {status.leader for status in etcd.statuses}
    leading = {member.name for member in etcd.members if member.id in leaders}
    targets = [planner.Target(n.name, n.name in planes, n.name in leading, n.name in chosen) for n in nodes]
    workers = sum(1 for t in targets if t.upgrade and not t.control_plane)
    at_once = strategy == "all-at-once"
    stamp = datetime.fromtimestamp(app.clock.wall(), UTC).strftime("%Y%m%dT%H%M%S")
    request = planner.Request(
        name=f"upgrade-{stamp}-{secrets.token_hex(2)}",
        owner=app.owner,
        flags={**wish.flags, **({"disable_eviction": True} if at_once else {})},
        drain_timeout_s=wish.drain_timeout_s,
        accept=tuple(sorted(wish.accept)),  # kubeadm takes no notice of names that are not its own
        options=wish.options,
        max_unavailable=max(1, workers) if at_once else wish.max_unavailable,
        pause_after=wish.pause_after,
        configuration=configuration,
        before=wish.before,
        after=wish.after,
    )
    return planner.upgrade(targets, way, request)
