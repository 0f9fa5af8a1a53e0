"""The use case of a Kubernetes upgrade: the cluster and its hosts looked at, judged, and the plan made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.actions.drain import survey
from orchestrator.actions.members import members
from orchestrator.app import DryRun
from orchestrator.cluster import managed, preflight, queries, removed
from orchestrator.cluster.eviction import Outcome
from orchestrator.cluster.frame import sections
from orchestrator.cluster.hostfacts import (
    EtcdFacts,
    HostFacts,
    Offers,
    parse_api,
    parse_clock,
    parse_edited,
    parse_look,
    parse_offers,
    parse_preflight,
    parse_unlisted,
    parse_wanted,
)
from orchestrator.cluster.situation import Situation
from orchestrator.cluster.versions import Version, downgrade, hops, minor, parse, target
from orchestrator.engine import runs
from orchestrator.engine.together import each, together
from orchestrator.errors import BadUsage, OrchestratorError, Refused
from orchestrator.planners import upgrade as planner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.actions.site import Site
    from orchestrator.app import App
    from orchestrator.cluster.kubeadm import Complaint
    from orchestrator.cluster.model import Node
    from orchestrator.cluster.situation import Finding
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
        kubeadm_timeout_s: On each node, after which it is ended there.
        renews: Certificates are renewed.
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
    kubeadm_timeout_s: float = planner.KUBEADM_S
    renews: bool = True
    before: planner.Hook | None = None
    after: planner.Hook | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """An upgrade that was looked at.

    Attributes:
        current: The version of the oldest API server.
        findings: All of them, worst first; `unaccepted` are those that forbid the start.
        strategy: Which one, and why where it was chosen here.
        behind: Nodes that are not asked for and are older than `current`, with their versions, where there is nothing
            to do.
    """

    current: Version
    hops: tuple[Hop, ...]
    findings: tuple[Finding, ...]
    unaccepted: tuple[Finding, ...]
    accepted: tuple[str, ...]
    strategy: str
    why: str
    plan: Plan
    behind: tuple[str, ...] = ()


def prepare(app: App, wish: Wish, say: Callable[[str], None]) -> Prepared:
    """Everything that is known before the first node is touched, and the plan.

    Args:
        app: The cluster.
        wish: What is wanted.
        say: Told what is being looked at: on many hosts it takes a while.

    Raises:
        Refused: kubeadm does not run this cluster, or the version cannot be reached.
        BadUsage: A node that is named is none.
        OrchestratorError: The cluster could not be read, or no control plane, or none of the nodes that are asked for.
            A single host that cannot be is a finding.
    """
    view = app.reader
    say("reading the cluster")
    if app.settings.dry_run is DryRun.NONE:
        app.refuse_if_held()
    nodes = view.nodes()
    _refuse_managed(nodes)
    chosen = _chosen(nodes, wish.nodes)
    say(f"asking {len(nodes)} hosts")
    hosts, clocks, unseen = _looked(app, nodes)
    planes = tuple(n.name for n in nodes if (n.control_plane if n.name in unseen else hosts[n.name].control_plane))
    for needed in (planes, chosen):
        _refuse_unseen(needed, unseen)
    _refuse_others(hosts, chosen)
    known = tuple(name for name in planes if name in hosts)
    current, etcd = _current(hosts, known), members(view, known)
    seen = _Seen(nodes, hosts, clocks, unseen, planes, chosen, current, etcd, view.configuration())
    say("asking the package repositories")
    named = _named(wish.to, seen.current)
    if named.line < seen.current.line:
        raise downgrade(seen.current, named)
    offers = _offers(view, seen, named)
    way, sought = _way(seen, wish, named, offers)
    say("running kubeadm's own checks")
    workers = sum(1 for name in chosen if name not in planes)
    takes = sum(1 for n in nodes if not n.unschedulable and not n.taints)
    strategy, why = planner.strategy(wish.strategy, workers, takes)
    size = wish.max_unavailable if strategy == "rolling" else 0
    plan = _plan(app, wish, strategy, seen, way)
    made = _situation(app, view, plan, seen, offers, way, _waves(chosen, planes, size))
    found = preflight.findings(replace(made, sought=sought, at_once=strategy == "all-at-once", renews=wish.renews))
    accepted = tuple(sorted({f.check for f in found} & set(wish.accept)))
    unaccepted = preflight.unaccepted([f for f in found if way or f.check in preflight.HIDING], wish.accept)
    behind = () if way else _behind(seen)
    return Prepared(current, way, found, unaccepted, accepted, strategy, why, plan, behind)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was read.

    Attributes:
        hosts: Those that answered.
        clocks: How many seconds theirs are ahead of this machine's.
        unseen: The others, each with why.
        planes: Control planes; one that did not answer by what its node says.
        chosen: Nodes that are to be upgraded.
        current: The version of the oldest API server.
    """

    nodes: tuple[Node, ...]
    hosts: Mapping[str, HostFacts]
    clocks: Mapping[str, float]
    unseen: Mapping[str, OrchestratorError]
    planes: tuple[str, ...]
    chosen: tuple[str, ...]
    current: Version
    etcd: EtcdFacts
    configuration: str


