"""An application that can be asked all the time while its pods move: several pods, a budget, a service."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab import images
from lab.processes import wait_for

if TYPE_CHECKING:
    from lab.upgrades.access import Access

NAME = "web"
NAMESPACE = "shop"
#: What each of its pods answers.
CONTENT = "the-lab-serves-this"
PORT = 8080
REPLICAS, NEEDED = 4, 3
_DRAINS_S = 5
_CONTROL_PLANE = "node-role.kubernetes.io/control-plane"
_PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Application:
    """One that serves.

    Attributes:
        namespace: Where it is.
        address: Its service's.
        replicas: How many pods.
        needed: How many its budget wants ready.
    """

    namespace: str
    address: str
    replicas: int
    needed: int


def objects(replicas: int = REPLICAS, needed: int = NEEDED, *, anywhere: bool = False) -> list[dict[str, Any]]:
    """Its deployment, budget and service.

    A pod that is told to end serves on for some seconds: its address goes from the nodes' rules a little later than
    it hears of it. So no request fails when it is evicted.

    Args:
        replicas: How many pods.
        needed: How many its budget wants ready.
        anywhere: On control planes too, as it has to be where there is one worker.
    """
    labels = {"app": NAME}
    metadata = {"name": NAME}
    serve = f"echo {CONTENT} > /www/index.html; exec /bin/busybox httpd -f -p {PORT} -h /www"
    container = {
        "name": NAME,
        "image": images.TEST_IMAGE,
        "command": ["/bin/sh", "-c", serve],
        "readinessProbe": {"httpGet": {"port": PORT, "path": "/"}, "periodSeconds": 1},
        "lifecycle": {"preStop": {"exec": {"command": ["/bin/busybox", "sleep", str(_DRAINS_S)]}}},
    }
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels},
    }
    pod = {
        "terminationGracePeriodSeconds": 2 * _DRAINS_S,
        "containers": [container],
        "topologySpreadConstraints": [spread],
        "tolerations": [{"key": _CONTROL_PLANE, "operator": "Exists"}] if anywhere else [],
    }
    template = {"metadata": {"labels": labels}, "spec": pod}
    wanted = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    budget = {"minAvailable": needed, "selector": {"matchLabels": labels}}
    service = {"selector": labels, "ports": [{"port": PORT}]}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": wanted},
        {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata, "spec": budget},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
    ]


def deploy(
    access: Access,
    *,
    namespace: str = NAMESPACE,
    replicas: int = REPLICAS,
    needed: int = NEEDED,
    anywhere: bool = False,
) -> Application:
    """It serves from all of its pods, and its budget has seen them. The namespace is made where it is missing."""
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    access.kubectl("apply", "-f", "-", stdin=json.dumps(space))
    everything = {"apiVersion": "v1", "kind": "List", "items": objects(replicas, needed, anywhere=anywhere)}
    access.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(everything))
    access.kubectl("-n", namespace, "rollout", "status", f"deployment/{NAME}", f"--timeout={_PATIENCE_S:.0f}s")
    settle(access, namespace=namespace, replicas=replicas)
    address = access.read("-n", namespace, "service", NAME)["spec"]["clusterIP"]
    return Application(namespace, address, replicas, needed)


def settle(access: Access, *, namespace: str = NAMESPACE, replicas: int = REPLICAS) -> None:
    """Return once its budget counts all of its pods."""
    wait_for(
        f"the budget of {NAME} to see {replicas} pods",
        lambda: access.read("-n", namespace, "pdb", NAME).get("status", {}).get("currentHealthy") == replicas,
        timeout_s=_PATIENCE_S,
        remedy=f"kubectl -n {namespace} describe pdb {NAME}",
    )
