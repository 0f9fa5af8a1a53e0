"""The use case of a rebuild: control planes that are gone, made anew of a recovery set and a snapshot."""

from __future__ import annotations

import hashlib
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orchestrator.actions.backups import STAGING
from orchestrator.actions.rebuild import is_plain, opened
from orchestrator.backup import records
from orchestrator.backup import recovery as sets
from orchestrator.backup.seal import measured
from orchestrator.backup.snapshot import examine
from orchestrator.cluster import queries
from orchestrator.cluster.kubeadm import cluster_name
from orchestrator.cluster.model import Node
from orchestrator.cluster.recovery import PKI, Member, machine, provider_of, unfit
from orchestrator.engine import runs
from orchestrator.engine.together import together
from orchestrator.errors import ApiError, ApiUnreachable, BadUsage, OrchestratorError, Refused, SnapshotInvalid
from orchestrator.library import home
from orchestrator.planners import rebuild as planner
from orchestrator.planners.restore import RAISED, Plane

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.app import App
    from orchestrator.backup.records import Part, Record
    from orchestrator.backup.recovery import RecoverySet
    from orchestrator.backup.snapshot import Snapshot
    from orchestrator.engine.plan import Plan
    from orchestrator.library import Library


@dataclass(frozen=True, slots=True)
class Wish:
    """What an operator asks for.

    Attributes:
        name: A recorded snapshot, or a file.
        onto: The machines, by the names of their nodes.
        set: The recovery set's file; None for the one beside the recorded snapshot.
    """

    name: str
    onto: tuple[str, ...]
    set: Path | None = None
    identities: tuple[Path, ...] = ()
    trailer: bool = True


@dataclass(frozen=True, slots=True)
class Prepared:
    """A rebuild that was looked at.

    Attributes:
        name: Of the plan.
        warnings: What an operator has to know.
    """

    name: str
    plan: Plan
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Source:
    """A snapshot as it is stored, here.

    Attributes:
        file: Below `home()`, or with its whole path.
        shown: Its name, for people.
    """

    file: str
    shown: str
    record: Record | None
    snapshot: Snapshot


def prepare(app: App, library: Library, wish: Wish, say: Callable[[str], None]) -> Prepared:
    """The plan of a rebuild, once everything that forbids it was looked for. No plain content comes to a disk here.

    Raises:
        BadUsage: No such snapshot, set or control plane.
        BackupError: One of both is not whole.
        Refused: The cluster lives, machines are not fresh, or versions, names or addresses do not fit.
        HostError: A machine cannot be reached.
    """
    name = runs.plan_name(planner.KIND, app.clock.wall())
    try:
        _refuse_alive(app, say)
        return _prepared(app, library, wish, name, say)
    except BaseException:
        clear(name)
        raise


def clear(plan: str) -> None:
    """Remove what was fetched here for a plan that was not begun."""
    for path in (home() / STAGING).glob(f"{plan}.*"):
        path.unlink(missing_ok=True)


def _refuse_alive(app: App, say: Callable[[str], None]) -> None:
    say("asking the API, which should not answer")
    try:
        count = len(app.view.nodes())
    except ApiUnreachable:
        return
    except ApiError as err:
        raise Refused(
            f"an API server answers ({err}): the cluster is not gone", remedy="orchestrator etcd status"
        ) from err
    raise Refused(
        f"the API answers, with {count} nodes: the cluster is not gone",
        remedy="a lost control plane of a living cluster is replaced by `kubeadm join --control-plane`; its state is "
        "taken back by `orchestrator etcd restore` without --onto",
    )


