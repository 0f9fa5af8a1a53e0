"""What runs in a cluster, as people count it: a Deployment is one application, whatever ReplicaSets it has. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.cluster.model import OwnerRef, Pod, Workload

#: The namespace of the cluster's own parts, by the API's convention.
SYSTEM_NAMESPACE = "kube-system"
#: The kinds that `View.workloads` lists: one of these that is not there does not exist.
LISTED = frozenset(
    {
        ("Deployment", "apps"),
        ("StatefulSet", "apps"),
        ("DaemonSet", "apps"),
        ("ReplicaSet", "apps"),
        ("Job", "batch"),
        ("ReplicationController", ""),
    }
)
#: Applications even when they run no pod at the moment. A Job without pods has ended.
_STANDING = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController"})
#: Owners of owners are followed this far: the API does not forbid circles.
_DEPTH = 8


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """What an application is called. Its kind is `Pod` for a pod without a controller."""

    namespace: str
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Application:
    """One application: a controller that no other controller runs, or a pod without one.

    Attributes:
        pods: Pods that have not finished.
        ready: How many of these are ready.
        wanted: Replicas asked for; None where there is no such number, or it is not known.
        nodes: Name and number of pods of each node that hosts it, by name. Pods without a node are not in it.
    """

    identity: Identity
    pods: int
    ready: int
    wanted: int | None
    nodes: tuple[tuple[str, int], ...]

    @property
    def system(self) -> bool:
        """It is one of the cluster's own parts."""
        return self.identity.namespace == SYSTEM_NAMESPACE


class Owners:
    """The controllers of a cluster, to be asked whose a pod is."""

    def __init__(self, workloads: Iterable[Workload]) -> None:
        self._by_uid = {w.uid: w for w in workloads}
        self._tops: dict[tuple[str, str], Identity] = {}

    def missing(self, owner: OwnerRef) -> bool:
        """Whether `owner` is of a kind that was listed, and was not in the list.

        The workloads have to be read after the pods, or a new controller would look like a missing one.
        """
        group = owner.api_version.rpartition("/")[0]
        return (owner.kind, group) in LISTED and owner.uid not in self._by_uid

    def identity(self, pod: Pod) -> Identity:
        """The application that `pod` belongs to."""
        if pod.controller is None:
            return Identity(pod.namespace, "Pod", pod.name)
        key = (pod.namespace, pod.controller.uid or pod.controller.name)
        if (known := self._tops.get(key)) is None:
            known = self._tops[key] = self._top(pod.namespace, pod.controller)
        return known

    def _top(self, namespace: str, owner: OwnerRef) -> Identity:
        for _ in range(_DEPTH):
            workload = self._by_uid.get(owner.uid)
            if workload is None or workload.controller is None:
                break
            owner = workload.controller
        return Identity(namespace, owner.kind, owner.name)


def applications(
    pods: Iterable[Pod], workloads: Iterable[Workload], owners: Owners | None = None
) -> tuple[Application, ...]:
    """Every application, by namespace, kind and name. Static pods and pods that have finished belong to none."""
    listed = tuple(workloads)
    owners = owners or Owners(listed)
    wanted = {Identity(w.namespace, w.kind, w.name): w.wanted for w in listed}
    found: dict[Identity, list[Pod]] = {
        Identity(w.namespace, w.kind, w.name): [] for w in listed if w.controller is None and w.kind in _STANDING
    }
    for pod in pods:
        if not pod.mirror and not pod.finished:
            found.setdefault(owners.identity(pod), []).append(pod)
    return tuple(_application(identity, members, wanted.get(identity)) for identity, members in sorted(found.items()))


def _application(identity: Identity, pods: list[Pod], wanted: int | None) -> Application:
    nodes = Counter(p.node for p in pods if p.node)
    return Application(identity, len(pods), sum(p.ready for p in pods), wanted, tuple(sorted(nodes.items())))
