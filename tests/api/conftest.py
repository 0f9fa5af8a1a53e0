"""What the tests on a real control plane share: a clean world before each, and a way to fill it."""

import json
import threading

import pytest

from lab.api import objects

DEFAULT = "/namespaces/default"
COLLECTIONS = (
    f"/apis/policy/v1{DEFAULT}/poddisruptionbudgets",
    f"/apis/apps/v1{DEFAULT}/deployments",
    f"/apis/apps/v1{DEFAULT}/statefulsets",
    f"/apis/apps/v1{DEFAULT}/daemonsets",
    f"/apis/apps/v1{DEFAULT}/replicasets",
    f"/api/v1{DEFAULT}/pods",
)
LEASE = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-orchestrator"


class World:
    """The cluster that the tests share, looked at and changed behind the tool's back."""

    def __init__(self, client):
        self.client = client

    def clear(self):
        """Nothing but two nodes that take pods."""
        for collection in COLLECTIONS:
            self.client.ask("DELETE", f"{collection}?gracePeriodSeconds=0")
        self.client.delete([LEASE])
        for name in ("n1", "n2"):
            unset = {"annotations": {"kube-orchestrator.io/cordon": None}}
            self.client.patch(f"/api/v1/nodes/{name}", {"metadata": unset, "spec": {"unschedulable": None}})
        self.client.wait("the pods to go", lambda: not self.pods())

    def deploy(self, name, replicas, *, budget=None, **settings):
        """An application whose pods are all on n1, Ready, and known to its budget."""
        self.client.create(objects.deployment(name, replicas, node="n1", **settings))
        if budget:
            self.client.create(objects.budget(name, budget))
        self.client.wait(f"{name} on n1", lambda: self.ready("n1", name) == replicas)
        if budget:
            self.until(f"the budget of {name}", lambda: self.healthy(name) == replicas)

    def put(self, name, node, **described):
        """One pod, running."""
        self.client.create(objects.pod(name, node, **described))
        self.client.wait(f"{name} to run", lambda: self.pod(name)["status"].get("phase") == "Running")

    def pods(self, node=""):
        query = f"?fieldSelector=spec.nodeName={node}" if node else ""
        return self.client.get(f"/api/v1{DEFAULT}/pods{query}")["items"]

    def names(self, node):
        return {pod["metadata"]["name"] for pod in self.pods(node)}

    def pod(self, name):
        return self.client.get(f"/api/v1{DEFAULT}/pods/{name}")

    def node(self, name):
        return self.client.get(f"/api/v1/nodes/{name}")

    def cordoned(self, name):
        return self.node(name)["spec"].get("unschedulable", False)

    def lease(self):
        status, there = self.client.attempt("GET", LEASE)
        return there if status == 200 else None

    def budget(self, name):
        return self.client.get(f"/apis/policy/v1{DEFAULT}/poddisruptionbudgets/{name}")

    def healthy(self, name):
        return self.budget(name)["status"].get("currentHealthy")

    def ready(self, node, app):
        return sum(
            pod["metadata"]["labels"].get("app") == app
            and any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
            for pod in self.pods(node)
        )

    def until(self, what, ready, timeout_s=60):
        self.client.wait(what, ready, timeout_s=timeout_s)


@pytest.fixture
def world(load):
    made = World(load)
    made.clear()
    return made


@pytest.fixture
def requests(plane):
    """What the tool has asked the API server for since the test began: method, path and query, status."""
    return Requests(plane.audit_log)


class Requests:
    """Reads the audit log from where it ended when this was made."""

    def __init__(self, log):
        self._log = log
        self._from = log.stat().st_size if log.exists() else 0

    def __call__(self):
        with self._log.open("rb") as log:
            log.seek(self._from)
            entries = [json.loads(line) for line in log.read().split(b"\n")[:-1]]
        return [
            (e["verb"], e["requestURI"], e.get("responseStatus", {}).get("code"))
            for e in entries
            if e["userAgent"].startswith("orchestrator")
        ]

    def changing(self):
        return [asked for asked in self() if asked[0] not in ("get", "list", "watch")]


class Observer(threading.Thread):
    """Looks at something over and over beside the test, and keeps the smallest value that it saw."""

    def __init__(self, look):
        super().__init__(daemon=True)
        self._look = look
        self._over = threading.Event()
        self.least = look()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *failure):
        self._over.set()
        self.join()

    def run(self):
        while not self._over.wait(0.02):
            self.least = min(self.least, self._look())