def _prepared(app: App, library: Library, wish: Wish, name: str, say: Callable[[str], None]) -> Prepared:
    say("reading the snapshot and the recovery set")
    identities = tuple(path.expanduser().absolute() for path in wish.identities)
    source = _source(library, wish, name, identities)
    file, found = _set(library, wish, source, name, identities)
    members = _members(source, wish)
    planes = [
        Plane(m.name, m.name, m.peer, found.told.data, m.address, provider_of(found.told, m.name)) for m in members
    ]
    _refuse_unlike(found, source.record)
    for member in members:
        sets.packed(found, member, members, "/tmp")  # noqa: S108  what cannot be rewritten says so now
    cluster = source.record.cluster if source.record else cluster_name(found.told.configuration)
    app.machines.know([Node.at(p.name, p.address, p.provider) for p in planes])
    _refuse_unfit(app, found, source, members, name, say)
    request = planner.Request(
        name=name,
        cluster=cluster,
        snapshot=source.shown,
        file=source.file,
        set=file,
        identities=tuple(str(path) for path in identities),
        token=f"rebuilt-{secrets.token_hex(8)}",
        bump=RAISED,
        revision=source.snapshot.revision + RAISED,
        size_bytes=source.snapshot.size_bytes,
        trailer=wish.trailer,
    )
    return Prepared(name, planner.rebuild(planes, request), _warnings(source, found, members))


# ---- what is read here ------------------------------------------------------------------------------------------


def _source(library: Library, wish: Wish, name: str, identities: Sequence[Path]) -> _Source:
    """The snapshot, proven."""
    path = Path(wish.name)
    if "/" in wish.name or path.is_file():
        if not path.is_file():
            raise BadUsage(f"there is no file {wish.name}", remedy="name a file, or one of `orchestrator etcd list`")
        stem = path.name.removesuffix(".age").removesuffix(".zst").removesuffix(records.DATA)
        beside = path.with_name(stem + records.RECORD)
        record = records.decode(beside.read_bytes(), beside.name, str(beside.parent)) if beside.is_file() else None
        file, stored, shown = str(path.absolute()), path.absolute(), path.name
    else:
        held = library.find(wish.name)
        if held.wrong:
            raise SnapshotInvalid(f"{held.url}: {held.wrong}", remedy="use another snapshot: orchestrator etcd list")
        record, shown = held.record, held.record.name
        file = f"{STAGING}/{name}{records.DATA}{record.data.file.partition(records.DATA)[2]}"
        stored = _fetched(library, held.url, record.data, home() / file)
    limit = record.size_bytes if record else sets.LIMIT_BYTES * 16
    if is_plain(stored):
        snapshot = examine(stored, trailer=wish.trailer)
    else:
        with opened(stored, identities, limit) as memory:
            snapshot = examine(Path(f"/dev/fd/{memory.fileno()}"), trailer=wish.trailer)
    if record and record.sha256 != snapshot.sha256:
        raise SnapshotInvalid(f"{wish.name} is not the one that its record tells of", remedy="use another snapshot")
    return _Source(file, shown, record, snapshot)


def _set(
    library: Library, wish: Wish, source: _Source, name: str, identities: Sequence[Path]
) -> tuple[str, RecoverySet]:
    """The recovery set as it is stored, here, and what is in it."""
    if wish.set is not None:
        stored = wish.set.expanduser().absolute()
        if not stored.is_file():
            raise BadUsage(f"there is no file {wish.set}", remedy="name NAME.recovery.tar.zst.age, as it was stored")
        file = str(stored)
    else:
        record = source.record
        if record is None or record.recovery is None:
            raise BadUsage(
                f"there is no recovery set beside {source.shown}",
                remedy="name the file of one: --recovery-set FILE; it is stored where `etcd backup` has a --recipient",
            )
        file = f"{STAGING}/{name}{records.RECOVERY}.zst.age"
        stored = home() / file
        if Path(source.file).is_absolute():
            file = str(Path(source.file).with_name(record.recovery.file))
            stored = Path(file)
        else:
            _fetched(library, library.find(record.name).url, record.recovery, stored)
    if not stored.is_file():
        raise BadUsage(f"there is no file {stored}", remedy="name the file of a recovery set: --recovery-set FILE")
    with opened(stored, identities, sets.LIMIT_BYTES) as memory:
        return file, sets.read(memory, stored.name)


