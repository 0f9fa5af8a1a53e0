"""The use cases of backups of etcd: one taken, and what destinations hold listed, proven and pruned."""

from __future__ import annotations

import contextlib
import shlex
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from orchestrator import away, etcds
from orchestrator.actions.backups import STAGING, placed, staged
from orchestrator.backup import catalogue, keys, retention, stores
from orchestrator.cluster.membership import CORRUPT, serves
from orchestrator.engine import journal, runs
from orchestrator.errors import (
    ApiError,
    ApiForbidden,
    ApiUnauthorized,
    BackupError,
    HostError,
    HostUnreachable,
    Locked,
    Refused,
)
from orchestrator.library import Library, home
from orchestrator.planners import backup as planner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from orchestrator.actions.site import Site
    from orchestrator.app import App
    from orchestrator.backup.catalogue import Catalogue
    from orchestrator.backup.records import Record
    from orchestrator.cluster.etcdhosts import Etcd, EtcdHost
    from orchestrator.engine.host import Host
    from orchestrator.engine.plan import Plan

#: Room here for the snapshot as it is fetched, and as it is stored.
_ROOM = 2.2
#: Room at a destination that a compressed snapshot cannot do without: what is in use, by this.
_COMPRESSED = 10
#: Half-written files of runs that were killed are removed when they are older.
_LEFT_S = 86400.0


@dataclass(frozen=True, slots=True)
class Wish:
    """What an operator asks for.

    Attributes:
        destinations: None stands for the directory of this user.
        node: Whose member; "" for a healthy follower.
        recovery: What new machines need, too; without a recipient it is left out, and said.
    """

    destinations: tuple[str, ...]
    recipients: tuple[str, ...]
    node: str = ""
    reason: str = "manual"
    compress: bool = True
    recovery: bool = True
    keep: str = ""
    pin: str = ""


# ---- one is taken -----------------------------------------------------------------------------------------------


def prepare(app: App, wish: Wish, say: Callable[[str], None]) -> Plan:
    """The plan of a backup, once everything that would spoil it has been looked for.

    Args:
        app: The cluster.
        wish: What is wanted.
        say: Told what is worth knowing.

    Raises:
        BadUsage: A destination, a recipient or a policy cannot be meant.
        Refused: No member is well enough, members differ, or there is no room here, or at no destination.
        ApiError: The API does not answer, and it is not known otherwise where control planes are; or it forbids it.
    """
    recipients = keys.check_recipients(wish.recipients)
    where = destinations(wish)
    if wish.keep:
        retention.parse(wish.keep)
    for url in where:  # what cannot be meant is said before anything is asked
        stores.open_store(placed(url).url, host=_anybody)
    found, answers = _survey(app, wish, say)
    for name, why in found.unreached.items():
        say(f"{name} could not be asked: {why}")
    if wish.node in found.unreached:
        raise HostUnreachable(found.unreached[wish.node], remedy=f"orchestrator hosts check {wish.node}")
    corrupt = _corrupt(found)
    node = _source(found, wish.node, corrupt)
    try:
        _refuse_differing(app.reader, found, corrupt)
    except Refused as err:
        if not wish.node:
            raise
        say(f"{err}; {node} was named")
    superseded = _superseded(app.session.server) if wish.reason == "scheduled" else ()
    _refuse_full(found, node, superseded)
    _refuse_without_room(app.reader, wish, found.hosts[node], say)
    for text in _warnings(found, node, wish, where, recipients):
        say(text)
    request = planner.Request(
        name=runs.plan_name(planner.KIND, app.clock.wall()),
        node=node,
        destinations=where,
        reason=wish.reason,
        recipients=recipients,
        level=3 if wish.compress else None,
        recovery=wish.recovery and bool(recipients),
        keep=wish.keep,
        pin=wish.pin,
        unfinished=unfinished(),
        superseded=superseded,
        # The first control plane that is reached, as for all runs that have their lock on a disk.
        lock="" if answers and not found.facts.alarms else min(found.hosts),
    )
    if request.lock:
        _refuse_others(app, answers=answers)
    return planner.backup(request)