# ---- whose cluster, which nodes -------------------------------------------------------------------------------------


def _refuse_managed(nodes: Sequence[Node]) -> None:
    if found := managed.provider(nodes):
        raise Refused(f"kubeadm does not run this cluster: {found.name} does ({found.evidence})", remedy=found.remedy)


def _looked(
    app: App, nodes: Sequence[Node]
) -> tuple[dict[str, HostFacts], dict[str, float], dict[str, OrchestratorError]]:
    """Facts of each host that answers, how far ahead its clock is, and why the others do not answer."""

    def look(node: Node) -> tuple[HostFacts, float]:
        app.machines.know([node])
        found = parse_look(node.name, app.reader.ask(node.name, queries.EXAMINE))
        # Asked by itself, over a connection that is there by now: what lies between two looks at this clock is short.
        before = app.clock.wall()
        said = app.reader.ask(node.name, queries.CLOCK)
        return found, parse_clock(node.name, said, (before, app.clock.wall()))

    outcomes = each(nodes, look)
    return (
        {o.item.name: o.value[0] for o in outcomes if o.value},
        {o.item.name: o.value[1] for o in outcomes if o.value},
        {o.item.name: o.error for o in outcomes if o.error},
    )


def _refuse_unseen(needed: Sequence[str], unseen: Mapping[str, OrchestratorError]) -> None:
    """Raise what kept all of these from being looked at: without one of them nothing can be judged."""
    errors = [unseen[name] for name in needed if name in unseen]
    if errors and len(errors) == len(needed):
        for other in errors[1:]:
            errors[0].add_note(str(other))
        raise errors[0]


def _refuse_others(hosts: Mapping[str, HostFacts], chosen: Sequence[str]) -> None:
    if found := managed.plain(hosts):
        raise Refused(f"kubeadm does not run this cluster: {found.evidence}", remedy=found.remedy)
    mine = {name: hosts[name] for name in chosen if name in hosts}
    if (found := managed.aptless(mine)) and not any(host.apt for host in mine.values()):
        raise Refused(found.evidence, remedy=found.remedy)


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


def _offers(view: Site, seen: _Seen, named: Version) -> Mapping[str, Mapping[str, Offers]]:
    """Node -> minor -> what the node's repository of that minor offers."""
    current = seen.current
    minors = [f"{current.major}.{minor}" for minor in range(current.minor, max(current.minor, named.minor) + 1)]

    def ask(pair: tuple[str, str]) -> Offers:
        name, minor = pair
        try:
            return parse_offers(view.ask(name, queries.OFFERS, minor))
        except OrchestratorError as err:
            return Offers({}, str(err))

    pairs = [
        (name, minor) for name in seen.chosen if name in seen.hosts for minor in minors if seen.hosts[name].sources
    ]
    answers = together(pairs, ask)
    return {name: {m: answers[name, m] for m in minors if (name, m) in answers} for name in seen.chosen}