def _fetched(library: Library, url: str, part: Part, target: Path) -> Path:
    """A file of a destination, as it is stored there."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    library.store(url).get(part.file, target, limit_bytes=part.size_bytes)
    if measured(target).sha256 != part.sha256:
        raise SnapshotInvalid(f"{url}: {part.file} is not the one recorded", remedy="use another destination: --from")
    return target


def _members(source: _Source, wish: Wish) -> tuple[Member, ...]:
    """The control planes that are wanted, as they were when the snapshot was taken."""
    known = {m.name: m for m in source.snapshot.members if m.peer_urls}
    for name in wish.onto:
        if name not in known:
            raise BadUsage(
                f"--onto={name} is no member of etcd in the snapshot",
                remedy=f"one of: {', '.join(sorted(known))}: new machines bear the old names",
            )
    return tuple(
        Member(m.name, m.peer_urls[0], urlsplit(m.peer_urls[0]).hostname or "")
        for m in (known[name] for name in dict.fromkeys(wish.onto))
    )


# ---- what forbids it --------------------------------------------------------------------------------------------


def _refuse_unlike(found: RecoverySet, record: Record | None) -> None:
    mine = hashlib.sha256(found.files[f"{PKI}/ca.crt"].content).hexdigest()
    if record and record.authority and record.authority != mine:
        raise Refused(
            f"snapshot and recovery set are of two clusters: authority {record.authority[:16]}… and {mine[:16]}…",
            remedy="use the set that is stored beside the snapshot",
        )


def _refuse_unfit(
    app: App,
    found: RecoverySet,
    source: _Source,
    members: Sequence[Member],
    plan: str,
    say: Callable[[str], None],
) -> None:
    """Raise for all that machines lack, or have too much of."""
    say(f"asking {len(members)} machines")
    names, view = [m.name for m in members], app.reader
    answers = together(names, lambda one: machine(one, view.ask(one, queries.REBUILD, plan, found.told.data)))
    storage = source.snapshot.storage
    wrong = [f"{m.name}: {why}" for m in members for why in unfit(answers[m.name], found.told, m, storage)]
    if wrong:
        raise Refused(
            "\n".join(wrong),
            remedy="machines have to be fresh, with the old names, addresses and versions; what another node left goes "
            "by `kubeadm reset`, what a rebuild left by `orchestrator release RUN`",
        )


def _warnings(source: _Source, found: RecoverySet, members: Sequence[Member]) -> tuple[str, ...]:
    told, onto = found.told, {m.name for m in members}
    said = [f"the cluster has the state of revision {source.snapshot.revision}: what was written since is lost"]
    said.append(f"the recovery set was taken on {told.node}: its manifests and settings are those of all")
    said += [
        f"{m.name} is not rebuilt: its node object has no machine then; join it later, or kubectl delete node {m.name}"
        for m in source.snapshot.members
        if m.name not in onto
    ]
    if source.record is None:
        said.append("the snapshot has no record beside it: that the set is of the same cluster cannot be proven")
    said += [f"the snapshot has the alarm {alarm}; it is cleared" for alarm in source.snapshot.alarms]
    return tuple(said)


# ---- when it stopped --------------------------------------------------------------------------------------------


def standing(app: App, plan: Plan) -> tuple[str, ...]:
    """How far each machine is, for whoever has to go on."""
    lines = []
    for step in (s for s in plan.steps() if s.action == "rebuild.bring"):
        with suppress(OrchestratorError):  # one that cannot be asked is named by the error itself
            answer = app.reader.ask(step.node, queries.REBUILD, step.params["plan"], step.params["data"])
            host = machine(step.node, answer)
            have = [
                word
                for word, there in (
                    ("files in place", host.placed),
                    ("etcd's data restored", host.member),
                    ("kubelet running", host.kubelet_runs),
                )
                if there
            ]
            runs_ = [f"{each} running" for each in host.processes]
            lines.append(f"{step.node}: {', '.join([*have, *runs_]) or 'nothing in place'}")
    return tuple(lines)
