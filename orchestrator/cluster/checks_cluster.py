"""Checks of the cluster before an upgrade: API servers, nodes, etcd, versions beside one another, pods. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.cluster import etcd as members
from orchestrator.cluster import room
from orchestrator.cluster.eviction import EMPTY_DIR, NO_CONTROLLER
from orchestrator.cluster.hostfacts import CONTROL_PLANE
from orchestrator.cluster.situation import CLUSTER, NAMED, Finding, Severity, named, size
from orchestrator.cluster.versions import POLICY, Part, Version, minor, parse, violations

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orchestrator.cluster.hostfacts import HostFacts
    from orchestrator.cluster.model import Pod
    from orchestrator.cluster.situation import Situation
    from orchestrator.cluster.versions import Violation

#: Shares of the quota: beyond it etcd takes no writes, and an upgrade writes.
QUOTA_WARNING, QUOTA_ERROR = 0.8, 0.95
#: Source: https://etcd.io/blog/2025/zombie_members_upgrade: before 3.6, 3.5 has to be this at least.
BEFORE_ETCD_36 = Version(3, 5, 26)
#: The minor of Kubernetes 1 whose kubeadm brings etcd 3.6.
ETCD_36_SINCE = (1, 34)
#: What comes with packages, together.
INSTALLED = ("kubelet", "kubectl")
#: Flags that would let a drain take a pod, by how the reason for refusing it begins.
_FLAGS = {r.text: r.flag for r in (EMPTY_DIR, NO_CONTROLLER)} | {"its DaemonSet does not exist": "--force"}
#: How the reason begins for refusing a pod of several budgets; a drain that asks no budgets takes it.
_SEVERAL_BUDGETS = "covered by "


# ---- API servers and nodes --------------------------------------------------------------------------------------


def servers(situation: Situation) -> Iterator[Finding]:
    """Each control plane's own API server."""
    planes = situation.planes
    for host in planes:
        why = situation.apis.get(host.node, "it was not asked")
        if why:
            text = f"its API server is not well: {why}"
            remedy = f"on {host.node}: kubectl get --raw '/readyz?verbose', crictl ps -a --name kube-apiserver"
            yield Finding("ApiServer", Severity.FORBIDDEN, host.node, text, remedy)
    touched = [host.node for host in planes if host.node in situation.upgrading]
    more = any(node.control_plane and node.name in situation.unseen for node in situation.nodes)
    if len(planes) == 1 and not more and touched and situation.hops:
        times = len(situation.hops)
        often = "once" if times == 1 else f"{times} times"
        # Source: docs/performance.md: the longest times in which it did not answer, on hosts with two cores.
        text = f"the only control plane: the API is away for 15 to 45 s as measured, {often}; workloads go on"
        remedy = "nothing to do; clients of the API, and whoever deploys, should know"
        yield Finding("SingleControlPlane", Severity.NOTE, touched[0], text, remedy)


def nodes(situation: Situation) -> Iterator[Finding]:
    """Nodes that are not ready, and those that were cordoned before."""
    for node in situation.nodes:
        mine = node.name in situation.upgrading
        if not node.ready:
            text = f"it is not Ready ({node.ready_reason or 'no reason given'})"
            remedy = f"kubectl describe node {node.name}; on it: journalctl -u kubelet"
            yield Finding("NodesReady", Severity.ERROR if mine else Severity.WARNING, node.name, text, remedy)
        if node.unschedulable and mine:
            text = "it is cordoned already, and stays cordoned afterwards"
            yield Finding("Cordoned", Severity.NOTE, node.name, text, f"kubectl uncordon {node.name}, if it should not")


# ---- etcd -------------------------------------------------------------------------------------------------------


