"""A small cluster behind an `ApiServer`: nodes, pods, budgets and the run lock, as far as commands need them."""

from tests.fakes import wire
from tests.fakes.server import ApiServer, Stream, ok, page, said

LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
CONTROLLERS = (
    "apps/v1/deployments",
    "apps/v1/statefulsets",
    "apps/v1/daemonsets",
    "apps/v1/replicasets",
    "batch/v1/jobs",
)


class Api(ApiServer):
    """Changes take effect at once: an evicted pod is gone with the answer, and watches are told of it, later ones too.

    Args:
        nodes: As `wire.node` makes them.
        pods: As `wire.pod` makes them.
        budgets: As `wire.budget` makes them.

    Attributes:
        lease: The run lock, or None.
        full: Evictions are answered that a budget is exhausted.
        denied: Resources of which reviews say that this user may do nothing.
    """

    def __init__(self, nodes=None, pods=(), budgets=(), tls=None):
        super().__init__(tls)
        self.nodes = {n["metadata"]["name"]: n for n in nodes or [wire.node()]}
        self.pods = {p["metadata"]["name"]: p for p in pods}
        self.budgets = list(budgets)
        self.lease = None
        self.full = False
        self.denied = ()
        self._version = 100
        self._watches = []
        self._events = []
        self._script_all()

    def _script_all(self):
        self.on("GET", "/version", ok({"gitVersion": "v1.37.2"}))
        self.on("GET", "/readyz", page(200, "[+]etcd ok\n", "text/plain"))
        self.on("GET", "/api/v1/nodes", self._list_nodes)
        self.on("GET", "/api/v1/nodes/*", self._read_node)
        self.on("PATCH", "/api/v1/nodes/*", self._patch_node)
        self.on("GET", "/api/v1/pods", self._list_pods)
        self.on("GET", "/api/v1/namespaces/*", self._list_pods)
        self.on("WATCH", "/api/v1/pods", self._watch_pods)
        self.on("POST", "/api/v1/namespaces/*", self._remove)
        self.on("DELETE", "/api/v1/namespaces/*", self._remove)
        self.on("GET", "/apis/policy/v1/poddisruptionbudgets", lambda _: ok(wire.listed(*self.budgets)))
        self.on("WATCH", "/apis/policy/v1/poddisruptionbudgets", lambda _: Stream())
        for path in (*(f"/apis/{c}" for c in CONTROLLERS), "/api/v1/replicationcontrollers"):
            self.on("GET", path, ok(wire.listed()))
        self.on("POST", REVIEWS, self._review)
        self.on("GET", f"{LEASES}/*", lambda _: ok(self.lease) if self.lease else said(404, "no lease"))
        self.on("POST", LEASES, self._take_lease)
        self.on("PUT", f"{LEASES}/*", self._renew_lease)
        self.on("DELETE", f"{LEASES}/*", self._drop_lease)
        self.on("WATCH", LEASES, lambda _: Stream())

    def _next(self):
        self._version += 1
        return str(self._version)

    def _list_nodes(self, request):
        key, _, value = request.query.get("labelSelector", "").partition("=")
        return ok(
            wire.listed(*(n for n in self.nodes.values() if not key or n["metadata"]["labels"].get(key) == value))
        )

    def _read_node(self, request):
        name = request.path.rpartition("/")[2]
        return ok(self.nodes[name]) if name in self.nodes else said(404, f'nodes "{name}" not found', kind="nodes")

    def _patch_node(self, request):
        name, dry = request.path.rpartition("/")[2], request.query.get("dryRun")
        now, patch = self.nodes[name]["metadata"], request.body
        if patch["metadata"]["resourceVersion"] != now["resourceVersion"]:
            return said(409, "the object has been modified", reason="Conflict")
        record = patch["metadata"]["annotations"]["kube-orchestrator.io/cordon"]
        after = wire.node(
            name, version=self._next(), unschedulable=bool(patch["spec"]["unschedulable"]), cordon=record,
            labels=now["labels"],
        )  # fmt: skip
        if not dry:
            self.nodes[name] = after
        return ok(after)

    def _list_pods(self, request):
        _, _, node = request.query.get("fieldSelector", "").partition("spec.nodeName=")
        with self._lock:
            found = [p for p in self.pods.values() if not node or p["spec"]["nodeName"] == node]
            return ok(wire.listed(*found, version=str(self._version)))

    def _watch_pods(self, request):
        with self._lock:
            stream = Stream(
                *(event for version, *event in self._events if version > int(request.query["resourceVersion"]))
            )
            self._watches.append(stream)
        return stream

    def _remove(self, request):
        name = request.path.removesuffix("/eviction").rpartition("/")[2]
        options = request.body.get("deleteOptions", request.body)
        if self.full:
            return said(429, "Cannot evict", causes=[("DisruptionBudget", "The disruption budget web needs 2 pods")])
        with self._lock:
            if name in self.pods and not options.get("dryRun"):
                self._deleted(self.pods.pop(name))
        return ok()

    def _deleted(self, pod):
        pod["metadata"]["resourceVersion"] = self._next()
        self._events.append((self._version, "DELETED", pod))
        for stream in self._watches:
            stream.push("DELETED", pod)

    def _review(self, request):
        asked = request.body["spec"]["resourceAttributes"]
        return ok({"status": {"allowed": asked["resource"] not in self.denied}})

    def _take_lease(self, request):
        if self.lease:
            return said(409, "already exists", reason="AlreadyExists")
        self.lease = {**request.body, "metadata": {**request.body["metadata"], "uid": "u1", "resourceVersion": "1"}}
        return ok(self.lease)

    def _renew_lease(self, request):
        self.lease = {**request.body, "metadata": {**request.body["metadata"], "resourceVersion": self._next()}}
        return ok(self.lease)

    def _drop_lease(self, request):
        self.lease = None
        return ok()
