"""What snapshots of a real API server's etcd have in them, next to what that API server lists."""

import base64
import json
import secrets
from contextlib import contextmanager

import pytest
import yaml

from lab import gobuild, versions
from lab.api import objects, tier
from lab.api.client import Client
from lab.processes import run
from orchestrator.backup import mvcc
from orchestrator.backup.configmap import kubeadm_configuration
from orchestrator.backup.contents import Cipher, census, diff, diff_keys, form_of, parse_key, parse_live
from orchestrator.backup.snapshot import entries, examine

pytestmark = pytest.mark.api

KEYS = ("get", "/", "--prefix", "--keys-only", "-w", "json")
OWN = "/api/v1/namespaces/contents"
WIDGETS = "/apis/stable.example.com/v1/namespaces/contents/widgets"
#: What only the API server itself knows of, and what clients see in two groups.
HIDDEN = {"MasterLease", "PeerServerLease", "RangeAllocation", "StorageVersion", "(other)"}


def etcdctl(plane, *words):
    binaries = gobuild.etcd(versions.KUBERNETES[plane.version].etcd)
    return run([str(binaries / "etcdctl"), f"--endpoints=http://{tier.ADDRESS}:{plane.ports.etcd}", *words])


def save(plane, path):
    etcdctl(plane, "snapshot", "save", str(path))
    return path


def described(kind, version, name, *, namespace="contents", **fields):
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}


