"""What etcd's members tell of themselves, and whether one of them may be stopped. Pure.

Source of all forms: etcdctl 3.6 and 3.7 with `-w json`, as seen on clusters of one and of three members. Ids are
unsigned 64-bit numbers there and hex elsewhere; what is zero, false or empty is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import msgspec

from orchestrator.errors import FactUnreadable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

T = TypeVar("T")

#: Entries that a member may be behind the others and still count as following: a busy cluster writes some hundreds a
#: second, and the members are asked one after another.
RAFT_LAG = 1000


#: Source: etcd's documentation, `--quota-backend-bytes`: 2 GB unless it is set.
QUOTA_BYTES = 2 * 2**30
#: The alarm of want of space. Members that raise it say so in their health and errors, and serve all the same.
NOSPACE = "NOSPACE"
#: What etcdctl prints where no endpoint answered: seen on 3.6, of a member whose cluster was restored without it.
_NONE = "null"


@dataclass(frozen=True, slots=True)
class Member:
    """A member as the cluster lists it; listed says nothing about whether it lives.

    Attributes:
        name: "" until it has started for the first time.
        learner: It does not vote.
    """

    id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    learner: bool = False

    @property
    def started(self) -> bool:
        """It has joined."""
        return bool(self.name)


@dataclass(frozen=True, slots=True)
class Status:
    """What one member answered when it was asked directly.

    Attributes:
        endpoint: Where.
        db_size_bytes: Of its file; `in_use_bytes` is what defragmenting would leave.
        quota_bytes: Beyond which it takes no writes; 0 where it does not tell.
        leader: The member that it takes for the leader; 0 without one.
        revision: Of its keys.
        cluster: The id of the cluster.
    """

    endpoint: str
    id: int
    version: str
    storage_version: str
    db_size_bytes: int
    in_use_bytes: int
    quota_bytes: int
    leader: int
    raft_term: int
    raft_index: int
    raft_applied: int
    learner: bool
    errors: tuple[str, ...]
    revision: int = 0
    cluster: int = 0

    @property
    def limit_bytes(self) -> int:
        """Its quota, etcd's own where it does not tell."""
        return self.quota_bytes or QUOTA_BYTES

    @property
    def full(self) -> float:
        """The share of its quota that is in use."""
        return self.in_use_bytes / self.limit_bytes


@dataclass(frozen=True, slots=True)
class Hash:
    """The hash of one member's keys at one revision. Equal at an equal revision is what members have to be."""

    endpoint: str
    hash: int
    revision: int
    compact_revision: int


class _Wire(msgspec.Struct, rename=None):
    """Fields have etcd's own names."""


class _WireMember(_Wire):
    ID: int
    name: str = ""
    peerURLs: list[str] = msgspec.field(default_factory=list)  # noqa: N815  etcd's
    clientURLs: list[str] = msgspec.field(default_factory=list)  # noqa: N815
    isLearner: bool = False  # noqa: N815


class _WireMembers(_Wire):
    members: list[_WireMember]


class _WireHeader(_Wire):
    member_id: int
    cluster_id: int = 0
    revision: int = 0


class _WireState(_Wire):
    header: _WireHeader
    version: str
    leader: int = 0
    dbSize: int = 0  # noqa: N815
    dbSizeInUse: int = 0  # noqa: N815
    dbSizeQuota: int = 0  # noqa: N815
    storageVersion: str = ""  # noqa: N815
    raftTerm: int = 0  # noqa: N815
    raftIndex: int = 0  # noqa: N815
    raftAppliedIndex: int = 0  # noqa: N815
    isLearner: bool = False  # noqa: N815
    errors: list[str] = msgspec.field(default_factory=list)


class _WireStatus(_Wire):
    Endpoint: str
    Status: _WireState


class _WireHealth(_Wire):
    endpoint: str
    health: bool
    error: str = ""


class _WireAlarm(_Wire):
    memberID: int = 0  # noqa: N815
    alarm: int = 0


class _WireAlarms(_Wire):
    alarms: list[_WireAlarm] = msgspec.field(default_factory=list)


class _WireHashKV(_Wire):
    hash: int
    compact_revision: int = 0
    hash_revision: int = 0


class _WireHash(_Wire):
    Endpoint: str
    HashKV: _WireHashKV


def parse_members(stdout: str) -> tuple[Member, ...]:
    """The answer of `etcdctl member list`, ordered by name and id: its own order changes after a restore.

    Raises:
        FactUnreadable: It is not that answer, or names no member.
    """
    found = _decoded(_WireMembers, stdout, "etcdctl member list").members
    if not found:
        raise _unreadable("etcdctl member list", "it names no member")
    members = (Member(m.ID, m.name, tuple(m.peerURLs), tuple(m.clientURLs), m.isLearner) for m in found)
    return tuple(sorted(members, key=lambda m: (m.name, m.id)))


def parse_status(stdout: str) -> tuple[Status, ...]:
    """The answer of `etcdctl endpoint status`, in its order.

    A member that does not answer is left out, with an exit code of 1; the others are there all the same.

    Raises:
        FactUnreadable: It is not that answer.
    """
    if stdout.strip() == _NONE:
        return ()
    return tuple(_status(each) for each in _decoded(list[_WireStatus], stdout, "etcdctl endpoint status"))


