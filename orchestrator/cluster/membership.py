"""Who is a member of etcd, who of them counts, and what a member's manifest says of the others. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from orchestrator.cluster import etcd
from orchestrator.cluster.etcd import quorum
from orchestrator.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestrator.cluster.etcd import Member, Status

#: The alarm of a member whose data differ. While it is raised no member takes writes.
CORRUPT = "CORRUPT"
#: A flag of etcd's that makes a cluster of one of whatever it finds; some leave it behind after a disaster.
FORCED = "force-new-cluster"
_STATE = "existing"


def of_node(members: Iterable[Member], name: str, peers: Iterable[str]) -> tuple[Member, ...]:
    """Members as listed that are a node's, by their own name or by a peer URL: a learner has no name yet."""
    urls = set(peers)
    return tuple(m for m in members if m.name == name or urls & set(m.peer_urls))


def serves(why: str) -> bool:
    """Whether what a member complains of, "" for nothing, is an alarm only: each tells of it, whoever raised it."""
    return etcd.serves(why) or CORRUPT in why


def lacking(
    members: Iterable[Member], statuses: Iterable[Status], health: Mapping[str, str], mine: Iterable[str]
) -> tuple[str, ...]:
    """What is wrong with the members that are left when some are taken out; empty when all of them are well.

    All, and not a quorum: once one is out, each of the others is needed. Source: etcd, `mayAddMember` with its strict
    check, on by default: a member, a learner too, is added only while every voting one is connected, for five seconds.

    Args:
        members: As listed.
        statuses: Of those that answered.
        health: Endpoint -> "" or why it is not healthy.
        mine: Ids in hex of those that are taken out.
    """
    left = [m for m in members if f"{m.id:x}" not in set(mine)]
    answered = {status.id: status for status in statuses}
    found = [text for m in left if (text := _lacking(m, answered, health))]
    leaders = {answered[m.id].leader for m in left if m.id in answered}
    if 0 in leaders or len(leaders) > 1:
        found.append("the others do not agree on a leader")
    if not [m for m in left if not m.learner]:
        found.append("no other member votes")
    return tuple(found)


def spared(
    members: Iterable[Member], statuses: Iterable[Status], health: Mapping[str, str], mine: Iterable[int]
) -> str:
    """Why a node's member must not restart now: those that are well without it are no quorum; "" when they are.

    Also empty with fewer than three members, where that is always so and known before the start, and where it does not
    answer: nothing is lost by its restart then.

    Args:
        members: As listed.
        statuses: Of those that answered.
        health: Endpoint -> "" or why it is not healthy.
        mine: Ids of the node's; none where it is not known which member that is: then it is one that counts.
    """
    voters = [m for m in members if not m.learner]
    own, answered = set(mine), {status.id: status for status in statuses}
    others = [m for m in voters if m.id not in own]
    troubles = [text for m in others if (text := _lacking(m, answered, health))]
    left, wanted = len(others) - len(troubles) - (not own), quorum(len(voters))
    if len(voters) < 3 or left >= wanted or (own and not own & set(answered)):
        return ""
    why = "; ".join(troubles) or "the others are too few"
    return f"{why}: {left} of {len(voters)} members of etcd would be left, and {wanted} are needed"


def _lacking(member: Member, answered: Mapping[int, Status], health: Mapping[str, str]) -> str:
    named = member.name or f"{member.id:x} ({', '.join(member.peer_urls)})"
    if not member.started:
        return f"member {named} has never started"
    if member.learner:
        return f"member {named} is a learner: somebody else changes members"
    if member.id not in answered:
        return f"member {named} does not answer"
    why = next((health[url] for url in member.client_urls if url in health), "it does not answer")
    return "" if serves(why) else f"member {named} is not healthy: {why}"


def spare(voters: int) -> bool:
    """Whether so many voting members, and one more, have a quorum without that one."""
    return voters >= quorum(voters + 1)


def initial_cluster(members: Iterable[Member], name: str, peers: Sequence[str]) -> str:
    """`--initial-cluster` for a member that joins these: all that are listed, itself under its name.

    Source: etcd, `ValidateClusterAndAssignIDs`: a joining member compares it with what the others list, and refuses to
    start unless number and peer URLs are the same; names of the others do not matter.
    """
    own = dict.fromkeys(peers, name)
    pairs = {(own.get(url) or m.name or f"{m.id:x}", url) for m in members for url in m.peer_urls}
    return ",".join(f"{each}={url}" for each, url in sorted(pairs))


def joins(manifest: str, cluster: str) -> bool:
    """Whether a manifest has its member join that cluster."""
    return rejoining(manifest, cluster) == manifest


def rejoining(manifest: str, cluster: str) -> str:
    """A manifest of etcd that has its member join a cluster that exists; nothing else of it is changed, to the byte.

    Raises:
        Refused: Its command has no `--initial-cluster=…` in a line of its own.
    """
    line = re.compile(r"^([ \t]*- )([\"']?)--initial-cluster=.*$", re.MULTILINE)
    state = re.compile(r"^([ \t]*- )([\"']?)--initial-cluster-state=.*$", re.MULTILINE)
    if not line.search(manifest):
        raise Refused(
            "etcd.yaml has no line --initial-cluster=…", remedy="write its flags as kubeadm does, one in a line"
        )
    ending = "\r" if "\r\n" in manifest else ""
    more = "" if state.search(manifest) else rf"{ending}\n\1\2--initial-cluster-state={_STATE}\2"
    text = line.sub(rf"\1\2--initial-cluster={cluster}\2{more}{ending}", manifest, count=1)
    return state.sub(rf"\1\2--initial-cluster-state={_STATE}\2{ending}", text, count=1)


def data_directory(manifest: str) -> str:
    """The directory of the host that a manifest of kubeadm's gives etcd for its data; "" where it names none."""
    path = ""
    for line in manifest.splitlines():
        match = re.match(r"\s*(?:- )?(path|name):\s*(\S+)", line)
        if match and match[1] == "path":
            path = match[2]
        elif match and match[2] == "etcd-data" and path:
            return path
    return ""