POD_SPEC = {"restartPolicy": "Never", "containers": [{"name": "c", "image": objects.IMAGE}]}
TEMPLATE = {"metadata": {"labels": {"app": "a"}}, "spec": {**POD_SPEC, "restartPolicy": "Always"}}
SELECTOR = {"matchLabels": {"app": "a"}}
SCALES = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "a"}
SCHEMA = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
DEFINITION = {
    "group": "stable.example.com",
    "scope": "Namespaced",
    "names": {"plural": "widgets", "kind": "Widget"},
    "versions": [{"name": "v1", "served": True, "storage": True, "schema": SCHEMA}],
}
CSI = {"driver": "d.example.com", "volumeHandle": "v"}
VOLUME = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "csi": CSI}
CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
ATTACHED = {"attacher": "d.example.com", "nodeName": "n1", "source": {"persistentVolumeName": "a"}}
DAILY = {"schedule": "0 0 * * *", "jobTemplate": {"spec": {"template": {"spec": POD_SPEC}}}}
DEFAULT_BACKEND = {"defaultBackend": {"service": {"name": "a", "port": {"number": 80}}}}
ENDPOINTS = [{"addresses": ["10.1.1.1"]}]
#: One of nearly every kind that is stored.
FILLING = (
    described("ConfigMap", "v1", "changed", data={"a": "1"}),
    described("ConfigMap", "v1", "deleted"),
    described("Secret", "v1", "secret", stringData={"a": "1"}),
    described("Service", "v1", "a", spec={"ports": [{"port": 80}]}),
    described("Endpoints", "v1", "b", subsets=[]),
    described("Pod", "v1", "a", spec=POD_SPEC),
    described("PodTemplate", "v1", "a", template=TEMPLATE),
    described("ReplicationController", "v1", "a", spec={"replicas": 0, "selector": {"app": "a"}, "template": TEMPLATE}),
    described("LimitRange", "v1", "a", spec={"limits": []}),
    described("ResourceQuota", "v1", "a", spec={"hard": {"pods": "9"}}),
    described("PersistentVolumeClaim", "v1", "a", spec=CLAIM),
    described("PersistentVolume", "v1", "a", namespace="", spec=VOLUME),
    described("Deployment", "apps/v1", "a", spec={"replicas": 0, "selector": SELECTOR, "template": TEMPLATE}),
    described("ReplicaSet", "apps/v1", "a", spec={"replicas": 0, "selector": SELECTOR, "template": TEMPLATE}),
    described("StatefulSet", "apps/v1", "a", spec={"replicas": 0, "selector": SELECTOR, "template": TEMPLATE}),
    described("DaemonSet", "apps/v1", "a", spec={"selector": SELECTOR, "template": TEMPLATE}),
    described("ControllerRevision", "apps/v1", "a", revision=1, data={}),
    described("Job", "batch/v1", "a", spec={"suspend": True, "template": {"spec": POD_SPEC}}),
    described("CronJob", "batch/v1", "a", spec=DAILY),
    described("HorizontalPodAutoscaler", "autoscaling/v2", "a", spec={"maxReplicas": 2, "scaleTargetRef": SCALES}),
    described("PodDisruptionBudget", "policy/v1", "a", spec={"minAvailable": 1, "selector": SELECTOR}),
    described("NetworkPolicy", "networking.k8s.io/v1", "a", spec={"podSelector": {}}),
    described("Ingress", "networking.k8s.io/v1", "a", spec=DEFAULT_BACKEND),
    described("IngressClass", "networking.k8s.io/v1", "a", namespace="", spec={"controller": "example.com/a"}),
    described("EndpointSlice", "discovery.k8s.io/v1", "a", addressType="IPv4", endpoints=ENDPOINTS),
    described("Lease", "coordination.k8s.io/v1", "a", spec={}),
    described("Role", "rbac.authorization.k8s.io/v1", "a", rules=[]),
    described("RuntimeClass", "node.k8s.io/v1", "a", namespace="", handler="a"),
    described("PriorityClass", "scheduling.k8s.io/v1", "a", namespace="", value=7),
    described("StorageClass", "storage.k8s.io/v1", "a", namespace="", provisioner="example.com/a"),
    described("CSIDriver", "storage.k8s.io/v1", "d.example.com", namespace="", spec={}),
    described("CSINode", "storage.k8s.io/v1", "n1", namespace="", spec={"drivers": []}),
    described("CSIStorageCapacity", "storage.k8s.io/v1", "a", storageClassName="a"),
    described("VolumeAttachment", "storage.k8s.io/v1", "a", namespace="", spec=ATTACHED),
    described("MutatingWebhookConfiguration", "admissionregistration.k8s.io/v1", "a", namespace="", webhooks=[]),
    described("ValidatingWebhookConfiguration", "admissionregistration.k8s.io/v1", "a", namespace="", webhooks=[]),
)
PLURALS = {
    "Endpoints": "endpoints", "Ingress": "ingresses", "IngressClass": "ingressclasses",
    "NetworkPolicy": "networkpolicies", "RuntimeClass": "runtimeclasses", "PriorityClass": "priorityclasses",
    "StorageClass": "storageclasses", "CSIStorageCapacity": "csistoragecapacities",
}  # fmt: skip


def create(client, each):
    version, namespace = each["apiVersion"], each["metadata"].get("namespace")
    root = "/api/v1" if version == "v1" else f"/apis/{version}"
    where = f"/namespaces/{namespace}" if namespace else ""
    client.ask("POST", f"{root}{where}/{PLURALS.get(each['kind'], each['kind'].lower() + 's')}", each)


@pytest.fixture(scope="module")
def quiet(plane, load):
    """The control plane with one of nearly every kind, and nobody who changes anything but us."""
    load.create(objects.namespace("contents"))
    objects.ensure_account(load, "contents")
    plane.stop("kwok", "kube-scheduler", "kube-controller-manager")
    definition = described("CustomResourceDefinition", "apiextensions.k8s.io/v1", "widgets.stable.example.com",
                           namespace="", spec=DEFINITION)  # fmt: skip
    create(load, definition)
    for each in FILLING:
        create(load, each)
    widget = described("Widget", "stable.example.com/v1", "w", spec={"size": 1})
    load.wait("the custom resource", lambda: load.attempt("POST", WIDGETS, widget)[0] in (201, 409))
    return plane


