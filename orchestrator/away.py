"""etcd looked at while the API is away: where control planes are is known from snapshots' records, or from runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orchestrator import etcds
from orchestrator.cluster.model import Node
from orchestrator.engine import runs
from orchestrator.errors import ApiError, ApiUnauthorized, ApiUnreachable, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from orchestrator.app import App
    from orchestrator.backup.records import Record
    from orchestrator.cluster.etcdhosts import Etcd
    from orchestrator.engine.host import Host
    from orchestrator.engine.journal import Contents
    from orchestrator.library import Library

    #: Node -> its address and its provider id.
    Noted = Mapping[str, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Known:
    """Hosts that had etcd.

    Attributes:
        source: Who says so, for people.
        cluster: The cluster's name, "" where that is not known.
        authority: SHA-256 of its authority's certificate, "" where that is not known.
        named: Those of a person's own choice.
        planes: They are control planes; else any may be.
    """

    nodes: tuple[Node, ...]
    source: str
    cluster: str = ""
    authority: str = ""
    named: frozenset[str] = frozenset()
    planes: bool = True


def survey(app: App, library: Library, named: Sequence[str], say: Callable[[str], None]) -> Etcd:
    """As `etcds.survey`, also where the API does not answer; that no host can be asked is an answer then.

    Args:
        app: The cluster.
        library: Where snapshots are looked for.
        named: Control planes to ask; then the API is not asked at all.
        say: Told where control planes are known from.

    Raises:
        ApiError: It does not answer, and nothing is known of where control planes are.
        Refused: It answers, and the cluster has no control plane.
        HostError: It answers, and no host could be asked.
    """
    if named:
        app.without_api(ApiError("the API is not asked", remedy="leave --node out"))
        noted = _hosts(app)
        return _ask(app, _of_names(named, noted), noted, "the API is not asked", say)
    try:
        return etcds.survey(app)
    except ApiError as err:
        return instead(app, library, say, err, "status")


def instead(
    app: App, library: Library, say: Callable[[str], None], err: ApiError, command: str, named: Sequence[str] = ()
) -> Etcd:
    """What `etcds.survey` would have told, of hosts that are known otherwise.

    Args:
        app: The cluster.
        library: Where snapshots are looked for.
        say: Told where control planes are known from.
        err: Why the API does not tell; raised again where nothing else does.
        command: Of etcd, which takes a control plane's name with `--node`.
        named: What it was given so: asked, too.

    Raises:
        ApiError: Nothing is known of where control planes are.
    """
    app.without_api(err)
    noted = _hosts(app)
    known = _of_snapshot(app, library, noted, say) or _of_run(app) or (_of_names(named, noted) if named else None)
    if known is None:
        err.remedy += f"\nor name control planes, which are asked over SSH: orchestrator etcd {command} --node NAME"
        raise err
    others = [name for name in named if name not in {node.name for node in known.nodes}]
    known = replace(known, nodes=(*known.nodes, *_of_names(others, noted).nodes), named=frozenset(named))
    return _ask(app, known, noted, _silent(err), say)


def _silent(err: ApiError) -> str:
    what = "takes no request of this kubeconfig" if isinstance(err, ApiUnauthorized) else "does not answer"
    return f"the API {what} ({err})"


def reach(app: App, node: str, record: Record | None, say: Callable[[str], None], *, chosen: bool) -> None:
    """Have it known where a node's host is, also where the API does not answer: for what is done beside the cluster.

    Args:
        app: The cluster.
        node: Whose host.
        record: Of a snapshot, which knows where its members were.
        say: Told where it is known from.
        chosen: A person named it: what nothing tells of is asked by its name.

    Raises:
        ApiError: The cluster has no such node; or it does not tell, and nothing else that is known of it does.
        BadUsage: The kubeconfig or its context cannot be meant.
        HostError: The host, which the API does not tell of, cannot be asked whose it is.
        Refused: It is another cluster's.
    """
    try:
        app.host(node)
    except (ApiUnreachable, ApiUnauthorized) as err:
        app.without_api(err)
        sure = bool(record and ours(app, [record]))
        if record and not sure and app.session.authority and record.authority:
            record = None  # it is another cluster's
        if (known := _of_one(node, record, _hosts(app), sure=sure, chosen=chosen)) is None:
            err.remedy += "\nor name a control plane of this cluster: --node NAME; or use this machine: --here"
            raise
        found, source = known
        say(f"{_silent(err)}: where {node} is, {source}")
        app.machines.know([found])
        _refuse_foreign(app.host(node), {app.session.authority, record.authority if record else ""} - {""}, say)


def _of_one(node: str, record: Record | None, noted: Noted, *, sure: bool, chosen: bool) -> tuple[Node, str] | None:
    """By a record that is surely of this cluster; by a run from here; by a record that may be of it; by its name."""
    member = next((m for m in _members(record, noted) if m.name == node), None) if record else None
    if member and (sure or node not in noted):
        return member, "the snapshot's record tells"
    if node in noted:
        return Node.at(node, *noted[node]), "a run from here noted"
    return (Node.at(node, node), "nothing tells: it is asked by its name") if chosen else None


def _refuse_foreign(host: Host, known: Collection[str], say: Callable[[str], None]) -> None:
    """Raise for a host whose authority is none of these; say so where that is not known."""
    done = host.run(["sha256sum", "/etc/kubernetes/pki/ca.crt"], timeout_s=30.0, repeatable=True)
    found = done.text.partition(" ")[0] if done.rc == 0 else ""
    if not found or not known:
        say(f"{host.name}: of which cluster it is cannot be told")
    elif found not in known:
        raise Refused(
            f"{host.name}: its authority is another than was known: {found[:16]}…; it is of another cluster, or was "
            "renewed",
            remedy="name another host: --node NAME; or use this machine: --here",
        )


def of_record(app: App, record: Record) -> tuple[Node, ...]:
    """The hosts of the members that there were when a snapshot was taken; one that had never started has no name.

    A run from here may have noted what reaches the host of that name and address: a container of kind, as one.
    """
    return _members(record, _hosts(app))


def _members(record: Record, noted: Noted) -> tuple[Node, ...]:
    found = []
    for peer in (p for p in record.members if p.name):
        address = urlsplit(peer.peer_urls[0]).hostname or ""
        there, provider_id = noted.get(peer.name, ("", ""))
        found.append(Node.at(peer.name, address, provider_id if there == address else ""))
    return tuple(found)


def ours(app: App, found: Sequence[Record]) -> list[Record]:
    """Those of this cluster: their authority is the kubeconfig's; without any, what runs on this server took."""
    authority = app.session.authority
    if same := [r for r in found if authority and r.authority == authority]:
        return same
    took = {run.run for run in _runs(app)} if found else ()
    return [r for r in found if r.run in took]