def _survey(app: App, wish: Wish, say: Callable[[str], None]) -> tuple[Etcd, bool]:
    """The members, and whether the API told of them: a snapshot is wanted all the more while it is away.

    Raises:
        ApiError: As `prepare`.
        HostUnreachable: No host could be asked.
    """
    try:
        return etcds.survey(app), True
    except ApiForbidden:
        raise  # that is an answer
    except ApiError as err:
        if isinstance(err, ApiUnauthorized) and wish.reason == "scheduled":
            raise  # nobody would hear that credentials have ended, and the cluster's lock would be passed by for ever
        app.without_api(err)
        if not app.session.server:
            raise  # of which cluster a snapshot would be is not known
        named = (wish.node,) if wish.node else ()
        urls = [u for u in destinations(wish) if not placed(u).file and not stores.on_a_node(u)]
        found = away.instead(app, Library(app, [*urls, str(home())]), say, err, "backup", named)
    if not found.hosts:
        raise HostUnreachable(
            f"no control plane could be asked: {'; '.join(found.unreached.values())}",
            remedy="orchestrator hosts check NODE; --node names another one",
        )
    return found, False


def _refuse_others(app: App, *, answers: bool) -> None:
    """Runs that have no lock where this one's is.

    Raises:
        Locked: One from here is at work, and may have stopped API servers; or one has the cluster's Lease.
    """
    if busy := runs.at_work(app.session.server):
        raise Locked(f"{busy} is at work on that cluster", remedy="wait for it: orchestrator runs")
    if answers:
        with contextlib.suppress(ApiError):  # it takes no writes, so no run of its can go on either
            app.refuse_if_held()


def _warnings(found: Etcd, node: str, wish: Wish, where: Sequence[str], recipients: Sequence[str]) -> Iterator[str]:
    for alarm in found.facts.alarms:
        yield f"etcd raised the alarm {alarm}{_about(found, alarm)}"
    if troubles := [each for each in found.troubles if not serves(each)]:  # what only tells of an alarm was said
        yield f"etcd is not all well: {'; '.join(troubles)}; the snapshot is of {node}: orchestrator etcd status"
    for url in (u for u in where if recipients and placed(u).file):
        yield f"{url} gets one plain file, which is not encrypted, whatever --recipient says"
    if wish.recovery and not recipients:
        yield "no --recipient: keys and certificates of the cluster are not stored, for they would be plain"


def _anybody(place: str) -> Host:
    """Of a destination that is only looked at for its form: nothing is done with its host."""
    return cast("Host", place)


def destinations(wish: Wish) -> tuple[str, ...]:
    """Where the snapshot goes, each once."""
    return tuple(dict.fromkeys(wish.destinations)) or (str(home()),)


def unfinished() -> tuple[str, ...]:
    """Runs from here that have not ended well."""
    return tuple(run.id for run in runs.listing() if not run.over)


def _corrupt(found: Etcd) -> tuple[str, ...]:
    """Nodes whose members have other data than the rest, as an alarm says. They may be of no node that is known."""
    ids = {alarm.rpartition(" ")[2] for alarm in found.facts.alarms if alarm.startswith(CORRUPT)}
    return tuple(found.node_of(member) for member in found.facts.members if f"{member.id:x}" in ids)


def _about(found: Etcd, alarm: str) -> str:
    """What an alarm is to a backup, and what to do about it."""
    of = next((m for m in found.facts.members if f"{m.id:x}" == alarm.rpartition(" ")[2]), None)
    if of is None or not alarm.startswith(CORRUPT):
        return "; it is in the snapshot, too: orchestrator etcd disarm"
    node = found.node_of(of)
    return f", whose data differ: none is taken of {node}; orchestrator etcd replace-member {node}"