def inside(value):
    """The apiVersion and kind that a value tells of itself."""
    if form_of(value) == "json":
        told = json.loads(value)
        return told["apiVersion"], told["kind"]
    unknown = {tag: value[start:stop] for tag, start, stop in mvcc.fields(value, 4, len(value))}
    types = unknown[0x0A]
    parts = {tag: types[start:stop].decode() for tag, start, stop in mvcc.fields(types, 0, len(types))}
    return parts[0x0A], parts[0x12]


def test_the_kind_that_a_key_tells_is_the_kind_of_its_value(quiet, tmp_path):
    path = save(quiet, tmp_path / "s.db")

    found = {entry.key: (parse_key(entry.key), inside(entry.value)) for entry in entries(path, prefix=b"/registry/")}

    assert {kind.kind for kind, _ in found.values()} > {each["kind"] for each in FILLING}
    wrong = {}
    for key, (known, (version, kind)) in found.items():
        group = version.rpartition("/")[0]
        told = (known.kind, known.group)
        if known.custom:
            told = ("Widget" if known.resource == "widgets" else known.kind, known.group)
        if told != (kind, group) and known.kind not in HIDDEN:
            wrong[key] = (told, kind, group)
    assert wrong == {}


def listed(client):
    """Group and resource -> namespace -> objects, as the API server lists all that it lists."""
    roots = ["/api/v1", *(f"/apis/{g['preferredVersion']['groupVersion']}" for g in client.get("/apis")["groups"])]
    found = {}
    for root in roots:
        group = root.split("/")[2] if root.startswith("/apis") else ""
        for each in client.get(root)["resources"]:
            if "/" in each["name"] or not {"list", "create"} <= set(each["verbs"]) or group == "events.k8s.io":
                continue
            counts = found.setdefault((group, each["name"]), {})
            for item in client.get(f"{root}/{each['name']}")["items"]:
                namespace = item["metadata"].get("namespace", "")
                counts[namespace] = counts.get(namespace, 0) + 1
    return {known: counts for known, counts in found.items() if counts}


def test_objects_are_counted_as_the_api_server_lists_them(quiet, load, tmp_path):
    path = save(quiet, tmp_path / "s.db")
    told = listed(load)

    found = census(path)

    kinds = {(k.group, k.resource): dict(k.namespaces) for k in found.kinds if k.kind not in HIDDEN}
    assert kinds == told
    assert len(kinds) > 45
    assert found.groups == {"stable.example.com": 1}
    assert found.objects == examine(path).keys == sum(found.forms.values())
    assert found.ciphers == {}
    assert found.forms["json"] == sum(sum(told[known].values()) for known in told if known[0] in JSON)


def test_what_kubeadm_stored_is_read_as_the_api_server_has_it(quiet, load, tmp_path):
    told = f"kind: ClusterConfiguration\nclusterName: prod-{secrets.token_hex(4)}\nx: {'é' * 9000}\n"
    data = {"ClusterConfiguration": told, "Another": "", "ClusterStatus": "old"}
    create(load, described("ConfigMap", "v1", "kubeadm-config", namespace="kube-system", data=data))
    try:
        path = save(quiet, tmp_path / "s.db")
    finally:
        load.delete(["/api/v1/namespaces/kube-system/configmaps/kubeadm-config"])

    assert kubeadm_configuration(path) == told
    assert kubeadm_configuration(save(quiet, tmp_path / "after.db")) == ""


JSON = ("apiextensions.k8s.io", "apiregistration.k8s.io", "stable.example.com")


