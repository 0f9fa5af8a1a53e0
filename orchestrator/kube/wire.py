"""The API's objects as they come over the wire, needed fields only, and their way into the model.

Decoded from the bytes: the client library's typed models cost about 18 times the CPU (`docs/performance.md`).
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from orchestrator.cluster.model import (
    CORDON_ANNOTATION,
    Budget,
    CordonRecord,
    FieldManager,
    Node,
    OwnerRef,
    Requirement,
    Selector,
    Taint,
    Workload,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

ROLE_PREFIX = "node-role.kubernetes.io/"


class Wire(msgspec.Struct, rename="camel"):
    """An object or a part of one. Fields that are not named are skipped without being built."""


class Owner(Wire):
    """An owner reference."""

    kind: str
    name: str
    api_version: str = ""
    uid: str = ""
    controller: bool | None = None


class Managed(Wire):
    """One entry of managedFields."""

    manager: str = ""
    operation: str = ""
    time: datetime | None = None
    fields_v1: dict[str, Any] = msgspec.field(name="fieldsV1", default_factory=dict)


class Meta(Wire):
    """Metadata."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    deletion_grace_period_seconds: int | None = None
    owner_references: list[Owner] | None = None

    def controller(self) -> OwnerRef | None:
        """The owner with `controller: true`."""
        for owner in self.owner_references or ():
            if owner.controller:
                return OwnerRef(owner.kind, owner.name, owner.api_version, owner.uid)
        return None


class ManagedMeta(Meta):
    """Metadata with managedFields, which are long and wanted of nodes only."""

    managed_fields: list[Managed] | None = None


class Condition(Wire):
    """A status condition."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None = None


class TaintObject(Wire):
    """A taint."""

    key: str
    effect: str
    value: str = ""
    time_added: datetime | None = None


class NodeSpec(Wire):
    """A node's spec."""

    unschedulable: bool = False
    taints: list[TaintObject] | None = None
    provider_id: str = msgspec.field(name="providerID", default="")


class Address(Wire):
    """A node's address."""

    type: str
    address: str


class NodeFacts(Wire):
    """`status.nodeInfo`."""

    kubelet_version: str = ""
    os_image: str = ""
    kernel_version: str = ""
    container_runtime_version: str = ""
    boot_id: str = msgspec.field(name="bootID", default="")


class NodeStatus(Wire):
    """A node's status."""

    conditions: list[Condition] | None = None
    addresses: list[Address] | None = None
    node_info: NodeFacts = msgspec.field(default_factory=NodeFacts)
    allocatable: dict[str, str] | None = None


class NodeObject(Wire):
    """A node."""

    metadata: ManagedMeta
    spec: NodeSpec = msgspec.field(default_factory=NodeSpec)
    status: NodeStatus = msgspec.field(default_factory=NodeStatus)

    def fact(self) -> Node:
        """The node as the model has it."""
        meta, spec, status = self.metadata, self.spec, self.status
        ready = next((c for c in status.conditions or () if c.type == "Ready"), None)
        labels = meta.labels or {}
        return Node(
            name=meta.name,
            uid=meta.uid,
            resource_version=meta.resource_version,
            unschedulable=spec.unschedulable,
            ready=ready is not None and ready.status == "True",
            ready_reason=(ready.reason or ready.status) if ready else "no Ready condition",
            ready_since=epoch(ready.last_transition_time) if ready else None,
            cordon=read_cordon((meta.annotations or {}).get(CORDON_ANNOTATION)),
            cordoned_by=_cordoned_by(meta.managed_fields or []) if spec.unschedulable else None,
            taints=tuple(Taint(t.key, t.value, t.effect, epoch(t.time_added)) for t in spec.taints or ()),
            roles=tuple(sorted(k.removeprefix(ROLE_PREFIX) for k in labels if k.startswith(ROLE_PREFIX))),
            kubelet_version=status.node_info.kubelet_version,
            os_image=status.node_info.os_image,
            kernel_version=status.node_info.kernel_version,
            container_runtime=status.node_info.container_runtime_version,
            addresses={a.type: a.address for a in status.addresses or ()},
            boot_id=status.node_info.boot_id,
            provider_id=spec.provider_id,
            labels=labels,
            allocatable={k: quantity(v) for k, v in (status.allocatable or {}).items()},
            created=epoch(meta.creation_timestamp) or 0.0,
        )


class SelectorObject(Wire):
    """A LabelSelector."""

    match_labels: dict[str, str] | None = None
    match_expressions: list[dict[str, Any]] | None = None

    def fact(self) -> Selector:
        """The selector as the model has it."""
        return Selector(
            self.match_labels or {},
            tuple(
                Requirement(e["key"], e["operator"], tuple(e.get("values") or ())) for e in self.match_expressions or ()
            ),
        )


class BudgetSpec(Wire):
    """A PodDisruptionBudget's spec."""

    selector: SelectorObject | None = None
    min_available: int | str | None = None
    max_unavailable: int | str | None = None
    unhealthy_pod_eviction_policy: str = ""


class BudgetStatus(Wire):
    """A PodDisruptionBudget's status."""

    disruptions_allowed: int = 0
    current_healthy: int = 0
    desired_healthy: int = 0
    expected_pods: int = 0
    observed_generation: int = 0
    disrupted_pods: dict[str, Any] | None = None


