"""The plan of a restore of etcd: barriers over all control planes; and the plan that takes it back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.engine.plan import Lane, Plan, Step, Wave

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.engine.plan import Past

KIND = "restore"
#: Seconds. A large snapshot over a slow line, and restored.
STAGE_S = 3600.0
STOP_S = 180.0
SWAP_S = 600.0
START_S = 300.0
QUORUM_S = 600.0
GATE_S = 600.0
FILE_S = 120.0
#: Added to a revision where nobody knows the last one that clients have seen. Source: etcd's documentation, "Disaster
#: recovery": it covers a week at 1,500 writes a second. To that of old data that come back, too: the restored ones
#: began at most a million above.
RAISED = 1_000_000_000
#: What has to be gone before etcd goes, and comes back last. Source: Kubernetes, "Restoring an etcd cluster".
SERVERS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")


@dataclass(frozen=True, slots=True)
class Plane:
    """A control plane.

    Attributes:
        name: The node's.
        member: Its member's own name.
        peer: Its member's peer URL.
        data: Its data directory, as the host has it.
        address, provider: Where the host is, for a resume while the API is away.
        hears: Its own API server serves, so that its kubelet has heard of its pods, and ends static pods by itself.
    """

    name: str
    member: str
    peer: str
    data: str
    address: str = ""
    provider: str = ""
    hears: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for.

    Attributes:
        name: Of the plan.
        cluster: The cluster's name, which an operator types to confirm.
        file: The plain snapshot here.
        snapshot: Its name, for people.
        bump: What is added to its revision.
        revision: What members have to have at least afterwards.
        source: A node with a healthy member, whose present state is kept first; "" where there is none.
        trailer: The snapshot has its sum; a copy of `member/snap/db` has none.
        target: The path that the restored data get for their own; "" puts them in place of the old ones.
        dead: Control planes that are gone for good.
        shown: The words of `etcd diff` that stand for the restored snapshot, for people.
    """

    name: str
    cluster: str
    file: str
    snapshot: str
    bump: int
    revision: int
    token: str
    source: str = ""
    trailer: bool = True
    target: str = ""
    dead: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()


def restore(planes: Sequence[Plane], request: Request) -> Plan:
    """All control planes pass each barrier before any goes on to the next."""
    build = _Build(request.name, tuple(planes), target=request.target)
    everything = ",".join(f"{p.member}={p.peer}" for p in planes)
    before = f"{request.name}-before.db" if request.source else ""
    if before:
        params = {"plan": request.name, "file": before, "reason": "pre-restore"}
        build.wave([(request.source, "etcd.snapshot", params, STAGE_S)])
    common = {"file": request.file, "cluster": everything, "token": request.token, "bump": request.bump}
    common |= {"trailer": request.trailer}
    build.wave(
        [(p.name, "restore.stage", {**common, "name": p.member, "peer": p.peer}, STAGE_S) for p in planes],
        of={"cluster_name": request.cluster},
    )
    build.stop(planes, SERVERS)
    stopped = build.stop(planes, ("etcd",))
    build.wave([(p.name, "restore.swap", {"stopped": stopped[p.name]}, SWAP_S) for p in planes])
    build.up(request.revision)
    if request.target:
        build.wave([(planes[0].name, "restore.datadir", {"path": request.target}, FILE_S)])
    known = {"before": before, "file": request.file, "trailer": request.trailer}
    told = {"snapshot": request.snapshot, "shown": list(request.shown), "dead": list(request.dead)}
    build.wave([(planes[0].name, "restore.compare", {**known, **told}, STAGE_S)])
    build.clear()
    return Plan(KIND, f"restore {request.snapshot} on {request.cluster}", tuple(build.waves))


def begun(plan: Plan, past: Past) -> bool:
    """Whether etcd was started on restored data: until then a failure swings everything back."""
    return any(s.id in past for s in plan.steps() if s.action == "restore.start" and "etcd" in s.params["names"])


def back(run: str, plan: Plan, past: Past) -> Plan:
    """What takes a restore back: the old data, and everything started again on them."""
    stages = [s for s in plan.steps() if s.action == "restore.stage"]
    touched = any(s.id in past for s in plan.steps() if s.action.startswith("restore."))
    if not stages or not touched:
        return Plan("release", f"release {run}", ())
    planes = [
        Plane(s.node, s.params["name"], s.params["peer"], s.params["data"], s.params["address"], s.params["provider"])
        for s in stages
    ]
    target = stages[0].params.get("target", "")
    build = _Build(stages[0].params["plan"], tuple(planes), {"of_run": run}, target=target)
    stopped = dict.fromkeys((p.name for p in planes), "")
    source = next((s.node for s in plan.steps() if s.action == "etcd.snapshot"), "")
    # Where no member answered before, nobody has seen the old data serve, and they may be what cannot be read.
    served = begun(plan, past)
    raised = served and source in {p.name for p in planes}
    if served:  # until then nobody could have deleted them
        build.each("restore.kept", {"snapshot": bool(source)}, FILE_S)
    if raised:
        _raised(build, stages, source)
    if served:
        build.stop(planes, SERVERS, back=True)
        stopped = build.stop(planes, ("etcd",), back=True)
    how = {"raised": raised, "served": served}
    build.wave([(p.name, "restore.back", {"stopped": stopped[p.name], **how}, SWAP_S) for p in planes])
    build.up(0)
    if target:  # it came back with the old data, unless they are older than a change of it
        build.wave([(planes[0].name, "restore.datadir", {"path": planes[0].data}, FILE_S)])
    build.clear()
    return Plan("release", f"release {run}", tuple(build.waves))


