"""Objects to fill a control plane with: nodes, applications, budgets, bare pods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lab.api.client import Client

NAMESPACE = "default"
IMAGE = "lab.invalid/nothing"


def node(name: str, *, labels: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A pretended node."""
    everything = {"kubernetes.io/hostname": name, **(labels or {})}
    metadata = {"name": name, "labels": everything, "annotations": {"kwok.x-k8s.io/node": "fake"}}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata}


def ensure_nodes(client: Client, names: Sequence[str]) -> None:
    """Have nodes of these names, Ready."""
    there = {each["metadata"]["name"] for each in client.get("/api/v1/nodes")["items"]}
    client.create(*(node(name) for name in names if name not in there))
    wanted = set(names)
    client.wait("the nodes to be Ready", lambda: wanted <= ready_nodes(client))


def ready_nodes(client: Client) -> set[str]:
    """Names of the nodes that are Ready and take pods."""
    return {
        each["metadata"]["name"]
        for each in client.get("/api/v1/nodes")["items"]
        if _true(each, "Ready") and not each["spec"].get("taints")
    }


def deployment(
    name: str,
    replicas: int,
    *,
    namespace: str = NAMESPACE,
    node: str = "",
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    spec: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """An application.

    Args:
        name: Its label `app`, too.
        replicas: How many pods.
        namespace: Its own.
        node: Preferred for its pods, so that all of them begin there; others take them when it is cordoned.
        labels: Further ones of its pods.
        annotations: Of its pods, such as those of `stages`.
        spec: Further fields of the pods' spec.
    """
    chosen = {"app": name, **(labels or {})}
    pod: dict[str, Any] = {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": IMAGE}]}
    if node:
        here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
        preference = {"weight": 100, "preference": {"matchExpressions": [here]}}
        pod["affinity"] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preference]}}
    template = {"metadata": {"labels": chosen, "annotations": dict(annotations or {})}, "spec": {**pod, **(spec or {})}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template},
    }


def budget(name: str, rule: Mapping[str, Any], *, namespace: str = NAMESPACE, app: str = "") -> dict[str, Any]:
    """A disruption budget for the application `app`, by default the one of its own name."""
    spec = {"selector": {"matchLabels": {"app": app or name}}, **rule}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata, "spec": spec}


def pod(
    name: str,
    node: str,
    *,
    namespace: str = NAMESPACE,
    metadata: Mapping[str, Any] | None = None,
    spec: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A pod that is bound to a node without the scheduler."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, **(metadata or {})},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": IMAGE}],
            **(spec or {}),
        },
    }


def namespace(name: str) -> dict[str, Any]:
    """A namespace."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def ensure_account(client: Client, namespace: str = NAMESPACE) -> None:
    """Wait until pods may be created in a namespace: its default service account is made a moment after it."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
    client.wait(f"the service account of {namespace}", lambda: client.attempt("GET", path)[0] == 200)


def ready_on(client: Client, node: str, *, namespace: str = NAMESPACE) -> int:
    """How many ready pods a node has in a namespace."""
    query = f"?fieldSelector=spec.nodeName={node}"
    return sum(_true(p, "Ready") for p in client.get(f"/api/v1/namespaces/{namespace}/pods{query}")["items"])


def _true(item: Mapping[str, Any], kind: str) -> bool:
    conditions: Iterable[Mapping[str, Any]] = item.get("status", {}).get("conditions", ())
    return any(each["type"] == kind and each["status"] == "True" for each in conditions)
