"""Whether the pods of nodes that go out of service find room on the others, by what they request. Pure.

A forecast, not a proof: the scheduler knows more (affinity, spread, ports, volumes, preemption by priority), and other
orders of placing may fit where this one does not. It places the biggest first, each where most is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from orchestrator.cluster.model import Node, Pod

#: How many pods a node takes is a resource like the others. Source: `status.allocatable.pods`.
PODS = "pods"


@dataclass(frozen=True, slots=True)
class Unplaced:
    """A pod that finds no room while its node is out of service.

    Attributes:
        lacks: The resource of which the best node has too little.
        needs: How much of it the pod requests, in the model's units.
        left: How much that node has left.
    """

    pod: Pod
    lacks: str
    needs: float
    left: float


def unplaced(nodes: Sequence[Node], pods: Iterable[Pod], waves: Iterable[Sequence[str]]) -> tuple[Unplaced, ...]:
    """Pods for which no other node has room, in the order of the waves.

    Args:
        nodes: All of the cluster.
        pods: All of the cluster.
        waves: Names of nodes that are out of service together, one such group after another. What moved in one of
            them stays where it went; what found no room is back on its node before the next.
    """
    here: dict[str, list[Pod]] = {n.name: [] for n in nodes}
    for pod in pods:
        if pod.node in here and not pod.finished:
            here[pod.node].append(pod)
    free = {n.name: _left(n, here[n.name]) for n in nodes}
    found = []
    for wave in waves:
        out = [n for n in nodes if n.name in wave]
        others = [n for n in nodes if n.name not in wave]
        for pod in sorted((p for n in out for p in here[n.name] if moves(p)), key=_bulk(nodes), reverse=True):
            homes = [n.name for n in others if takes(n, pod)]
            if not homes:
                continue  # not a matter of room
            best, short = _best(pod, homes, free)
            if short:
                found.append(Unplaced(pod, *short))
                continue
            _move(pod, here, free, best)
    return tuple(found)


def moves(pod: Pod) -> bool:
    """A drain takes it, and a controller makes another."""
    return pod.controller is not None and pod.controller.kind != "DaemonSet" and pod.deleting_since is None


def takes(node: Node, pod: Pod) -> bool:
    """The node would take the pod, if it has room: it is ready and schedulable, and taints and selector allow it."""
    return (
        node.ready
        and not node.unschedulable
        and all(node.labels.get(key) == value for key, value in pod.node_selector.items())
        and all(
            any(toleration.covers(taint) for toleration in pod.tolerations)
            for taint in node.taints
            if taint.effect != "PreferNoSchedule"
        )
    )


def _bulk(nodes: Sequence[Node]) -> Callable[[Pod], float]:
    """Pod -> the largest share of a resource that it requests of the cluster's largest node."""
    most = {name: max(n.allocatable.get(name, 0.0) for n in nodes) for n in nodes for name in n.allocatable}

    def share(pod: Pod) -> float:
        return max((need / most[name] for name, need in pod.requests.items() if most.get(name)), default=0.0)

    return share


def _needs(pod: Pod) -> Mapping[str, float]:
    return {**pod.requests, PODS: 1.0}


def _left(node: Node, pods: Iterable[Pod]) -> dict[str, float]:
    left = dict(node.allocatable)
    for pod in pods:
        for name, need in _needs(pod).items():
            if name in left:
                left[name] -= need
    return left


def _best(
    pod: Pod, homes: Sequence[str], free: Mapping[str, Mapping[str, float]]
) -> tuple[str, tuple[str, float, float] | None]:
    """The node that is least short of anything, and of what the pod it is short if it is."""
    judged = [(*_tightest(pod, free[name]), name) for name in homes]
    after, lacks, need, left, name = max(judged, key=lambda each: each[0])
    return name, (lacks, need, left) if after < 0 else None


def _tightest(pod: Pod, left: Mapping[str, float]) -> tuple[float, str, float, float]:
    """What is left of the scarcest resource once the pod is there, as a share of what is left now; negative if short.

    A node that does not tell of a resource has none of it, but for the number of pods.
    """
    judged = []
    for name, need in _needs(pod).items():
        have = left.get(name, need if name == PODS else 0.0)
        judged.append(((have - need) / max(have, need), name, need, have))
    return min(judged)


def _move(pod: Pod, here: dict[str, list[Pod]], free: dict[str, dict[str, float]], to: str) -> None:
    here[pod.node] = [p for p in here[pod.node] if p is not pod]
    here[to].append(pod)
    for name, need in _needs(pod).items():
        for node, sign in ((pod.node, 1.0), (to, -1.0)):
            if name in free[node]:
                free[node][name] += sign * need