def parse_health(stdout: str) -> Mapping[str, str]:
    """Endpoint -> "" where it is healthy, else why not, out of the answer of `etcdctl endpoint health`.

    Raises:
        FactUnreadable: It is not that answer.
    """
    found = _decoded(list[_WireHealth], stdout, "etcdctl endpoint health")
    return {each.endpoint: "" if each.health else each.error or "it does not say why" for each in found}


def parse_hashes(stdout: str) -> tuple[Hash, ...]:
    """The answer of `etcdctl endpoint hashkv`, in its order.

    Raises:
        FactUnreadable: It is not that answer.
    """
    if stdout.strip() == _NONE:
        return ()
    found = _decoded(list[_WireHash], stdout, "etcdctl endpoint hashkv")
    return tuple(Hash(e.Endpoint, e.HashKV.hash, e.HashKV.hash_revision, e.HashKV.compact_revision) for e in found)


def parse_alarms(stdout: str) -> tuple[str, ...]:
    """The answer of `etcdctl alarm list`, in words; empty when there is none.

    Source: etcdserverpb `AlarmType`: 1 is NOSPACE, 2 is CORRUPT.

    Raises:
        FactUnreadable: It is not that answer.
    """
    names = {1: NOSPACE, 2: "CORRUPT"}
    found = _decoded(_WireAlarms, stdout, "etcdctl alarm list").alarms
    return tuple(f"{names.get(each.alarm, each.alarm)} on member {each.memberID:x}" for each in found)


def quorum(voters: int) -> int:
    """How many of so many voting members have to live. Source: raft, a majority."""
    return voters // 2 + 1


def troubles(members: Iterable[Member], statuses: Iterable[Status], health: Mapping[str, str]) -> tuple[str, ...]:
    """Everything that is not as it has to be before anything is done to a member; empty when all is well.

    Args:
        members: As listed.
        statuses: Of those that answered.
        health: Endpoint -> "" or why it is not healthy.
    """
    listed, answered = tuple(members), {status.id: status for status in statuses}
    found = [f"member {_named(m)} has never started" for m in listed if not m.started]
    found += [f"member {_named(m)} does not answer" for m in listed if m.started and m.id not in answered]
    found += [f"{endpoint} is not healthy: {why}" for endpoint, why in sorted(health.items()) if why]
    for status in answered.values():
        found += [f"{status.endpoint} reports: {error}" for error in status.errors]
    return tuple(found + _disagreements(tuple(answered.values())))


def serves(why: str) -> bool:
    """Whether what a member complains of, "" for nothing, is no more than want of space."""
    return not why or NOSPACE in why


def may_stop_one(members: Iterable[Member], healthy: Iterable[int]) -> str:
    """Why no healthy member may be stopped now, with the numbers; empty when one may be.

    Args:
        members: As listed: a listed one counts for the quorum though it is dead.
        healthy: Ids of those that answered as healthy.
    """
    voters = {m.id for m in members if not m.learner}
    living, needed = len(voters & set(healthy)), quorum(len(voters))
    if living - 1 >= needed:
        return ""
    if len(voters) == 1:
        return "the only member: etcd, and with it the API, is away while it is stopped"
    return f"{living} of {len(voters)} etcd members healthy; stopping one more would lose quorum (needs {needed})"


def _disagreements(statuses: tuple[Status, ...]) -> list[str]:
    """What members say of the cluster has to be the same."""
    if not statuses:
        return []
    found = []
    leaders = {s.leader for s in statuses}
    if 0 in leaders:
        found.append("there is no leader")
    elif len(leaders) > 1:
        found.append(f"members name different leaders: {', '.join(f'{each:x}' for each in sorted(leaders))}")
    terms = {s.raft_term for s in statuses}
    if len(terms) > 1:
        found.append(f"members are in different terms: {', '.join(str(each) for each in sorted(terms))}")
    front = max(s.raft_index for s in statuses)
    found += [
        f"{s.endpoint} is {front - s.raft_applied} entries behind"
        for s in statuses
        if front - s.raft_applied > RAFT_LAG
    ]
    return found


def _named(member: Member) -> str:
    return member.name or f"{member.id:x}"


def _status(each: _WireStatus) -> Status:
    state = each.Status
    return Status(
        endpoint=each.Endpoint,
        id=state.header.member_id,
        version=state.version,
        storage_version=state.storageVersion,
        db_size_bytes=state.dbSize,
        in_use_bytes=state.dbSizeInUse,
        quota_bytes=state.dbSizeQuota,
        leader=state.leader,
        raft_term=state.raftTerm,
        raft_index=state.raftIndex,
        raft_applied=state.raftAppliedIndex,
        learner=state.isLearner,
        errors=tuple(state.errors),
        revision=state.header.revision,
        cluster=state.header.cluster_id,
    )


def _decoded(kind: type[T], stdout: str, command: str) -> T:
    try:
        return msgspec.json.decode(stdout.encode(), type=kind)
    except msgspec.MsgspecError as err:
        raise _unreadable(command, str(err)) from err


def _unreadable(command: str, why: str) -> FactUnreadable:
    return FactUnreadable(f"the answer of `{command}` cannot be read: {why}", remedy=f"run `{command} -w json` by hand")
