"""The use case of a lost member of etcd: the others looked at, and its place counted, before it is replaced."""

from __future__ import annotations

import contextlib
import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orchestrator.actions.replacement import ask
from orchestrator.actions.restore import standing
from orchestrator.cluster import membership, queries
from orchestrator.cluster.etcd import NOSPACE
from orchestrator.cluster.etcdhosts import parse_host
from orchestrator.cluster.frame import sections
from orchestrator.cluster.kubeadm import cluster_name
from orchestrator.cluster.situation import size
from orchestrator.cluster.versions import parse
from orchestrator.engine import journal, runs
from orchestrator.engine.together import each
from orchestrator.errors import ApiError, BadUsage, HostError, Refused
from orchestrator.etcds import hashes_at
from orchestrator.planners import replacement as planner
from orchestrator.planners.restore import SERVERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.actions.site import Site
    from orchestrator.app import App
    from orchestrator.cluster.etcd import Member, Status
    from orchestrator.cluster.etcdhosts import EtcdHost
    from orchestrator.cluster.hostfacts import EtcdFacts
    from orchestrator.cluster.model import Node
    from orchestrator.engine.plan import Plan

HEALTHY, NO_SPARE = "healthy-member", "no-spare"
ACCEPTABLE = (HEALTHY, NO_SPARE)
#: What a new log of etcd takes before anything is in it: two files of 64 MB.
_LOG_BYTES = 134_217_728
#: How a machine whose host is gone becomes a control plane again. Source: kubeadm's documentation, "Creating Highly
#: Available Clusters".
_ANEW = (
    "mend it or the way to it. If it is gone for good, join a machine anew: on another control plane `etcdctl member "
    "remove` the id of {node} in `etcdctl member list`, `kubectl delete node {node}`, `kubeadm init phase upload-certs "
    "--upload-certs`, `kubeadm token create --print-join-command --certificate-key KEY`; on the machine `kubeadm reset "
    "--force`, then what that printed"
)
#: Source: kubeadm's documentation, `kubeadm init phase certs`; what is there is left as it is.
_CERTIFICATES = (
    "on {node}: copy /etc/kubernetes/pki/etcd/ca.crt and ca.key from another control plane where they are not there, "
    "then `kubeadm init phase certs etcd-server`, `… etcd-peer`, `… apiserver-etcd-client` (with --config where the "
    "cluster has names of its own for them)"
)
_EARLIER = (
    "an earlier run may have put it aside, and is resumed or released: orchestrator runs; ls "
    "/etc/kubernetes/orchestrator-* on {node}"
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A replacement that was looked at.

    Attributes:
        warnings: What an operator has to know.
    """

    plan: Plan
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Site:
    """What was found.

    Attributes:
        node: Whose member is lost.
        host: Of it.
        hosts: Of the other members, by node.
        facts: What one of the others tells.
        mine: Members that are listed as the node's.
    """

    node: str
    host: EtcdHost
    hosts: Mapping[str, EtcdHost]
    facts: EtcdFacts
    mine: tuple[Member, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """Of `mine`, in hex."""
        return tuple(f"{m.id:x}" for m in self.mine)

    @property
    def others(self) -> tuple[Status, ...]:
        """What the others' members answered."""
        return tuple(s for s in self.facts.statuses if f"{s.id:x}" not in self.ids)


def prepare(app: App, node: str, accept: Sequence[str], say: Callable[[str], None]) -> Prepared:
    """The plan that gives a control plane a fresh member, once all that forbids it was looked for.

    Raises:
        BadUsage: There is no such control plane, or nothing of that name can be accepted.
        Refused: Its member is well, the others are not, quorum would hang on the new one, or the host lacks something.
    """
    unknown = set(accept) - set(ACCEPTABLE)
    if unknown:
        raise BadUsage(f"--accept={min(unknown)} is none", remedy=f"one of: {', '.join(ACCEPTABLE)}")
    view = app.reader
    nodes = view.nodes()
    target = _control_plane(nodes, node)
    _refuse_itself(app, target)
    app.machines.know(nodes)
    planes = [n.name for n in nodes if n.control_plane]
    say(f"asking {len(planes)} control planes")
    found = _looked(view, node, planes)
    _refuse_others(found, accept)
    _refuse_differing(view, found)
    joined = _joined(found)
    if not joined:
        _refuse_needless(view, found, accept)
        _refuse_place(found)
    name = runs.plan_name(planner.KIND, app.clock.wall())
    request = _request(name, found, joined=joined)
    _refuse_lacking(view, request)
    if found.facts.alarms:
        with contextlib.suppress(ApiError):  # it takes no writes, so no run of its can go on either
            app.refuse_if_held()
    return Prepared(planner.replace(request), _warnings(found, request, cluster_name(view.configuration())))


def _control_plane(nodes: Sequence[Node], name: str) -> Node:
    planes = {n.name: n for n in nodes if n.control_plane}
    if name in planes:
        return planes[name]
    close = difflib.get_close_matches(name, planes, n=1)
    hint = f"did you mean {close[0]}?" if close else f"one of: {', '.join(planes) or 'there is none'}"
    raise BadUsage(f"there is no control plane {name!r}", remedy=hint)


def _refuse_itself(app: App, node: Node) -> None:
    server = urlsplit(app.session.server).hostname
    if server in (node.name, *node.addresses.values()):
        raise Refused(
            f"this kubeconfig asks the API server of {node.name} itself, which is stopped meanwhile",
            remedy="use another control plane's, or the load balancer: --kubeconfig, --context",
        )


def _looked(view: Site, node: str, planes: Sequence[str]) -> _Site:
    outcomes = each(planes, lambda one: parse_host(one, view.ask(one, queries.ETCD_HOST)))
    for outcome in outcomes:
        if outcome.error is not None and not isinstance(outcome.error, HostError):
            raise outcome.error
    found = {o.item: o.value for o in outcomes if o.value is not None}
    failed = {o.item: str(o.error) for o in outcomes if o.error is not None}
    if node in failed:
        raise Refused(f"{node} cannot be reached: {failed[node]}", remedy=_ANEW.format(node=node))
    host = found.pop(node)
    external = host.servers if host.external else ""
    if host.manifest is None:
        there = f"etcd is on other machines ({external})" if external else f"etcd is no static pod on {node}"
        raise Refused(f"{there}: there is no etcd.yaml", remedy=_EARLIER.format(node=node))
    if not host.name or not host.peer_urls or not _data(host):
        raise Refused(f"{node}: its name, peer URL or data directory cannot be told", remedy=f"see etcd.yaml on {node}")
    left = {name: other for name, other in found.items() if other.manifest or other.runs}
    if failed:
        name, why = next(iter(failed.items()))
        raise Refused(f"{name} cannot be reached: {why}", remedy="every other member has to be well, and asked")
    _, facts = ask(view, tuple(left))
    if not facts.members:
        raise Refused(
            "no other member tells who is one: there is no quorum, or no other member",
            remedy="orchestrator etcd status; with quorum lost: orchestrator etcd restore last",
        )
    # One that was taken out before, and not replaced yet, counts for nothing.
    left = {name: one for name, one in left.items() if membership.of_node(facts.members, one.name, one.peer_urls)}
    return _Site(node, host, left, facts, membership.of_node(facts.members, host.name, host.peer_urls))


def _data(host: EtcdHost) -> str:
    """The data directory, as the host has it, though it is not there."""
    if host.place is not None:
        return host.place.path
    return membership.data_directory(host.manifest.text) if host.manifest else ""


def _refuse_others(found: _Site, accept: Sequence[str]) -> None:
    """Raise unless the others are a cluster without this one, and stay one with a new one that may fail."""
    for name, host in found.hosts.items():
        for member in found.mine:
            if member.name == host.name or set(member.peer_urls) & set(host.peer_urls):
                raise Refused(
                    f"member {member.id:x} has the name or an address of {name}, too",
                    remedy=f"--name and --initial-advertise-peer-urls in etcd.yaml on {found.node} and {name} differ?",
                )
    facts = found.facts
    wrong = membership.lacking(facts.members, facts.statuses, facts.health, found.ids)
    if wrong:
        raise Refused(
            f"the other members are not all well, and each of them is needed: {'; '.join(wrong)}",
            remedy="orchestrator etcd status; mend that first. With quorum lost: orchestrator etcd restore last",
        )
    for alarm in facts.alarms:
        if alarm.startswith(NOSPACE):
            raise Refused(
                f"etcd raised the alarm {alarm}",
                remedy=f"on {next(iter(found.hosts))}: etcdctl compact REVISION, etcdctl defrag, etcdctl alarm disarm",
            )
        if alarm.rpartition(" ")[2] not in found.ids:
            raise Refused(f"etcd raised the alarm {alarm}: that is another member", remedy="replace that one first")
    voters = len(facts.members) - len(found.mine)
    if not membership.spare(voters) and NO_SPARE not in accept:
        raise Refused(
            f"{voters} other member is left: with a new one both are needed, and one that fails takes the API along",
            remedy="take a backup (orchestrator etcd backup), then --accept no-spare; add a third one soon",
        )


def _refuse_differing(view: Site, found: _Site) -> None:
    """The others have to have the same keys: the new member gets them from one of them."""
    hashes = hashes_at(view, tuple(found.hosts), min(s.revision for s in found.others))
    if len(set(hashes.values())) > 1 or None in hashes.values():
        listed = ", ".join(f"{name} {'is silent' if h is None else f'{h:x}'}" for name, h in sorted(hashes.items()))
        raise Refused(
            f"the other members do not have the same keys: {listed}",
            remedy="orchestrator etcd status; with no quorum of equal ones: orchestrator etcd restore last",
        )


def _status(found: _Site) -> Status | None:
    """What the node's member answers, where that is a member of this cluster: a wiped one may be one of its own."""
    status = found.host.status
    listed = status is not None and status.id in {m.id for m in found.mine}
    same = status is not None and status.cluster in {s.cluster for s in found.others}
    return status if listed and same else None


def _joined(found: _Site) -> bool:
    """Whether its member is a learner that follows, and only wants its vote."""
    status = _status(found)
    return bool(status and status.learner and len(found.mine) == 1 and found.mine[0].started)


def _refuse_needless(view: Site, found: _Site, accept: Sequence[str]) -> None:
    status = _status(found)
    if HEALTHY in accept or status is None or found.facts.alarms or not membership.serves(found.host.health):
        return
    facts = found.facts
    wrong = membership.lacking(
        facts.members, facts.statuses, facts.health, [f"{m.id:x}" for m in facts.members if m not in found.mine]
    )
    revision = min(s.revision for s in (*found.others, status))
    if wrong or len(set(hashes_at(view, (found.node, *found.hosts), revision).values())) > 1:
        return
    raise Refused(
        f"the member on {found.node} is well: it answers, votes, and has the keys of the others",
        remedy=f"orchestrator etcd status; to replace it all the same: --accept {HEALTHY}",
    )


def _refuse_place(found: _Site) -> None:
    """Raise for what the host cannot do."""
    node, host = found.node, found.host
    text = host.manifest.text if host.manifest else ""
    if host.flags.get("wal-dir") or "--wal-dir" in text:
        raise Refused(f"{node}: etcd keeps its log apart (--wal-dir)", remedy="replace it by hand")
    if f"--{membership.FORCED}" in text:
        raise Refused(
            f"{node}: etcd.yaml has --{membership.FORCED}: it would start as a cluster of its own",
            remedy=f"take that flag out of /etc/kubernetes/manifests/etcd.yaml on {node}",
        )
    membership.rejoining(text, "")
    program = host.manifest.version if host.manifest else None
    storages = [parse(s.storage_version or "3.5.0") for s in found.others]
    for storage in storages:
        if storage and program and program.line < storage.line:
            raise Refused(
                f"{node}: etcd {program} of its manifest cannot read what the others write ({storage})",
                remedy=f"the image in etcd.yaml on {node}: take the other control planes'",
            )
    needed = 2 * max(s.db_size_bytes for s in found.others) + _LOG_BYTES
    if host.place and host.place.disk.free_bytes < needed:
        raise Refused(
            f"{node}: {host.place.path} has {size(host.place.disk.free_bytes)} free; the new data beside the old ones "
            f"need {size(needed)}",
            remedy=f"make room on {node}",
        )


def _refuse_lacking(view: Site, request: planner.Request) -> None:
    node = request.node
    answer = sections(view.ask(node, queries.MEMBER_HOST, request.name, request.data))
    there = standing(answer)["manifests"]
    if SERVERS[0] not in there:
        raise Refused(f"{node} has no manifest of {SERVERS[0]}", remedy=_EARLIER.format(node=node))
    lacks = [section.words[0] for section in answer.get("lacks", ())]
    if lacks:
        raise Refused(f"{node} lacks {', '.join(lacks)}", remedy=_CERTIFICATES.format(node=node))


def _request(name: str, found: _Site, *, joined: bool) -> planner.Request:
    leader = {s.leader for s in found.others}
    ids = {s.id: s for s in found.others}
    leads = {
        node: any(m.id in leader and m.id in ids for m in membership.of_node(found.facts.members, h.name, h.peer_urls))
        for node, h in found.hosts.items()
    }
    return planner.Request(
        name=name,
        node=found.node,
        member=found.host.name,
        peers=found.host.peer_urls,
        data=_data(found.host),
        others=tuple(found.hosts),
        source=min(found.hosts, key=lambda node: (leads[node], node)),
        old=() if joined else found.ids,
        alarm=bool(found.facts.alarms),
        joined=joined,
    )


def _warnings(found: _Site, request: planner.Request, cluster: str) -> tuple[str, ...]:
    node = found.node
    if request.joined:
        return (f"the member on {node} is a learner that follows: it only gets its vote",)
    beside = f"{request.data}.before-{request.name}"
    said = [f"{node} of {cluster}: its API server is stopped until its member votes; its old data stay as {beside}"]
    voters = [m.name for m in found.facts.members if m not in found.mine]
    if not membership.spare(len(voters)):
        said.append(f"from now on both members are needed: {voters[0]} and that on {node}")
    elif len(voters) % 2 == 0:
        said.append(f"until it votes none of {', '.join(voters)} may fail")
    if not found.mine:
        said.append(f"{node} has no member in the list: a new one is added")
    said += [f"the alarm {alarm} is cleared once that member is out" for alarm in found.facts.alarms]
    return tuple(said)


def confirmed(app: App, name: str) -> Plan:
    """The plan that deletes the old data of a replacement.

    Raises:
        BadUsage: That run was none, or of another cluster.
        Refused: It has not ended well.
    """
    known = journal.read(runs.directory(runs.resolve(name)))
    if known.plan.kind != planner.KIND:
        raise BadUsage(f"{known.run} replaced no member", remedy="orchestrator runs")
    if known.last == "released" or not known.ended:
        raise Refused(f"{known.run} has not ended well", remedy=f"orchestrator resume {known.run}")
    app.follow(known)
    return planner.confirm(known.run, known.plan)