def etcd(situation: Situation) -> Iterator[Finding]:
    """Members, what is left when one stops, alarms, sizes and versions."""
    facts, planes = situation.etcd, situation.planes
    static = any("etcd" in host.manifests for host in planes)
    if not facts.members:
        if static:
            text = "no etcd member could be asked, though control planes have one"
            remedy = "crictl ps -a --name etcd on a control plane"
            yield Finding("EtcdHealth", Severity.FORBIDDEN, CLUSTER, text, remedy)
        elif planes:
            text = (
                "etcd is not on the control planes: it is not checked here, nor upgraded or copied by kubeadm, and "
                "this upgrade takes no snapshot of it"
            )
            remedy = f"see that it is well, and take one yourself:\n{_snapshot_command(planes[0])}"
            yield Finding("ExternalEtcd", Severity.WARNING, CLUSTER, text, remedy)
        return
    for alarm in facts.alarms:
        remedy = "find its cause, then etcdctl alarm disarm; for NOSPACE first: etcdctl compact, etcdctl defrag"
        yield Finding("EtcdAlarm", Severity.FORBIDDEN, CLUSTER, f"etcd raised the alarm {alarm}", remedy)
    for trouble in members.troubles(facts.members, facts.statuses, facts.health):
        remedy = "repair that member first: etcdctl member list, crictl logs of its etcd"
        yield Finding("EtcdHealth", Severity.ERROR, CLUSTER, f"etcd: {trouble}", remedy)
    yield from _sizes(situation)
    if static:
        yield from _quorum(situation)
        yield from _etcd_versions(situation)
    elif planes:
        text = "etcd is no static pod: kubeadm neither upgrades nor copies it, and this upgrade takes no snapshot of it"
        remedy = "take one first: orchestrator etcd backup"
        yield Finding("ExternalEtcd", Severity.WARNING, CLUSTER, text, remedy)


def _snapshot_command(host: HostFacts) -> str:
    """For an etcd that an API server reaches from `host`, by that API server's own flags.

    Source: etcdctl takes a snapshot of one member only: of the first endpoint.
    """
    server = host.manifests.get("kube-apiserver")
    flags = {"endpoints": "etcd-servers", "cacert": "etcd-cafile", "cert": "etcd-certfile", "key": "etcd-keyfile"}
    values = {name: server.flag(flag).partition(",")[0] if server else "" for name, flag in flags.items()}
    given = " ".join(f"--{name}={value}" for name, value in values.items() if value)
    return f"etcdctl {given} snapshot save pre-upgrade.db, on {host.node}"


def _quorum(situation: Situation) -> Iterator[Finding]:
    """Each control plane's member is stopped once: the others have to be a majority."""
    facts = situation.etcd
    voters = [m for m in facts.members if not m.learner]
    healthy = {s.id for s in facts.statuses if facts.health.get(s.endpoint, "it was not asked") == ""}
    why = members.may_stop_one(facts.members, healthy)
    if not why or (len(voters) == 1 and voters[0].id in healthy):
        return  # of a single member, the note on the single control plane tells
    # With two members, or with one that is well, nothing is broken: it is away while one restarts.
    whole = healthy >= {m.id for m in voters}
    severity = Severity.ERROR if whole else Severity.FORBIDDEN
    remedy = "bring every member back before any is touched: etcdctl endpoint health --cluster"
    if whole:
        remedy = "add a third control plane, or accept that the API is away for a minute with each of them"
    yield Finding("EtcdQuorum", severity, CLUSTER, why, remedy)


def _sizes(situation: Situation) -> Iterator[Finding]:
    flags = [h.manifests["etcd"].flag("quota-backend-bytes") for h in situation.planes if "etcd" in h.manifests]
    set_bytes = max((int(flag) for flag in flags if flag.isdigit()), default=0)
    for status in situation.etcd.statuses:
        quota = status.quota_bytes or set_bytes or members.QUOTA_BYTES
        share = status.db_size_bytes / quota
        if share >= QUOTA_WARNING:
            severity = Severity.ERROR if share >= QUOTA_ERROR else Severity.WARNING
            text = (
                f"the database of {status.endpoint} has {size(status.db_size_bytes)}, {share:.0%} of its quota of "
                f"{size(quota)}; {size(status.in_use_bytes)} of it are in use"
            )
            remedy = "etcdctl defrag, one member after another; or a larger --quota-backend-bytes"
            yield Finding("EtcdSize", severity, CLUSTER, text, remedy)