@contextmanager
def changes(client):
    """Makes some changes; what they were, as kind and name; undone afterwards."""
    client.patch(f"{OWN}/configmaps/changed", {"data": {"a": secrets.token_hex(4)}})
    client.patch(f"{OWN}/secrets/secret", {"stringData": {"a": secrets.token_hex(4)}})
    client.patch(f"{WIDGETS}/w", {"spec": {"size": secrets.randbelow(1 << 30) + 2}})
    client.patch("/apis/coordination.k8s.io/v1/namespaces/contents/leases/a", {"spec": {"holderIdentity": "me"}})
    client.delete([f"{OWN}/configmaps/deleted"])
    create(client, described("Secret", "v1", "created", stringData={"a": "1"}))
    yield [
        ("changed", "ConfigMap", "contents", "changed"),
        ("deleted", "ConfigMap", "contents", "deleted"),
        ("created", "Secret", "contents", "created"),
        ("changed", "Secret", "contents", "secret"),
        ("changed", "widgets.stable.example.com", "contents", "w"),
    ]
    client.delete([f"{OWN}/secrets/created"])
    client.patch("/apis/coordination.k8s.io/v1/namespaces/contents/leases/a", {"spec": {"holderIdentity": None}})
    create(client, described("ConfigMap", "v1", "deleted"))


def told(found):
    return [(c.what, c.key.kind, c.key.namespace, c.key.name) for c in found if not c.routine]


def test_two_snapshots_differ_by_what_was_done_between_them(quiet, load, tmp_path):
    before = save(quiet, tmp_path / "before.db")
    with changes(load) as made:
        after = save(quiet, tmp_path / "after.db")
        version = int(load.get(f"{OWN}/secrets/created")["metadata"]["resourceVersion"])

    found = list(diff(before, after))

    assert told(found) == made
    assert ("Lease", "a") in {(c.key.kind, c.key.name) for c in found if c.routine}
    assert [c.after for c in found if c.what == "created"] == [version]
    reverse = {"created": "deleted", "deleted": "created", "changed": "changed"}
    assert told(diff(after, before)) == [(reverse[what], *rest) for what, *rest in made]


def test_a_running_etcd_differs_from_a_snapshot_by_what_was_done_since(quiet, load, tmp_path):
    before = save(quiet, tmp_path / "before.db")
    unchanged = parse_live(etcdctl(quiet, *KEYS).splitlines())
    with changes(load) as made:
        after = parse_live(etcdctl(quiet, *KEYS).splitlines())

    assert told(diff_keys(before, unchanged.keys)) == []
    assert told(diff_keys(before, after.keys)) == made
    assert after.revision > unchanged.revision >= examine(before).revision


def test_etcd_leaves_values_out_of_the_answer_for_keys(quiet):
    answered = json.loads(etcdctl(quiet, *KEYS))

    assert all(set(each) <= {"key", "create_revision", "mod_revision", "version", "lease"} for each in answered["kvs"])
    assert answered["count"] == len(answered["kvs"]) == len(parse_live([json.dumps(answered)]).keys)


class Encrypted(tier.ControlPlane):
    """A control plane that encrypts Secrets at rest."""

    def _api_server(self):
        return [*super()._api_server(), f"--encryption-provider-config={self.directory / 'encryption.yaml'}"]


def test_secrets_that_are_encrypted_at_rest_are_known_by_provider_and_key(tmp_path):
    made = tier.create(tmp_path / "plane", tied=True)
    plane = Encrypted(made.directory, made.ports, made.version, made.tied)
    key = {"name": "key-2026", "secret": base64.b64encode(secrets.token_bytes(32)).decode()}
    providers = [{"secretbox": {"keys": [key]}}, {"identity": {}}]
    settings = {"resources": [{"resources": ["secrets"], "providers": providers}]}
    head = {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration"}
    (plane.directory / "encryption.yaml").write_text(yaml.safe_dump(head | settings))
    try:
        plane.start("etcd", "kube-apiserver")
        with Client(plane) as client:
            create(client, described("Secret", "v1", "s", namespace="default", stringData={"a": "1"}))
        path = save(plane, tmp_path / "s.db")
    finally:
        plane.stop()

    found = census(path)

    assert found.ciphers == {Cipher("secretbox", "v1", "key-2026"): 1}
    assert {each.kind: each.encrypted for each in found.kinds if each.encrypted} == {"Secret": 1}
    assert found.forms["encrypted"] == 1