def _raised(build: _Build, stages: Sequence[Step], source: str) -> None:
    """Copies of the old data with a revision above what clients have seen since, made while the restored ones serve.

    All are made of one database: members of several would not be one cluster.
    """
    first = stages[0].params
    # Where the last revision was not known, the restored data began so far above what they were made of.
    bump = RAISED + (first["bump"] if first["bump"] >= RAISED else 0)
    file = f"{first['file'].rpartition('/')[0]}/{first['plan']}.old.db"
    build.wave([(source, "restore.fetch", {"file": file}, STAGE_S)])
    common = {"file": file, "cluster": first["cluster"], "token": f"{first['token']}-back", "bump": bump}
    common |= {"trailer": False}
    build.wave(
        [
            (s.node, "restore.raise", {**common, "name": s.params["name"], "peer": s.params["peer"]}, STAGE_S)
            for s in stages
        ]
    )


def confirm(run: str, plan: Plan) -> Plan:
    """What deletes the old data, once somebody says that the restored ones are good."""
    stages = [s for s in plan.steps() if s.action == "restore.stage"]
    lanes = tuple(
        Lane(
            s.node,
            (
                Step(
                    f"0/{s.node}/restore.forget", "restore.forget", s.node,
                    {
                        "plan": s.params["plan"], "data": s.params["data"], "target": s.params.get("target", ""),
                        **_where(s),
                    }, SWAP_S,
                ),
            ),
        )
        for s in stages
    )  # fmt: skip
    return Plan("confirm", f"delete the old data of {run}", (Wave(lanes),))


def _where(step: Step) -> dict[str, str]:
    return {"address": step.params["address"], "provider": step.params["provider"]}


def gate(plan: str, names: Sequence[str], checks: list[str]) -> dict[str, Any]:
    """Params of a gate on these control planes, where nothing was noted before and no version is sought."""
    return {
        "checks": checks, "version": "", "control_planes": list(names), "lasts_s": 0.0, "noted": "", "plan": plan,
    }  # fmt: skip


class _Build:
    """Waves under construction."""

    def __init__(
        self, plan: str, planes: tuple[Plane, ...], more: Mapping[str, Any] | None = None, *, target: str
    ) -> None:
        self.waves: list[Wave] = []
        self._plan = plan
        self._target = target
        self._planes = {p.name: p for p in planes}
        self._more = more or {}

    def wave(
        self, steps: Sequence[tuple[str, str, Mapping[str, Any], float]], of: Mapping[str, Any] | None = None
    ) -> dict[str, str]:
        """One barrier: a step on each node; node -> its id."""
        number, ids, lanes = len(self.waves), {}, []
        for node, action, params, timeout_s in steps:
            plane = self._planes[node]
            where = {"data": plane.data, "target": self._target, "address": plane.address, "provider": plane.provider}
            own = {"plan": self._plan, **where} if action.startswith("restore.") else {}
            step = Step(
                f"{number}/{node}/{action}", action, node, {**own, **params, **self._more, **(of or {})}, timeout_s
            )
            ids[node] = step.id
            lanes.append(Lane(node, (step,)))
        self.waves.append(Wave(tuple(lanes)))
        return ids

    def each(self, action: str, params: Mapping[str, Any], timeout_s: float) -> dict[str, str]:
        """The same on every control plane."""
        return self.wave([(name, action, params, timeout_s) for name in self._planes])

    def stop(self, planes: Sequence[Plane], names: Sequence[str], *, back: bool = False) -> dict[str, str]:
        """Static pods ended on every control plane; `back`, where there are old data that come back."""
        how = {"names": list(names), **({"back": True} if back else {})}
        return self.wave([(p.name, "restore.stop", {**how, "by_kubelet": p.hears}, STOP_S) for p in planes])

    def up(self, revision: int) -> None:
        """etcd, its quorum, API servers, then who writes through them."""
        names = list(self._planes)
        first = names[0]
        self.each("restore.start", {"names": ["etcd"]}, START_S)
        self.wave([(first, "restore.quorum", {"members": names, "revision": revision}, QUORUM_S)])
        self.each("restore.start", {"names": [SERVERS[0]]}, START_S)
        self._gate(first, names, ["api"])
        self.each("restore.start", {"names": list(SERVERS[1:])}, START_S)
        self._gate(first, names, ["api", "etcd"])

    def clear(self) -> None:
        """What was left on the way goes."""
        names = list(self._planes)
        self.wave([(name, "host.tidy", {"plan": self._plan}, FILE_S) for name in names])
        self.wave([(names[0], "etcd.unstage", {"plan": self._plan}, FILE_S)])

    def _gate(self, node: str, names: Sequence[str], checks: list[str]) -> None:
        self.wave([(node, "cluster.gate", gate(self._plan, names, checks), GATE_S)])