def _etcd_versions(situation: Situation) -> Iterator[Finding]:
    target = situation.target
    for status in situation.etcd.statuses:
        version = parse(status.version)
        old = version is not None and version.line == (3, 5) and version < BEFORE_ETCD_36
        if old and target is not None and target.line >= ETCD_36_SINCE:
            text = f"{status.endpoint} is etcd {status.version}: before 3.6 it has to be 3.5.26 or later"
            remedy = (
                "upgrade to the newest patch of this minor first (https://etcd.io/blog/2025/zombie_members_upgrade)"
            )
            yield Finding("EtcdVersion", Severity.ERROR, CLUSTER, text, remedy)


# ---- versions beside one another --------------------------------------------------------------------------------


def skew(situation: Situation) -> Iterator[Finding]:
    """Versions that may not be beside one another: now, and at each moment of the plan."""
    now = _now(situation)
    found, moments = _judged(now.values()), list(_moments(situation, now))
    oldest = min((p.version.line for p in now.values() if p.component == "kube-apiserver"), default=(0, 0))
    end = {(v.part.node, v.part.component) for v in (_judged(moments[-1][1].values()) if moments else found)}
    for violation in found:
        part, severity = violation.part, _weight(violation, Severity.ERROR)
        remedy = f"{POLICY}; bring it within, or accept it where this upgrade does"
        if part.component == "kube-proxy" and part.version.line > oldest and (part.node, part.component) not in end:
            # As a control plane leaves it that went back: the way on must not be barred by it.
            severity, remedy = Severity.WARNING, "this upgrade brings it within"
        yield Finding("Skew", severity, part.node, str(violation), remedy)
    told = {(v.part.node, v.part.component, v.allowed) for v in found}
    for moment, parts in moments:
        for violation in _judged(parts.values()):
            key = (violation.part.node, violation.part.component, violation.allowed)
            if key not in told:
                told.add(key)
                remedy = f"{POLICY}; let the plan have every node (no --nodes), workers with each hop"
                text = f"{moment}: {violation}"
                severity = _weight(violation, Severity.FORBIDDEN)
                yield Finding("SkewOnTheWay", severity, violation.part.node, text, remedy)


def _weight(violation: Violation, severity: Severity) -> Severity:
    """A kubectl breaks nothing by itself: who uses the one of that host should know."""
    return Severity.WARNING if violation.part.component == "kubectl" else severity


_Parts = dict[tuple[str, str], Part]


def _now(situation: Situation) -> _Parts:
    """What runs; of a host that could not be looked at, its node tells the kubelet's version."""
    parts = [part for host in situation.hosts.values() for part in _parts(host)]
    told = {n.name: parse(n.kubelet_version) for n in situation.nodes if n.name in situation.unseen}
    parts += [Part("kubelet", name, version) for name, version in told.items() if version]
    return {(part.node, part.component): part for part in parts}


def _moments(situation: Situation, parts: _Parts) -> Iterator[tuple[str, _Parts]]:
    """What there is after each thing that the plan does: a control plane, its kubelet, the workers of a hop.

    Source: kubeadm 1.31 and later upgrades kube-proxy, on all nodes, when it upgrades the last control plane.
    """
    every = {host.node for host in situation.planes} <= set(situation.upgrading)
    for hop in situation.hops:
        for host in (h for h in situation.touched if h.control_plane):
            parts = _raised(parts, hop.to, {host.node}, CONTROL_PLANE)
            yield f"with the control plane of {host.node} at {hop.to}", parts
            parts = _raised(parts, hop.to, {host.node}, INSTALLED)
            yield f"with the kubelet of {host.node} at {hop.to}", parts
        if every:
            parts = _raised(parts, hop.to, set(situation.hosts), ("kube-proxy",))
            yield f"with kube-proxy at {hop.to}", parts
        if hop.workers:
            workers = {h.node for h in situation.touched if not h.control_plane}
            parts = _raised(parts, hop.to, workers, INSTALLED)
            yield f"with the workers at {hop.to}", parts


