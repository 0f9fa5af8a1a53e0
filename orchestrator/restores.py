"""The use case of a restore of etcd: looked at, judged, rehearsed, planned, carried out, and swung back if it fails."""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import drills
from orchestrator.actions.backups import STAGING
from orchestrator.away import of_record
from orchestrator.backup import records
from orchestrator.cluster import queries
from orchestrator.cluster.etcd import quorum, serves
from orchestrator.cluster.etcdhosts import parse_host
from orchestrator.cluster.frame import sections
from orchestrator.cluster.hostfacts import parse_api
from orchestrator.cluster.kubeadm import cluster_name
from orchestrator.cluster.versions import parse
from orchestrator.engine import journal, runs
from orchestrator.engine.together import together
from orchestrator.errors import ApiError, BadUsage, HostError, Refused
from orchestrator.library import home, proven
from orchestrator.planners import restore as planner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.actions.site import Site
    from orchestrator.app import App
    from orchestrator.backup.records import Record
    from orchestrator.backup.snapshot import Snapshot
    from orchestrator.cluster.etcdhosts import EtcdHost
    from orchestrator.cluster.model import Node
    from orchestrator.engine.plan import Plan
    from orchestrator.library import Library, Proven

#: Added beyond the live revision where that is known: what clients may have seen since it was read.
MARGIN = 1_000_000

OTHER_CLUSTER, ONE_MEMBER = "other-cluster", "one-member-lost"
ACCEPTABLE = (OTHER_CLUSTER, ONE_MEMBER)
#: Where restored data go that get a path of their own, as it is taught.
NEW_PATH = "/var/lib/etcd-from-backup"
_PATH = re.compile(r"(/[A-Za-z0-9][A-Za-z0-9._-]*){2,}")


@dataclass(frozen=True, slots=True)
class Wish:
    """What an operator asks for.

    Attributes:
        name: A recorded snapshot, or a file.
        dead: Control planes that are gone for good.
        accept: Of `ACCEPTABLE`.
        target: The path that the restored data get for their own; "" puts them in place of the old ones.
    """

    name: str
    identities: tuple[Path, ...] = ()
    dead: tuple[str, ...] = ()
    accept: tuple[str, ...] = ()
    trailer: bool = True
    target: str = ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A restore that was looked at.

    Attributes:
        name: Of the plan.
        warnings: What an operator has to know.
    """

    name: str
    plan: Plan
    snapshot: Snapshot
    warnings: tuple[str, ...]


def prepare(app: App, library: Library, wish: Wish, say: Callable[[str], None], *, rehearse: bool) -> Prepared:
    """The plan of a restore, once everything that forbids it was looked for, and it was rehearsed.

    Raises:
        BadUsage: No such snapshot.
        BackupError: It is not whole, or its drill failed.
        Refused: It is another cluster's, versions do not fit, or the cluster needs no restore.
        HostError: A control plane cannot be reached: it would come back with its old data.
    """
    unknown = set(wish.accept) - set(ACCEPTABLE)
    if unknown:
        raise BadUsage(f"--accept={min(unknown)} is none", remedy=f"one of: {', '.join(ACCEPTABLE)}")
    name = runs.plan_name(planner.KIND, app.clock.wall())
    if wish.target and not _PATH.fullmatch(wish.target):
        raise BadUsage(f"--data-dir={wish.target} is no path for data", remedy=f"one as {NEW_PATH}")
    try:
        return _prepared(app, library, wish, name, say, rehearse=rehearse)
    except BaseException:
        clear(name)
        raise


def clear(plan: str) -> None:
    """Remove the plain snapshot that was made here for a plan that was not begun."""
    (home() / STAGING / f"{plan}{records.DATA}").unlink(missing_ok=True)


def _prepared(
    app: App, library: Library, wish: Wish, name: str, say: Callable[[str], None], *, rehearse: bool
) -> Prepared:
    say("reading the snapshot")
    file = f"{STAGING}/{name}{records.DATA}"
    found = _staged(library, wish, home() / file)
    snapshot, record = found.snapshot, found.record
    everyone, answers = _everyone(app, record, say)
    if answers:
        with contextlib.suppress(ApiError):  # away since, so no run that needs it can go on either
            app.refuse_if_held()
        _refuse_strangers(wish, [n.name for n in everyone])
    nodes = _left(everyone, wish)
    app.machines.know(nodes)
    names = [n.name for n in nodes]
    say(f"asking {len(names)} control planes")
    view = app.reader
    hosts = together(names, lambda one: _host_of(view, one))
    if not answers:
        _refuse_later(hosts, [n.name for n in everyone], record, wish)
    _refuse(hosts, snapshot, record, wish)
    if wish.target:
        _refuse_path(view, name, hosts, wish.target)
    live = [h.status.revision for h in hosts.values() if h.status]
    bump = max(0, max(live) - snapshot.revision) + MARGIN if len(live) == len(hosts) else planner.RAISED
    source = next((n for n, h in hosts.items() if h.status and serves(h.health)), "")
    if rehearse:
        say(f"rehearsing it on {names[0]}")
        drills.rehearse(app, home() / file, snapshot, names[0], trailer=found.trailer)
    request = planner.Request(
        name=name,
        cluster=_called(view, record, answers=answers),
        file=file,
        snapshot=record.name if record else Path(wish.name).name,
        bump=bump,
        revision=snapshot.revision + bump,
        token=f"restored-{secrets.token_hex(8)}",
        source=source,
        trailer=found.trailer,
        target=wish.target,
        dead=wish.dead,
        shown=_shown(found, wish),
    )
    hears = together(names, lambda one: parse_api(view.ask(one, queries.API, "0"))[1] is not None)
    planes = [_plane(node, hosts[node.name], hears=hears[node.name]) for node in nodes]
    warnings = _warnings(wish, source, snapshot, record, hosts)
    return Prepared(name, planner.restore(planes, request), snapshot, tuple(warnings))


def _shown(found: Proven, wish: Wish) -> tuple[str, ...]:
    """The words by which `etcd diff` finds the snapshot again; none for a file that it does not read."""
    if found.held is None:
        return (str(Path(wish.name).absolute()),) if found.trailer else ()
    here = str(home())
    places = () if found.held.url == here else ("--from", here, "--from", found.held.url)
    opened = [word for path in wish.identities for word in ("-i", str(path.absolute()))]
    return (found.held.record.name, *places, *(opened if found.held.record.encrypted else ()))


def _staged(library: Library, wish: Wish, target: Path) -> Proven:
    """The snapshot, proven, and its plain form where a resume finds it again."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with proven(library, wish.name, wish.identities, trailer=wish.trailer) as found:
        if found.held:
            found.path.replace(target)
        else:
            target.touch(mode=0o600)
            shutil.copyfile(found.path, target)
        return found


