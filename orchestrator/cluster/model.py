"""What is known of a cluster: frozen facts, as the API gave them, in the units given here.

Times are seconds since the Unix epoch; CPU is in cores, memory in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The annotation in which the owner of a cordon is recorded, as the JSON of a CordonRecord.
CORDON_ANNOTATION = "kube-orchestrator.io/cordon"


@dataclass(frozen=True, slots=True)
class OwnerRef:
    """The controller of an object: the owner reference with `controller: true`."""

    kind: str
    name: str
    api_version: str
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Toleration:
    """A pod's toleration of taints.

    Attributes:
        key: "" with the operator Exists stands for every key.
        effect: "" stands for every effect.
    """

    key: str
    operator: str
    value: str
    effect: str

    def covers(self, taint: Taint) -> bool:
        """Whether it lets a pod onto a node with `taint`.

        Source: core/v1 `Toleration.ToleratesTaint`: an empty operator is Equal; Exists ignores the value.
        """
        if self.effect not in ("", taint.effect) or (self.key or taint.key) != taint.key:
            return False
        return self.operator == "Exists" or (self.key != "" and self.value == taint.value)


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod.

    Attributes:
        node: "" while it is not scheduled.
        phase: Pending, Running, Succeeded, Failed or Unknown.
        ready: The Ready condition is True.
        ready_since: When `ready` last changed; None when it never did.
        controller: None when no controller would bring it back.
        deleting_since: When it was asked to go (not when it has to be gone); None while nobody asked.
        deletion_grace_s: Seconds of grace that run from `deleting_since`.
        grace_s: Its own terminationGracePeriodSeconds.
        mirror: Stands for a static pod; only its kubelet can remove it.
        empty_dir: Has a volume that is lost with it.
        waiting_reason: Why it is not ready, in the words of the kubelet or the scheduler, or "".
        requests: What the scheduler counts for it, by resource; overhead and init containers are in it.
        node_selector: Labels that its node has to have.
    """

    namespace: str
    name: str
    uid: str
    node: str
    phase: str
    ready: bool
    ready_since: float | None = None
    controller: OwnerRef | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    deleting_since: float | None = None
    deletion_grace_s: float = 0.0
    grace_s: float = 30.0
    mirror: bool = False
    empty_dir: bool = False
    waiting_reason: str = ""
    created: float = 0.0
    tolerations: tuple[Toleration, ...] = ()
    requests: Mapping[str, float] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @property
    def finished(self) -> bool:
        """It ran to its end and will not run again."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class PodList:
    """Pods, and the resource version from which a watch continues them."""

    pods: tuple[Pod, ...]
    resource_version: str


@dataclass(frozen=True, slots=True)
class PodChange:
    """One event of a watch on pods. `gone` when the pod was deleted; `pod` is then its last state."""

    pod: Pod
    gone: bool


@dataclass(frozen=True, slots=True)
class Taint:
    """A node's taint.

    Attributes:
        since: When it was added, where that was recorded.
    """

    key: str
    value: str
    effect: str
    since: float | None = None

    def __str__(self) -> str:
        return f"{self.key}={self.value}:{self.effect}" if self.value else f"{self.key}:{self.effect}"


@dataclass(frozen=True, slots=True)
class CordonRecord:
    """Whose cordon it is, and why, as this tool writes it on the node.

    Attributes:
        owner: `user@host`, or what `--owner` said.
        run: The run that made it.
        at: When.
    """

    owner: str
    reason: str
    run: str
    at: float


@dataclass(frozen=True, slots=True)
class FieldManager:
    """Who last set a field, by the object's managedFields: a hint, not a proof."""

    name: str
    at: float | None


@dataclass(frozen=True, slots=True)
class Node:
    """One node.

    Attributes:
        ready: The Ready condition is True; False and Unknown are both not ready, `ready_reason` tells them apart.
        ready_since: When the Ready condition last changed.
        cordon: The record on the node, whether or not it is unschedulable now; None when there is none.
        cordoned_by: Who set `spec.unschedulable` last, by managedFields; None when it is not set or not known.
        roles: Of the `node-role.kubernetes.io/` labels, sorted.
        addresses: Type -> address.
        boot_id: As the kubelet reported it.
    """

    name: str
    uid: str
    resource_version: str
    unschedulable: bool
    ready: bool
    ready_reason: str = ""
    ready_since: float | None = None
    cordon: CordonRecord | None = None
    cordoned_by: FieldManager | None = None
    taints: tuple[Taint, ...] = ()
    roles: tuple[str, ...] = ()
    kubelet_version: str = ""
    os_image: str = ""
    kernel_version: str = ""
    container_runtime: str = ""
    addresses: Mapping[str, str] = field(default_factory=dict)
    boot_id: str = ""
    provider_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    allocatable: Mapping[str, float] = field(default_factory=dict)
    created: float = 0.0

    @classmethod
    def at(cls, name: str, address: str, provider_id: str = "") -> Self:
        """One of which only the place is known, and not by the API."""
        addresses = {"InternalIP": address} if address else {}
        return cls(name, "", "", unschedulable=False, ready=False, addresses=addresses, provider_id=provider_id)

    @property
    def control_plane(self) -> bool:
        """It carries the control-plane role."""
        return "control-plane" in self.roles