def _raised(parts: _Parts, to: Version, where: set[str], what: tuple[str, ...]) -> _Parts:
    """What is newer already stays."""
    return {
        key: Part(part.component, part.node, max(part.version, to)) if key[0] in where and key[1] in what else part
        for key, part in parts.items()
    }


def _judged(parts: Iterable[Part]) -> tuple[Violation, ...]:
    """Violations, but for parts of a control plane that are newer than another one's API server only.

    Source: kubeadm gives the kubelet, controller manager and scheduler of a control plane its own API server, and its
    documentation upgrades all of one control plane before the next.
    """
    everything = tuple(parts)
    own = {part.node: part.version for part in everything if part.component == "kube-apiserver"}
    oldest = min(own.values(), default=None)
    return tuple(
        v
        for v in violations(everything)
        if v.part.component == "kube-apiserver"
        or oldest is None
        or not (v.part.node in own and oldest.line < v.part.version.line <= own[v.part.node].line)
    )


def _parts(host: HostFacts) -> Iterator[Part]:
    """What runs on a host; of a static pod that does not run, or does not tell, what its manifest says."""
    for component in CONTROL_PLANE:
        manifest = host.manifests.get(component)
        version = host.components.get(component) or (manifest.version if manifest else None)
        if version:
            yield Part(component, host.node, version)
    kubelet = host.running or host.kubelet
    kubectl = host.packages.get("kubectl")
    rest = {"kubelet": kubelet, "kube-proxy": host.proxy, "kubectl": kubectl.version if kubectl else None}
    for component, version in rest.items():
        if version:
            yield Part(component, host.node, version)


def kubelets(situation: Situation) -> Iterator[Finding]:
    """Kubelets of several minors, and those that were replaced and not restarted. Patches may differ."""
    by: dict[str, list[str]] = {}
    for host in situation.hosts.values():
        running = host.running or host.kubelet
        if running:
            by.setdefault(minor(running), []).append(host.node)
        if host.running and host.kubelet and (host.replaced or host.running != host.kubelet):
            text = f"the kubelet that runs ({host.running}) is not the installed one ({host.kubelet})"
            remedy = f"systemctl restart kubelet on {host.node}, once it is drained if the minor differs"
            yield Finding("KubeletNotRestarted", Severity.WARNING, host.node, text, remedy)
    if len(by) > 1:
        text = f"kubelets of several minors: {'; '.join(f'{m}: {named(names)}' for m, names in sorted(by.items()))}"
        yield Finding("MixedVersions", Severity.NOTE, CLUSTER, text, "nothing to do: this upgrade brings them together")


# ---- pods -------------------------------------------------------------------------------------------------------


def pods(situation: Situation) -> Iterator[Finding]:
    """Budgets that let nobody go now, pods that a drain refuses, and pods with nowhere to go."""
    mine = [p for p in situation.pods if p.node in situation.upgrading and not p.finished and not p.mirror]
    stuck = [
        f"{b.key} ({b.healthy} ready, {b.needed} needed)"
        for b in situation.budgets
        if b.allowed <= 0 and any(b.covers(p) for p in mine)
    ]
    if stuck:
        text = f"budgets that allow no disruption now: {named(stuck)}"
        remedy = "more replicas, or a budget that lets one go; a drain waits for them until its time ends"
        if situation.at_once:
            text += "; all-at-once does not ask them: their pods are deleted"
            remedy = "--strategy rolling, which waits for them"
        yield Finding("NoDisruptionAllowed", Severity.WARNING, CLUSTER, text, remedy)
    yield from _at_once(situation, mine)
    for node, refused in sorted(situation.refused.items()):
        if refused:
            yield _refused(node, dict(sorted(refused.items())))
    for name in situation.upgrading:
        others = [n for n in situation.nodes if n.name != name]
        homeless = [p for p in mine if p.node == name and room.moves(p) and not any(room.takes(n, p) for n in others)]
        if homeless:
            text = f"{len(homeless)} pods have no other node to go to: {named([p.key for p in homeless])}"
            remedy = "add a node; or --strategy all-at-once, for they are away while it is upgraded"
            yield Finding("NowhereToGo", Severity.WARNING, name, text, remedy)
    yield from _room(situation)
    single = [
        f"{w.kind} {w.namespace}/{w.name}"
        for w in situation.workloads
        if w.wanted == 1 and w.controller is None and w.kind in ("Deployment", "StatefulSet")
    ]
    if single and situation.hops:
        text = f"{len(single)} workloads have one replica, and are away while it moves: {named(single)}"
        yield Finding("SingleReplica", Severity.NOTE, CLUSTER, text, "a second replica, where that is too long")