def _everyone(app: App, record: Record | None, say: Callable[[str], None]) -> tuple[tuple[Node, ...], bool]:
    """All control planes, by the API where it answers, else by the members of the record; and whether it does."""
    try:
        return tuple(n for n in app.view.nodes() if n.control_plane), True
    except ApiError as err:
        if record is None:
            raise
        say(f"the API does not answer ({err}): control planes are those of the snapshot's record")
        return of_record(app, record), False


def _left(found: tuple[Node, ...], wish: Wish) -> tuple[Node, ...]:
    """Those that are not gone for good."""
    left = tuple(n for n in found if n.name not in wish.dead)
    if not left:
        raise Refused("no control plane is left to restore on", remedy="rebuild one first, under its old name")
    return left


def _refuse_strangers(wish: Wish, known: Sequence[str]) -> None:
    for name in wish.dead:
        if name not in known:
            raise BadUsage(f"--dead={name} is no control plane", remedy=f"one of: {', '.join(known)}")


def _refuse_later(hosts: Mapping[str, EtcdHost], known: Sequence[str], record: Record | None, wish: Wish) -> None:
    """Raise for a member that joined after the snapshot, where no API tells of it: it would keep its old data."""
    members = record.members if record else ()
    names, urls = {m.name for m in members}, {url for m in members for url in m.peer_urls}
    own = [(host.name, url) for host in hosts.values() for url in host.peer_urls]
    names, urls = names | {name for name, _ in own}, urls | {url for _, url in own}
    later = {
        name: (node, url)
        for node, host in hosts.items()
        for name, url in host.listed
        if name not in names and url not in urls
    }
    _refuse_strangers(wish, [*known, *later])
    for name, (node, url) in later.items():
        if name not in wish.dead:
            raise Refused(
                f"{node}: etcd.yaml names the member {name} ({url}), and the snapshot's record does not: it would go "
                "on with its old data",
                remedy=f"use a snapshot that was taken since it joined; or, where it is gone for good: --dead {name}",
            )


