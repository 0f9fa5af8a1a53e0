"""The plan that makes control planes of new machines; and the plan that takes away what it made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.engine.plan import Lane, Plan, Step, Wave
from orchestrator.planners.restore import FILE_S, GATE_S, QUORUM_S, SERVERS, START_S, Plane, gate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.engine.plan import Past

KIND = "rebuild"
#: Seconds. A large snapshot over a slow line; images that are pulled; and restored.
BRING_S = 3600.0
PLACE_S = 1200.0
DATA_S = 1800.0
KUBELET_S = 120.0
NODES_S = 300.0
UNDO_S = 300.0


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for.

    Attributes:
        name: Of the plan.
        cluster: The cluster's name, which an operator types to confirm.
        snapshot: Its name, for people; `file` is it as it is stored, here.
        set: The recovery set as it is stored, here.
        identities: Files that decrypt both: paths, for a resume opens them again.
        token: Of the new etcd.
        bump: What is added to the snapshot's revision; `revision` is what members then have at least.
        trailer: The snapshot has its sum.
        size_bytes: Of the plain snapshot.
    """

    name: str
    cluster: str
    snapshot: str
    file: str
    set: str
    identities: tuple[str, ...]
    token: str
    bump: int
    revision: int
    size_bytes: int
    trailer: bool = True


def rebuild(planes: Sequence[Plane], request: Request) -> Plan:
    """Each machine is made ready by itself; then etcd, API servers and the others start, each a barrier over all."""
    build = _Build(request.name, tuple(planes))
    names = [p.name for p in planes]
    everyone = [[p.member, p.peer, p.address] for p in planes]
    identities = list(request.identities)
    bring = {
        "set": request.set, "snapshot": request.file, "identities": identities, "members": everyone,
        "size_bytes": request.size_bytes, "cluster_name": request.cluster,
    }  # fmt: skip
    cluster = ",".join(f"{p.member}={p.peer}" for p in planes)
    restored = {"cluster": cluster, "token": request.token, "bump": request.bump, "trailer": request.trailer}
    build.lanes(
        [
            ("rebuild.bring", bring, BRING_S),
            ("rebuild.place", {}, PLACE_S),
            ("rebuild.data", restored, DATA_S),
            ("rebuild.kubelet", {}, KUBELET_S),
        ]
    )
    build.lanes([("restore.start", {"names": ["etcd"]}, START_S)])
    build.one("restore.quorum", {"members": names, "revision": request.revision}, QUORUM_S)
    build.lanes([("restore.start", {"names": [SERVERS[0]]}, START_S)])
    build.gate(["api"])
    build.lanes([("restore.start", {"names": list(SERVERS[1:])}, START_S)])
    build.gate(["api", "etcd"])
    build.lanes([("rebuild.finish", {}, KUBELET_S)])
    build.one("rebuild.nodes", {"planes": names}, NODES_S)
    build.lanes([("host.tidy", {}, FILE_S)])
    build.one("etcd.unstage", {}, FILE_S)
    return Plan(KIND, f"rebuild {request.cluster} of {request.snapshot} on new machines", tuple(build.waves))


def began(plan: Plan, past: Past) -> bool:
    """Whether etcd was started: what is written since is in no backup."""
    return any(s.id in past for s in plan.steps() if s.action == "restore.start")


def back(run: str, plan: Plan, past: Past) -> Plan:
    """What takes away all that a rebuild put on machines; data that etcd ran on are moved aside, not deleted."""
    brought = [s for s in plan.steps() if s.action == "rebuild.bring"]
    if not any(s.id in past for s in brought):
        return Plan("release", f"release {run}", ())
    planes = [
        Plane(s.node, "", "", s.params["data"], s.params["address"], s.params["provider"]) for s in brought
    ]  # fmt: skip
    build = _Build(brought[0].params["plan"], tuple(planes), {"of_run": run})
    kept = {"keep": began(plan, past), "cluster_name": brought[0].params["cluster_name"]}
    build.lanes([("rebuild.undo", kept, UNDO_S), ("host.tidy", {}, FILE_S)])
    build.one("etcd.unstage", {}, FILE_S)
    return Plan("release", f"release {run}", tuple(build.waves))


class _Build:
    """Waves under construction."""

    def __init__(self, plan: str, planes: tuple[Plane, ...], more: Mapping[str, Any] | None = None) -> None:
        self.waves: list[Wave] = []
        self._plan = plan
        self._planes = planes
        self._more = more or {}

    def lanes(self, steps: Sequence[tuple[str, Mapping[str, Any], float]]) -> None:
        """The same steps, one after another, on every control plane."""
        self._wave(self._planes, steps)

    def one(self, action: str, params: Mapping[str, Any], timeout_s: float) -> None:
        """One step, on the first control plane."""
        self._wave(self._planes[:1], [(action, params, timeout_s)])

    def gate(self, checks: list[str]) -> None:
        """API servers answer, and what else is asked for."""
        self.one("cluster.gate", gate(self._plan, [p.name for p in self._planes], checks), GATE_S)

    def _wave(self, planes: Sequence[Plane], steps: Sequence[tuple[str, Mapping[str, Any], float]]) -> None:
        number = len(self.waves)
        self.waves.append(
            Wave(tuple(Lane(p.name, tuple(self._step(number, p, *each) for each in steps)) for p in planes))
        )

    def _step(self, number: int, plane: Plane, action: str, params: Mapping[str, Any], timeout_s: float) -> Step:
        own: dict[str, Any] = {"plan": self._plan}
        if action.startswith(("rebuild.", "restore.start")):
            own |= {"data": plane.data, "address": plane.address, "provider": plane.provider}
        if action in ("rebuild.data", "rebuild.bring"):
            own |= {"name": plane.member, "peer": plane.peer}
        params = {**own, **params, **self._more}
        return Step(f"{number}/{plane.name}/{action}", action, plane.name, params, timeout_s)
