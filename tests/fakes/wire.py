"""Objects of the API as they come over the wire: what a server would say, with only what a test is about."""

from datetime import UTC, datetime


def at(epoch):
    """A time as metav1.Time."""
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def listed(*items, version="100", more=""):
    """One page of a list."""
    return {"kind": "List", "metadata": {"resourceVersion": version, "continue": more}, "items": list(items)}


def node(name="n1", *, version="10", unschedulable=False, cordon=None, ready="True", labels=None, kubelet="v1.37.2"):
    """A node. `cordon` is the text of the annotation."""
    annotations = {"kube-orchestrator.io/cordon": cordon} if cordon else {}
    spec = {"unschedulable": True} if unschedulable else {}
    return {
        "metadata": {
            "name": name, "uid": f"uid-{name}", "resourceVersion": version, "annotations": annotations,
            "labels": labels or {},
        },
        "spec": spec,
        "status": {
            "conditions": [{"type": "Ready", "status": ready, "reason": "KubeletReady"}],
            "nodeInfo": {"kubeletVersion": kubelet},
        },
    }  # fmt: skip


def pod(name="web-1", *, namespace="shop", on="n1", version="20", owner="ReplicaSet", uid="", **fields):
    """A running, ready pod. `fields` are of its spec, but for labels, phase, ready and deleted (with grace)."""
    labels, phase = fields.pop("labels", {"app": "web"}), fields.pop("phase", "Running")
    ready, deleted = fields.pop("ready", "True"), fields.pop("deleted", None)
    metadata = {
        "namespace": namespace, "name": name, "uid": uid or f"uid-{name}", "resourceVersion": version,
        "labels": labels,
    }  # fmt: skip
    if owner:
        api = "batch/v1" if owner == "Job" else "apps/v1"
        metadata["ownerReferences"] = [
            {"kind": owner, "name": "web", "apiVersion": api, "uid": "uid-web", "controller": True}
        ]
    if deleted:
        metadata |= {"deletionTimestamp": deleted, "deletionGracePeriodSeconds": 30}
    return {
        "metadata": metadata,
        "spec": {"nodeName": on, **fields},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
    }


def budget(name="web", *, allowed=0, healthy=2, needed=2, expected=3, **spec):
    """A disruption budget of the pods `app=web`."""
    return {
        "metadata": {"namespace": "shop", "name": name, "generation": 1, "resourceVersion": "30"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "minAvailable": 2, **spec},
        "status": {
            "disruptionsAllowed": allowed, "currentHealthy": healthy, "desiredHealthy": needed,
            "expectedPods": expected, "observedGeneration": 1,
        },
    }  # fmt: skip


def bookmark(version):
    """The object of a bookmark."""
    return {"kind": "Pod", "metadata": {"resourceVersion": version}, "spec": {}, "status": {}}


def gone(message="too old resource version"):
    """The object of an ERROR event that says 410."""
    return {"kind": "Status", "code": 410, "reason": "Expired", "message": message}
