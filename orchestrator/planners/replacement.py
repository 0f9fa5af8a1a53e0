"""The plan that gives a control plane a fresh member of etcd, and the plan that takes back what can be taken back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.engine.plan import Lane, Plan, Step, Wave
from orchestrator.planners.restore import FILE_S, GATE_S, QUORUM_S, SERVERS, STAGE_S, START_S, STOP_S, SWAP_S, gate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.engine.plan import Past

KIND = "replace-member"
#: Seconds. A change of members waits until those that are left have been connected for five seconds.
CHANGE_S = 120.0
#: The leader sends a new member all data: some GB, over a slow line.
SYNC_S = 3600.0


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for.

    Attributes:
        name: Of the plan.
        node: Whose member is replaced.
        member: Its member's own name.
        peers: Its member's peer URLs.
        data: Its data directory, as the host has it.
        others: Nodes of all other members.
        source: Of them, the one whose member gives the snapshot.
        old: Ids, in hex, of members that are listed as the node's, and are taken out.
        alarm: An alarm of the member that is taken out has to be cleared; until then the API takes no writes.
        joined: The member is a learner that only has to be given its vote.
    """

    name: str
    node: str
    member: str
    peers: tuple[str, ...]
    data: str
    others: tuple[str, ...]
    source: str
    old: tuple[str, ...] = ()
    alarm: bool = False
    joined: bool = False


def replace(request: Request) -> Plan:
    """Nothing of the cluster is changed before etcd is stopped on the node, so that no two members have its address.

    Source: etcd's documentation, "Runtime reconfiguration": take the old one out first, then add the new one;
    "Learner": it counts for no quorum until it is in sync and is given its vote.
    """
    build = _Build(request)
    file = f"{request.name}-before.db"
    build.on(request.source, "etcd.snapshot", {"plan": request.name, "file": file, "reason": "pre-replace"}, STAGE_S)
    if not request.joined:
        build.add("member.stop", {"names": list(SERVERS)}, STOP_S)
        stopped = build.add("member.stop", {"names": ["etcd"]}, STOP_S)
        aside = build.add("member.aside", {"stopped": stopped}, SWAP_S)
        removed = build.add("member.remove", {"stopped": stopped}, CHANGE_S)
        if request.alarm:
            build.on(request.source, "etcd.disarm", {"members": list(request.others), "after": removed}, CHANGE_S)
        added = build.add("member.add", {"removed": removed}, CHANGE_S)
        build.add("member.manifest", {"stopped": stopped, "added": added}, FILE_S)
        build.add("member.start", {"names": ["etcd"], "aside": aside}, START_S)
    build.add("member.promote", {}, SYNC_S)
    everyone = [*request.others, request.node]
    build.on(request.others[0], "member.quorum", {"members": everyone, "revision": 0}, QUORUM_S)
    build.add("member.start", {"names": [SERVERS[0]], "aside": ""}, START_S)
    build.gate(everyone, ["api"])
    build.add("member.start", {"names": list(SERVERS[1:]), "aside": ""}, START_S)
    build.gate(everyone, ["api", "etcd"])
    build.on(request.source, "host.tidy", {"plan": request.name}, FILE_S)
    return Plan(KIND, f"replace the member of etcd on {request.node}", tuple(build.waves))


def back(run: str, plan: Plan, past: Past) -> Plan:
    """What starts the old member again, as it was found; forbidden by its first step once members were changed."""
    begun = [s for s in plan.steps() if s.id in past and s.action.startswith("member.")]
    names = list(dict.fromkeys(name for s in begun if s.action == "member.stop" for name in s.params["names"]))
    if not names:
        return Plan("release", f"release {run}", ())
    request = _request(plan)
    build = _Build(request, {"of_run": run})
    build.add("member.listed", {}, FILE_S)
    if any(s.action == "member.aside" for s in begun):
        build.add("member.back", {}, SWAP_S)
    build.add("member.return", {"names": names}, START_S)
    build.on(request.source, "host.tidy", {"plan": request.name}, FILE_S)
    return Plan("release", f"release {run}", tuple(build.waves))


def confirm(run: str, plan: Plan) -> Plan:
    """What deletes the old data, once somebody says that the new member is good."""
    build = _Build(_request(plan))
    if any(s.action == "member.aside" for s in plan.steps()):
        build.add("member.forget", {}, SWAP_S)
    return Plan("confirm", f"delete the old data of {run}", tuple(build.waves))


def _request(plan: Plan) -> Request:
    """What a plan was made of."""
    p = next(s.params for s in plan.steps() if s.action == "member.promote")
    source = next(s.node for s in plan.steps() if s.action == "etcd.snapshot")
    node = next(s.node for s in plan.steps() if s.action == "member.promote")
    peers, others, old = (tuple(p[name]) for name in ("peers", "others", "old"))
    return Request(p["plan"], node, p["member"], peers, p["data"], others, source, old, alarm=p["without_api"])


class _Build:
    """Waves of one step each, under construction."""

    def __init__(self, request: Request, more: Mapping[str, Any] | None = None) -> None:
        self.waves: list[Wave] = []
        self._request = request
        self._more = more or {}

    def on(self, node: str, action: str, params: Mapping[str, Any], timeout_s: float) -> str:
        """A step on that node; its id."""
        step = Step(f"{len(self.waves)}/{node}/{action}", action, node, {**params, **self._more}, timeout_s)
        self.waves.append(Wave((Lane(node, (step,)),)))
        return step.id

    def add(self, action: str, params: Mapping[str, Any], timeout_s: float) -> str:
        """A step on the node whose member is replaced; its id."""
        r = self._request
        own = {
            "plan": r.name, "data": r.data, "member": r.member, "peers": list(r.peers), "others": list(r.others),
            "old": list(r.old), "without_api": r.alarm,
        }  # fmt: skip
        return self.on(r.node, action, {**own, **params}, timeout_s)

    def gate(self, names: Sequence[str], checks: list[str]) -> None:
        """Waits until they hold."""
        self.on(self._request.node, "cluster.gate", gate(self._request.name, names, checks), GATE_S)