def _ask(app: App, known: Known, noted: Noted, why: str, say: Callable[[str], None]) -> Etcd:
    names = [node.name for node in known.nodes]
    say(f"{why}: control planes are those of {known.source}: {', '.join(names)}")
    app.machines.know([Node.at(name, *place) for name, place in noted.items()])  # a destination may be there
    app.machines.know(known.nodes)
    ours = {each for each in (known.authority, app.session.authority) if each}
    found = etcds.look(app.reader, names, known.cluster, app.clock.wall(), ours, known.named)
    for name, host in found.hosts.items():
        if host.foreign(ours):
            say(f"{name}: its authority is another than was known: is it of another cluster, or was it renewed?")
    if not known.planes and (having := {n: h for n, h in found.hosts.items() if h.how or h.external}):
        return replace(found, hosts=having)
    return found


def _of_names(named: Sequence[str], noted: Noted) -> Known:
    nodes = tuple(Node.at(name, *noted.get(name, (name,))) for name in named)
    return Known(nodes, "--node", named=frozenset(named))


def _of_snapshot(app: App, library: Library, noted: Noted, say: Callable[[str], None]) -> Known | None:
    """By the newest snapshot of this cluster."""
    found, failed = library.catalogues()
    for url, err in failed:
        say(f"{url} could not be read: {err}")
    held = ours(app, [h.record for each in found for h in each.held if h.record.members])
    newest = max(held, key=lambda r: r.at, default=None)
    if newest is None:
        return None
    return Known(_members(newest, noted), f"snapshot {newest.name}", newest.cluster, newest.authority)


def _of_run(app: App) -> Known | None:
    """By the newest run whose plan names control planes; else by the newest, of all hosts that it knew."""
    noted = list(_runs(app))
    for run in noted:
        if planes := _planes(run):
            return _noted(app, run, planes)
    return replace(_noted(app, noted[0], sorted(noted[0].meta[runs.HOSTS])), planes=False) if noted else None


def _noted(app: App, run: Contents, names: Sequence[str]) -> Known:
    if run.meta.get("ssh"):
        app.settings = replace(app.settings, ssh=True)
    return Known(tuple(Node.at(name, *run.meta[runs.HOSTS][name]) for name in names), f"run {run.run}")


def _planes(run: Contents) -> list[str]:
    named = {name for step in run.plan.steps() for name in step.params.get("control_planes", ())}
    return sorted(named & run.meta[runs.HOSTS].keys())


def _hosts(app: App) -> Noted:
    """Node -> its address and its provider id, as the newest run from here noted them that knew it."""
    found: Noted = {}
    for run in _runs(app):
        found = {**run.meta[runs.HOSTS], **found}
    return found


def _runs(app: App) -> Iterator[Contents]:
    """Runs on this cluster that noted where hosts are, the newest first; none where no cluster is meant."""
    server = app.session.server
    return (run for run in runs.known() if server and run.meta.get("server") == server and run.meta.get(runs.HOSTS))
