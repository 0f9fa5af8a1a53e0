"""What a real etcd that was started on a snapshot has, held against what was read out of it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.backup.contents import OTHER
from orchestrator.cluster import etcd
from orchestrator.cluster.frame import sections
from orchestrator.cluster.versions import Version, parse
from orchestrator.errors import BackupError, BadUsage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.backup.contents import Kind
    from orchestrator.backup.records import Record
    from orchestrator.backup.snapshot import Snapshot
    from orchestrator.cluster.frame import Section


#: Kinds of which an API server removes some by itself as soon as it runs: what has expired, and what was its own.
#: Source: Kubernetes 1.37: its leases and APIServices, the defaults of priority and fairness, addresses of Services.
_OWN = frozenset({"APIService", "Event", "FlowSchema", "IPAddress", "Lease", "PriorityLevelConfiguration"})
#: Kinds that API servers keep for themselves and serve to nobody.
_HIDDEN = frozenset({OTHER, "MasterLease", "PeerServerLease", "RangeAllocation"})
#: How what is encrypted at rest is read.
KEYS = "--encryption-config FILE; where a KMS has them, its plugin has to run there"
_UNKNOWN = "that of the member is not known"
_WEBHOOK = "conversion webhook"
#: Source: k8s.io/apiserver 1.36, `storage/etcd3/store.go`: what a value's transformer refuses.
_SEALED = "unable to transform key"
_RELEASE = re.compile(r'"gitVersion": *"([^"]+)"')


@dataclass(frozen=True, slots=True)
class ApiServer:
    """What an API server had of a snapshot.

    Attributes:
        version: `v1.36.3`.
        start_s: How long it took until it was ready.
        read_s: How long it took to read everything.
        counts: Resource, with its group, -> objects that it has.
        unread: Resource, with its group -> why its objects were not read, though nothing is wrong with them.
    """

    version: str
    start_s: float
    read_s: float
    counts: Mapping[str, int]
    unread: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Drilled:
    """What was seen.

    Attributes:
        where: The machine.
        etcd: The version that was started.
        restore_s, start_s: How long those took.
        counts: Prefix -> keys that the started etcd has; "all" for all of them.
        wrong: What was not as it should be; none when it went well.
        member_hash: What the member that gave the snapshot had at its revision; None where that is not known.
        incomparable: Why `hash` is not held against that; "" when it was.
        cluster: Of which the snapshot is; "" of a file without a record.
        server: What an API server had; None when none was started, or it did not come to that.
        sealed: Nothing is wrong but that an API server could not decrypt what is encrypted at rest.
    """

    name: str
    where: str
    etcd: str
    restore_s: float
    start_s: float
    revision: int
    hash: int
    counts: Mapping[str, int]
    wrong: tuple[str, ...]
    member_hash: int | None = None
    incomparable: str = _UNKNOWN
    cluster: str = ""
    server: ApiServer | None = None
    sealed: bool = False

    @property
    def text(self) -> str:
        """In one line."""
        if self.wrong:
            return "; ".join(self.wrong)
        took_s = self.restore_s + self.start_s
        text = (
            f"etcd {self.etcd} has revision {self.revision} and {self.counts.get('all', 0)} keys after {took_s:.1f} s"
        )
        if not self.incomparable:
            text += ", with the hash that they had in the member"
        if self.server:
            objects, kinds = sum(self.server.counts.values()), len(self.server.counts)
            took_s = self.server.start_s + self.server.read_s
            text += (
                f"; kube-apiserver {self.server.version} read {objects} objects of {kinds} kinds in {took_s:.1f} s more"
            )
        return text


def judged(name: str, node: str, answer: str, expected: Snapshot, record: Record | None) -> Drilled:
    """What a drill answered, held against what the snapshot has.

    Args:
        name: Of the snapshot.
        node: Where it was; "" for this machine.
        answer: Of its script, in the frame of `cluster.frame`.
        expected: What was read out of the snapshot.
        record: Its record, where it has one.

    That an API server's keys could not be read is no matter of the snapshot: see `keyless`.

    Raises:
        BadUsage: There was no etcd to start.
        FactUnreadable: etcd answered in a form that is not known.
    """
    found = sections(answer)
    where = node or "this machine"
    missing(found, where)
    version = (re.search(r"etcd Version: (\S+)", _text(found, "version")) or ["", ""])[1]
    wrong = []
    if failed := [s for s in found.get("failed", ()) if s.words[0] != _LOCKED]:
        wrong.append(failure(failed[0]))
    elif "ended" not in found:
        wrong.append("it did not come to its end")
    status, answered = _text(found, "status"), _text(found, "hash")
    hashed = etcd.parse_hashes(answered)[0] if answered else None
    incomparable = _incomparable(hashed, expected.revision, version, record)
    revision = etcd.parse_status(status)[0].revision if status else 0
    counts = {s.words[0]: int(s.text) for s in found.get("count", ()) if s.text.strip().isdigit()}
    if not wrong:
        wrong += _differences(revision, counts, expected, version)
        if record and record.hashed and not incomparable and hashed and hashed.hash != record.hashed.value:
            theirs = f"in the member of {record.node} they had {record.hashed.value:x}"
            wrong.append(f"at revision {expected.revision} its keys have the hash {hashed.hash:x}, {theirs}")
    times = {name: float(_text(found, name) or 0.0) for name in ("began", "restored", "started")}
    return Drilled(
        name=name,
        where=where,
        etcd=version,
        restore_s=max(0.0, times["restored"] - times["began"]),
        start_s=max(0.0, times["started"] - times["restored"]),
        revision=revision,
        hash=hashed.hash if hashed else 0,
        counts=counts,
        wrong=tuple(wrong),
        member_hash=record.hashed.value if record and record.hashed else None,
        incomparable=incomparable,
    )


def _incomparable(hashed: etcd.Hash | None, revision: int, version: str, record: Record | None) -> str:
    """Why the hash of the keys cannot be held against that of the member which gave the snapshot; "" when it can.

    Source: etcd 3.6, `HashByRev`, and seen on 3.6.6: keys are hashed up to the revision, of what was compacted only
    what is left of it; so both have to have the same compact revision. Which tombstones are left differs between patch
    releases (etcd #18274). A restore changes none of it unless it raises the revision, which a drill's does not.
    """
    if record is None or record.hashed is None:
        return _UNKNOWN
    if hashed is None or hashed.revision != revision:
        return "etcd did not tell it"
    if hashed.compact_revision != record.hashed.compact_revision:
        return f"the member had compacted up to {record.hashed.compact_revision} when it was asked for its own"
    if version != record.etcd:
        return f"that of the member is of etcd {record.etcd}"
    return ""


def _differences(revision: int, counts: Mapping[str, int], expected: Snapshot, version: str) -> list[str]:
    wrong = []
    if revision < expected.revision:
        wrong.append(f"etcd has revision {revision}, the snapshot {expected.revision}")
    wanted = {"all": expected.keys, **{f"{name}/": count for name, count in expected.prefixes.items()}}
    wrong += [f"{n}: {found} keys, {wanted[n]} in the snapshot" for n, found in counts.items() if found != wanted[n]]
    storage, program = parse(expected.storage or "3.5.0"), parse(version)
    if isinstance(storage, Version) and isinstance(program, Version) and program.line < storage.line:
        wrong.append(f"etcd {version} is older than the data, which are of {expected.storage}")
    if "all" not in counts:
        wrong.append("its keys could not be counted")
    return wrong


def missing(found: Mapping[str, list[Section]], where: str) -> None:
    """Nothing, when all programs were there.

    Raises:
        BadUsage: One was not.
    """
    if "missing" in found:
        raise BadUsage(
            f"there is no {found['missing'][0].words[0]} on {where}",
            remedy="on a control plane its own are used: --node NAME; or name a directory with them: --programs DIR",
        )


def keyless(found: Mapping[str, list[Section]], where: str) -> None:
    """Nothing, when keys of encryption at rest could be read, or there are none.

    Raises:
        BackupError: They could not: that tells nothing of the snapshot.
    """
    if "failed" in found and found["failed"][0].words[0] == _LOCKED:
        raise BackupError(f"on {where}: {failure(found['failed'][0])}", remedy=f"give them: {KEYS}")


_LOCKED = "keys"
_STAGES = {
    "restore": "restore",
    "start": "start",
    _LOCKED: "reading the keys of encryption at rest",
    "server": "kube-apiserver",
}


def failure(section: Section) -> str:
    """What failed, and what it said last."""
    return f"{_STAGES[section.words[0]]} failed: {' '.join(section.text.split())[-300:]}"


# ---- an API server --------------------------------------------------------------------------------------------


def counted(kinds: Sequence[Kind]) -> dict[str, int]:
    """Resource, with its group, -> objects, of those kinds that clients see."""
    return {_resource(kind): kind.objects for kind in kinds if kind.kind not in _HIDDEN}


def _resource(kind: Kind) -> str:
    return f"{kind.resource}.{kind.group}" if kind.group else kind.resource


def with_api_server(drilled: Drilled, answer: str, kinds: Sequence[Kind]) -> Drilled:
    """A drill, and what the API server of the same answer has, held against the kinds of the snapshot.

    More than the snapshot has is not wrong: an API server makes what it needs and does not find.
    """
    if drilled.wrong:
        return drilled
    found = sections(answer)
    if "listed" not in found:
        return replace(drilled, wrong=("the API server did not come to its end",))
    expected, own = counted(kinds), {_resource(kind) for kind in kinds if kind.kind in _OWN}
    counts = {s.words[0]: int(s.words[1]) for s in found.get("read", ())}
    served = {_served(line) for line in _text(found, "served").splitlines()}
    failed = {s.words[0]: " ".join(s.text.split())[-300:] for s in found.get("unread", ())}
    unread = {name: "their API is not served" for name in expected if name not in served}
    unread |= {name: "their conversion webhook is needed" for name, said in failed.items() if _WEBHOOK in said}
    lost = {name: said for name, said in failed.items() if name not in unread}
    wrong = [
        f"{name}: {counts[name]} objects, {number} in the snapshot"
        for name, number in expected.items()
        if name in counts and name not in own and counts[name] < number
    ]
    wrong += [
        f"{name}: not read" for name in expected if name not in counts and name not in unread and name not in failed
    ]
    sealed = bool(lost) and not wrong and all(_SEALED in said for said in lost.values())
    wrong = [f"{name} could not be read: {said}" for name, said in lost.items()] + wrong
    times = {name: float(_text(found, name) or 0.0) for name in ("server-began", "ready", "listed")}
    server = ApiServer(
        version=(_RELEASE.search(_text(found, "kubernetes")) or ["", ""])[1],
        start_s=max(0.0, times["ready"] - times["server-began"]),
        read_s=max(0.0, times["listed"] - times["ready"]),
        counts=counts,
        unread={name: f"{expected[name]} of them: {why}" for name, why in unread.items()},
    )
    return replace(drilled, wrong=tuple(wrong), server=server, sealed=sealed)


def _served(line: str) -> str:
    """`deployments.apps`, of a line of `kubectl api-resources`: name, perhaps short ones, version, namespaced, kind."""
    name, *rest = line.split()
    group, slash, _ = rest[-3].partition("/")
    return f"{name}.{group}" if slash else name


def _text(found: Mapping[str, list[Section]], name: str) -> str:
    return found[name][0].text.strip() if name in found else ""