def _source(found: Etcd, wanted: str, corrupt: Sequence[str]) -> str:
    """The node of a healthy member, a follower where there is one. Source: a learner cannot be read from."""
    if found.external:
        voters = [m for m in found.facts.members if not m.learner and found.status_of(m)]
        # Which of them is asked is not chosen here, so none may have other data.
        if not corrupt and wanted in ("", found.through) and any(serves(found.health_of(m)) for m in voters):
            return found.through
        raise Refused(
            f"etcd is on other machines ({found.external}), and "
            f"{wanted or 'no control plane'} reaches no member that is well",
            remedy="have etcdctl on a control plane, or back it up there: etcdctl snapshot save; "
            "`orchestrator etcd verify FILE` proves it",
        )
    able: dict[str, bool] = {}
    for member in found.facts.members:
        status, node = found.status_of(member), found.node_of(member)
        # Want of space is no reason: it is when a snapshot is wanted most. Nor is what another member's data are.
        if status and node and node not in corrupt and not member.learner and serves(found.health_of(member)):
            able[node] = status.leader == status.id
    if wanted and wanted not in able:
        known = ", ".join(able) or "none"
        raise Refused(f"{wanted} has no healthy member of etcd", remedy=f"those that have one: {known}")
    if not able:
        raise Refused(
            "no member of etcd is well: " + ("; ".join(found.troubles) or "none answers"),
            remedy="orchestrator etcd status; a copy of member/snap/db can be read with --no-trailer",
        )
    return wanted or min(able, key=lambda node: (able[node], node))


def _refuse_differing(view: Site, found: Etcd, corrupt: Sequence[str]) -> None:
    """Members have to have the same keys at one revision, else a snapshot of one is not one of the cluster."""
    revisions = [s.revision for s in found.facts.statuses if not s.learner]
    running = [name for name, host in found.hosts.items() if host.runs and name not in corrupt]
    if len(running) < 2 or not revisions:
        return
    at = min(revisions)
    known = {name: told for name, told in etcds.hashes_at(view, running, at).items() if told is not None}
    if len(set(known.values())) > 1:
        listed = ", ".join(f"{name} {value:x}" for name, value in sorted(known.items()))
        raise Refused(
            f"members of etcd differ at revision {at}: {listed}",
            remedy="one of them is corrupt: etcdctl endpoint hashkv --cluster; name a sound one with --node",
        )


def _superseded(server: str) -> tuple[str, ...]:
    """Plans of scheduled runs on that cluster that no process works on, and that left something here.

    A step of the new run removes it, under the cluster's lock: who goes on with one of them meanwhile has that.
    """
    found = []
    for run in runs.known():
        plans = {
            step.params["plan"]
            for step in run.plan.steps()
            if run.plan.kind == planner.KIND and step.params.get("reason") == "scheduled"
        }
        if run.meta.get("server") == server and not journal.locked(runs.directory(run.run)):
            found += [plan for plan in plans if staged(home() / STAGING, plan)]
    return tuple(sorted(found))


def _refuse_full(found: Etcd, node: str, superseded: Sequence[str]) -> None:
    """There has to be room here, where what is superseded goes first."""
    own = found.hosts[node].status  # another member may never have been defragmented, and be many times as large
    size = own.db_size_bytes if own else max((s.db_size_bytes for s in found.facts.statuses), default=0)
    place = home()
    while not place.exists():  # a dry run makes nothing
        place = place.parent
    going = sum(path.stat().st_size for plan in superseded for path in staged(home() / STAGING, plan))
    free, needed = shutil.disk_usage(place).free + going, _ROOM * size
    if free < needed:
        raise Refused(
            f"{place} has {free} bytes free; a snapshot on its way needs {needed:.0f}",
            remedy="make room there, or set XDG_STATE_HOME to another disk",
        )