@dataclass(frozen=True, slots=True)
class Requirement:
    """One expression of a label selector."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether `labels` satisfy it.

        Source: k8s.io/apimachinery labels.Requirement.Matches: NotIn holds for a missing key.
        """
        match self.operator:
            case "In":
                return labels.get(self.key) in self.values
            case "NotIn":
                return labels.get(self.key) not in self.values
            case "Exists":
                return self.key in labels
            case "DoesNotExist":
                return self.key not in labels
            case _:
                return False

    def __str__(self) -> str:
        match self.operator:
            case "Exists":
                return self.key
            case "DoesNotExist":
                return f"!{self.key}"
            case operator:
                return f"{self.key} {operator.lower()} ({','.join(self.values)})"


@dataclass(frozen=True, slots=True)
class Selector:
    """A LabelSelector: all of it has to hold. An empty one holds for everything."""

    labels: Mapping[str, str] = field(default_factory=dict)
    expressions: tuple[Requirement, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether `labels` satisfy it."""
        return all(labels.get(k) == v for k, v in self.labels.items()) and all(
            e.holds(labels) for e in self.expressions
        )

    def __str__(self) -> str:
        """As the API takes it in `labelSelector`."""
        return ",".join([*(f"{k}={v}" for k, v in self.labels.items()), *(str(e) for e in self.expressions)])


@dataclass(frozen=True, slots=True)
class Budget:
    """A PodDisruptionBudget.

    Attributes:
        selector: None selects nothing.
        allowed: How many pods may be disrupted now (`status.disruptionsAllowed`).
        healthy: Pods that are ready now (`status.currentHealthy`).
        needed: Pods that have to stay ready (`status.desiredHealthy`).
        expected: Pods that it counts (`status.expectedPods`).
        observed: The controller has seen the current spec; while it has not, the server answers 429.
        rule: `minAvailable: 3` or `maxUnavailable: 10%`, for people.
        always_allow_unhealthy: Pods that are not ready may go whatever the count.
        disrupted: Names of pods whose eviction the server has counted and the controller not yet seen
            (`status.disruptedPods`).
    """

    namespace: str
    name: str
    selector: Selector | None
    allowed: int
    healthy: int
    needed: int
    expected: int
    observed: bool = True
    rule: str = ""
    always_allow_unhealthy: bool = False
    disrupted: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    def covers(self, pod: Pod) -> bool:
        """Whether it counts `pod`.

        Source: policy/v1: an empty selector covers every pod of the namespace, a missing one covers none.
        """
        return self.namespace == pod.namespace and self.selector is not None and self.selector.holds(pod.labels)


@dataclass(frozen=True, slots=True)
class Written:
    """Objects with fields that somebody set through one API version, by their managedFields.

    Attributes:
        api: `GROUP/VERSION/RESOURCE`.
        manager: Who, by the name that the client gave.
        count: How many objects.
        example: One of them, `namespace/name`, or its name.
    """

    api: str
    manager: str
    count: int
    example: str


@dataclass(frozen=True, slots=True)
class Renewal:
    """A lease that somebody keeps.

    Attributes:
        at: When it was renewed last, by the clock of who keeps it.
        asked: When the API server told so, by its own clock: that of whoever asks may be off.
    """

    at: float
    asked: float

    @property
    def age_s(self) -> float:
        """How old it is; less than nothing where its keeper's clock is ahead."""
        return self.asked - self.at


@dataclass(frozen=True, slots=True)
class Workload:
    """A controller that runs pods: Deployment, StatefulSet, DaemonSet, ReplicaSet, Job or another kind.

    Attributes:
        controller: Its own controller (a ReplicaSet's Deployment), or None.
        wanted: Replicas asked for; None where the kind has no such number.
        ready: Replicas that are ready.
    """

    kind: str
    namespace: str
    name: str
    uid: str
    controller: OwnerRef | None
    wanted: int | None
    ready: int