def _way(
    seen: _Seen, wish: Wish, named: Version, offers: Mapping[str, Mapping[str, Offers]]
) -> tuple[tuple[Hop, ...], str]:
    """The hops, over versions that every node is offered, where there are any; and the minor that was not to be had.

    A version that only some nodes are offered is a finding, which names those that lack it.
    """
    sought = ""
    mine = [{v for one in minors.values() for v in one.versions} for minors in offers.values()]
    everywhere = set.intersection(*mine) if mine else set()
    somewhere = set().union(*mine)
    offered = everywhere if named.line in {v.line for v in everywhere} else somewhere
    if not wish.to and named.line not in {v.line for v in offered}:
        named, sought = seen.current, minor(named)  # no next minor to be had: the newest patch of this one
    try:
        to = target(wish.to or minor(named), offered | ({named} if named == seen.current else set()))
    except Refused as err:
        for text in dict.fromkeys(o.error for minors in offers.values() for o in minors.values() if o.error):
            err.add_note(f"apt says: {text}")
        raise
    kubelets = [
        seen.hosts[n.name].kubelet if n.name in seen.hosts else parse(n.kubelet_version)
        for n in seen.nodes
        if n.name in seen.chosen
    ]
    oldest = min((k for k in kubelets if k), default=seen.current)
    way = hops(seen.current, to, offered | {to}, workers=wish.workers, kubelet=min(oldest, seen.current))
    return way, sought


def _behind(seen: _Seen) -> tuple[str, ...]:
    """Nodes that nobody asked for and that are older than the API servers, with their versions."""
    versions = {n.name: parse(n.kubelet_version) for n in seen.nodes if n.name not in seen.chosen}
    return tuple(f"{name} ({version})" for name, version in versions.items() if version and version < seen.current)


# ---- looking --------------------------------------------------------------------------------------------------------


def _waves(chosen: Sequence[str], planes: Sequence[str], size: int) -> tuple[tuple[str, ...], ...]:
    """Nodes that are out of service together: control planes one by one, then workers; none with a size of 0."""
    workers = [name for name in chosen if name not in planes]
    groups = (tuple(workers[start : start + size]) for start in range(0, len(workers), size or 1))
    return (*((name,) for name in chosen if name in planes), *groups) if size else ()


def _situation(
    app: App,
    view: Site,
    plan: Plan,
    seen: _Seen,
    offers: Mapping[str, Mapping[str, Offers]],
    way: tuple[Hop, ...],
    waves: tuple[tuple[str, ...], ...],
) -> Situation:
    first = way[0].to if way else None
    checked = partial(_checked, view, offers, first)
    known = [n for n in seen.planes if n in seen.hosts]
    # In the middle of an upgrade manifests differ from what kubeadm of another version would write, by its own doing.
    own = [n for n in known if n in seen.chosen and first and seen.hosts[n].kubeadm == seen.hosts[n].server]
    checks = together([n for n in seen.chosen if n in seen.hosts], checked) if first else {}
    diffs = together(own, partial(_edited, view, seen))
    wall = app.clock.wall()
    drains = {step.node: step.params for step in plan.steps() if step.action == "node.drain"}
    judged = {node: survey(view, node, params, wall) for node, params in drains.items()}
    return Situation(
        nodes=seen.nodes,
        hosts=seen.hosts,
        clocks=seen.clocks,
        unseen={name: (str(err), err.remedy) for name, err in seen.unseen.items()},
        etcd=seen.etcd,
        apis=together(known, partial(_api, view)),
        offers=offers,
        checks={name: found for name, (found, _, _) in checks.items()},
        wanted={name: images for name, (_, images, _) in checks.items() if images},
        unlisted={name: why for name, (_, _, why) in checks.items() if why},
        edited={name: diff for name, (diff, _) in diffs.items()},
        uncompared={name: why for name, (_, why) in diffs.items() if why},
        pods=view.pods(),
        budgets=view.budgets(),
        workloads=view.workloads(),
        refused={
            n: {v.pod.key: tuple(r.text for r in v.reasons) for v in found.having(Outcome.REFUSE)}
            for n, found in judged.items()
        },
        deprecated=_deprecated(view, known),
        written=view.written(removed.until(seen.current, way[-1].to)) if way else (),
        configuration=seen.configuration,
        hops=way,
        upgrading=seen.chosen,
        now=wall,
        waves=waves,
    )