def _refuse_without_room(view: Site, wish: Wish, host: EtcdHost, say: Callable[[str], None]) -> None:
    """One destination at least has to have room; those that have none are said. The run tells which are away."""
    short, where = [], destinations(wish)
    for url in where:
        place = placed(url)
        plain = place.file or not wish.compress
        needed = 0
        if host.status:
            needed = host.status.db_size_bytes if plain else host.status.in_use_bytes // _COMPRESSED
        try:
            free = view.shelf(place.url, host.node).free_bytes()
        except (BackupError, HostError, ApiError):
            continue
        if free is not None and free < needed:
            short.append(f"{url} has {free} bytes free; the snapshot needs {'' if plain else 'at least '}{needed}")
    if len(short) == len(where):
        raise Refused(
            "; ".join(short),
            remedy="make room there (see `orchestrator etcd prune --keep … --dry-run`), or name another one: --to",
        )
    for line in short:
        say(line)


@dataclass(frozen=True, slots=True)
class Taken:
    """A snapshot that a run took.

    Attributes:
        catalogues: Of its destinations, with nothing else in them.
        urls: Where it is.
    """

    record: Record
    catalogues: tuple[Catalogue, ...]
    urls: tuple[str, ...]


def of_run(app: App, destinations: Sequence[str], run: str, node: str = "") -> Taken:
    """What a run took of a node's member, as it is found at its destinations.

    Raises:
        BackupError: None of them has it.
    """
    library = Library(app, destinations, node)
    found, _ = library.catalogues()
    mine = tuple(replace(c, held=tuple(h for h in c.held if h.record.run == run), unread=(), strays=()) for c in found)
    held = [h for c in mine for h in c.held if not h.wrong]
    if not held:
        raise BackupError(f"the snapshot of {run} is at none of {', '.join(library.urls)}", remedy="see what took it")
    return Taken(held[0].record, tuple(c for c in mine if c.held), tuple(h.url for h in held))


# ---- what goes --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pruned:
    """One destination, judged by a policy."""

    url: str
    judged: tuple[retention.Judged, ...]
    left: tuple[str, ...] = ()


def prune(library: Library, policy: retention.Policy, now: float, *, dry_run: bool) -> tuple[Pruned, ...]:
    """What the policy keeps and lets go at each destination; what it lets go is removed unless it is a dry run.

    Raises:
        BackupError: A destination could not be read or written; those before it are done.
    """
    done = []
    for url in library.urls:
        store = library.store(url)
        held = catalogue.read(store).held
        whole = {h.record.name for h in held if not h.wrong}
        judged = retention.judge([h.record for h in held], policy, now, unfinished=unfinished(), good=whole)
        left: tuple[str, ...] = ()
        if not dry_run:
            left = store.tidy(_LEFT_S, now)
            going = {each.record.name for each in judged if not each.keep}
            for file in (file for h in held if h.record.name in going for file in h.files):
                store.remove(file)
        done.append(Pruned(store.url, judged, left))
    return tuple(done)


def pin(library: Library, name: str, why: str) -> tuple[str, ...]:
    """Keep a snapshot for ever, or with "" no longer, at every destination that has it; which those are.

    Raises:
        BadUsage: There is none of that name.
        OrchestratorError: A destination could not be read or written; notes say which, and where it was done. There,
            a later prune may remove what was to be kept.
    """
    record = library.find(name).record
    done, failed = library.rewrite(record, pin=why)
    if failed:
        first = failed[0][1]
        for url, err in failed:
            first.add_note(f"nothing was changed at {url}" + ("" if err is first else f": {err}"))
        if done:
            first.add_note(f"{'pinned' if why else 'no longer pinned'} at {', '.join(done)}")
        where = " ".join(f"--from {shlex.quote(url)}" for url, _ in failed)
        again = f"orchestrator etcd pin {record.name} --reason {shlex.quote(why)} {where}"
        first.remedy = f"{first.remedy}\nwhen they are back, repeat it for them: {again}"
        raise first
    return done