def _host_of(view: Site, node: str) -> EtcdHost:
    try:
        return parse_host(node, view.ask(node, queries.ETCD_HOST))
    except HostError as err:
        err.remedy = f"{err.remedy}; where it is gone for good: --dead {node}"
        raise


def _called(view: Site, record: Record | None, *, answers: bool) -> str:
    """The name of the cluster that is taken back, which an operator types: its own, else that of the record."""
    configuration = ""
    if answers:
        with contextlib.suppress(ApiError):  # away since: the record's is as good
            configuration = view.configuration()
    if configuration:
        return cluster_name(configuration)
    return record.cluster if record else "this cluster"


def _plane(node: Node, host: EtcdHost, *, hears: bool) -> planner.Plane:
    assert host.place is not None  # noqa: S101  `_refuse` saw to it
    address = node.addresses.get("InternalIP", "")
    return planner.Plane(node.name, host.name, host.peer_urls[0], host.place.path, address, node.provider_id, hears)


def _refuse(hosts: Mapping[str, EtcdHost], snapshot: Snapshot, record: Record | None, wish: Wish) -> None:
    """Raise for what forbids a restore."""
    for name, host in hosts.items():
        if host.manifest is None:
            raise Refused(
                f"{name}: etcd is no static pod there ({host.how or 'there is none'})",
                remedy="restore it by hand: etcdutl snapshot restore; orchestrator etcd drill proves the snapshot",
            )
        if host.place is None or not host.name or not host.peer_urls:
            raise Refused(f"{name}: its data directory or its name cannot be told", remedy=f"see etcd.yaml on {name}")
        if host.flags.get("wal-dir"):
            raise Refused(f"{name}: etcd keeps its log apart ({host.flags['wal-dir']})", remedy="restore it by hand")
        if host.runs and "etcdutl" not in host.tools:
            raise Refused(
                f"{name}: there is no etcdutl, neither there nor in etcd's container", remedy="install it there"
            )
        storage, program = parse(snapshot.storage or "3.5.0"), host.program
        if storage and program and program.line < storage.line:
            raise Refused(
                f"{name}: etcd {program} cannot read data of {snapshot.storage}",
                remedy="upgrade the control planes first, or use an older snapshot",
            )
    if OTHER_CLUSTER not in wish.accept:
        _refuse_other(hosts, snapshot, record, wish)
    _refuse_needless(hosts, wish)


def _refuse_path(view: Site, plan: str, hosts: Mapping[str, EtcdHost], target: str) -> None:
    """Raise where the restored data cannot have that path for their own."""
    for name, host in hosts.items():
        assert host.place is not None  # noqa: S101  `_refuse` saw to it
        data, seen = host.place.path, host.flags.get("data-dir", host.place.path)
        if seen != data:
            raise Refused(
                f"{name}: the data of {data} are {seen} in etcd's container: kubeadm made no such manifest",
                remedy="leave --data-dir-mode out: the data change places then, and the manifest stays as it is",
            )
        inside = f"{target}/".startswith(f"{data}/") or f"{data}/".startswith(f"{target}/")
        if inside or "occupied" in sections(view.ask(name, queries.RESTORE, plan, data, target)):
            what = f"its data are at {data}" if inside else "there is something already"
            raise Refused(f"{name}: {target} cannot be a new path: {what}", remedy=f"--data-dir {target}-2")


def _refuse_other(hosts: Mapping[str, EtcdHost], snapshot: Snapshot, record: Record | None, wish: Wish) -> None:
    """Raise for a snapshot of another cluster: by the authority, and by the members.

    Control planes may have been replaced since it was taken: one member that is still here, by name or peer URL, is
    enough. Nothing is told by etcd's id of the cluster: each restore gives it a new one.
    """
    remedy = "orchestrator etcd list shows which cluster each is of; or --accept other-cluster"
    for name, host in hosts.items():
        if record and host.authority and record.authority and host.authority != record.authority:
            raise Refused(
                f"the snapshot is of another cluster: its authority is {record.authority[:16]}…, that of {name} is "
                f"{host.authority[:16]}…",
                remedy=remedy,
            )
    here = {host.name for host in hosts.values()} | set(wish.dead)
    urls = {url for host in hosts.values() for url in host.peer_urls}
    if snapshot.members and not any(m.name in here or urls & set(m.peer_urls) for m in snapshot.members):
        theirs = ", ".join(f"{m.name or m.id} ({', '.join(m.peer_urls)})" for m in snapshot.members)
        ours = ", ".join(f"{host.name} ({', '.join(host.peer_urls)})" for host in hosts.values())
        raise Refused(f"the snapshot is of another cluster: its members are {theirs}, those here {ours}", remedy=remedy)