def _checked(
    view: Site, offers: Mapping[str, Mapping[str, Offers]], to: Version | None, name: str
) -> tuple[tuple[tuple[Complaint, ...], str], tuple[str, ...], str]:
    """What kubeadm of the next version says of one node without being installed, and the images that it wants.

    The last is why these could not be listed, "" when they were.
    """
    mine = offers[name].get(minor(to)) if to else None
    if to is None or mine is None or to not in mine.versions:
        return ((), ""), (), ""  # that it is not offered is a finding of its own
    words = (minor(to), mine.versions[to], str(to))
    try:
        answer = view.ask(name, queries.PREFLIGHT, *words)
    except OrchestratorError as err:
        return ((), str(err)), (), ""
    return parse_preflight(answer), parse_wanted(answer), parse_unlisted(answer)


def _deprecated(view: Site, planes: Sequence[str]) -> tuple[str, ...] | None:
    """Deprecated APIs that any API server was asked for: each counts for itself. None where none tells.

    One that does not answer its host is a finding of its own.
    """

    def ask(name: str) -> tuple[str, ...]:
        return removed.requested("\n".join(s.text for s in sections(view.ask(name, queries.REQUESTED))["requested"]))

    told = [o.value for o in each(planes, ask) if o.value is not None]
    own = view.deprecated()
    return tuple(sorted(set().union(own or (), *told))) if told or own is not None else None


def _edited(view: Site, seen: _Seen, name: str) -> tuple[str, str]:
    """The diff of a control plane's manifests, and why it is not all of it, "" when it is."""
    try:
        return parse_edited(view.ask(name, queries.EDITED, str(seen.hosts[name].server)))
    except OrchestratorError as err:
        return "", str(err)


def _api(view: Site, name: str) -> str:
    """What is wrong with a host's own API server, "" when nothing is."""
    try:
        return parse_api(view.ask(name, queries.API, "0"))[0]
    except OrchestratorError as err:
        return str(err)


# ---- the plan -------------------------------------------------------------------------------------------------------


def _plan(app: App, wish: Wish, strategy: str, seen: _Seen, way: tuple[Hop, ...]) -> Plan:
    leaders = {status.leader for status in seen.etcd.statuses}
    leading = {member.name for member in seen.etcd.members if member.id in leaders}
    targets = [
        planner.Target(
            n.name,
            n.name in seen.planes,
            etcd=n.name in seen.hosts and "etcd" in seen.hosts[n.name].manifests,
            leads=n.name in leading,
            asks_itself=n.name not in seen.planes or n.name not in seen.hosts or seen.hosts[n.name].asks_itself,
            upgrade=n.name in seen.chosen,
            at=seen.hosts[n.name].at_one if n.name in seen.hosts else None,
        )
        for n in seen.nodes
    ]
    workers = sum(1 for t in targets if t.upgrade and not t.control_plane)
    at_once = strategy == "all-at-once"
    request = planner.Request(
        name=runs.plan_name("upgrade", app.clock.wall()),
        owner=app.owner,
        flags={**wish.flags, **({"disable_eviction": True} if at_once else {})},
        drain_timeout_s=wish.drain_timeout_s,
        accept=tuple(sorted(wish.accept)),  # kubeadm takes no notice of names that are not its own
        options=wish.options,
        kubeadm_timeout_s=wish.kubeadm_timeout_s,
        max_unavailable=max(1, workers) if at_once else wish.max_unavailable,
        pause_after=wish.pause_after,
        configuration=seen.configuration,
        before=wish.before,
        after=wish.after,
    )
    return planner.upgrade(targets, way, request)