class GenerationMeta(Meta):
    """Metadata with the generation."""

    generation: int = 0


class BudgetObject(Wire):
    """A PodDisruptionBudget."""

    metadata: GenerationMeta
    spec: BudgetSpec = msgspec.field(default_factory=BudgetSpec)
    status: BudgetStatus = msgspec.field(default_factory=BudgetStatus)

    def fact(self) -> Budget:
        """The budget as the model has it."""
        spec, status = self.spec, self.status
        if spec.min_available is not None:
            rule = f"minAvailable: {spec.min_available}"
        else:
            rule = f"maxUnavailable: {spec.max_unavailable}"
        return Budget(
            namespace=self.metadata.namespace,
            name=self.metadata.name,
            selector=spec.selector.fact() if spec.selector else None,
            allowed=status.disruptions_allowed,
            healthy=status.current_healthy,
            needed=status.desired_healthy,
            expected=status.expected_pods,
            observed=status.observed_generation >= self.metadata.generation,
            rule=rule,
            always_allow_unhealthy=spec.unhealthy_pod_eviction_policy == "AlwaysAllow",
            disrupted=frozenset(status.disrupted_pods or ()),
        )


class WorkloadSpec(Wire):
    """The replica count of a workload."""

    replicas: int | None = None
    parallelism: int | None = None


class WorkloadStatus(Wire):
    """The counts of a workload; each kind fills its own."""

    ready_replicas: int = 0
    number_ready: int = 0
    desired_number_scheduled: int | None = None
    ready: int = 0


class WorkloadObject(Wire):
    """A Deployment, StatefulSet, DaemonSet, ReplicaSet, Job or ReplicationController."""

    metadata: Meta
    spec: WorkloadSpec = msgspec.field(default_factory=WorkloadSpec)
    status: WorkloadStatus = msgspec.field(default_factory=WorkloadStatus)

    def fact(self, kind: str) -> Workload:
        """The workload as the model has it. `kind` is the list's: items of a list do not carry theirs."""
        meta, spec, status = self.metadata, self.spec, self.status
        match kind:
            case "DaemonSet":
                wanted, ready = status.desired_number_scheduled, status.number_ready
            case "Job":
                wanted, ready = spec.parallelism, status.ready
            case _:
                wanted, ready = spec.replicas, status.ready_replicas
        return Workload(kind, meta.namespace, meta.name, meta.uid, meta.controller(), wanted, ready)


class ListMeta(Wire):
    """Metadata of a list."""

    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class ListObject(Wire, Generic[T]):
    """One page of a list."""

    metadata: ListMeta = msgspec.field(default_factory=ListMeta)
    items: list[T] | None = None


class WatchEvent(Wire):
    """One line of a watch; the object is decoded once its kind of event is known."""

    type: str
    object: msgspec.Raw


class Cause(Wire):
    """One cause in a Status."""

    reason: str = ""
    message: str = ""


class Details(Wire):
    """Details of a Status."""

    name: str = ""
    kind: str = ""
    causes: list[Cause] | None = None
    retry_after_seconds: int | None = None


class Status(Wire):
    """What the API answers when it does not do as asked."""

    kind: str = ""
    status: str = ""
    message: str = ""
    reason: str = ""
    code: int | None = None
    details: Details | None = None


def read_status(body: bytes) -> Status | None:
    """The Status in `body`, or None when it is something else (a proxy's page, plain text)."""
    try:
        status = msgspec.json.decode(body, type=Status)
    except msgspec.MsgspecError:
        return None
    return status if status.kind == "Status" else None


def read_cordon(text: str | None) -> CordonRecord | None:
    """The record in the annotation. One that cannot be read still says that somebody owns the cordon."""
    if text is None:
        return None
    try:
        raw = json.loads(text)
        return CordonRecord(str(raw["owner"]), str(raw["reason"]), str(raw["run"]), float(raw["at"]))
    except (ValueError, KeyError, TypeError):
        return CordonRecord("unknown", f"unreadable record: {text[:80]}", "", 0.0)


def write_cordon(record: CordonRecord) -> str:
    """The annotation's value for `record`."""
    return json.dumps({"owner": record.owner, "reason": record.reason, "run": record.run, "at": record.at})


_QUANTITY = re.compile(r"^([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)(m|[kKMGTPE]i?|n|u)?$")
_FACTOR: Mapping[str, float] = {
    "": 1.0, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip


def quantity(text: str) -> float:
    """The number that a resource quantity stands for; NaN when it is none.

    Source: Kubernetes API reference, `resource.Quantity`: decimal and binary suffixes, or an exponent.
    """
    match = _QUANTITY.match(text)
    if not match or (match[2] or "") not in _FACTOR:
        return float("nan")
    return float(match[1]) * _FACTOR[match[2] or ""]


def epoch(at: datetime | None) -> float | None:
    """A time of the API in seconds since the epoch."""
    return at.timestamp() if at else None


def _cordoned_by(fields: list[Managed]) -> FieldManager | None:
    """The manager that owns `spec.unschedulable`.

    Source: server-side field management; a strategic merge patch by kubectl is recorded as well. The time is that
    of the manager's last change of any field, so an upper bound.
    """
    for entry in fields:
        if "f:unschedulable" in entry.fields_v1.get("f:spec", {}):
            return FieldManager(entry.manager, epoch(entry.time))
    return None
