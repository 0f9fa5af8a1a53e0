"""A corner of a real control plane for the contracts: nodes and a namespace of its own for each test."""

import itertools
import threading
from contextlib import contextmanager

from lab.api import objects, stages
from lab.api.client import Client
from orchestrator.engine.clock import SystemClock
from orchestrator.engine.events import Silent
from orchestrator.kube.cluster import KubeHands, KubeView
from orchestrator.kube.lease import KubeLeases
from orchestrator.kube.session import connect

LEASE = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-orchestrator"
NUMBERS = itertools.count(1)


@contextmanager
def real(request):
    """On the control plane of the module."""
    plane = request.getfixturevalue("plane")
    with Client(plane) as client:
        made = RealHarness(client, str(plane.kubeconfig))
        try:
            yield made
        finally:
            made.clear()


class RealHarness:
    """As `tests.contract.harness.Harness`."""

    def __init__(self, client, kubeconfig):
        self._client = client
        self._session = connect(kubeconfig, None)
        self._clock = SystemClock()
        self._nodes = []
        self.hands = KubeHands(self._session, self._clock, Silent())
        self.leases = KubeLeases(self._session)
        self.namespace = f"contract-{next(NUMBERS)}"
        client.attempt("DELETE", LEASE)
        client.create(objects.namespace(self.namespace))
        objects.ensure_account(client, self.namespace)

    def clear(self):
        for kind in ("replicasets", "statefulsets", "daemonsets"):
            self._client.ask("DELETE", f"/apis/apps/v1/namespaces/{self.namespace}/{kind}")
        self._client.ask("DELETE", f"/apis/policy/v1/namespaces/{self.namespace}/poddisruptionbudgets")
        self._client.ask("DELETE", f"/api/v1/namespaces/{self.namespace}/pods?gracePeriodSeconds=0")
        self._client.delete([f"/api/v1/nodes/{name}" for name in self._nodes])
        self._client.delete([f"/api/v1/namespaces/{self.namespace}", LEASE])

    @property
    def view(self):
        return KubeView(self._session, self._clock, Silent())

    def node(self, **labels):
        name = f"contract-node-{next(NUMBERS)}"
        self._nodes.append(name)
        self._client.create(objects.node(name, labels=labels))
        self._client.wait(f"{name} to be Ready", lambda: name in objects.ready_nodes(self._client))
        return name

    def touch_node(self, name):
        self._client.patch(f"/api/v1/nodes/{name}", {"metadata": {"annotations": {"touched": str(next(NUMBERS))}}})

    def cordon_by_hand(self, name, *, unschedulable=True):
        self._client.patch(f"/api/v1/nodes/{name}", {"spec": {"unschedulable": unschedulable or None}})

    def remove_node(self, name):
        self._client.delete([f"/api/v1/nodes/{name}"])

    def pod(self, node, *, name="", grace_s=30, goes_after_s=0.0, stuck=False, ready=True, phase="Running", **labels):
        name = name or f"pod-{next(NUMBERS)}"
        notes = {}
        if stuck or goes_after_s:
            notes[stages.GOES_AFTER] = "1h" if stuck else f"{goes_after_s}s"
        if not ready or phase != "Running":
            notes[stages.NEVER_READY] = ""
        described = objects.pod(
            name,
            node,
            namespace=self.namespace,
            metadata={"labels": labels, "annotations": notes},
            spec={"terminationGracePeriodSeconds": grace_s},
        )
        self._client.create(described)
        path = f"/api/v1/namespaces/{self.namespace}/pods/{name}"
        if notes.get(stages.NEVER_READY) is not None and phase != "Pending":
            condition = {"type": "Ready", "status": "False"}
            self._client.patch(f"{path}/status", {"status": {"phase": phase, "conditions": [condition]}})

        def found():
            pods = [p for p in self.view.pods() if p.namespace == self.namespace and p.name == name]
            return next((p for p in pods if p.phase == phase and p.ready == (ready and phase == "Running")), None)

        return self.until(f"{name} to be {phase}", found)

    def controller(self, kind, name, replicas, node):
        made = objects.deployment(name, replicas, namespace=self.namespace, node=node)
        made["kind"] = kind
        if kind == "StatefulSet":
            made["spec"]["serviceName"] = name
        if kind == "DaemonSet":
            del made["spec"]["replicas"]
            made["spec"]["template"]["spec"]["nodeSelector"] = {"kubernetes.io/hostname": node}
        self._client.create(made)
        self.until(f"{name} to be ready", lambda: self._ready(name) == replicas)

    def _ready(self, app):
        mine = [p for p in self.view.pods() if (p.namespace, p.labels.get("app")) == (self.namespace, app)]
        return sum(p.ready for p in mine)

    def budget(self, name, *, min_available=None, max_unavailable=None, **labels):
        rule = {"minAvailable": min_available} if max_unavailable is None else {"maxUnavailable": max_unavailable}
        described = objects.budget(name, rule, namespace=self.namespace)
        described["spec"]["selector"] = {"matchLabels": labels}
        self._client.create(described)
        ready = [p for p in self.view.pods() if p.namespace == self.namespace and labels.items() <= p.labels.items()]
        healthy = sum(p.ready for p in ready)
        key = f"{self.namespace}/{name}"
        self.until(
            f"{key} to be counted",
            lambda: any(b.key == key and b.observed and b.healthy == healthy for b in self.view.budgets()),
        )

    def remove_budget(self, name):
        self._client.ask("DELETE", f"/apis/policy/v1/namespaces/{self.namespace}/poddisruptionbudgets/{name}")

    def remove_pod(self, pod):
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod.name}"
        self._client.delete([path], now=True)
        self._client.wait(f"{pod.key} to go", lambda: self._client.attempt("GET", path)[0] == 404)

    def soon(self, change):
        threading.Timer(0.5, change).start()

    def until(self, what, condition):
        found = None

        def ready():
            nonlocal found
            found = condition()
            return bool(found)

        self._client.wait(what, ready, timeout_s=30.0)
        return found