def _refuse_needless(hosts: Mapping[str, EtcdHost], wish: Wish) -> None:
    """With a quorum that lives, and one member lost, that member is replaced: nothing has to be taken back."""
    members = len(hosts) + len(wish.dead)
    well = sum(1 for h in hosts.values() if h.status and not h.health)
    if members >= 3 and quorum(members) <= well < members and ONE_MEMBER not in wish.accept:
        lost = [n for n, h in hosts.items() if not h.status or h.health] + list(wish.dead)
        raise Refused(
            f"{well} of {members} members are well, a quorum: only {', '.join(lost)} "
            f"{'is' if len(lost) == 1 else 'are'} lost, and a restore would take the whole cluster back",
            remedy=f"orchestrator etcd replace-member {lost[0]}; or, if the state of the snapshot is what you want, "
            "--accept one-member-lost",
        )


def _warnings(
    wish: Wish, source: str, snapshot: Snapshot, record: Record | None, hosts: Mapping[str, EtcdHost]
) -> list[str]:
    said = [f"the cluster goes back to revision {snapshot.revision}: what was written since is lost"]
    if record is None:
        said.append(f"the file has no record beside it: {_known_by(wish, snapshot, hosts)}")
    said += _other_minor(record, hosts)
    if not source:
        said.append("no member answers: its present state cannot be kept as a snapshot first; old data stay beside")
    said += [f"{name} is taken for dead: it must never come back with its old data" for name in wish.dead]
    said += [f"the snapshot has the alarm {alarm}; it is cleared" for alarm in snapshot.alarms]
    return said


def _known_by(wish: Wish, snapshot: Snapshot, hosts: Mapping[str, EtcdHost]) -> str:
    """How far a snapshot without a record is known to be this cluster's: names such as cp-1 are those of many."""
    if not snapshot.members or OTHER_CLUSTER in wish.accept:
        return "nobody knows of which cluster it is"
    urls = {url for host in hosts.values() for url in host.peer_urls}
    if any(urls & set(m.peer_urls) for m in snapshot.members):
        return "that it is of this cluster is known by its members only"
    return "its members have names of this cluster's, and none of its addresses: see that it is not another one's"


def _other_minor(record: Record | None, hosts: Mapping[str, EtcdHost]) -> list[str]:
    """What an API server may not read of the objects that another minor version of it stored."""
    then = parse(record.kubernetes) if record else None
    for name, host in hosts.items():
        now = host.kubernetes
        if then and now and then.line != now.line:
            know = "any more" if then.line < now.line else "yet"
            said = (
                f"the snapshot is of Kubernetes {then}, the API server of {name} is {now}: objects stored in versions"
            )
            return [f"{said} of an API which {now} does not know {know} cannot be read"]
    return []


def swing_back(app: App, run: str, say: Callable[[str], None]) -> bool:
    """Take a restore back that failed before etcd was started on the restored data; whether that was done.

    Nothing is done with a run that is no restore.

    Raises:
        OrchestratorError: It could not be taken back; it can be released still.
    """
    known = journal.read(runs.directory(run))
    if known.plan.kind != planner.KIND or planner.begun(known.plan, known.past):
        return False
    say("it failed before etcd was started on the restored data: everything is swung back")
    app.settings = replace(app.settings, yes=True)
    app.release(run, shown=lambda _: None)
    return True


def confirmed(app: App, name: str) -> Plan:
    """The plan that deletes the old data of a restore.

    Raises:
        BadUsage: That run was no restore, or of another cluster.
        Refused: It has not ended well.
    """
    known = journal.read(runs.directory(runs.resolve(name)))
    if known.plan.kind != planner.KIND:
        raise BadUsage(f"{known.run} was no restore", remedy="orchestrator runs")
    if known.last == "released" or not known.ended:
        raise Refused(f"{known.run} has not ended well: its old data are the way back", remedy="orchestrator runs")
    app.follow(known)
    return planner.confirm(known.run, known.plan)
