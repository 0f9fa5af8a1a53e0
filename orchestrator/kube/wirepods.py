"""Pods as they come over the wire, needed fields only, and their way into the model."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from orchestrator.cluster.model import Pod, Toleration
from orchestrator.kube.wire import Condition, Meta, Wire, epoch, quantity

if TYPE_CHECKING:
    from collections.abc import Mapping


class Volume(Wire):
    """A volume, of which only emptyDir matters."""

    empty_dir: dict[str, Any] | None = None


class TolerationObject(Wire):
    """A toleration."""

    key: str = ""
    operator: str = ""
    value: str = ""
    effect: str = ""


class Resources(Wire):
    """What a container, or a pod as a whole, requests."""

    requests: dict[str, str] | None = None


class Container(Wire):
    """A container, of which only its requests matter, and whether it is a sidecar."""

    resources: Resources | None = None
    restart_policy: str = ""

    @property
    def requests(self) -> dict[str, float]:
        """By resource, in the model's units."""
        return _amounts(self.resources.requests if self.resources else None)


class PodSpec(Wire):
    """A pod's spec."""

    node_name: str = ""
    node_selector: dict[str, str] | None = None
    containers: list[Container] | None = None
    init_containers: list[Container] | None = None
    resources: Resources | None = None
    overhead: dict[str, str] | None = None
    volumes: list[Volume] | None = None
    tolerations: list[TolerationObject] | None = None
    termination_grace_period_seconds: int | None = None


class Waiting(Wire):
    """Why a container waits."""

    reason: str = ""


class ContainerState(Wire):
    """The state of a container."""

    waiting: Waiting | None = None


class ContainerStatus(Wire):
    """A container's status."""

    state: ContainerState | None = None


class PodStatus(Wire):
    """A pod's status."""

    phase: str = ""
    reason: str = ""
    conditions: list[Condition] | None = None
    container_statuses: list[ContainerStatus] | None = None


class PodObject(Wire):
    """A pod."""

    metadata: Meta
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus = msgspec.field(default_factory=PodStatus)

    def fact(self) -> Pod:
        """The pod as the model has it."""
        meta, status = self.metadata, self.status
        ready = next((c for c in status.conditions or () if c.type == "Ready"), None)
        grace = float(meta.deletion_grace_period_seconds or 0)
        own_grace = self.spec.termination_grace_period_seconds
        return Pod(
            namespace=meta.namespace,
            name=meta.name,
            uid=meta.uid,
            node=self.spec.node_name,
            phase=status.phase,
            ready=ready is not None and ready.status == "True",
            ready_since=epoch(ready.last_transition_time) if ready else None,
            controller=meta.controller(),
            labels=meta.labels or {},
            # deletionTimestamp is the end of the grace period, not its start.
            deleting_since=None if meta.deletion_timestamp is None else meta.deletion_timestamp.timestamp() - grace,
            deletion_grace_s=grace,
            grace_s=30.0 if own_grace is None else float(own_grace),
            mirror="kubernetes.io/config.mirror" in (meta.annotations or {}),
            empty_dir=any(v.empty_dir is not None for v in self.spec.volumes or ()),
            waiting_reason=self._waiting(),
            created=epoch(meta.creation_timestamp) or 0.0,
            tolerations=tuple(_toleration(t.key, t.operator, t.value, t.effect) for t in self.spec.tolerations or ()),
            requests=_requests(self.spec),
            node_selector=self.spec.node_selector or {},
        )

    def _waiting(self) -> str:
        for container in self.status.container_statuses or ():
            if container.state and container.state.waiting and container.state.waiting.reason:
                return container.state.waiting.reason
        for condition in self.status.conditions or ():
            if condition.type in ("PodScheduled", "Ready") and condition.status == "False" and condition.reason:
                return condition.reason
        return self.status.reason


@lru_cache(maxsize=4096)
def _amount(text: str) -> float:
    """A quantity: the same few stand in every pod."""
    return quantity(text)


def _amounts(texts: Mapping[str, str] | None) -> dict[str, float]:
    return {name: _amount(text) for name, text in (texts or {}).items()}


def _requests(spec: PodSpec) -> dict[str, float]:
    """What the scheduler counts for a pod.

    Source: k8s.io/component-helpers, resource.PodRequests: containers and sidecars together, or the most that is
    wanted while an init container runs beside the sidecars before it; what the pod requests as a whole takes the
    place of that; then its runtime's overhead.
    """
    running: dict[str, float] = {}
    sidecars: dict[str, float] = {}
    starting: dict[str, float] = {}
    for container in spec.containers or ():
        _add(running, container.requests)
    for container in spec.init_containers or ():
        together = dict(sidecars)
        _add(together, container.requests)
        if container.restart_policy == "Always":
            _add(running, container.requests)
            sidecars = together
        starting = {name: max(starting.get(name, 0.0), together.get(name, 0.0)) for name in {*starting, *together}}
    found = {name: max(running.get(name, 0.0), starting.get(name, 0.0)) for name in (*running, *starting)}
    found |= _amounts(spec.resources.requests if spec.resources else None)
    _add(found, _amounts(spec.overhead))
    return found


def _add(to: dict[str, float], amounts: Mapping[str, float]) -> None:
    for name, amount in amounts.items():
        to[name] = to.get(name, 0.0) + amount


@lru_cache(maxsize=4096)
def _toleration(key: str, operator: str, value: str, effect: str) -> Toleration:
    """The same few stand in every pod: one object for all of them."""
    return Toleration(key, operator, value, effect)