def _at_once(situation: Situation, mine: list[Pod]) -> Iterator[Finding]:
    """What is down as a whole while all workers are out of service together."""
    planes = {host.node for host in situation.planes}
    leaving = {name for name in situation.upgrading if name not in planes} or set(situation.upgrading[:1])
    if not situation.at_once or not situation.hops:
        return
    owners = {(w.kind, w.namespace, w.name): w.controller for w in situation.workloads}

    def workload(pod: Pod) -> str:
        if pod.controller is None:
            return f"Pod {pod.key}"
        above = owners.get((pod.controller.kind, pod.namespace, pod.controller.name)) or pod.controller
        return f"{above.kind} {pod.namespace}/{above.name}"

    moved = [p for p in mine if p.controller is None or p.controller.kind != "DaemonSet"]
    stay = {workload(p) for p in situation.pods if p.node not in leaving and p.node and p.ready}
    down = sorted({workload(p) for p in moved if p.node in leaving} - stay)
    lost = (
        f"{len(down)} of all workloads will be down meanwhile: {named(down)}" if down else "no workload is down whole"
    )
    text = f"out of service at the same time, budgets not asked: {named(sorted(leaving))}; {lost}"
    remedy = "--strategy rolling, where that may not be"
    yield Finding("AllAtOnce", Severity.WARNING, CLUSTER, text, remedy, "\n".join(down) if len(down) > NAMED else "")


def _refused(node: str, pods_: dict[str, tuple[str, ...]]) -> Finding:
    listed = [f"{pod} ({'; '.join(reasons)})" for pod, reasons in pods_.items()]
    reasons = {reason for reasons in pods_.values() for reason in reasons}
    several = {reason for reason in reasons if reason.startswith(_SEVERAL_BUDGETS)}
    flags = sorted({_flag(reason) for reason in reasons - several})
    remedies = [f"add {' '.join(flags)}"] if flags and all(flags) else []
    if several:
        remedies.append("leave each pod to one budget; or --strategy all-at-once, which asks none")
    if not all(flags):
        remedies = ["move these pods, or remove them, by hand"]
    text = f"its drain would refuse {len(listed)} pods, and the upgrade with it: {named(listed)}"
    return Finding("PodsRefused", Severity.FORBIDDEN, node, text, "\n".join(remedies), "\n".join(listed))


def _flag(reason: str) -> str:
    return next((flag for text, flag in _FLAGS.items() if reason.startswith(text)), "")


def _amount(resource: str, amount: float) -> str:
    """Of a resource, for people: memory and storage in bytes, all else as a number."""
    return size(amount) if resource in ("memory", "ephemeral-storage") else f"{amount:.3g}"


def _room(situation: Situation) -> Iterator[Finding]:
    """Pods that would wait for room while their node is out of service."""
    by: dict[str, list[room.Unplaced]] = {}
    for each in room.unplaced(situation.nodes, situation.pods, situation.waves):
        by.setdefault(each.pod.node, []).append(each)
    for node, lacking in by.items():
        listed = [
            f"{e.pod.key} (requests {e.lacks} {_amount(e.lacks, e.needs)}, {_amount(e.lacks, max(e.left, 0.0))} left)"
            for e in lacking
        ]
        text = f"{len(listed)} of its pods would find no room elsewhere, and wait until it is back: {named(listed)}"
        remedy = "add a node, lower requests, or fewer nodes at once (--max-unavailable)"
        yield Finding("NoRoom", Severity.WARNING, node, text, remedy, "\n".join(listed))
